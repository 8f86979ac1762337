"""What every backend of the directory's database gives; tests/store/directory/test_contract.py holds each of them to
it."""

import struct
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from ipls.akd import Publication, Row, Version

_HEAD = struct.Struct(">Q32sH")


class PendingUpdate(NamedTuple):
    """An update that waits for its epoch."""

    seq: int
    label: bytes
    value: bytes


class Lease(NamedTuple):
    """Who may publish. Each write and each sign of life of the holder changes `beat`; no clock is involved."""

    term: int
    beat: int
    held: bool


class ChangeCounters(NamedTuple):
    """Numbers that differ once there is a new or renewed head or a settled ticket; once an update was queued."""

    heads: int
    queued: int


class Leaf(NamedTuple):
    """A leaf of an adopted epoch whose version is not known: its position (32 bytes), its epoch, its commitment."""

    position: bytes
    epoch: int
    stored: bytes


class EpochRow(NamedTuple):
    """An epoch's row: what was proposed for `epoch`, and is proposed again until it is signed.

    An adopted one, which a witness had signed and this database lacked, has no batch.
    """

    epoch: int
    old_root: bytes
    new_root: bytes
    batch: tuple[PendingUpdate, ...]
    blob: bytes


class PreparedEpoch(NamedTuple):
    """What an epoch brings beside its head: of an adopted one the leaves to be `awaited`.

    Leaves at the positions in `revealed` are no longer awaited: their versions are in the publication.
    """

    publication: Publication
    awaited: Sequence[Leaf] = ()
    revealed: Sequence[bytes] = ()


class StoredHead(NamedTuple):
    """A head that k witnesses signed. `depth` is the deepest tile level (bits), `signed` an encoded SignedHead."""

    epoch: int
    root_hash: bytes
    depth: int
    signed: bytes

    def encode(self) -> bytes:
        """All of it, for a cache."""
        return _HEAD.pack(self.epoch, self.root_hash, self.depth) + self.signed

    @classmethod
    def decode(cls, data: bytes) -> "StoredHead":
        """What `encode` made."""
        epoch, root_hash, depth = _HEAD.unpack_from(data)
        return cls(epoch, root_hash, depth, data[_HEAD.size :])


class Waiting(NamedTuple):
    """The queue as the publisher plans by it: updates that are not held, when the oldest came, and how many are."""

    updates: int
    oldest_ms: int
    held: int


