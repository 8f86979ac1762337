"""The log's entries and the anchor's state: one encoding, and nothing else is read."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipls.proto.vault.v1.vault_pb2 import HistoryEntry
from ipls.vault.errors import SessionRefused
from ipls.vault.state.journal import STATE_BYTES, Highest, JournalEntry, State, anchor_digest, entry_digest, first_state
from ipls.vault.state.trie import EMPTY_ROOT

NUMBERS, HASHES = st.integers(0, 2**64 - 1), st.binary(min_size=32, max_size=32)
HIGHEST = st.builds(Highest, NUMBERS, HASHES, NUMBERS)
STATES = st.builds(State, NUMBERS, NUMBERS, HASHES, HASHES, HIGHEST)
ENTRIES = st.builds(JournalEntry, NUMBERS, *[HASHES] * 4, HIGHEST, st.binary(max_size=50), st.binary(max_size=50))


@given(STATES)
def test_a_state_is_read_as_it_was_written(state: State) -> None:
    assert State.decode(state.encode()) == state
    assert len(state.encode()) == STATE_BYTES


@given(ENTRIES)
def test_an_entry_is_read_as_it_was_written(entry: JournalEntry) -> None:
    assert JournalEntry.decode(entry.encode()) == entry


@given(ENTRIES, st.binary(min_size=1))
def test_an_entry_cut_or_continued_is_none(entry: JournalEntry, more: bytes) -> None:
    encoded = entry.encode()
    for other in (*(encoded[:end] for end in range(len(encoded))), encoded + more):
        with pytest.raises(SessionRefused) as refusal:
            JournalEntry.decode(other)
        assert refusal.value.reason == "VAULT_LOG_BROKEN"


@given(ENTRIES, ENTRIES)
def test_entries_differ_in_their_hashes(one: JournalEntry, other: JournalEntry) -> None:
    assert (one.hash == other.hash) == (one == other)


def test_a_use_that_can_not_be_read_is_no_use() -> None:
    entry = JournalEntry(1, *[bytes(32)] * 4, Highest(), b"", b"\xff")
    with pytest.raises(SessionRefused) as refusal:
        _ = entry.history
    assert refusal.value.reason == "VAULT_LOG_BROKEN"


@pytest.mark.parametrize("change", [{"sequence": 1}, {"sequence": 3}, {"previous": bytes(32)}])
def test_only_the_next_entry_follows(change: dict[str, object]) -> None:
    state = State(0, 1, b"h" * 32, EMPTY_ROOT)
    entry = JournalEntry(2, b"h" * 32, bytes(32), bytes(32), b"r" * 32, Highest(), b"", b"")
    after = state.followed_by(entry)
    assert (after.sequence, after.chain_head, after.records_root) == (2, entry.hash, b"r" * 32)
    with pytest.raises(SessionRefused) as refusal:
        state.followed_by(entry._replace(**change))
    assert refusal.value.reason == "VAULT_LOG_BROKEN"


def test_an_entry_and_a_state_are_authenticated_in_domains_of_their_own() -> None:
    data = first_state(0, bytes(32)).encode()
    assert len({anchor_digest(data), entry_digest(0, data), entry_digest(1, data)}) == 3


def test_the_encoding_stays() -> None:
    """As docs/protocol/vault-state.md has it."""
    use = HistoryEntry(number=1, operation="handshake").SerializeToString(deterministic=True)
    entry = JournalEntry(1, *(bytes([n]) * 32 for n in range(1, 5)), Highest(7, b"\5" * 32, 9), b"record", use)
    u64, u32 = (lambda n: n.to_bytes(8, "big")), (lambda n: n.to_bytes(4, "big"))
    chain = b"".join(bytes([n]) * 32 for n in range(1, 5))
    highest = u64(7) + b"\5" * 32 + u64(9)
    assert entry.encode() == u64(1) + chain + highest + u32(6) + b"record" + u32(len(use)) + use
    state = State(3, 1, b"\1" * 32, b"\2" * 32, Highest(7, b"\5" * 32, 9))
    assert state.encode() == u64(3) + u64(1) + b"\1" * 32 + b"\2" * 32 + highest
