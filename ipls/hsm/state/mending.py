"""What a database has lost by a flipped bit, had back from what else it has. Nothing of it is believed for that: a
record goes by the trie, an entry of the log by the hash that the next one, or the anchor, has of it.

Tested by tests/faults/test_bit_flips.py.
"""

from collections.abc import Iterator
from contextlib import suppress

from ipls.hsm.state.anchor import AnchorService
from ipls.hsm.state.replay import PAGE, log_digests, log_row
from ipls.store.errors import StoreDamaged
from ipls.store.vault import DatabaseEdited, LogRow, VaultStore
from ipls.trust.limits import MAX_INT
from ipls.vault.errors import SessionRefused
from ipls.vault.state.journal import JournalEntry, State, entry_hash
from ipls.vault.state.trie import digest_of

MAX_ENTRY = 8192
"""Bytes of an entry in which the bit is looked for that is not as it was: a second's work at most."""


def logged_record(store: VaultStore, key: bytes, digest: bytes) -> bytes | None:
    """The record with this digest in the trie, out of the log; None if it is not what was last written under this key.
    Raises StoreError."""
    try:
        row = store.newest(key)
        record = JournalEntry.decode(row.entry).record if row else b""
    except (SessionRefused, DatabaseEdited):
        return None
    return record if digest_of(key, record) == digest else None


def mend_log(store: VaultStore, anchor_service: AnchorService, anchored: State) -> Iterator[int]:
    """Puts right the rows of the log in which one bit flipped, from the anchored one backwards, a page a step; yields
    how many. It ends at one of which more is gone, or that can't be read. Raises SessionRefused, StoreUnavailable."""
    with suppress(StoreDamaged):
        yield from _mend_log(store, anchor_service, anchored)


def _mend_log(store: VaultStore, anchor_service: AnchorService, anchored: State) -> Iterator[int]:
    moved = _move_back(store, anchored)
    expected, sequence = anchored.chain_head, anchored.sequence
    while sequence:
        first = max(sequence - PAGE + 1, 1)
        rows = list(reversed(store.log(first, sequence - first + 1)))
        damaged: list[LogRow] = []
        for row, holds in zip(rows, _holding(anchor_service, rows), strict=True):
            encoded = row.entry if holds else _as_named(row.entry, expected)
            if row.sequence != sequence or encoded is None or entry_hash(encoded) != expected:
                break
            entry = JournalEntry.decode(encoded)
            right = log_row(entry, encoded, row.mac)
            if right != row or holds is False:
                damaged.append(right)
            expected, sequence = entry.previous, sequence - 1
        for row in _signed(anchor_service, damaged):
            store.mend(row.sequence, row)
        yield moved + len(damaged)
        moved = 0
        if sequence >= first:
            return


def _move_back(store: VaultStore, anchored: State) -> int:
    """A row whose number is not its entry's any more lies before or behind all others."""
    outer = {row.sequence: row for row in (*store.log(-MAX_INT - 1, 1), store.last()) if row}
    moved = 0
    for row in outer.values():
        try:
            right = log_row(JournalEntry.decode(row.entry), row.entry, row.mac)
        except SessionRefused:
            continue
        if row.sequence != right.sequence <= anchored.sequence and not any(
            each.sequence == right.sequence for each in store.log(right.sequence, 1)
        ):
            store.mend(row.sequence, right)
            moved += 1
    return moved


def _as_named(entry: bytes, expected: bytes) -> bytes | None:
    """The entry of this hash: these bytes, or these with one bit the other way."""
    if entry_hash(entry) == expected:
        return entry
    other = bytearray(entry)
    for bit in range(8 * len(entry) if len(entry) <= MAX_ENTRY else 0):
        other[bit // 8] ^= 1 << bit % 8
        if entry_hash(bytes(other)) == expected:
            return bytes(other)
        other[bit // 8] ^= 1 << bit % 8
    return None


def _holding(anchor_service: AnchorService, rows: list[LogRow]) -> list[bool | None]:
    """Whether each has an HMAC of this vault's: then it is whole, though another may belong there. None: its token
    came to the fleet later, and lacks the keys of old ones."""
    if not rows or anchor_service.first_log_key() > 1:
        return [None] * len(rows)
    digests = log_digests(anchor_service, rows)
    return [*anchor_service.holds(digests, [row.mac for row in rows], retired=True)]


def _signed(anchor_service: AnchorService, rows: list[LogRow]) -> list[LogRow]:
    """With HMACs that hold, new ones where it is they that were damaged: the anchor vouches for these entries."""
    lost = [row for row, holds in zip(rows, _holding(anchor_service, rows), strict=True) if holds is False]
    made = anchor_service.macs(log_digests(anchor_service, lost)) if lost else []
    new = {row.sequence: mac for row, mac in zip(lost, made, strict=True)}
    return [row._replace(mac=new.get(row.sequence, row.mac)) for row in rows]
