"""The directory's database in a file of SQLite."""

import secrets
import struct
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from ipls.akd import Row, Version
from ipls.store.directory.contract import (
    ChangeCounters,
    DirectoryStore,
    EpochRow,
    Leaf,
    Lease,
    PendingUpdate,
    PreparedEpoch,
    StoredHead,
    Waiting,
)
from ipls.store.engine.sqlite import Connection, Database, Schema, open_read_only, translated
from ipls.store.errors import StoreRefused
from ipls.units import DAY_MS

_READ_AT_ONCE = 1000
"""Prefixes in one query; SQLite takes at most 32,766 parameters."""

_READ = """WITH k(p) AS (VALUES {}) SELECT k.p, t.epoch, t.body FROM k CROSS JOIN tile t
  ON t.prefix = k.p AND t.epoch = (SELECT max(epoch) FROM tile WHERE prefix = k.p AND epoch <= ?)"""

_SUPERSEDED = """SELECT at, rowid, prefix, epoch,
    EXISTS (SELECT 1 FROM pin WHERE pin.epoch >= superseded.epoch AND pin.epoch < superseded.at)
  FROM superseded WHERE at <= (SELECT epoch FROM floor) AND (at, rowid) > (?, ?) ORDER BY at, rowid LIMIT ?"""

_QUEUED = struct.Struct(">QHH")

SCHEMA = Schema(
    "the directory",
    """
CREATE TABLE IF NOT EXISTS setting(name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS tile(
    prefix BLOB NOT NULL, epoch INTEGER NOT NULL, body BLOB NOT NULL, UNIQUE(prefix, epoch));
CREATE TABLE IF NOT EXISTS superseded(at INTEGER NOT NULL, prefix BLOB NOT NULL, epoch INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS superseded_at ON superseded(at);
CREATE VIEW IF NOT EXISTS floor AS
    SELECT coalesce((SELECT value FROM setting WHERE name = 'floor'), 0) AS epoch;
CREATE TABLE IF NOT EXISTS pin(epoch INTEGER PRIMARY KEY);
CREATE TABLE IF NOT EXISTS version(
    label BLOB NOT NULL, version INTEGER NOT NULL, epoch INTEGER NOT NULL, value BLOB NOT NULL,
    PRIMARY KEY(label, version)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS queue(
    seq INTEGER PRIMARY KEY, request_id BLOB NOT NULL UNIQUE, ticket BLOB NOT NULL UNIQUE,
    label BLOB NOT NULL, value BLOB NOT NULL, submitted_ms INTEGER NOT NULL,
    epoch INTEGER);
CREATE INDEX IF NOT EXISTS queue_waiting ON queue(label, seq) WHERE epoch IS NULL;
CREATE INDEX IF NOT EXISTS queue_quota ON queue(label, submitted_ms);
CREATE INDEX IF NOT EXISTS queue_settled ON queue(submitted_ms) WHERE epoch IS NOT NULL;
CREATE TABLE IF NOT EXISTS step(
    epoch INTEGER PRIMARY KEY, old_root BLOB NOT NULL, new_root BLOB NOT NULL,
    batch BLOB NOT NULL, blob BLOB NOT NULL);
CREATE TRIGGER IF NOT EXISTS step_is_final BEFORE UPDATE ON step
    BEGIN SELECT RAISE(ABORT, 'an epoch row is never changed'); END;
DROP TRIGGER step_is_final;  -- of databases from before values could be erased
CREATE TRIGGER IF NOT EXISTS step_is_as_signed BEFORE UPDATE ON step
    WHEN old.epoch > (SELECT max(epoch) FROM head)
        OR (new.epoch, new.old_root, new.new_root, new.blob) IS NOT (old.epoch, old.old_root, old.new_root, old.blob)
    BEGIN SELECT RAISE(ABORT, 'an epoch row is never changed'); END;
CREATE TRIGGER IF NOT EXISTS step_stays BEFORE DELETE ON step
    BEGIN SELECT RAISE(ABORT, 'an epoch row is never deleted'); END;
CREATE TABLE IF NOT EXISTS head(
    epoch INTEGER PRIMARY KEY, root_hash BLOB NOT NULL, depth INTEGER NOT NULL, signed BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS awaited(position BLOB PRIMARY KEY, epoch INTEGER NOT NULL, stored BLOB NOT NULL)
    WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS lease(
    one INTEGER PRIMARY KEY CHECK (one = 1),
    term INTEGER NOT NULL, beat INTEGER NOT NULL, held INTEGER NOT NULL, news INTEGER NOT NULL);
INSERT OR IGNORE INTO lease VALUES (1, 0, 0, 0, 0);
ALTER TABLE queue ADD COLUMN turn INTEGER NOT NULL DEFAULT 0;
CREATE INDEX IF NOT EXISTS queue_turn ON queue(turn) WHERE epoch IS NULL;
ALTER TABLE queue ADD COLUMN held INTEGER NOT NULL DEFAULT 0;
ALTER TABLE queue ADD COLUMN refused INTEGER NOT NULL DEFAULT 0;
""",
    frozenset({"tile", "version", "step", "head"}),
)


