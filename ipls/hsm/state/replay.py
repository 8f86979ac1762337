"""The log, followed entry by entry: beyond the anchor, to check a whole database, and to make one again."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import NamedTuple

from ipls.hsm.state.anchor import AnchorService, read_anchor
from ipls.store.errors import StoreDamaged
from ipls.store.vault import Changes, LogRow, VaultStore
from ipls.vault.errors import SessionRefused
from ipls.vault.state.journal import NO_RECORD, JournalEntry, State, entry_digest, entry_hash
from ipls.vault.state.trie import EMPTY_ROOT, Leaf, Load, Trie, digest_of

PAGE = 256
"""Rows read, and HMACs asked for, at once."""


class Followed(NamedTuple):
    """A verified entry, the row that it was read from, and the state after it."""

    row: LogRow
    entry: JournalEntry
    state: State


def follow(
    store: VaultStore, anchor_service: AnchorService, state: State | None, anchored: Callable[[], State]
) -> Iterator[list[Followed]]:
    """What continues `state` in the log, page by page, each entry read once; None is the log's beginning, whatever the
    first entry says of what was before it: the caller sees that the log leads to what is anchored.

    `anchored` is where the anchor is now. A page ends there: beyond it the newest log key alone makes an HMAC. Up to
    it the chain proves the entries; a token that came to the fleet later lacks keys of theirs. Raises SessionRefused
    VAULT_LOG_BROKEN; StoreError.
    """
    while page := _page(store, anchor_service, state, anchored().sequence):
        state = page[-1].state
        yield page


def _page(
    store: VaultStore, anchor_service: AnchorService, state: State | None, anchored_sequence: int
) -> list[Followed]:
    """The next entries, those before one that is not as it must be; none at the log's end."""
    before = state.sequence if state else 0
    old = before < anchored_sequence
    count = min(PAGE, anchored_sequence - before) if old else PAGE
    rows = store.log(before + 1, count)[:count]
    if old and anchor_service.first_log_key() > 1:
        holding = [True] * len(rows)
    else:
        digests, macs = log_digests(anchor_service, rows), [row.mac for row in rows]
        holding = anchor_service.holds(digests, macs, retired=old)
    page: list[Followed] = []
    for row, holds in zip(rows, holding, strict=True):
        try:
            entry = _verified(row, holds)
            before_it = page[-1].state if page else state or _beginning(anchor_service.shard, entry)
            page.append(Followed(row, entry, before_it.followed_by(entry)))
        except SessionRefused as refused:
            if page:
                break
            raise _broken(refused.message) from None
    return page


def _verified(row: LogRow, holds: bool) -> JournalEntry:
    if not holds:
        raise SessionRefused("VAULT_LOG_BROKEN", f"entry {row.sequence} of the log is not this vault's")
    entry = JournalEntry.decode(row.entry)
    if row != log_row(entry, row.entry, row.mac):
        raise SessionRefused("VAULT_LOG_BROKEN", f"entry {row.sequence} of the log stands in another's place")
    return entry


def _beginning(shard: int, first: JournalEntry) -> State:
    return State(shard, 0, first.previous, EMPTY_ROOT)


def catch_up(store: VaultStore, anchor_service: AnchorService, anchored: State) -> State:
    """The state at the log's end: the anchored one, or further on where the last entries were not anchored.

    Raises SessionRefused VAULT_DATABASE_BEHIND, VAULT_DATABASE_FORKED, VAULT_LOG_BROKEN; StoreError.
    """
    state = anchored
    check_anchored(store, anchored)
    for page in follow(store, anchor_service, anchored, lambda: anchored):
        state = page[-1].state
    return state


def check_anchored(store: VaultStore, anchored: State) -> JournalEntry | None:
    """The log's entry that the anchor names, which is None before the first. Raises as `catch_up`."""
    if anchored.sequence == 0:
        return None
    rows = store.log(anchored.sequence, 1)
    if not rows:
        raise _behind(anchored)
    if rows[0].sequence != anchored.sequence:
        raise _broken(f"entry {anchored.sequence}, which the anchor names, is not in the log")
    if entry_hash(rows[0].entry) != anchored.chain_head:
        raise _forked(anchored)
    return JournalEntry.decode(rows[0].entry)


def check(store: VaultStore, anchor_service: AnchorService, anchored: State) -> Iterator[list[SessionRefused]]:
    """Compares all that the database holds with what the anchor vouches for, a page a step, and only reads: see
    `check_log`, `check_records`."""

    def trie() -> Trie:
        return Trie(anchored.records_root, nodes_of(store))

    yield from check_log(store, anchor_service, lambda: anchored)
    yield from check_records(trie, lambda leaf: check_record(leaf.key, store.record(leaf.key), leaf.digest))


def check_log(
    store: VaultStore, anchor_service: AnchorService, anchored: Callable[[], State]
) -> Iterator[list[SessionRefused]]:
    """Up to the first entry that is not as it must be.

    Yields what it found in a step: nothing, at last VAULT_LOG_BROKEN perhaps. `anchored` is what the log leads to now:
    it may move from step to step. Raises SessionRefused, StoreUnavailable where it can't look.
    """
    state = None
    try:
        for page in follow(store, anchor_service, None, anchored):
            state = page[-1].state
            yield []
        if state != anchored() and (state or anchored().sequence):
            raise _broken("the log does not lead to what the anchor names")
    except SessionRefused as broken:
        if broken.reason != "VAULT_LOG_BROKEN":
            raise
        yield [broken]
    except StoreDamaged as damaged:
        yield [_broken(damaged.message)]


