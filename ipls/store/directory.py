"""The directory's database: tiles, user versions, the update queue, one row an epoch, signed heads.

Guarantees (the directory spec's "An epoch"; storage spec for the tiles):
- What a method has returned from is durable, and happened entirely or not at all.
- An epoch's row is written once and never changed. Its head, tiles, versions and tickets appear together, after it.
- Tiles and versions above the newest head don't exist for a reader; those at or below it never change, but that the
  value of a superseded version may be erased: it is empty then, for good.
- One process at a time publishes: `lease` is exclusive. Reads need no lease and never wait for a write.
Methods block; each may be called from any thread.
"""

import fcntl
import secrets
import sqlite3
import struct
import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from ipls.akd import Publication, Row, Version
from ipls.store.errors import StoreError
from ipls.store.sqlite import connect, transaction

DAY_MS = 86_400_000

_READ_AT_ONCE = 1000
"""Prefixes in one query; SQLite takes at most 32,766 parameters."""

_READ = """WITH k(p) AS (VALUES {}) SELECT k.p, t.epoch, t.body FROM k CROSS JOIN tile t
  ON t.prefix = k.p AND t.epoch = (SELECT max(epoch) FROM tile WHERE prefix = k.p AND epoch <= ?)"""

_QUEUED = struct.Struct(">QHH")

_SCHEMA = """
CREATE TABLE IF NOT EXISTS setting(name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS tile(
    prefix BLOB NOT NULL, epoch INTEGER NOT NULL, body BLOB NOT NULL, UNIQUE(prefix, epoch));
CREATE TABLE IF NOT EXISTS superseded(at INTEGER NOT NULL, prefix BLOB NOT NULL, epoch INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS superseded_at ON superseded(at);
CREATE TABLE IF NOT EXISTS version(
    label BLOB NOT NULL, version INTEGER NOT NULL, epoch INTEGER NOT NULL, value BLOB NOT NULL,
    PRIMARY KEY(label, version)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS queue(
    seq INTEGER PRIMARY KEY, request_id BLOB NOT NULL UNIQUE, ticket BLOB NOT NULL UNIQUE,
    label BLOB NOT NULL, value BLOB NOT NULL, submitted_ms INTEGER NOT NULL,
    epoch INTEGER);
CREATE INDEX IF NOT EXISTS queue_waiting ON queue(label, seq) WHERE epoch IS NULL;
CREATE INDEX IF NOT EXISTS queue_quota ON queue(label, submitted_ms);
CREATE TABLE IF NOT EXISTS step(
    epoch INTEGER PRIMARY KEY, old_root BLOB NOT NULL, new_root BLOB NOT NULL,
    batch BLOB NOT NULL, blob BLOB NOT NULL);
DROP TRIGGER IF EXISTS step_is_final;  -- of databases from before values could be erased
CREATE TRIGGER IF NOT EXISTS step_is_as_signed BEFORE UPDATE ON step
    WHEN old.epoch > (SELECT max(epoch) FROM head)
        OR (new.epoch, new.old_root, new.new_root, new.blob) IS NOT (old.epoch, old.old_root, old.new_root, old.blob)
    BEGIN SELECT RAISE(ABORT, 'an epoch row is never changed'); END;
CREATE TRIGGER IF NOT EXISTS step_stays BEFORE DELETE ON step
    BEGIN SELECT RAISE(ABORT, 'an epoch row is never deleted'); END;
CREATE TABLE IF NOT EXISTS head(
    epoch INTEGER PRIMARY KEY, root_hash BLOB NOT NULL, depth INTEGER NOT NULL, signed BLOB NOT NULL);
"""


class Queued(NamedTuple):
    """An update that waits for its epoch."""

    seq: int
    label: bytes
    value: bytes


class Step(NamedTuple):
    """An epoch's row: what was proposed for `epoch`, and is proposed again until it is signed."""

    epoch: int
    old_root: bytes
    new_root: bytes
    batch: tuple[Queued, ...]
    blob: bytes


