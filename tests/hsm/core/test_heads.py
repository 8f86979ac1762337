"""The heads that the vault accepts, and its clock."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from ipls.crypto.errors import VerificationError
from ipls.crypto.keys import verify
from ipls.hsm.core.heads import MAX_JUDGED, HeadKeeper
from ipls.hsm.state.store import StateStore
from ipls.proto.trust.v1.evidence_pb2 import Evidence
from ipls.proto.witness.v1.head_pb2 import Cosignature, SignedHead
from ipls.store.errors import StoreUnavailable
from ipls.trust.errors import HeadRefused
from ipls.trust.evidence import EACH, encode, judge_evidence
from ipls.trust.heads import Head
from ipls.trust.root import TrustRoot
from ipls.vault.account import Times
from ipls.vault.errors import SessionRefused
from ipls.vault.state.journal import other_key
from tests.hsm.state_stores import new_ledger, perform
from tests.trust.roots import HOUR, NOW, THIEF, WITNESSES, signed, three_of, witness

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


class Heads:
    """A keeper whose every call is a work of its own."""

    def __init__(
        self,
        state_store: StateStore,
        clock: Clock,
        tell: Callable[[Evidence], None] = lambda evidence: None,
        root: TrustRoot = ROOT,
    ) -> None:
        self.state_store = state_store
        self._keeper = HeadKeeper(root, state_store, clock, tell)
        self.standing = self._keeper.standing

    def offer(self, signed: SignedHead) -> None:
        perform(self.state_store, lambda: self._keeper.offer(signed))

    def judge_by(self, signed: SignedHead | None = None) -> SignedHead:
        return perform(self.state_store, lambda: self._keeper.judge_by(signed))

    def now_ms(self) -> int:
        return perform(self.state_store, self._keeper.now_ms)

    def times(self) -> Times:
        return perform(self.state_store, self._keeper.times)

    def evidence(self) -> list[Evidence]:
        return perform(self.state_store, self._keeper.evidence)


@pytest.fixture
def heads(tmp_path: Path, clock: Clock) -> Iterator[Heads]:
    with new_ledger(tmp_path / "vault.db") as state_store:
        yield Heads(state_store, clock)


def by_two(head: Head, time: int = NOW) -> SignedHead:
    return signed(head, *WITNESSES[:2], time=time)


def test_no_head_no_service(heads: Heads) -> None:
    with pytest.raises(SessionRefused) as refusal:
        heads.judge_by()
    assert refusal.value.reason == "VAULT_NO_HEAD"


def test_the_higher_head_is_judged_by(heads: Heads) -> None:
    assert heads.judge_by(by_two(ONE)).epoch == 1
    assert heads.judge_by(by_two(TWO)).epoch == 2
    assert heads.judge_by(by_two(ONE)).epoch == 2


def test_newer_signatures_of_the_same_head_replace_older_ones(heads: Heads, clock: Clock) -> None:
    heads.offer(by_two(ONE))
    clock.ms += 2 * HOUR
    with pytest.raises(HeadRefused) as refusal:
        heads.judge_by()
    assert refusal.value.reason == "HEAD_TOO_OLD"
    renewed = by_two(ONE, clock.ms)
    assert heads.judge_by(renewed) == renewed
    # The client's own may be older, as long as the vault's is not: it replaces nothing.
    for older in (NOW, clock.ms - MINUTE):
        assert heads.judge_by(by_two(ONE, older)) == renewed
    assert heads.judge_by(signed(ONE, *WITNESSES[1:], time=clock.ms)) == renewed  # nor do as many of another's


def test_one_witness_cant_make_the_vault_hold_on_to_an_expiring_head(heads: Heads, clock: Clock) -> None:
    """It signs as far ahead as it may, and a client joins that with another's signature of an hour ago."""
    expiring = signed(ONE, WITNESSES[0], time=NOW + MINUTE)
    expiring.cosignatures.extend(signed(ONE, WITNESSES[1], time=NOW - HOUR).cosignatures)
    fresh = by_two(ONE)
    assert heads.judge_by(expiring) == expiring
    assert heads.judge_by(fresh) == fresh
    clock.ms += 1
    assert heads.judge_by() == fresh


def test_after_a_restart_sessions_stand_on_the_head_that_was_judged_by(heads: Heads, clock: Clock) -> None:
    heads.offer(by_two(ONE))
    again = Heads(heads.state_store, clock)
    again.judge_by()
    assert again.standing() == ONE.epoch


