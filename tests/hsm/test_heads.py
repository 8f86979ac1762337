"""The heads that the vault accepts, and its clock."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from ipls.hsm.heads import HeadKeeper
from ipls.proto.witness.v1.head_pb2 import Cosignature
from ipls.session.errors import SessionRefused
from ipls.store.vault import VaultStore
from ipls.trust.errors import HeadRefused
from ipls.trust.heads import Head
from tests.trust.roots import HOUR, NOW, WITNESSES, signed, three_of

ROOT = three_of()
ONE, OTHER_ONE, TWO = Head(1, b"1" * 32), Head(1, b"x" * 32), Head(2, b"2" * 32)
MINUTE = 60_000


class Clock:
    ms = NOW

    def __call__(self) -> int:
        return self.ms


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[VaultStore]:
    store = VaultStore(tmp_path / "vault.db")
    yield store
    store.close()


@pytest.fixture
def heads(store: VaultStore, clock: Clock) -> HeadKeeper:
    return HeadKeeper(ROOT, store, clock)


def by_two(head: Head, time: int = NOW) -> object:
    return signed(head, *WITNESSES[:2], time=time)


def test_no_head_no_service(heads: HeadKeeper) -> None:
    with pytest.raises(SessionRefused) as refusal:
        heads.judge_by()
    assert refusal.value.reason == "VAULT_NO_HEAD"


def test_the_higher_head_is_judged_by(heads: HeadKeeper) -> None:
    assert heads.judge_by(by_two(ONE)).epoch == 1
    assert heads.judge_by(by_two(TWO)).epoch == 2
    assert heads.judge_by(by_two(ONE)).epoch == 2


def test_newer_signatures_of_the_same_head_replace_older_ones(heads: HeadKeeper, clock: Clock) -> None:
    heads.offer(by_two(ONE))
    clock.ms += 2 * HOUR
    with pytest.raises(HeadRefused) as refusal:
        heads.judge_by()
    assert refusal.value.reason == "HEAD_TOO_OLD"
    renewed = by_two(ONE, clock.ms)
    assert heads.judge_by(renewed) == renewed
    # The client's own may be older, as long as the vault's is not.
    assert heads.judge_by(by_two(ONE, NOW)) == renewed


def test_one_witness_cant_make_the_vault_hold_on_to_an_expiring_head(heads: HeadKeeper, clock: Clock) -> None:
    """It signs as far ahead as it may, and a client joins that with another's signature of an hour ago."""
    expiring = signed(ONE, WITNESSES[0], time=NOW + MINUTE)
    expiring.cosignatures.extend(signed(ONE, WITNESSES[1], time=NOW - HOUR).cosignatures)
    fresh = by_two(ONE)
    assert heads.judge_by(expiring) == expiring
    assert heads.judge_by(fresh) == fresh
    clock.ms += 1
    assert heads.judge_by() == fresh


def test_a_host_cant_turn_the_clock_back(store: VaultStore, heads: HeadKeeper, clock: Clock) -> None:
    heads.offer(by_two(ONE, NOW))
    clock.ms = NOW - 90 * MINUTE
    for keeper in (heads, HeadKeeper(ROOT, store, clock)):  # nor by a restart
        assert keeper.now_ms() == NOW
        with pytest.raises(HeadRefused) as refusal:
            keeper.offer(by_two(TWO, NOW - 80 * MINUTE))
        assert refusal.value.reason == "HEAD_TOO_OLD"


def test_of_two_roots_the_second_is_evidence(store: VaultStore, heads: HeadKeeper, clock: Clock) -> None:
    heads.offer(by_two(ONE))
    heads.offer(by_two(TWO))
    clock.ms += 2 * HOUR
    for keeper in (heads, HeadKeeper(ROOT, store, clock)):
        with pytest.raises(HeadRefused) as refusal:  # also when it is below the highest, and too old to be judged by
            keeper.offer(by_two(OTHER_ONE))
        assert refusal.value.reason == "HEAD_FORK"
    [(ours, theirs)] = store.evidence()
    assert (Head(ours.epoch, ours.root_hash), Head(theirs.epoch, theirs.root_hash)) == (ONE, OTHER_ONE)


def test_what_the_witnesses_did_not_sign_is_no_evidence(store: VaultStore, heads: HeadKeeper) -> None:
    heads.offer(by_two(ONE))
    with pytest.raises(HeadRefused) as refusal:
        heads.offer(signed(OTHER_ONE, WITNESSES[0]))
    assert refusal.value.reason == "HEAD_NO_QUORUM"
    assert store.evidence() == []


def test_a_head_cant_be_stuffed_until_it_fits_no_frame(heads: HeadKeeper) -> None:
    stuffed = by_two(ONE)
    stuffed.cosignatures.append(Cosignature(message=bytes(20_000)))
    with pytest.raises(HeadRefused) as refusal:
        heads.offer(stuffed)
    assert refusal.value.reason == "HEAD_ENCODING"