class StoredHead(NamedTuple):
    """A head that k witnesses signed. `depth` is the deepest tile level (bits), `signed` an encoded SignedHead."""

    epoch: int
    root_hash: bytes
    depth: int
    signed: bytes


class Waiting(NamedTuple):
    """The queue as the publisher plans by it."""

    updates: int
    oldest_ms: int


def _encode_batch(batch: Sequence[Queued]) -> bytes:
    return b"".join(_QUEUED.pack(q.seq, len(q.label), len(q.value)) + q.label + q.value for q in batch)


def _decode_batch(data: bytes) -> tuple[Queued, ...]:
    batch, at = [], 0
    while at < len(data):
        seq, label_size, value_size = _QUEUED.unpack_from(data, at)
        at += _QUEUED.size
        label, value = data[at : at + label_size], data[at + label_size : at + label_size + value_size]
        batch.append(Queued(seq, label, value))
        at += label_size + value_size
    return tuple(batch)


class DirectoryStore:
    """One namespace's directory in one SQLite file; a `TileReader` for `ipls.akd`."""

    def __init__(self, path: Path, namespace: str, vrf_public_key: bytes) -> None:
        """Open or create. Raises StoreError DATABASE_FOREIGN if the file belongs to another namespace or VRF key."""
        self._path = path
        self._write_lock, self._read_lock = threading.Lock(), threading.Lock()
        self._writer = connect(path, page_size=8192)
        self._writer.executescript(_SCHEMA)
        identity = {"namespace": namespace.encode(), "vrf_public_key": vrf_public_key}
        with transaction(self._writer) as db:
            db.executemany("INSERT OR IGNORE INTO setting VALUES (?, ?)", identity.items())
            found = dict(db.execute("SELECT name, value FROM setting WHERE name IN ('namespace', 'vrf_public_key')"))
        self._reader = connect(path)
        if found != identity:
            self.close()
            raise StoreError("DATABASE_FOREIGN", f"{path} belongs to another namespace or VRF key")

    def close(self) -> None:
        """Give the file back; the store is of no use afterwards."""
        with self._write_lock, self._read_lock:
            self._writer.close()
            self._reader.close()

    @contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        with self._write_lock, transaction(self._writer) as db:
            yield db

    def _rows(self, query: str, parameters: Sequence[object] = ()) -> list[Any]:
        with self._read_lock:
            return self._reader.execute(query, parameters).fetchall()

    @contextmanager
    def lease(self) -> Iterator[None]:
        """Be the one publisher of this file until the block ends or the process dies. Raises StoreError LEASE_HELD."""
        with self._path.with_name(self._path.name + ".lease").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise StoreError("LEASE_HELD", f"another process publishes from {self._path}") from error
            yield

    def term(self) -> int:
        """The last term taken, 0 before the first."""
        rows = self._rows("SELECT value FROM setting WHERE name = 'term'")
        return int(rows[0][0]) if rows else 0

    def take_term(self, above: int) -> int:
        """A new term, above `above` and every term taken before; durable before it can be used."""
        with self._write() as db:
            row = db.execute("SELECT value FROM setting WHERE name = 'term'").fetchone()
            term = max(above, row[0] if row else 0) + 1
            db.execute("INSERT OR REPLACE INTO setting VALUES ('term', ?)", (term,))
        return term

    # The queue.

    def submit(
        self, request_id: bytes, label: bytes, value: bytes, now_ms: int, *, daily_quota: int, queue_max: int
    ) -> bytes:
        """Queue an update, return its ticket (16 bytes); the same request again gets the same ticket.

        Raises StoreError REQUEST_ID_REUSED (other content under this id), QUEUE_FULL (`queue_max` updates wait),
        QUOTA_EXCEEDED (`daily_quota` updates of the label within 24 hours); the latter two say when to try again.
        """
        with self._write() as db:
            known = db.execute("SELECT ticket, label, value FROM queue WHERE request_id = ?", (request_id,)).fetchone()
            if known:
                if known[1:] != (label, value):
                    raise StoreError("REQUEST_ID_REUSED", "this request id came with another update before")
                return bytes(known[0])
            (waiting,) = db.execute("SELECT count(*) FROM queue WHERE epoch IS NULL").fetchone()
            if waiting >= queue_max:
                raise StoreError("QUEUE_FULL", f"{waiting} updates wait for their epoch", retry_after_s=5)
            recent = db.execute(
                "SELECT submitted_ms FROM queue WHERE label = ? AND submitted_ms > ? ORDER BY submitted_ms DESC",
                (label, now_ms - DAY_MS),
            ).fetchmany(daily_quota)
            if len(recent) == daily_quota:
                wait_s = (recent[-1][0] + DAY_MS - now_ms) / 1000
                raise StoreError(
                    "QUOTA_EXCEEDED", f"{daily_quota} updates of this label in a day", retry_after_s=wait_s
                )
            ticket = secrets.token_bytes(16)
            db.execute(
                "INSERT INTO queue(request_id, ticket, label, value, submitted_ms) VALUES (?, ?, ?, ?, ?)",
                (request_id, ticket, label, value, now_ms),
            )
        return ticket

    def published_at(self, ticket: bytes) -> int | None:
        """The epoch at which the ticket's update holds, None while it waits. Raises StoreError TICKET_UNKNOWN."""
        for (epoch,) in self._rows("SELECT epoch FROM queue WHERE ticket = ?", (ticket,)):
            return None if epoch is None else int(epoch)
        raise StoreError("TICKET_UNKNOWN", "no such ticket")

    def waiting(self) -> Waiting:
        """How many updates wait, and when the oldest was submitted (0 if none)."""
        (row,) = self._rows("SELECT count(*), coalesce(min(submitted_ms), 0) FROM queue WHERE epoch IS NULL")
        return Waiting(*row)

    def next_batch(self, size: int) -> list[Queued]:
        """Each label's oldest waiting update, at most `size`, oldest first."""
        query = """SELECT min(seq) AS first, label, value FROM queue WHERE epoch IS NULL
                   GROUP BY label ORDER BY first LIMIT ?"""
        return [Queued(*row) for row in self._rows(query, (size,))]

    def settle(self, updates: Sequence[Queued], epoch: int) -> None:
        """Resolve the tickets of updates that change nothing at `epoch`."""
        with self._write() as db:
            db.executemany("UPDATE queue SET epoch = ? WHERE seq = ?", [(epoch, q.seq) for q in updates])

    # Epochs.

    def insert_step(self, step: Step) -> None:
        """Write the epoch's row. Raises StoreError STEP_EXISTS if the epoch has one, STEP_GAP if not head + 1."""
        with self._write() as db:
            (head,) = db.execute("SELECT max(epoch) FROM head").fetchone()
            if head is None or step.epoch != head + 1:
                raise StoreError("STEP_GAP", f"epoch {step.epoch} does not follow head {head}")
            row = (step.epoch, step.old_root, step.new_root, _encode_batch(step.batch), step.blob)
            if not db.execute("INSERT OR IGNORE INTO step VALUES (?, ?, ?, ?, ?)", row).rowcount:
                raise StoreError("STEP_EXISTS", f"epoch {step.epoch} has its row already")

    def unfinished_step(self) -> Step | None:
        """The row above the newest head, if there is one."""
        for epoch, old_root, new_root, batch, blob in self._rows(
            "SELECT * FROM step WHERE epoch = (SELECT max(epoch) + 1 FROM head)"
        ):
            return Step(epoch, old_root, new_root, _decode_batch(batch), blob)
        return None

    def commit_start(self, head: StoredHead) -> None:
        """The head that the namespace begins with. Raises StoreError HEAD_EXISTS unless it is the first."""
        with self._write() as db:
            if db.execute("SELECT 1 FROM head").fetchone():
                raise StoreError("HEAD_EXISTS", "this directory has started already")
            db.execute("INSERT INTO head VALUES (?, ?, ?, ?)", head)

    def commit(self, step: Step, publication: Publication, signed: bytes) -> StoredHead:
        """Make the step's epoch the newest: tiles, versions, tickets and head at once."""
        head = StoredHead(step.epoch, step.new_root, publication.depth, signed)
        versions = [(label, v.version, v.epoch, v.value) for label, v in publication.versions]
        with self._write() as db:
            db.execute("INSERT INTO head VALUES (?, ?, ?, ?)", head)
            db.executemany("INSERT INTO tile VALUES (?, ?, ?) ON CONFLICT DO NOTHING", publication.rows)
            db.executemany(
                "INSERT INTO superseded VALUES (?, ?, ?)",
                [(step.epoch, prefix, epoch) for prefix, epoch in publication.superseded],
            )
            db.executemany("INSERT INTO version VALUES (?, ?, ?, ?)", versions)
            db.executemany("UPDATE queue SET epoch = ? WHERE seq = ?", [(step.epoch, q.seq) for q in step.batch])
        return head

    def renew(self, head: StoredHead) -> None:
        """Replace the signatures of the newest head. Raises StoreError HEAD_STALE if another is the newest."""
        query = "UPDATE head SET signed = ? WHERE epoch = (SELECT max(epoch) FROM head) AND epoch = ? AND root_hash = ?"
        with self._write() as db:
            if db.execute(query, (head.signed, head.epoch, head.root_hash)).rowcount != 1:
                raise StoreError("HEAD_STALE", f"epoch {head.epoch} with this root is not the newest")

    def erase_values(self, label: bytes, through: int) -> int:
        """Empty the values of the label's versions 1 to `through`, wherever they lie in this file; how many there were.

        Their leaves stay. A request that brought one can't be repeated any more: its id counts as another's. Raises
        StoreError VERSION_NEWEST unless the label has a later version.
        """
        with self._write() as db:
            (newest,) = db.execute("SELECT max(version) FROM version WHERE label = ?", (label,)).fetchone()
            if newest is None or through >= newest:
                raise StoreError("VERSION_NEWEST", "only what a later version has replaced can be erased")
            query = "SELECT epoch FROM version WHERE label = ? AND version <= ? AND value != x''"
            epochs = [epoch for (epoch,) in db.execute(query, (label, through))]
            db.execute("UPDATE version SET value = x'' WHERE label = ? AND version <= ?", (label, through))
            db.execute(
                "UPDATE queue SET value = x'' WHERE label = ?1 AND epoch <"
                " (SELECT epoch FROM version WHERE label = ?1 AND version = ?2)",
                (label, through + 1),
            )
            for epoch in epochs:
                (data,) = db.execute("SELECT batch FROM step WHERE epoch = ?", (epoch,)).fetchone()
                batch = [q._replace(value=b"") if q.label == label else q for q in _decode_batch(data)]
                db.execute("UPDATE step SET batch = ? WHERE epoch = ?", (_encode_batch(batch), epoch))
        return len(epochs)

    # Reads.

    def head(self, epoch: int | None = None) -> StoredHead | None:
        """The head of `epoch` (None: the newest), or None."""
        query = "SELECT * FROM head WHERE epoch = coalesce(?, (SELECT max(epoch) FROM head))"
        rows = self._rows(query, (epoch,))
        return StoredHead(*rows[0]) if rows else None

    def versions(self, label: bytes, epoch: int, most_recent: int = 0) -> list[Version]:
        """The label's versions made at or before `epoch`, newest first; at most `most_recent`, 0 for all.

        An erased one has the empty value.
        """
        query = """SELECT version, epoch, value FROM version WHERE label = ? AND epoch <= ?
                   ORDER BY version DESC LIMIT ?"""
        return [Version(*row) for row in self._rows(query, (label, epoch, most_recent or -1))]

    def read(self, prefixes: Collection[bytes], epoch: int) -> dict[bytes, Row]:
        """Per prefix the newest tile made at or before `epoch`; prefixes without one are left out (TileReader)."""
        wanted, rows = list(prefixes), dict[bytes, Row]()
        for at in range(0, len(wanted), _READ_AT_ONCE):
            some = wanted[at : at + _READ_AT_ONCE]
            query = _READ.format(",".join(["(?)"] * len(some)))
            rows.update((row[0], Row(*row)) for row in self._rows(query, (*some, epoch)))
        return rows
