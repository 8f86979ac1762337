"""Publishing, and what is proved from it."""

from collections.abc import Collection
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipls.akd import (
    EMPTY_ROOT,
    AkdError,
    DirectoryKey,
    MemoryTiles,
    ProofRefused,
    Publication,
    PublishError,
    Row,
    Update,
    Version,
    keys,
    make_absence,
    make_append_only,
    make_history,
    make_lookup,
    make_lookups,
    publish,
    shown_leaves,
    verify_absence,
    verify_append_only,
    verify_history,
    verify_lookup,
)
from ipls.akd.keys import Place
from ipls.akd.prove import is_free
from ipls.akd.tiles import decode_tile
from ipls.akd.vrf import SecretKey

KEY = DirectoryKey.from_seed(b"\x07" * 32)


class Live:
    """A directory as a service would run it."""

    def __init__(self) -> None:
        self.tiles = MemoryTiles()
        self.roots = [EMPTY_ROOT]
        self.depth = 0
        self.versions: dict[bytes, list[Version]] = {}

    @property
    def epoch(self) -> int:
        return len(self.roots) - 1

    def updates(self, *pairs: tuple[bytes, bytes]) -> list[Update]:
        return [Update(label, value, next(iter(self.versions.get(label, [])), None)) for label, value in pairs]

    def publish(self, *pairs: tuple[bytes, bytes]) -> Publication | None:
        made = publish(self.tiles, KEY, self.epoch, self.roots[-1], self.depth, self.updates(*pairs))
        if made:
            self.tiles.write(made.rows)
            self.depth = made.depth
            self.roots.append(made.new_root)
            for label, version in made.versions:
                self.versions.setdefault(label, []).insert(0, version)
        return made


def test_versions_and_epochs() -> None:
    live = Live()
    first = live.publish((b"+1", b"a"), (b"+2", b"b"))
    assert first
    assert (first.epoch, first.old_root) == (1, EMPTY_ROOT)
    assert first.versions == [(b"+1", Version(1, 1, b"a")), (b"+2", Version(1, 1, b"b"))]
    second = live.publish((b"+1", b"a"), (b"+2", b"c"))
    assert second
    assert second.versions == [(b"+2", Version(2, 2, b"c"))]
    for made in (first, second):
        verify_append_only(made.old_root, made.new_root, made.epoch, made.blob)


def test_nothing_changed_makes_no_epoch() -> None:
    live = Live()
    live.publish((b"+1", b"a"))
    assert live.publish((b"+1", b"a")) is None
    assert live.publish() is None


def refused(reason: str, live: Live, updates: list[Update], root: bytes | None = None) -> None:
    with pytest.raises(PublishError) as error:
        publish(live.tiles, KEY, live.epoch, root or live.roots[-1], live.depth, updates)
    assert error.value.reason == reason


def test_a_label_twice_publishes_nothing() -> None:
    live = Live()
    live.publish((b"+1", b"a"))
    refused("LABEL_TWICE", live, live.updates((b"+2", b"b"), (b"+3", b"c"), (b"+2", b"b")))
    refused("LABEL_TWICE", live, live.updates((b"+1", b"a"), (b"+1", b"b")))


def test_the_stored_tree_is_the_one_under_the_root() -> None:
    live = Live()
    live.publish((b"+1", b"a"))
    refused("ROOT_MISMATCH", live, live.updates((b"+2", b"b")), EMPTY_ROOT)
    refused("LEAF_EXISTS", live, [Update(b"+1", b"b", None)])


def test_a_crashed_publish_runs_again_to_the_same_rows() -> None:
    live = Live()
    live.publish(*((b"+%d" % i, b"a") for i in range(40)))
    updates = live.updates(*((b"+%d" % i, b"b") for i in range(30, 90)))
    first = publish(live.tiles, KEY, 1, live.roots[-1], live.depth, updates)
    assert first
    live.tiles.write(first.rows)  # the rows are written, the head is not
    assert publish(live.tiles, KEY, 1, live.roots[-1], live.depth, updates) == first


PEOPLE = st.integers(0, 40).map(lambda i: b"+%d" % i)
STORIES = st.lists(st.dictionaries(PEOPLE, st.sampled_from([b"", b"a", b"b"]), max_size=25), min_size=1, max_size=6)