def test_accounts_are_judged_by_a_time_that_no_host_moves(heads: Heads, clock: Clock) -> None:
    heads.offer(by_two(ONE))
    clock.ms += HOUR
    assert heads.times() == Times(now_ms=NOW + HOUR, witness_ms=NOW)


def test_a_second_root_is_refused_also_where_the_first_heads_record_was_edited(heads: Heads, tmp_path: Path) -> None:
    heads.offer(by_two(ONE))
    with closing(sqlite3.connect(tmp_path / "vault.db")) as database, database:
        database.execute("UPDATE records SET record = x'00' WHERE key = ?", (other_key("head", 1),))
    with pytest.raises(HeadRefused) as refusal:
        heads.offer(by_two(OTHER_ONE))
    assert refusal.value.reason == "HEAD_FORK"


def test_a_host_cant_turn_the_clock_back(heads: Heads, clock: Clock) -> None:
    heads.offer(by_two(ONE, NOW))
    clock.ms = NOW - 90 * MINUTE
    for keeper in (heads, Heads(heads.state_store, clock)):  # nor by a restart
        assert keeper.now_ms() == NOW
        with pytest.raises(HeadRefused) as refusal:
            keeper.offer(by_two(TWO, NOW - 80 * MINUTE))
        assert refusal.value.reason == "HEAD_TOO_OLD"


def found(heads: Heads) -> list[tuple[str, tuple[str, ...]]]:
    findings = [judge_evidence(ROOT, encode(evidence)) for evidence in heads.evidence()]
    return [(finding.kind, finding.witnesses) for finding in findings]


def test_of_two_roots_the_second_is_evidence(heads: Heads, clock: Clock) -> None:
    told: list[Evidence] = []
    heads.offer(by_two(ONE))
    heads.offer(by_two(TWO))
    clock.ms += 2 * HOUR
    for keeper in (heads, Heads(heads.state_store, clock, told.append)):
        with pytest.raises(HeadRefused) as refusal:  # also when it is below the highest, and too old to be judged by
            keeper.offer(by_two(OTHER_ONE))
        assert refusal.value.reason == "HEAD_FORK"
    assert found(heads) == [("two_heads", ("w0", "w1"))]
    assert told == heads.evidence()


def test_a_witness_that_signed_both_is_found_without_a_quorum(heads: Heads) -> None:
    heads.offer(by_two(ONE))
    with pytest.raises(HeadRefused) as refusal:
        heads.offer(signed(OTHER_ONE, WITNESSES[0], THIEF))
    assert refusal.value.reason == "HEAD_KEY_UNPINNED"
    assert found(heads) == [("two_signatures", ("w0",))]


def test_what_no_witness_signed_twice_is_no_evidence(heads: Heads) -> None:
    heads.offer(by_two(ONE))
    for fork in (signed(OTHER_ONE, WITNESSES[2]), signed(OTHER_ONE, THIEF), signed(Head(2**64 - 1, b""), THIEF)):
        with pytest.raises(HeadRefused):
            heads.offer(fork)
    assert heads.evidence() == []


def test_a_witness_that_signs_without_end_hides_no_others_evidence(heads: Heads, clock: Clock) -> None:
    epochs = range(1, EACH + 3)
    for epoch in epochs:
        heads.offer(by_two(Head(epoch, bytes(32))))
        for root in range(1, 4):
            with pytest.raises(HeadRefused):
                heads.offer(signed(Head(epoch, bytes([root]) * 32), WITNESSES[0]))
    assert found(heads) == [("two_signatures", ("w0",))] * EACH
    with pytest.raises(HeadRefused):
        heads.offer(signed(Head(epochs[-1], b"x" * 32), *WITNESSES[:2]))
    kept = Heads(heads.state_store, clock)  # as after a restart
    assert found(kept) == [*[("two_signatures", ("w0",))] * EACH, ("two_heads", ("w0", "w1"))]


def test_a_root_of_zeros_is_a_root_as_any(heads: Heads) -> None:
    """What witnesses sign may be anything: it must not make the vault forget what it accepted."""
    zeros = by_two(Head(2, bytes(32)))
    heads.offer(zeros)
    assert heads.judge_by(by_two(ONE)) == zeros
    with pytest.raises(HeadRefused) as refusal:
        heads.offer(by_two(TWO))
    assert refusal.value.reason == "HEAD_FORK"


def test_a_head_cant_be_stuffed_until_it_fits_no_frame(heads: Heads) -> None:
    stuffed = by_two(ONE)
    stuffed.cosignatures.append(Cosignature(message=bytes(20_000)))
    with pytest.raises(HeadRefused) as refusal:
        heads.offer(stuffed)
    assert refusal.value.reason == "HEAD_ENCODING"


