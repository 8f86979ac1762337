"""What the device believes of a directory: heads by their witnesses and by what it saw before."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from ipls.akd import EMPTY_ROOT, verify_lookup
from ipls.client.directory import DirectoryReader
from ipls.client.errors import RefusedError
from ipls.client.events import Event, HeadChecked
from ipls.client.profile import Profile
from ipls.proto.directory.v1.directory_pb2 import HistoryRequest, HistoryResponse
from ipls.trust.heads import Head
from ipls.trust.identity import encode_record, verify_identity
from ipls.trust.keys import public_key
from tests.attack.directory import Directory
from tests.trust.roots import HOUR, NOW, THIEF, WITNESSES, seed, signed, three_of

ALICE = b"+491700000001"
OWN, THIEFS = encode_record(public_key(seed(100))), encode_record(public_key(THIEF))

SEEN, NEXT, FORK, BELOW = Head(5, b"5" * 32), Head(6, b"6" * 32), Head(5, b"f" * 32), Head(4, b"4" * 32)
QUORUM = WITNESSES[:2]


@pytest.fixture
def profile(tmp_path: Path) -> Iterator[Profile]:
    with closing(Profile(tmp_path / "phone")) as profile:
        yield profile


def reader(profile: Profile, events: list[Event]) -> DirectoryReader:
    nobody: Any = None  # heads are handed in
    return DirectoryReader(nobody, three_of(), profile, now_ms=lambda: NOW, report=events.append)


def test_a_head_is_remembered_with_its_signatures(profile: Profile) -> None:
    events: list[Event] = []
    for head in (SEEN, SEEN, NEXT):
        assert reader(profile, events).observe(signed(head, *QUORUM)) == head
    assert profile.head == signed(NEXT, *QUORUM)
    assert events[-1] == HeadChecked(6, NEXT.root_hash, {"w0": NOW, "w1": NOW})


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        (signed(BELOW, *QUORUM), "HEAD_BELOW_HIGHEST"),
        (signed(FORK, *QUORUM), "HEAD_FORK"),
        (signed(NEXT, QUORUM[0]), "HEAD_NO_QUORUM"),
        (signed(NEXT, QUORUM[0], THIEF), "HEAD_KEY_UNPINNED"),
        (signed(NEXT, *QUORUM, namespace="elsewhere"), "HEAD_OTHER_NAMESPACE"),
        (signed(NEXT, *QUORUM, time=NOW - HOUR - 1), "HEAD_TOO_OLD"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_head_that_does_not_hold_changes_nothing(profile: Profile, head: Any, reason: str) -> None:
    reader(profile, []).observe(signed(SEEN, *QUORUM))
    with pytest.raises(RefusedError, check=lambda error: error.reason == reason):
        reader(profile, []).observe(head)
    assert profile.head == signed(SEEN, *QUORUM)


class Liar(Directory):
    """Alice's device made version 1; the operator plants versions of its own, then others register until epoch 9."""

    def __init__(self, planted: Sequence[int], retired: Sequence[int] = ()) -> None:
        super().__init__(seed(1))
        self.publish([(ALICE, OWN)])
        for version in planted:
            self.plant(ALICE, version, THIEFS, 8)
        for version in retired:
            self.retire(ALICE, version, 8)
        for number in range(2, 10):
            self.publish([(b"+49%d" % number, OWN)])
        self.root_hash = self.tree().root()
        self.answers: dict[int, bytes] = {}  # by how many most recent versions

    def prove(self, versions: Sequence[int], future: Sequence[int] | None = None) -> bytes:
        return self.history(self.tree(), ALICE, versions, self.epoch, future=future).SerializeToString()

    async def History(self, request: HistoryRequest, **options: float) -> HistoryResponse:
        head = signed(Head(self.epoch, self.root_hash), *QUORUM)
        return HistoryResponse(head=head, proof=self.answers[request.most_recent])

    async def read(self, profile: Profile) -> tuple[int, ...]:
        """The versions that the owner's client takes from this directory."""
        root = three_of(vrf_public_key=self.public_key, start_root=EMPTY_ROOT)
        stub: Any = self
        reader = DirectoryReader(stub, root, profile, now_ms=lambda: NOW, report=lambda event: None)
        return tuple(identity.version for identity in (await reader.own_history(ALICE.decode())).identities)


async def test_a_lone_planted_version_is_no_newest_one(profile: Profile) -> None:
    """(fresh, 8) alone: a lookup would answer it, and the owner's complete history still ends at 1."""
    liar = Liar([8])
    liar.answers = {0: liar.prove([1]), 1: liar.prove([1])}
    assert await liar.read(profile) == (1,)
    head = Head(liar.epoch, liar.root_hash)
    root = three_of(vrf_public_key=liar.public_key, start_root=EMPTY_ROOT)
    assert verify_lookup(*reversed(head), root.vrf_public_key, ALICE, lookup(liar, 8)).value == THIEFS
    with pytest.raises(LookupError):  # most recent 1 needs leaves that are not there
        liar.prove([8])


async def test_a_planted_version_that_passes_most_recent_1_is_seen_by_the_owner(profile: Profile) -> None:
    """(fresh, 8) with (stale, 7) and (fresh, 4): vault and store would take it; the owner's client refuses it all."""
    liar = Liar([4, 8], [7])
    root = three_of(vrf_public_key=liar.public_key, start_root=EMPTY_ROOT)
    head = Head(liar.epoch, liar.root_hash)
    assert verify_identity(root, head, ALICE.decode(), liar.prove([8])).public_key == THIEFS[1:]
    for versions, future in (([1], [2]), ([1], [2, 2]), ([8], None)):  # (fresh, 4) can't be shown to be absent
        liar.answers = {0: liar.prove(versions, future), 1: liar.prove([8])}
        with pytest.raises(RefusedError):
            await liar.read(profile)


def lookup(liar: Liar, version: int) -> bytes:
    return liar.lookup(liar.tree(), ALICE, version).SerializeToString()
