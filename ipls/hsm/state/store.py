"""The vault's state, believed where the anchor vouches for it (the vault spec, State).

All that must not be forged or rolled back is a record: accounts, accepted heads, the bundle's number, evidence. Records
lie in the database, with the trie over them and the log of every write. The order of a write: entry and rows in one
transaction, then the anchor, then the answer. Many share one transaction and one anchor.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import islice

import structlog
from google.protobuf.message import DecodeError

from ipls.crypto.errors import VerificationError
from ipls.hsm.state import mending, replay
from ipls.hsm.state.anchor import Anchor, AnchorService, read_anchor, write_anchor
from ipls.hsm.state.owner import HandedOff, handed_to
from ipls.proto.vault.v1.vault_pb2 import HistoryEntry
from ipls.store.errors import StoreDamaged, StoreError
from ipls.store.vault import Changes, DatabaseEdited, VaultStore
from ipls.vault.errors import SessionRefused
from ipls.vault.state.journal import NO_RECORD, Highest, JournalEntry, State, anchor_digest, entry_hash
from ipls.vault.state.trie import EMPTY_ROOT, Leaf, Trie, digest_of

log = structlog.get_logger()

Transaction = Callable[[], object]


class StateStore:
    """The state of one shard. One thread at a time; all but `perform` is for the works that it does."""

    def __init__(self, store: VaultStore, anchor_service: AnchorService) -> None:
        self._store = store
        self._lost = set[bytes]()  # keys of damaged records that the log does not give back: it is not searched again
        self._anchor_service = anchor_service
        self._anchor: Anchor | None = None  # None: what token and database hold is yet to be compared
        self._written = 0  # the highest sequence that this process anchored
        self.handed_off: HandedOff | None = None
        """Where the last anchored entry hands the shard to another token: it is the last that this one writes."""
        self._begin(State(anchor_service.shard, 0, bytes(32), EMPTY_ROOT))

    def perform(self, works: Sequence[Transaction]) -> list[object]:
        """Does `works` in their order; what each returned or raised, when all that they put is durable and anchored.

        A work that raises keeps what it put before. Where the state can't be read, kept or anchored, that error
        (SessionRefused, StoreError) is the outcome of every work, and what they put may have come to be.
        """
        try:
            self._begin(self._current())
            outcomes = [_outcome(work) for work in works]
            self._commit()
            _tell_mended("records", self._healed)
            _tell_mended("nodes", self._trie.healed)
        except (SessionRefused, StoreError) as error:
            self._anchor = None
            return [_refusal(error)] * len(works)
        for callback in self._callbacks:
            callback()
        return outcomes

    def _trie_of(self, state: State) -> Trie:
        return Trie(state.records_root, replay.nodes_of(self._store), self._next_leaf)

    def _next_leaf(self, key: bytes) -> Leaf | None:
        with suppress(StoreDamaged):
            found = self._store.next_key(key)
            record = self._store.record(found) if found is not None else None
            if found is not None and record is not None:
                return Leaf(found, digest_of(found, record))
        return None

    def _begin(self, state: State) -> None:
        self._state = state
        self._trie = self._trie_of(state)
        self._healed = 0  # records that were had back from the log
        self._records: dict[bytes, bytes | None] = {}  # as read or put
        self._changed: dict[bytes, bytes] = {}
        self._entries: list[JournalEntry] = []
        self._encoded: list[bytes] = []
        self._callbacks: list[Callable[[], None]] = []

    # For works

    @property
    def shard(self) -> int:
        """Its number."""
        return self._anchor_service.shard

    @property
    def highest(self) -> Highest:
        """The highest head and timestamp accepted."""
        return self._state.highest

    def get(self, key: bytes) -> bytes | None:
        """The record of this key, None if there is none. A damaged row is had back from the log, if that has it.

        Raises SessionRefused VAULT_DATABASE_EDITED; StoreError, of which StoreDamaged is a work's outcome as
        SessionRefused.
        """
        if key not in self._records:
            digest = self._trie.get(key)
            # Without a digest it is a row that this vault never wrote.
            self._records[key] = self._record(key, digest) if digest is not None else None
        return self._records[key]

    def _record(self, key: bytes, digest: bytes) -> bytes:
        with suppress(DatabaseEdited):
            record = self._store.record(key)
            if record is not None and digest_of(key, record) == digest:
                return record
        logged = mending.logged_record(self._store, key, digest) if key not in self._lost else None
        if logged is None:
            self._lost.add(key)
            raise replay.record_edited()
        self._changed[key] = logged
        self._healed += 1
        return logged

    def put(
        self, key: bytes, record: bytes, *, use: HistoryEntry | None = None, highest: Highest | None = None
    ) -> None:
        """Writes the record of this key. Raises as `get`, and nothing is put then."""
        before = self._trie.get(key)
        self._trie.put(key, digest_of(key, record))
        entry = JournalEntry(
            sequence=self._state.sequence + 1,
            previous=self._state.chain_head,
            key=key,
            before=before or NO_RECORD,
            records_root=self._trie.root,
            highest=highest or self._state.highest,
            record=record,
            use=use.SerializeToString(deterministic=True) if use is not None else b"",
        )
        encoded = entry.encode()
        self._state = State(self.shard, entry.sequence, entry_hash(encoded), entry.records_root, entry.highest)
        self._entries.append(entry)
        self._encoded.append(encoded)
        self._records[key] = self._changed[key] = record

    def keys(self, after: bytes, count: int) -> list[bytes]:
        """Of the next `count` records whose keys are above that one, ascending. Raises as `get`."""
        return [leaf.key for leaf in islice(self._trie.leaves(after), count)]

    def uses(self, key: bytes, first: int) -> Iterator[JournalEntry]:
        """The entries that added to an account's history, from that number on.

        Of the database's nothing is verified but their form (SessionRefused VAULT_LOG_BROKEN): the account's record has
        the history's length and chain head.
        """
        number = first
        while rows := self._store.uses(key, number, replay.PAGE):
            yield from (JournalEntry.decode(row.entry) for row in rows)
            number = (rows[-1].use_number or number) + 1
        for entry in self._entries:
            if entry.key == key and (use := entry.history) is not None and use.number >= first:
                yield entry

    def check(self) -> Iterator[list[SessionRefused]]:
        """A walk through the whole database, a step a work, other works in between: what is damaged is had back from
        what else there is, and what can't be is in what the step yields. Raises as `replay.check_log`."""
        broken = False
        for found in replay.check_log(self._store, self._anchor_service, self._anchored):
            broken = bool(found)
            yield []
        if broken:
            for mended in mending.mend_log(self._store, self._anchor_service, self._anchored()):
                _tell_mended("log", mended)
                yield []
            yield from replay.check_log(self._store, self._anchor_service, self._anchored)
        yield from replay.check_records(lambda: self._trie, lambda leaf: self.get(leaf.key))

    def on_commit(self, callback: Callable[[], None]) -> None:
        """Calls it when what was put is durable and anchored."""
        self._callbacks.append(callback)

    # Token and database

    def _current(self) -> State:
        """The anchored state, which the database bears out. Raises SessionRefused with the check that failed."""
        if self._anchor is not None and self.handed_off is None:
            state, last = self._anchor.state, self._store.last()
            head = (last.sequence, entry_hash(last.entry)) if last else (0, state.chain_head)
            if head == (state.sequence, state.chain_head):
                return state
        self._anchor = anchor = read_anchor(self._anchor_service)
        if anchor.state.sequence < self._written:
            raise SessionRefused("VAULT_ANCHOR_MOVED", "the token holds an older anchor than this vault wrote")
        try:
            state, handed_off = self._followed(anchor.state)
        except SessionRefused:
            if not next(mending.mend_log(self._store, self._anchor_service, anchor.state), 0):
                raise
            _tell_mended("log", 1)
            state, handed_off = self._followed(anchor.state)
        if handed_off is None:
            self._trie_of(state).get(NO_RECORD)  # its root is there
        if state != anchor.state:
            self._write_anchor(anchor, state)
        self.handed_off = handed_off
        if handed_off is not None:
            raise handed_off.refusal()
        return state

    def _followed(self, anchored: State) -> tuple[State, HandedOff | None]:
        """The state at the log's end, or where it hands the shard to another token."""
        state = anchored
        for state, entry in self._from(anchored):
            # Whatever follows is not looked at: the next owner's entries bear the fleet's HMAC too.
            if (handed_off := self._hands_off(state, entry)) is not None:
                return state, handed_off
        return state, None

    def _from(self, anchored: State) -> Iterator[tuple[State, JournalEntry]]:
        """The anchored entry, and those beyond it: each as it was verified, read once. A database that is asked again
        may say something else."""
        if (entry := replay.check_anchored(self._store, anchored)) is not None:
            yield anchored, entry
        for page in replay.follow(self._store, self._anchor_service, anchored, lambda: anchored):
            yield from ((followed.state, followed.entry) for followed in page)

    def _hands_off(self, state: State, entry: JournalEntry) -> HandedOff | None:
        to = handed_to(entry)
        return HandedOff(state, to) if to and to.hsm_key_id != self._anchor_service.hsm_key_id() else None

    def _commit(self) -> None:
        if not self._entries:
            if self._changed or self._trie.changed:  # what was had back, and nothing else
                self._store.append(Changes([], self._changed, self._trie.changed))
            return
        assert self._anchor
        rows = [replay.log_row(*each, b"") for each in zip(self._entries, self._encoded, strict=True)]
        digests = replay.log_digests(self._anchor_service, rows)
        # All at once: the token is looked through for its newest log key each time.
        *macs, mac = self._anchor_service.macs([*digests, anchor_digest(self._state.encode())])
        signed = [row._replace(mac=mac) for row, mac in zip(rows, macs, strict=True)]
        self._store.append(Changes(signed, self._changed, self._trie.changed))
        self._write_anchor(self._anchor, self._state, mac)
        self.handed_off = self._hands_off(self._state, self._entries[-1])

    def _anchored(self) -> State:
        assert self._anchor
        return self._anchor.state

    def _write_anchor(self, replaced: Anchor, state: State, mac: bytes | None = None) -> None:
        self._anchor = write_anchor(self._anchor_service, replaced.values, state, mac)
        self._written = state.sequence


def _tell_mended(what: str, rows: int) -> None:
    if rows:
        log.warning("vault database mended", what=what, rows=rows)


def _outcome(work: Transaction) -> object:
    try:
        return work()
    except (SessionRefused, VerificationError, OSError, DecodeError, StoreDamaged) as error:
        return _refusal(error)


def _refusal(error: Exception) -> Exception:
    return replay.edited(error) if isinstance(error, StoreDamaged) else error
