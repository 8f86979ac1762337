"""The access history: what is shown continues what was seen, or is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipls.proto.vault.v1.vault_pb2 import HistoryAnswer, HistoryEntry
from ipls.trust.limits import MAX_INT
from ipls.vault.errors import SessionRefused
from ipls.vault.history import MAX_ENTRIES, Seen, follow
from ipls.vault.session.client import ClientSession
from ipls.vault.session.transcript import MAX_FRAME
from tests.vault.changes import changes
from tests.vault.rig import Stream

KEY = bytes(range(32))


def entries(count: int) -> list[HistoryEntry]:
    return [
        HistoryEntry(number=n, time_ms=1000 + n, operation="retrieve", generation=1, identity_version=2, epoch=7)
        for n in range(1, count + 1)
    ]


def seen_after(uses: list[HistoryEntry]) -> Seen:
    seen = Seen()
    for use in uses:
        seen = seen.extended(use)
    return seen


def answer(uses: list[HistoryEntry], first: int = 1) -> HistoryAnswer:
    length, chain_head = seen_after(uses)
    return HistoryAnswer(entries=uses[first - 1 :], length=length, chain_head=chain_head)


def refused(seen: Seen, shown: HistoryAnswer) -> None:
    with pytest.raises(SessionRefused) as refusal:
        follow(seen, shown)
    assert refusal.value.reason == "VAULT_HISTORY_REWRITTEN"


@given(st.integers(0, 6), st.integers(0, 6))
def test_what_continues_is_taken(known: int, more: int) -> None:
    uses = entries(known + more)
    found = follow(seen_after(uses[:known]), answer(uses, known + 1))
    assert [entry for entry, _ in found] == uses[known:]
    assert (found[-1][1] if found else seen_after(uses)) == seen_after(uses)


def test_a_long_history_comes_in_parts() -> None:
    uses = entries(5)
    whole = answer(uses)
    del whole.entries[3:]
    found = follow(Seen(), whole)
    assert found[-1][1] == seen_after(uses[:3])
    rest = answer(uses, 4)
    assert follow(found[-1][1], rest)[-1][1] == seen_after(uses)


def test_an_entry_beyond_the_length_is_refused() -> None:
    """No chain head says what it is."""
    beyond = answer(entries(2))
    beyond.entries.append(entries(3)[-1])
    refused(Seen(), beyond)


@pytest.mark.parametrize("known", [1, 3, 4])
def test_a_shorter_history_is_refused(known: int) -> None:
    uses = entries(4)
    for length in range(known):
        refused(seen_after(uses[:known]), answer(uses[:length], known + 1))


def test_another_past_is_refused() -> None:
    """A use was taken out, or made to look like the owner's, before the device looks again."""
    uses = entries(4)
    for what, changed in changes(uses[1]):
        assert isinstance(changed, HistoryEntry), what
        refused(seen_after(uses[:2]), answer([uses[0], changed, *uses[2:]], 3))
    refused(seen_after(uses[:2]), answer([uses[0], *uses[2:]], 3))


def test_every_changed_entry_is_refused() -> None:
    uses = entries(3)
    for what, changed in changes(answer(uses)):
        assert isinstance(changed, HistoryAnswer), what
        if what == "length changed":  # there is more: the next answer has to show it
            refused(follow(Seen(), changed)[-1][1], HistoryAnswer(length=4, chain_head=changed.chain_head))
        else:
            refused(Seen(), changed)


def test_the_largest_answer_fits_a_frame() -> None:
    largest = HistoryEntry(
        number=MAX_INT,
        time_ms=10**14,
        operation="remove_approver",
        generation=2**32,
        identity_version=2**32,
        epoch=2**32,
        delay_ms=2**32,
        approver=bytes(32),
    )
    assert HistoryAnswer(entries=[largest] * MAX_ENTRIES, length=MAX_INT, chain_head=bytes(32)).ByteSize() < MAX_FRAME


def test_the_owner_reads_every_use_in_a_later_session(session: ClientSession, stream: Stream) -> None:
    session.on_answer(stream.exchange(session.store_request(0, bytes(16), KEY)))
    session.on_answer(stream.exchange(session.retrieve_request()))
    shown = session.on_answer(stream.exchange(session.history_request(1)))
    assert isinstance(shown, HistoryAnswer)
    assert [use.operation for use, _ in follow(Seen(), shown)] == ["handshake", "store", "retrieve"]
    assert session.on_answer(stream.exchange(session.history_request(4))) == HistoryAnswer(
        length=3, chain_head=shown.chain_head
    )