@settings(max_examples=25, deadline=None)
@given(STORIES)
def test_every_proof_of_every_epoch_verifies(story: list[dict[bytes, bytes]]) -> None:
    live = Live()
    made = [publication for updates in story if (publication := live.publish(*updates.items()))]
    for publication in made:
        verify_append_only(publication.old_root, publication.new_root, publication.epoch, publication.blob)
    for one, following in pairwise(made):
        assert following.old_root == one.new_root
    for epoch in range(1, live.epoch + 1):
        for label in list(live.versions)[:3]:
            versions = [version for version in live.versions[label] if version.epoch <= epoch]
            if not versions:
                continue
            head = (live.roots[epoch], epoch, KEY.public_key, label)
            lookup = make_lookup(live.tiles, KEY, epoch, live.depth, label, versions[0])
            assert verify_lookup(*head, lookup) == versions[0]
            for most_recent in (0, 1, 2):
                shown = versions[: most_recent or None]
                proof = make_history(live.tiles, KEY, epoch, live.depth, label, shown)
                assert verify_history(*head, proof, most_recent=most_recent) == tuple(shown)


@settings(max_examples=25, deadline=None)
@given(STORIES)
def test_every_label_is_proved_there_or_not_there_alone_and_in_a_batch(story: list[dict[bytes, bytes]]) -> None:
    live = Live()
    for updates in story:
        live.publish(*updates.items())
    labels = [b"+%d" % i for i in range(41)]
    for epoch in range(live.epoch + 1):
        wanted: list[tuple[bytes, Version | None]] = []
        for label in labels:
            versions = [version for version in live.versions.get(label, []) if version.epoch <= epoch]
            wanted.append((label, versions[0] if versions else None))
        depth = live.depth if epoch else 0
        reads = Counting(live.tiles)
        proofs = make_lookups(reads, KEY, epoch, depth, wanted)
        assert reads.count == 1
        for (label, current), proof in list(zip(wanted, proofs, strict=True))[::4]:
            head = (live.roots[epoch], epoch, KEY.public_key, label)
            if current:
                assert proof == make_lookup(live.tiles, KEY, epoch, depth, label, current)
                assert verify_lookup(*head, proof) == current
            else:
                assert proof == make_absence(live.tiles, KEY, epoch, depth, label)
                verify_absence(*head, proof)
            with pytest.raises(AkdError) as error:
                make_lookups(live.tiles, KEY, epoch, depth, [(label, None if current else Version(1, 1, b""))])
            assert error.value.reason in ("TREE_MISMATCH", "TILE_MISSING")


class Counting:
    """How often tiles are asked for."""

    def __init__(self, tiles: MemoryTiles) -> None:
        self._tiles = tiles
        self.count = 0

    def read(self, prefixes: Collection[bytes], epoch: int) -> dict[bytes, Row]:
        self.count += 1
        return self._tiles.read(prefixes, epoch)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 20), st.sets(st.integers(1, 20)), st.integers(0, 21))
def test_histories_with_erased_values(versions: int, erased: set[int], most_recent: int) -> None:
    live = Live()
    for number in range(versions):
        live.publish((b"+1", b"%d" % number), (b"+%d" % (number + 2), b"x"))
    head = (live.roots[-1], live.epoch, KEY.public_key, b"+1")
    full = live.versions[b"+1"][: most_recent or None]
    leaves = shown_leaves(make_history(live.tiles, KEY, live.epoch, live.depth, b"+1", full))
    assert sorted(leaves) == sorted(version.version for version in full)
    shown = tuple(v._replace(value=b"") if v.version in erased else v for v in full)
    proof = make_history(live.tiles, KEY, live.epoch, live.depth, b"+1", shown)

    def check(allow_missing: bool) -> tuple[Version, ...]:
        return verify_history(*head, proof, most_recent=most_recent, allow_missing=allow_missing, known_leaves=leaves)

    for allow_missing in (True, False):
        if not shown[0].value or (shown != tuple(full) and not allow_missing):
            with pytest.raises(ProofRefused) as refusal:
                check(allow_missing)
            assert refusal.value.reason == "VALUE_MISSING"
        else:
            assert check(allow_missing) == shown


def test_long_histories() -> None:
    live = Live()
    for number in range(70):
        live.publish((b"+1", b"%d" % number), (b"+%d" % (number + 2), b"x"))
    versions = live.versions[b"+1"]
    for most_recent in (0, 1, 3, 7, 70, 99):
        shown = versions[: most_recent or None]
        proof = make_history(live.tiles, KEY, live.epoch, live.depth, b"+1", shown)
        head = (live.roots[-1], live.epoch, KEY.public_key, b"+1")
        assert verify_history(*head, proof, most_recent=most_recent) == tuple(shown)