def _encode_batch(batch: Sequence[PendingUpdate]) -> bytes:
    return b"".join(_QUEUED.pack(q.seq, len(q.label), len(q.value)) + q.label + q.value for q in batch)


def _decode_batch(data: bytes) -> tuple[PendingUpdate, ...]:
    batch, at = [], 0
    while at < len(data):
        seq, label_size, value_size = _QUEUED.unpack_from(data, at)
        at += _QUEUED.size
        label, value = data[at : at + label_size], data[at + label_size : at + label_size + value_size]
        batch.append(PendingUpdate(seq, label, value))
        at += label_size + value_size
    return tuple(batch)


def _reveal(db: Connection, versions: Iterable[tuple[bytes, Version]], positions: Iterable[bytes]) -> None:
    rows = [(label, v.version, v.epoch, v.value) for label, v in versions]
    db.executemany("INSERT INTO version VALUES (?, ?, ?, ?)", rows)
    db.executemany("DELETE FROM awaited WHERE position = ?", [(position,) for position in positions])


class LeftOut(NamedTuple):
    """Of the queue: updates that are held; those that were refused and whose tickets stand, and of how many labels."""

    held: int
    refused: int
    refused_labels: int


def left_out(path: Path) -> LeftOut:
    """What no epoch takes, in a file that a directory may have open. Raises as `open_read_only`."""
    query = """SELECT count(*) FILTER (WHERE epoch IS NULL AND held), count(*) FILTER (WHERE refused),
        count(DISTINCT label) FILTER (WHERE refused) FROM queue"""
    with closing(open_read_only(path, SCHEMA)) as db, translated(path):
        return LeftOut(*db.execute(query).fetchone())


