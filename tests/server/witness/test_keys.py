"""Several keys of one witness, in files and in tokens: which signs when, and that together they are one voice."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import pytest

from ipls.akd import EMPTY_ROOT
from ipls.crypto.keys import SeedSigner, Signer
from ipls.hsm.token.signing import SigningToken, make_token_key
from ipls.proto.witness.v1.head_pb2 import Cosignature, SignedHead
from ipls.server.witness.keys import KeyExpired, Late, WitnessKeys
from ipls.store.errors import StoreError
from ipls.store.witness import ProposedEpoch, init_witness_state
from ipls.trust.errors import HeadRefused
from ipls.trust.heads import Head, signers, timestamp
from ipls.trust.limits import MAX_AHEAD_MS
from ipls.trust.root import TrustRoot, Witness, WitnessKey
from tests.hsm.tokens import MODULES, PIN, bare_token
from tests.server.chains import Chain
from tests.server.witnesses import open_store
from tests.trust.roots import HOUR, NAMESPACE, NOW, WITNESSES, YEAR, make_root, seed, witness

HEAD = Head(5, b"\x05" * 32)


class Rotation(NamedTuple):
    """A witness's two keys, both good from NOW + 1 h to NOW + 2 h."""

    old: Signer
    new: Signer

    @property
    def witness(self) -> Witness:
        old = WitnessKey(self.old.public_key, NOW - YEAR, NOW + 2 * HOUR)
        new = WitnessKey(self.new.public_key, NOW + HOUR, NOW + YEAR)
        return Witness("w0", "http://w0.example", (old, new))

    @property
    def root(self) -> TrustRoot:
        """It and two others, of which two must sign."""
        others = witness("w1", WITNESSES[1]), witness("w2", WITNESSES[2])
        return make_root(start_root=EMPTY_ROOT, k=2, witnesses=(self.witness, *others))

    def keys(self, *signers: Signer) -> WitnessKeys:
        """Of the witness that has these; none named: both."""
        return WitnessKeys.pinned(self.root, "w0", signers or self)


@pytest.fixture(scope="module", params=("file", *MODULES))
def rotation(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rotation]:
    if request.param == "file":
        yield Rotation(SeedSigner(seed(30)), SeedSigner(seed(31)))
        return
    place = bare_token(request.param, tmp_path_factory.mktemp("token") / "token")
    for label in Rotation._fields:
        make_token_key(place, PIN, label)
    with closing(SigningToken(place, PIN)) as token:
        yield Rotation(*map(token.signer, Rotation._fields))


def signed_by(encoded: bytes) -> bytes:
    return Cosignature.FromString(encoded).public_key


@pytest.mark.parametrize("step", [1, -1])
def test_the_newest_key_that_is_good_signs_and_there_is_no_gap(rotation: Rotation, step: int) -> None:
    both = rotation.keys(*rotation[::step])
    for at_ms in range(NOW, NOW + 4 * HOUR, HOUR // 4):
        expected = rotation.old if at_ms < NOW + HOUR else rotation.new
        assert signed_by(both.cosign(HEAD, at_ms)) == expected.public_key


def test_no_key_signs_out_of_its_time(rotation: Rotation) -> None:
    with pytest.raises(KeyExpired):
        rotation.keys(rotation.old).cosign(HEAD, NOW + 2 * HOUR)
    with pytest.raises(KeyExpired):
        rotation.keys(rotation.new).cosign(HEAD, NOW)


def counted(root: TrustRoot, late: Late, now: int, *, check_age: bool) -> bool:
    head = SignedHead(epoch=HEAD.epoch, root_hash=HEAD.root_hash)
    head.cosignatures.add().ParseFromString(late.cosignature)
    assert timestamp(head.cosignatures[0]) == late.time_ms
    try:
        signers(root, head, now_ms=now, check_age=check_age)
    except HeadRefused as refused:
        return refused.reason not in ("HEAD_KEY_EXPIRED", "HEAD_TOO_OLD")
    return True


def test_a_late_signature_has_the_last_time_or_one_that_is_over_and_is_never_fresh(rotation: Rotation) -> None:
    both = rotation.keys()
    alone = make_root(witnesses=(rotation.witness,))
    assert signed_by(both.cosign_late(HEAD, NOW, NOW).cosignature) == rotation.old.public_key
    begun, age = NOW + HOUR, rotation.root.max_head_age_ms
    for now in (begun - 1, begun, begun + age, begun + age + MAX_AHEAD_MS, begun + age + MAX_AHEAD_MS + 1):
        late = both.cosign_late(HEAD, 0, now)
        assert signed_by(late.cosignature) == rotation.new.public_key
        is_over = now > begun + age + MAX_AHEAD_MS
        assert late.time_ms == (begun if is_over else 0)
        assert counted(alone, late, now, check_age=False) == is_over
        for clock in (now - MAX_AHEAD_MS, now, now + age):  # also by a clock that is behind
            assert not counted(alone, late, clock, check_age=True)


def test_two_live_keys_of_one_witness_are_one_vote(rotation: Rotation) -> None:
    now = NOW + HOUR + HOUR // 2  # both are good
    head = SignedHead(epoch=HEAD.epoch, root_hash=HEAD.root_hash)
    for each in rotation:
        head.cosignatures.add().ParseFromString(rotation.keys(each).cosign(HEAD, now))
    with pytest.raises(HeadRefused, match="1 of 2"):
        signers(rotation.root, head, now_ms=now)


def test_the_second_key_signs_no_second_root_and_no_earlier_time(rotation: Rotation, tmp_path: Path) -> None:
    init_witness_state(tmp_path / "w.db", rotation.root)
    store = open_store(tmp_path / "w.db", NAMESPACE)
    made, other = Chain().step(b"a"), Chain().step(b"b")
    old, new = rotation.keys(rotation.old), rotation.keys(rotation.new)
    now = NOW + HOUR + HOUR // 2
    step = ProposedEpoch(1, 1, made.old_root, made.new_root)
    store.sign(step, now, lambda at_ms: old.cosign(Head(1, made.new_root), at_ms))
    with pytest.raises(StoreError) as e:
        store.sign(
            ProposedEpoch(1, 1, other.old_root, other.new_root),
            now,
            lambda at_ms: new.cosign(Head(1, other.new_root), at_ms),
        )
    assert e.value.reason == "WITNESS_FORK"
    again = store.sign(step, now - HOUR // 4, lambda at_ms: new.cosign(Head(1, made.new_root), at_ms))
    assert (signed_by(again), timestamp(Cosignature.FromString(again))) == (rotation.new.public_key, now)
    store.close()