def check_records(trie: Callable[[], Trie], check_one: Callable[[Leaf], object]) -> Iterator[list[SessionRefused]]:
    """All that the trie has, which `trie` gives anew at each step. Yields what it found in a step, all of them
    VAULT_DATABASE_EDITED. Raises StoreUnavailable where it can't look."""
    after, more = b"", True
    while more:
        found: list[SessionRefused] = []
        leaves = list(islice(trie().leaves(after, found.append), PAGE))
        for leaf in leaves:
            try:
                check_one(leaf)
            except StoreDamaged as damaged:
                found.append(edited(damaged))
            except SessionRefused as refused:
                found.append(refused)
        after, more = leaves[-1].key if leaves else after, len(leaves) == PAGE
        yield found


def nodes_of(store: VaultStore) -> Load:
    """For a trie. What can't be read costs who asks for it first of all, not who reads it ahead."""

    def load(prefixes: Sequence[bytes]) -> Mapping[bytes, bytes]:
        try:
            return store.nodes(prefixes)
        except StoreDamaged as damaged:
            if len(prefixes) == 1:
                raise edited(damaged) from None
            return load(prefixes[:1])

    return load


def edited(damaged: StoreDamaged) -> SessionRefused:
    """A row that can't be read, or that no vault wrote, is what any other forged row is."""
    return SessionRefused("VAULT_DATABASE_EDITED", damaged.message)


def check_record(key: bytes, record: bytes | None, digest: bytes) -> None:
    """Raises SessionRefused VAULT_DATABASE_EDITED unless it is the one with this digest in the trie."""
    if record is None or digest_of(key, record) != digest:
        raise record_edited()


def record_edited() -> SessionRefused:
    """Of a record that is not the one in the trie."""
    return SessionRefused(
        "VAULT_DATABASE_EDITED",
        "a record is not the one that was written: end the vault, then `ipls fsck --repair`",
    )


def recover(source: VaultStore, target: VaultStore, anchor_service: AnchorService) -> State:
    """Makes the database again, in an empty one, from the log in another: all that the log proves and nothing else.

    The log must reach what the anchor names; what comes after that and is not proven was never answered, and stays
    behind. All of it is there afterwards or nothing. Raises SessionRefused VAULT_DATABASE_NOT_EMPTY, and as
    `read_anchor` and `catch_up`; StoreError.
    """
    if target.last() is not None:
        raise SessionRefused("VAULT_DATABASE_NOT_EMPTY", "the database to recover into has a log")
    anchored = read_anchor(anchor_service).state
    target.append_all(_replayed(source, target, anchor_service, anchored))
    return catch_up(target, anchor_service, anchored)


def _replayed(
    source: VaultStore, target: VaultStore, anchor_service: AnchorService, anchored: State
) -> Iterator[Changes]:
    root, sequence = EMPTY_ROOT, 0
    pages = follow(source, anchor_service, None if anchored.sequence else anchored, lambda: anchored)
    while True:
        try:
            page = next(pages, None)
        except SessionRefused:
            if sequence < anchored.sequence:
                raise
            return
        if page is None:
            break
        trie, records = Trie(root, target.nodes), dict[bytes, bytes]()
        for _, entry, _ in page:
            before = trie.get(entry.key) or NO_RECORD
            trie.put(entry.key, digest_of(entry.key, entry.record))
            if (before, trie.root) != (entry.before, entry.records_root):
                raise _broken(f"entry {entry.sequence} of the log does not add up")
            records[entry.key] = entry.record
        root, state = trie.root, page[-1].state
        sequence = state.sequence
        if sequence == anchored.sequence and state != anchored:
            raise _forked(anchored)
        yield Changes([row for row, _, _ in page], records, trie.changed)
    if sequence < anchored.sequence:
        raise _behind(anchored)


def log_row(entry: JournalEntry, encoded: bytes, mac: bytes) -> LogRow:
    """Where an entry lies."""
    use = entry.history
    return LogRow(entry.sequence, encoded, mac, entry.key, use.number if use is not None else None)


def log_digests(anchor_service: AnchorService, rows: Sequence[LogRow]) -> list[bytes]:
    """What the rows' HMACs are over."""
    return [entry_digest(anchor_service.shard, row.entry) for row in rows]


_COPY = "`ipls vault recover` from a copy of the database that has it whole"
_ANEW = "where there is none its accounts are lost: the shard begins anew on another HSM, by `ipls vault genesis`"


def _behind(anchored: State) -> SessionRefused:
    what = f"the log ends before entry {anchored.sequence}, which the anchor names"
    return SessionRefused("VAULT_DATABASE_BEHIND", f"{what}: {_COPY}; {_ANEW}")


def _forked(anchored: State) -> SessionRefused:
    what = f"entry {anchored.sequence} of the log is not the one that the anchor names"
    return SessionRefused("VAULT_DATABASE_FORKED", f"{what}: {_COPY}; {_ANEW}")


def _broken(what: str) -> SessionRefused:
    return SessionRefused("VAULT_LOG_BROKEN", f"{what}: {_COPY}; {_ANEW}")