class SqliteDirectory(DirectoryStore):
    """One file; see `DirectoryStore`, here and for each method. Reads have a connection of their own."""

    def __init__(self, path: Path, namespace: str, vrf_public_key: bytes) -> None:
        """See `open_directory_store`."""
        self._writer = Database(path, SCHEMA, page_size=8192)
        identity = {"namespace": namespace.encode(), "vrf_public_key": vrf_public_key}
        with self._writer.write() as db:
            db.executemany("INSERT OR IGNORE INTO setting VALUES (?, ?)", identity.items())
            found = dict(db.execute("SELECT name, value FROM setting WHERE name IN ('namespace', 'vrf_public_key')"))
        self._reader = Database(path, SCHEMA)
        if found != identity:
            self.close()
            raise StoreRefused("DATABASE_FOREIGN", f"{path} belongs to another namespace or VRF key")

    def close(self) -> None:
        self._writer.close()
        self._reader.close()

    def _write(self) -> AbstractContextManager[Connection]:
        return self._writer.write()

    def _rows(self, query: str, parameters: Sequence[object] = ()) -> list[Any]:
        with self._reader.read() as db:
            return db.execute(query, parameters).fetchall()

    def lease(self) -> Lease:
        (row,) = self._rows("SELECT term, beat, held FROM lease")
        return Lease(row[0], row[1], bool(row[2]))

    def take_lease(self, seen: Lease, above: int = 0) -> int:
        term = max(seen.term, above) + 1
        query = "UPDATE lease SET term = ?, beat = beat + 1, held = 1 WHERE (term, beat, held) = (?, ?, ?)"
        with self._write() as db:
            if not db.execute(query, (term, *seen)).rowcount:
                raise StoreRefused("LEASE_LOST", "another process has the lease")
        return term

    def beat(self, term: int) -> None:
        with self._lead(term):
            pass

    def release(self, term: int) -> None:
        with self._write() as db:
            db.execute("UPDATE lease SET held = 0 WHERE term = ?", (term,))

    @contextmanager
    def _lead(self, term: int, *, news: bool = False) -> Iterator[Connection]:
        """A write of the holder."""
        query = "UPDATE lease SET beat = beat + 1, news = news + ? WHERE term = ? AND held"
        with self._write() as db:
            if not db.execute(query, (news, term)).rowcount:
                raise StoreRefused("LEASE_LOST", f"term {term} has ended: another process publishes")
            yield db

    def news(self) -> ChangeCounters:
        (row,) = self._rows("SELECT news, (SELECT coalesce(max(seq), 0) FROM queue) FROM lease")
        return ChangeCounters(*row)

    def submit(
        self, request_id: bytes, label: bytes, value: bytes, now_ms: int, *, daily_quota: int, queue_max: int
    ) -> bytes:
        with self._write() as db:
            known = db.execute("SELECT ticket, label, value FROM queue WHERE request_id = ?", (request_id,)).fetchone()
            if known:
                if known[1:] != (label, value):
                    raise StoreRefused("REQUEST_ID_REUSED", "this request id came with another update before")
                return bytes(known[0])
            query = "SELECT count(*) FROM queue WHERE label = ? AND submitted_ms > ?"
            (recent,) = db.execute(query, (label, now_ms - DAY_MS)).fetchone()
            if recent >= daily_quota:
                self._replace_waiting(db, label)
            (waiting,) = db.execute("SELECT count(*) FROM queue WHERE epoch IS NULL").fetchone()
            if waiting >= queue_max:
                raise StoreRefused("QUEUE_FULL", f"{waiting} updates wait for their epoch", retry_after_s=5)
            ticket = secrets.token_bytes(16)
            # Start-time fair queueing: no earlier than what is served now, and each of a label's one turn later.
            query = """SELECT max(coalesce((SELECT min(turn) FROM queue WHERE epoch IS NULL), 0),
                coalesce((SELECT max(turn) + 1 FROM queue WHERE epoch IS NULL AND label = ?), 0))"""
            (turn,) = db.execute(query, (label,)).fetchone()
            query = """INSERT INTO queue(request_id, ticket, label, value, submitted_ms, turn, held)
                VALUES (?1, ?2, ?3, ?4, ?5, ?6,
                    EXISTS (SELECT 1 FROM queue WHERE epoch IS NULL AND label = ?3 AND held))"""
            db.execute(query, (request_id, ticket, label, value, now_ms, turn))
        return ticket

    def _replace_waiting(self, db: Connection, label: bytes) -> None:
        step = self.unfinished_step()
        proposed = {q.seq for q in step.batch} if step else set()
        waiting = [seq for (seq,) in db.execute("SELECT seq FROM queue WHERE epoch IS NULL AND label = ?", (label,))]
        query = "UPDATE queue SET epoch = coalesce((SELECT max(epoch) FROM head), 0) WHERE seq = ?"
        db.executemany(query, [(seq,) for seq in waiting if seq not in proposed])

    def published_at(self, ticket: bytes) -> int | None:
        for epoch, refused in self._rows("SELECT epoch, refused FROM queue WHERE ticket = ?", (ticket,)):
            if refused:
                message = "the tree has a leaf already where this label's next version would stand"
                raise StoreRefused("LEAF_EXISTS", message)
            return None if epoch is None else int(epoch)
        raise StoreRefused("TICKET_UNKNOWN", "no such ticket")

    def waiting(self) -> Waiting:
        query = """SELECT count(*) FILTER (WHERE NOT held), coalesce(min(submitted_ms) FILTER (WHERE NOT held), 0),
            count(*) FILTER (WHERE held) FROM queue WHERE epoch IS NULL"""
        (row,) = self._rows(query)
        return Waiting(*row)

    def is_queued(self, label: bytes, value: bytes) -> bool:
        return bool(self._rows("SELECT 1 FROM queue WHERE epoch IS NULL AND label = ? AND value = ?", (label, value)))

    def next_batch(self, size: int) -> list[PendingUpdate]:
        query = """SELECT seq, label, value FROM queue
                   WHERE seq IN (SELECT min(seq) FROM queue WHERE epoch IS NULL AND NOT held GROUP BY label)
                   ORDER BY turn, seq LIMIT ?"""
        return [PendingUpdate(*row) for row in self._rows(query, (size,))]

    def settle(self, term: int, updates: Sequence[PendingUpdate], epoch: int) -> None:
        with self._lead(term, news=True) as db:
            db.executemany("UPDATE queue SET epoch = ? WHERE seq = ?", [(epoch, q.seq) for q in updates])

    def hold(self, term: int, updates: Sequence[PendingUpdate]) -> None:
        query = "UPDATE queue SET held = 1 WHERE epoch IS NULL AND label = ?"
        with self._lead(term) as db:
            db.executemany(query, [(q.label,) for q in updates])

    def let_go(self, term: int) -> None:
        with self._lead(term) as db:
            db.execute("UPDATE queue SET held = 0 WHERE epoch IS NULL AND held")

    def refuse(self, term: int, updates: Sequence[PendingUpdate], epoch: int) -> None:
        query = "UPDATE queue SET epoch = ?, refused = 1 WHERE seq = ?"
        with self._lead(term, news=True) as db:
            db.executemany(query, [(epoch, q.seq) for q in updates])

    def insert_step(self, term: int, step: EpochRow) -> None:
        with self._lead(term) as db:
            (head,) = db.execute("SELECT max(epoch) FROM head").fetchone()
            if head is None or step.epoch != head + 1:
                raise StoreRefused("STEP_GAP", f"epoch {step.epoch} does not follow head {head}")
            row = (step.epoch, step.old_root, step.new_root, _encode_batch(step.batch), step.blob)
            if not db.execute("INSERT OR IGNORE INTO step VALUES (?, ?, ?, ?, ?)", row).rowcount:
                raise StoreRefused("STEP_EXISTS", f"epoch {step.epoch} has its row already")

    def step(self, epoch: int) -> EpochRow | None:
        for number, old_root, new_root, batch, blob in self._rows("SELECT * FROM step WHERE epoch = ?", (epoch,)):
            return EpochRow(number, old_root, new_root, _decode_batch(batch), blob)
        return None

    def unfinished_step(self) -> EpochRow | None:
        for epoch, old_root, new_root, batch, blob in self._rows(
            "SELECT * FROM step WHERE epoch = (SELECT max(epoch) + 1 FROM head)"
        ):
            return EpochRow(epoch, old_root, new_root, _decode_batch(batch), blob)
        return None

    def commit_start(self, term: int, head: StoredHead) -> None:
        with self._lead(term, news=True) as db:
            if db.execute("SELECT 1 FROM head").fetchone():
                raise StoreRefused("HEAD_EXISTS", "this directory has started already")
            db.execute("INSERT INTO head VALUES (?, ?, ?, ?)", head)

    def commit(self, term: int, step: EpochRow, made: PreparedEpoch, signed: bytes) -> StoredHead:
        publication = made.publication
        head = StoredHead(step.epoch, step.new_root, publication.depth, signed)
        with self._lead(term, news=True) as db:
            db.execute("INSERT INTO head VALUES (?, ?, ?, ?)", head)
            db.executemany("INSERT INTO tile VALUES (?, ?, ?) ON CONFLICT DO NOTHING", publication.rows)
            db.executemany(
                "INSERT INTO superseded VALUES (?, ?, ?)",
                [(step.epoch, prefix, epoch) for prefix, epoch in publication.superseded],
            )
            db.executemany("INSERT INTO awaited VALUES (?, ?, ?)", made.awaited)
            _reveal(db, publication.versions, made.revealed)
            db.executemany("UPDATE queue SET epoch = ? WHERE seq = ?", [(step.epoch, q.seq) for q in step.batch])
        return head

    def reveal(
        self,
        term: int,
        found: Iterable[tuple[PendingUpdate, int]],
        versions: Iterable[tuple[bytes, Version]],
        positions: Iterable[bytes],
    ) -> None:
        with self._lead(term, news=True) as db:
            _reveal(db, versions, positions)
            db.executemany("UPDATE queue SET epoch = ? WHERE seq = ?", [(epoch, q.seq) for q, epoch in found])

    def renew(self, term: int, head: StoredHead) -> None:
        query = "UPDATE head SET signed = ? WHERE epoch = (SELECT max(epoch) FROM head) AND epoch = ? AND root_hash = ?"
        with self._lead(term, news=True) as db:
            if db.execute(query, (head.signed, head.epoch, head.root_hash)).rowcount != 1:
                raise StoreRefused("HEAD_STALE", f"epoch {head.epoch} with this root is not the newest")

    def mend_head(self, term: int, epoch: int, head: StoredHead) -> None:
        with self._lead(term, news=True) as db:
            db.execute("DELETE FROM head WHERE epoch = ?", (epoch,))
            db.execute("INSERT OR REPLACE INTO head VALUES (?, ?, ?, ?)", head)

    def erase_values(self, label: bytes, through: int) -> int:
        with self._write() as db:
            (newest,) = db.execute("SELECT max(version) FROM version WHERE label = ?", (label,)).fetchone()
            if newest is None or through >= newest:
                raise StoreRefused("VERSION_NEWEST", "only what a later version has replaced can be erased")
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

    def head(self, epoch: int | None = None) -> StoredHead | None:
        query = "SELECT * FROM head WHERE epoch = coalesce(?, (SELECT max(epoch) FROM head))"
        rows = self._rows(query, (epoch,))
        return StoredHead(*rows[0]) if rows else None

    def version_of(self, label: bytes, value: bytes) -> int:
        query = "SELECT coalesce(max(version), 0) FROM version WHERE label = ? AND value = ?"
        return int(self._rows(query, (label, value))[0][0])

    def versions(self, label: bytes, epoch: int, most_recent: int = 0) -> list[Version]:
        query = """SELECT version, epoch, value FROM version WHERE label = ? AND epoch <= ?
                   ORDER BY version DESC LIMIT ?"""
        return [Version(*row) for row in self._rows(query, (label, epoch, most_recent or -1))]

    def awaits(self, epoch: int) -> bool:
        return bool(self._rows("SELECT 1 FROM awaited WHERE epoch <= ? LIMIT 1", (epoch,)))

    def awaited(self, position: bytes, epoch: int) -> Leaf | None:
        rows = self._rows("SELECT * FROM awaited WHERE position = ? AND epoch <= ?", (position, epoch))
        return Leaf(*rows[0]) if rows else None

    def read(self, prefixes: Collection[bytes], epoch: int) -> dict[bytes, Row]:
        wanted, rows = list(prefixes), dict[bytes, Row]()
        for at in range(0, len(wanted), _READ_AT_ONCE):
            some = wanted[at : at + _READ_AT_ONCE]
            query = _READ.format(",".join(["(?)"] * len(some)))
            rows.update((row[0], Row(*row)) for row in self._rows(query, (*some, epoch)))
        self.check_kept(epoch)  # after the reading: what was kept until now was whole all the time
        return rows

    def floor(self) -> int:
        (row,) = self._rows("SELECT epoch FROM floor")
        return int(row[0])

    def check_kept(self, epoch: int) -> None:
        gone = """SELECT 1 FROM floor WHERE epoch > ?1 AND ?1 < (SELECT max(epoch) FROM head)
            AND NOT EXISTS (SELECT 1 FROM pin WHERE epoch = ?1)"""
        if self._rows(gone, (epoch,)):
            raise StoreRefused("EPOCH_PRUNED", f"epoch {epoch} is pruned: older than what this directory keeps")

    def pins(self) -> tuple[int, ...]:
        return tuple(epoch for (epoch,) in self._rows("SELECT epoch FROM pin ORDER BY epoch"))

    def pin(self, epoch: int) -> None:
        with self._write() as db:  # nothing is pruned meanwhile
            if not db.execute("SELECT 1 FROM head WHERE epoch = ?", (epoch,)).fetchone():
                raise StoreRefused("EPOCH_UNKNOWN", f"no head of epoch {epoch} here")
            self.check_kept(epoch)
            db.execute("INSERT OR IGNORE INTO pin VALUES (?)", (epoch,))

    def unpin(self, epoch: int) -> None:
        with self._write() as db:
            if not db.execute("DELETE FROM pin WHERE epoch = ?", (epoch,)).rowcount:
                raise StoreRefused("PIN_UNKNOWN", f"epoch {epoch} is not pinned")

    def mend_tiles(self, tiles: Iterable[tuple[bytes, int, bytes | None]]) -> None:
        with self._write() as db:
            for prefix, epoch, body in tiles:
                if body is None:
                    db.execute("DELETE FROM tile WHERE prefix = ? AND epoch = ?", (prefix, epoch))
                else:
                    db.execute("INSERT OR REPLACE INTO tile VALUES (?, ?, ?)", (prefix, epoch, body))

    def raise_floor(self, term: int, epoch: int) -> None:
        query = """INSERT OR REPLACE INTO setting
            SELECT 'floor', max(floor.epoch, min(?, (SELECT max(epoch) FROM head))) FROM floor"""
        with self._lead(term) as db:
            db.execute(query, (epoch,))

    def prune_tiles(self, term: int, after: tuple[int, int], limit: int) -> tuple[int, int] | None:
        with self._lead(term) as db:
            rows = db.execute(_SUPERSEDED, (*after, limit)).fetchall()
            gone = [(rowid, prefix, epoch) for _, rowid, prefix, epoch, pinned in rows if not pinned]
            db.executemany("DELETE FROM tile WHERE prefix = ? AND epoch = ?", [row[1:] for row in gone])
            db.executemany("DELETE FROM superseded WHERE rowid = ?", [row[:1] for row in gone])
        return rows[-1][:2] if len(rows) == limit else None

    def prune_tickets(self, term: int, before_ms: int, limit: int) -> int:
        query = """DELETE FROM queue WHERE seq IN (
            SELECT seq FROM queue WHERE epoch IS NOT NULL AND submitted_ms < ? ORDER BY submitted_ms LIMIT ?)"""
        with self._lead(term) as db:
            return db.execute(query, (before_ms, limit)).rowcount