def refused(work: Callable[[], object]) -> str:
    with pytest.raises(VerificationError) as refusal:
        work()
    return refusal.value.reason


def test_a_later_head_with_earlier_signatures_takes_nothing_off_the_clock(heads: Heads, clock: Clock) -> None:
    heads.offer(by_two(ONE, NOW))
    heads.offer(by_two(TWO, NOW - 30 * MINUTE))
    assert heads.judge_by().epoch == 2
    clock.ms = NOW - HOUR
    assert heads.now_ms() == NOW


def test_a_session_under_way_is_not_judged_by_a_head_that_grew_old(heads: Heads, clock: Clock) -> None:
    heads.judge_by(by_two(ONE))
    clock.ms = NOW + HOUR
    assert heads.standing() == 1
    clock.ms += 1
    assert refused(heads.standing) == "HEAD_TOO_OLD"


def test_nor_by_a_young_one_under_a_trust_root_that_has_run_out(heads: Heads, clock: Clock) -> None:
    root = three_of(expires_ms=NOW + MINUTE)
    keeper = Heads(heads.state_store, clock, root=root)
    keeper.judge_by(by_two(ONE))
    clock.ms = NOW + MINUTE
    for judge in (keeper.standing, keeper.judge_by):
        assert refused(judge) == "TRUST_ROOT_EXPIRED"


def test_a_head_kept_under_an_earlier_trust_root_is_verified_under_the_present_one(heads: Heads, clock: Clock) -> None:
    heads.judge_by(by_two(ONE))
    later = three_of(witnesses=(*ROOT.witnesses[1:], witness("new", THIEF)))
    assert refused(Heads(heads.state_store, clock, root=later).judge_by) == "HEAD_KEY_UNPINNED"


# Floods


@pytest.fixture
def verified(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The signatures that were verified."""
    seen: list[bytes] = []

    def counted(key: bytes, message: bytes, signature: bytes) -> None:
        seen.append(signature)
        verify(key, message, signature)

    monkeypatch.setattr("ipls.trust.heads.verify", counted)
    return seen


def outcome(heads: Heads, head: SignedHead) -> str:
    try:
        heads.offer(head)
    except VerificationError as refused:
        return refused.reason
    return ""


def test_a_flood_of_one_head_has_its_signatures_verified_once(
    heads: Heads, clock: Clock, verified: list[bytes]
) -> None:
    """Strangers hand in the vault's own, one below it, a fork, one that nobody signed: each a hundred times."""
    heads.judge_by(by_two(TWO))
    forged = by_two(Head(3, b"3" * 32))
    forged.cosignatures[0].signature = forged.cosignatures[1].signature
    flood = [
        (by_two(TWO), ""),
        (by_two(ONE), ""),
        (by_two(Head(2, b"x" * 32)), "HEAD_FORK"),
        (forged, "SIGNATURE_INVALID"),
    ]
    for head, expected in flood:
        assert outcome(heads, head) == expected
    once = len(verified)
    assert once
    for head, expected in flood:
        assert {outcome(heads, head) for _ in range(99)} == {expected}
    assert len(verified) == once
    clock.ms += MINUTE  # what may be otherwise by now is judged again, once
    for head, expected in flood:
        assert {outcome(heads, head) for _ in range(99)} == {expected}
    assert once < len(verified) <= 3 * once


def test_one_from_the_future_is_taken_when_its_time_has_come(heads: Heads, clock: Clock) -> None:
    early = by_two(ONE, NOW + 3 * MINUTE)
    assert outcome(heads, early) == "HEAD_FROM_FUTURE"
    clock.ms += MINUTE
    assert outcome(heads, early) == ""
    assert heads.judge_by() == early


def test_a_head_whose_write_failed_is_judged_anew(heads: Heads, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(changes: object) -> None:
        raise StoreUnavailable("the disk is full")

    monkeypatch.setattr(heads.state_store._store, "append", full)
    with pytest.raises(StoreUnavailable):
        heads.offer(by_two(ONE))
    monkeypatch.undo()
    heads.offer(by_two(ONE))
    assert heads.judge_by() == by_two(ONE)


def test_what_is_remembered_of_heads_has_an_end(heads: Heads, verified: list[bytes]) -> None:
    """The one that came first is verified again when so many others have come."""
    heads.offer(by_two(ONE))
    for number in range(MAX_JUDGED):
        assert outcome(heads, signed(Head(10 + number, bytes(32)), THIEF)) == "HEAD_KEY_UNPINNED"
    before = len(verified)
    heads.offer(by_two(ONE))
    assert len(verified) > before