class DirectoryStore(ABC):
    """One namespace's directory: tiles, user versions, the update queue, one row an epoch, signed heads, the lease; a
    `TileReader` for `ipls.akd`.

    Guarantees (the directory spec's "An epoch"; storage spec for the tiles), to every process that has it open:
    - What a method has returned from is durable, and happened entirely or not at all. What one process has written the
      next read of any other sees. A method that raises StoreRefused or StoreDamaged has changed nothing; after
      StoreUnavailable all of it is there or nothing.
    - An epoch's row is written once and never changed. Its head, tiles, versions and tickets appear together, after it.
    - Tiles and versions above the newest head don't exist for a reader; those at or below it never change, but that the
      value of a superseded version may be erased: it is empty then, for good; and that an adopted leaf's version comes
      once its value is known.
    - An epoch at or above the floor, and a pinned one, has all of its tiles. The floor is durable before a tile goes.
    - One publishes: it holds the lease by a term, every write of its carries the term, and none takes place once
      another term was taken (StoreRefused LEASE_LOST, nothing changed). Terms only rise. Reads, the queue, pins and
      erasing need no lease; reads never wait for a write.
    Methods block; each may be called from any thread, and may raise StoreUnavailable and StoreDamaged (also where what
    is to be written contradicts what is there, as a version that there is already).
    """

    @abstractmethod
    def close(self) -> None:
        """Give the file back; the store is of no use afterwards."""

    # The lease. A holder that is idle gives a sign of life now and then. Whoever sees the same term and beat for the
    # whole lease time, by a clock of its own that only rises, may take the next term. Taking compares and swaps: a
    # holder that was only slow keeps the lease, and one that slept through it writes nothing any more.

    @abstractmethod
    def lease(self) -> Lease:
        """As it stands."""

    @abstractmethod
    def take_lease(self, seen: Lease, above: int = 0) -> int:
        """A new term, above `above` and every term before. Raises StoreRefused LEASE_LOST unless all is as `seen`."""

    @abstractmethod
    def beat(self, term: int) -> None:
        """A sign of life. Raises StoreRefused LEASE_LOST."""

    @abstractmethod
    def release(self, term: int) -> None:
        """Let another take the lease at once. Nothing changes if one has it."""

    @abstractmethod
    def news(self) -> ChangeCounters:
        """Cheap enough to be asked many times a second."""

    # The queue.

    @abstractmethod
    def submit(
        self, request_id: bytes, label: bytes, value: bytes, now_ms: int, *, daily_quota: int, queue_max: int
    ) -> bytes:
        """Queue an update, return its ticket (16 bytes); the same request again gets the same ticket.

        Of a label that had `daily_quota` updates within 24 hours only the newest waits: it takes the place of those
        that wait and are in no epoch's row, whose tickets resolve at the newest head. So nobody who had the number for
        a while keeps out who has it now. Raises StoreRefused REQUEST_ID_REUSED (other content under this id),
        QUEUE_FULL (`queue_max` updates wait; says when to try again).
        """

    @abstractmethod
    def published_at(self, ticket: bytes) -> int | None:
        """The epoch at which the ticket's update holds, None while it waits. Raises StoreRefused TICKET_UNKNOWN,
        LEAF_EXISTS (it was refused)."""

    @abstractmethod
    def waiting(self) -> Waiting:
        """How many updates wait, and when the oldest of those that are not held was submitted (0 if none)."""

    @abstractmethod
    def is_queued(self, label: bytes, value: bytes) -> bool:
        """Whether an update of the label to this value waits for its epoch."""

    @abstractmethod
    def next_batch(self, size: int) -> list[PendingUpdate]:
        """Each label's oldest waiting update, at most `size`: in turn by label, so that a label's second waits until
        all that others had queued by then have had their first; of one turn, oldest first. No label's that is held."""

    @abstractmethod
    def settle(self, term: int, updates: Sequence[PendingUpdate], epoch: int) -> None:
        """Resolve the tickets of updates that change nothing at `epoch`."""

    @abstractmethod
    def hold(self, term: int, updates: Sequence[PendingUpdate]) -> None:
        """Leave the labels of these updates out of batches, with what else waits of them and comes, until `let_go`."""

    @abstractmethod
    def let_go(self, term: int) -> None:
        """Hold nothing any more."""

    @abstractmethod
    def refuse(self, term: int, updates: Sequence[PendingUpdate], epoch: int) -> None:
        """Resolve the tickets of updates that no epoch after `epoch` can take by LEAF_EXISTS."""

    # Epochs.

    # These raise StoreRefused LEASE_LOST, as every write that has a term.

    @abstractmethod
    def insert_step(self, term: int, step: EpochRow) -> None:
        """Write the epoch's row. Raises StoreRefused STEP_EXISTS if the epoch has one, STEP_GAP if not head + 1."""

    @abstractmethod
    def step(self, epoch: int) -> EpochRow | None:
        """An epoch's row."""

    @abstractmethod
    def unfinished_step(self) -> EpochRow | None:
        """The row above the newest head, if there is one."""

    @abstractmethod
    def commit_start(self, term: int, head: StoredHead) -> None:
        """The head that the namespace begins with. Raises StoreRefused HEAD_EXISTS unless it is the first."""

    @abstractmethod
    def commit(self, term: int, step: EpochRow, made: PreparedEpoch, signed: bytes) -> StoredHead:
        """Make the step's epoch the newest: tiles, versions, awaited leaves, tickets and head at once."""

    @abstractmethod
    def reveal(
        self,
        term: int,
        found: Iterable[tuple[PendingUpdate, int]],
        versions: Iterable[tuple[bytes, Version]],
        positions: Iterable[bytes],
    ) -> None:
        """Resolve the tickets of updates that brought the values of adopted leaves, each at the leaf's epoch.

        `versions` become known, with those below them whose values nobody brought; `positions` are their leaves'.
        """

    @abstractmethod
    def renew(self, term: int, head: StoredHead) -> None:
        """Replace the signatures of the newest head. Raises StoreRefused HEAD_STALE if another is the newest."""

    @abstractmethod
    def mend_head(self, term: int, epoch: int, head: StoredHead) -> None:
        """Put a head in the place of the damaged one at `epoch`. The caller has verified that it was signed so."""

    @abstractmethod
    def erase_values(self, label: bytes, through: int) -> int:
        """Empty the values of the label's versions 1 to `through`, wherever they lie in this file; how many there were.

        Their leaves stay. A request that brought one can't be repeated any more: its id counts as another's. Raises
        StoreRefused VERSION_NEWEST unless the label has a later version.
        """

    # Reads.

    @abstractmethod
    def head(self, epoch: int | None = None) -> StoredHead | None:
        """The head of `epoch` (None: the newest), or None."""

    @abstractmethod
    def version_of(self, label: bytes, value: bytes) -> int:
        """The newest version of the label that has this value, 0 if none does."""

    @abstractmethod
    def versions(self, label: bytes, epoch: int, most_recent: int = 0) -> list[Version]:
        """The label's versions made at or before `epoch`, newest first; at most `most_recent`, 0 for all.

        An erased one has the empty value.
        """

    @abstractmethod
    def awaits(self, epoch: int) -> bool:
        """Whether any leaf of the tree of `epoch` is awaited. Once False of an epoch, it stays so."""

    @abstractmethod
    def awaited(self, position: bytes, epoch: int) -> Leaf | None:
        """The awaited leaf at this position (32 bytes) in the tree of `epoch`."""

    @abstractmethod
    def read(self, prefixes: Collection[bytes], epoch: int) -> dict[bytes, Row]:
        """Per prefix the newest tile made at or before `epoch`; prefixes without one are left out (TileReader).

        Raises StoreRefused EPOCH_PRUNED.
        """

    # Pruning (the storage spec): a tile superseded at epoch a goes only when a is not above the floor, and no pinned
    # epoch lies from its own epoch up to a.

    @abstractmethod
    def floor(self) -> int:
        """Epochs below it are gone unless pinned; 0 before the first pruning. It never falls."""

    @abstractmethod
    def check_kept(self, epoch: int) -> None:
        """Raises StoreRefused EPOCH_PRUNED if tiles of the epoch may be gone."""

    @abstractmethod
    def pins(self) -> tuple[int, ...]:
        """The epochs that are kept whatever the floor, ascending."""

    @abstractmethod
    def pin(self, epoch: int) -> None:
        """Keep an epoch until `unpin`. Raises StoreRefused EPOCH_UNKNOWN, EPOCH_PRUNED (it is too late)."""

    @abstractmethod
    def unpin(self, epoch: int) -> None:
        """Let a pinned epoch go. Raises StoreRefused PIN_UNKNOWN."""

    @abstractmethod
    def mend_tiles(self, tiles: Iterable[tuple[bytes, int, bytes | None]]) -> None:
        """Put tiles in the place of damaged ones, (prefix, epoch, body), without a body none. The caller has shown them
        to be what the versions give, and these to give the signed roots."""

    @abstractmethod
    def raise_floor(self, term: int, epoch: int) -> None:
        """Stop serving the epochs below `epoch`, which is not above the newest head; a lower floor changes nothing."""

    @abstractmethod
    def prune_tiles(self, term: int, after: tuple[int, int], limit: int) -> tuple[int, int] | None:
        """Delete superseded tiles that no kept epoch needs, in one transaction that looks at `limit` of them.

        `after` is where to go on, (0, 0) to begin with; returned is where the next call goes on, None at the end.
        """

    @abstractmethod
    def prune_tickets(self, term: int, before_ms: int, limit: int) -> int:
        """Forget at most `limit` settled updates submitted before `before_ms`, oldest first; returns how many."""
