"""The log, followed entry by entry: beyond the anchor, to check a whole database, and to make one again.

Tested by tests/admin/test_vault.py and tests/attack/test_vault_state.py.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

from ipls.hsm.state.anchor import AnchorService, read_anchor
from ipls.store.vault import Changes, LogRow, VaultStore
from ipls.vault.errors import SessionRefused
from ipls.vault.state.journal import NO_RECORD, JournalEntry, State, entry_digest, entry_hash
from ipls.vault.state.trie import EMPTY_ROOT, Trie, digest_of

PAGE = 256
"""Rows read, and HMACs asked for, at once."""


class Followed(NamedTuple):
    """A verified entry, the row that it was read from, and the state after it."""

    row: LogRow
    entry: JournalEntry
    state: State


def follow(
    store: VaultStore, anchor_service: AnchorService, state: State, vouched: int = 0
) -> Iterator[list[Followed]]:
    """What continues `state` in the log, page by page. Up to the entry `vouched` it may bear any HMAC.

    Raises SessionRefused VAULT_LOG_BROKEN; StoreError.
    """
    while rows := store.log(state.sequence + 1, PAGE):
        page = []
        holding = anchor_service.holds(log_digests(anchor_service, rows), [row.mac for row in rows])
        for row, holds in zip(rows, holding, strict=True):
            if not holds and row.sequence > vouched:
                raise SessionRefused("VAULT_LOG_BROKEN", f"entry {row.sequence} of the log is not this vault's")
            entry = JournalEntry.decode(row.entry)
            if row != log_row(entry, row.entry, row.mac):
                raise SessionRefused("VAULT_LOG_BROKEN", f"entry {row.sequence} of the log stands in another's place")
            state = state.followed_by(entry)
            page.append(Followed(row, entry, state))
        yield page


def follow_whole(store: VaultStore, anchor_service: AnchorService, anchored: State) -> Iterator[list[Followed]]:
    """As `follow`, from the first entry on, whatever that one says of what was before it.

    The caller sees that it leads to what is anchored. So a token that came to the fleet later needs no HMAC of keys
    that it never had.
    """
    vouched = anchored.sequence if anchor_service.first_log_key() > 1 else 0
    first = store.log(1, 1)
    beginning = JournalEntry.decode(first[0].entry).previous if first else NO_RECORD
    return follow(store, anchor_service, State(anchor_service.shard, 0, beginning, EMPTY_ROOT), vouched)


def catch_up(store: VaultStore, anchor_service: AnchorService, anchored: State) -> State:
    """The state at the log's end: the anchored one, or further on where the last entries were not anchored.

    Raises SessionRefused VAULT_DATABASE_BEHIND, VAULT_DATABASE_FORKED, VAULT_LOG_BROKEN; StoreError.
    """
    check_anchored(store, anchored)
    state = anchored
    for page in follow(store, anchor_service, anchored):
        state = page[-1].state
    return state


def check_anchored(store: VaultStore, anchored: State) -> None:
    """That the log has the entry that the anchor names. Raises as `catch_up`."""
    if anchored.sequence == 0:
        return
    rows = store.log(anchored.sequence, 1)
    if not rows:
        raise SessionRefused(
            "VAULT_DATABASE_BEHIND", f"the log ends before entry {anchored.sequence}, which the anchor names"
        )
    if rows[0].sequence != anchored.sequence:
        raise SessionRefused(
            "VAULT_LOG_BROKEN", f"entry {anchored.sequence}, which the anchor names, is not in the log"
        )
    if entry_hash(rows[0].entry) != anchored.chain_head:
        raise SessionRefused(
            "VAULT_DATABASE_FORKED", f"entry {anchored.sequence} of the log is not the one that the anchor names"
        )


def check(store: VaultStore, anchor_service: AnchorService, anchored: Callable[[], State]) -> Iterator[None]:
    """Compares all that the database holds with what the anchor vouches for, a page a step: the log, then the records.

    `anchored` is what the log leads to now: it may move from step to step. Raises SessionRefused VAULT_LOG_BROKEN,
    VAULT_DATABASE_EDITED; StoreError.
    """
    state = None
    for page in follow_whole(store, anchor_service, anchored()):
        state = page[-1].state
        yield
    if state != anchored() and (state or anchored().sequence):
        raise SessionRefused("VAULT_LOG_BROKEN", "the log does not lead to what the anchor names")
    after = b""
    while leaves := list(islice(Trie(anchored().records_root, store.nodes).leaves(after), PAGE)):
        for leaf in leaves:
            check_record(leaf.key, store.record(leaf.key), leaf.digest)
        after = leaves[-1].key
        yield


def check_record(key: bytes, record: bytes | None, digest: bytes) -> None:
    """Raises SessionRefused VAULT_DATABASE_EDITED unless it is the one with this digest in the trie."""
    if record is None or digest_of(key, record) != digest:
        raise SessionRefused("VAULT_DATABASE_EDITED", "a record is not the one that was written")


def recover(source: VaultStore, target: VaultStore, anchor_service: AnchorService) -> State:
    """Makes the database again, in an empty one, from the log in another: all that the log proves and nothing else.

    The log must reach what the anchor names. All of it is there afterwards or nothing. Raises SessionRefused
    VAULT_DATABASE_NOT_EMPTY, and as `read_anchor` and `catch_up`; StoreError.
    """
    if target.last() is not None:
        raise SessionRefused("VAULT_DATABASE_NOT_EMPTY", "the database to recover into has a log")
    anchored = read_anchor(anchor_service).state
    check_anchored(source, anchored)
    target.append_all(_replayed(source, target, anchor_service, anchored))
    return catch_up(target, anchor_service, anchored)


def _replayed(
    source: VaultStore, target: VaultStore, anchor_service: AnchorService, anchored: State
) -> Iterator[Changes]:
    root = EMPTY_ROOT
    for page in follow_whole(source, anchor_service, anchored):
        trie, records = Trie(root, target.nodes), dict[bytes, bytes]()
        for _, entry, _ in page:
            before = trie.get(entry.key) or NO_RECORD
            trie.put(entry.key, digest_of(entry.key, entry.record))
            if (before, trie.root) != (entry.before, entry.records_root):
                raise SessionRefused("VAULT_LOG_BROKEN", f"entry {entry.sequence} of the log does not add up")
            records[entry.key] = entry.record
        root = trie.root
        yield Changes([row for row, _, _ in page], records, trie.changed)


def log_row(entry: JournalEntry, encoded: bytes, mac: bytes) -> LogRow:
    """Where an entry lies."""
    use = entry.history
    return LogRow(entry.sequence, encoded, mac, entry.key, use.number if use is not None else None)


def log_macs(anchor_service: AnchorService, rows: Sequence[LogRow]) -> list[bytes]:
    """What the rows' HMACs must be."""
    return anchor_service.macs(log_digests(anchor_service, rows))


def log_digests(anchor_service: AnchorService, rows: Sequence[LogRow]) -> list[bytes]:
    """What they are over."""
    return [entry_digest(anchor_service.shard, row.entry) for row in rows]