def test_a_versions_places_are_free_taken_or_not_to_be_told() -> None:
    live = Live()
    live.publish(*((b"+%d" % n, b"a") for n in range(60)))
    live.publish((b"+1", b"b"))

    def free(label: bytes, current: Version | None, epoch: int = 2, tiles: MemoryTiles = live.tiles) -> bool:
        return is_free(tiles, KEY, epoch, live.roots[epoch], live.depth, label, current)

    old, new = Version(1, 1, b"a"), Version(2, 2, b"b")
    assert free(b"+1", new)
    assert free(b"+60", None)
    assert free(b"+1", old, epoch=1)
    assert free(b"+1", None, epoch=0)
    assert not free(b"+1", None)  # version 1 is there
    assert not free(b"+1", old)  # and what retires it
    damaged = MemoryTiles()  # a bit of its root's last value
    damaged.write(r._replace(body=r.body[:-1] + bytes([r.body[-1] ^ 1])) for r in live.tiles.rows() if r.epoch == 1)
    for label, current in ((b"+1", old), (b"+1", None)):  # where nothing is, and where something is
        with pytest.raises(AkdError):
            free(label, current, 1, damaged)


def test_a_depth_beyond_the_tree_is_not_gone_to() -> None:
    live = Live()
    live.publish((b"+1", b"a"))
    proof = make_lookup(live.tiles, KEY, 1, 1 << 40, b"+1", Version(1, 1, b"a"))
    assert verify_lookup(live.roots[1], 1, KEY.public_key, b"+1", proof)


def test_a_tile_is_of_the_epoch_of_its_newest_entry() -> None:
    live = Live()
    live.publish((b"+1", b"a"))
    [row] = live.tiles.rows()
    for epoch in (0, 2):
        with pytest.raises(AkdError, match="TILE_CORRUPT"):
            decode_tile(row._replace(epoch=epoch))


def test_what_is_not_there_is_not_proved() -> None:
    live = Live()
    live.publish((b"+1", b"a"))
    live.publish((b"+1", b"b"))
    old, new = Version(1, 1, b"a"), Version(2, 2, b"b")
    for label, version, epoch in ((b"+2", old, 1), (b"+1", new, 1), (b"+1", old, 2)):
        with pytest.raises(AkdError) as error:
            make_lookup(live.tiles, KEY, epoch, live.depth, label, version)
        assert error.value.reason == "TREE_MISMATCH"
        with pytest.raises(AkdError) as error:
            make_history(live.tiles, KEY, epoch, live.depth, label, [version])
        assert error.value.reason == "TREE_MISMATCH"
    with pytest.raises(AkdError) as error:
        make_history(live.tiles, KEY, 1, live.depth, b"+1", [])
    assert error.value.reason == "NO_VERSIONS"


@settings(max_examples=300)
@given(st.binary(max_size=300))
def test_any_bytes_are_refused_as_a_proof(proof: bytes) -> None:
    for check in (
        lambda: verify_lookup(EMPTY_ROOT, 5, KEY.public_key, b"+1", proof),
        lambda: verify_history(EMPTY_ROOT, 5, KEY.public_key, b"+1", proof),
        lambda: verify_append_only(EMPTY_ROOT, EMPTY_ROOT, 5, proof),
        lambda: verify_absence(EMPTY_ROOT, 5, KEY.public_key, b"+1", proof),
        lambda: shown_leaves(proof or b"?"),
    ):
        with pytest.raises(ProofRefused):
            check()


def test_an_append_only_proof_is_made_again() -> None:
    live = Live()
    blobs = []
    for epoch in range(1, 6):
        made = live.publish(*[(b"+%d" % number, b"%d" % epoch) for number in range(0, 200, epoch)])
        assert made
        blobs.append(made.blob)
    assert [make_append_only(live.tiles, epoch) for epoch in range(1, 6)] == blobs


def test_an_append_only_proof_needs_the_tiles_of_its_epoch() -> None:
    live = Live()
    live.publish(*[(b"+%d" % number, b"a") for number in range(200)])
    lacking = MemoryTiles()
    lacking.write(row for row in live.tiles.rows() if row.prefix[0] == 0)
    for tiles, epoch in ((live.tiles, 2), (MemoryTiles(), 1), (lacking, 1)):
        with pytest.raises(AkdError) as refused:
            make_append_only(tiles, epoch)
        assert refused.value.reason == "TREE_MISMATCH"


def test_vrf_proofs_are_kept_for_the_last_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "PROOFS_KEPT", 4)
    key, asked = DirectoryKey.from_seed(b"\x07" * 32), list[int]()
    prove = SecretKey.prove
    monkeypatch.setattr(SecretKey, "prove", lambda vrf, alphas: asked.append(len(alphas)) or prove(vrf, alphas))
    places = [Place(b"+1", True, version) for version in range(1, 7)]
    expected = KEY.prove(places)
    for wanted, proved in (([0, 1], 2), ([1, 2, 1], 1), ([3], 1), ([0, 4], 1), ([1], 1), ([0, 3, 4, 1], 0), ([5], 1)):
        assert key.prove([places[index] for index in wanted]) == [expected[index] for index in wanted]
        assert asked.pop() == proved
