"""The contact store's database in a file of SQLite."""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ipls.store.contacts.contract import ContactsStore, Manifest, RecordKey
from ipls.store.engine.sqlite import Connection, Database, Schema
from ipls.store.errors import StoreDamaged, StoreRefused
from ipls.store.line import LineStore
from ipls.store.line import sqlite as line
from ipls.store.replay import sqlite as replay

_STATEMENTS = """
CREATE TABLE IF NOT EXISTS record (
    label TEXT NOT NULL, generation INTEGER NOT NULL, id BLOB NOT NULL, digest BLOB NOT NULL,
    size INTEGER NOT NULL, ciphertext BLOB NOT NULL);
CREATE UNIQUE INDEX IF NOT EXISTS record_key ON record (label, generation, id, digest, size);
CREATE TABLE IF NOT EXISTS manifest (
    label TEXT PRIMARY KEY, version INTEGER NOT NULL, generation INTEGER NOT NULL, check_value BLOB NOT NULL,
    ciphertext BLOB NOT NULL);
"""
SCHEMA = Schema(
    "the contact store", _STATEMENTS + replay.STATEMENTS + line.STATEMENTS, frozenset({"record", "manifest"}), version=2
)
_SIZE = "SELECT size FROM record WHERE label = ? AND generation = ? AND id = ? AND digest = ?"
_CIPHERTEXT = "SELECT ciphertext FROM record WHERE label = ? AND generation = ? AND id = ? AND digest = ?"
_MANIFEST = "SELECT version, generation, check_value, ciphertext FROM manifest WHERE label = ?"
_PAGE = """
SELECT generation, id, digest, size FROM record WHERE label = ? AND (generation, id, digest) > (?, ?, ?)
ORDER BY generation, id, digest LIMIT ?
"""


class SqliteContacts(ContactsStore):
    """One file; see `ContactsStore`, here and for each method."""

    def __init__(self, path: Path) -> None:
        self._db = Database(path, SCHEMA)
        self._reads = Database(path, SCHEMA)
        self._spare = Database.in_memory(SCHEMA)
        self._nonces = replay.Nonces(self._db, self._spare)
        self._lines = line.SqliteLines(self._db, self._reads)

    @property
    def lines(self) -> LineStore:
        return self._lines

    def close(self) -> None:
        for database in (self._db, self._reads, self._spare):
            database.close()

    def admit(
        self, label: str, nonce: bytes, timestamp_ms: int, *, now_ms: int, window_ms: int, max_calls: int, reading: bool
    ) -> None:
        self._nonces.admit(replay.Call(label, nonce, timestamp_ms, now_ms, window_ms, max_calls), reading=reading)

    def sizes(self, label: str, keys: Iterable[RecordKey]) -> list[int]:
        with self._reads.read() as db:
            return [_one(db, _SIZE, label, key) for key in keys]

    def read(self, label: str, keys: Iterable[RecordKey]) -> bytes:
        with self._reads.read() as db:
            found = [(key, _one(db, _CIPHERTEXT, label, key)) for key in keys]
        for key, data in found:
            if not _is_as_named(key, data):
                message = f"the record {key.id.hex()} of generation {key.generation} is damaged in the contact store"
                raise StoreDamaged("RECORD_DAMAGED", message)
        return b"".join(data for _, data in found)

    def damaged(self) -> Iterator[RecordKey]:
        query = """SELECT rowid, generation, id, digest, ciphertext FROM record
                   WHERE rowid > ? ORDER BY rowid LIMIT 100"""
        last = 0
        while True:
            with self._reads.read() as db:
                rows = db.execute(query, (last,)).fetchall()
            if not rows:
                return
            yield from (RecordKey(*key) for _, *key, data in rows if not _is_as_named(RecordKey(*key), data))
            last = rows[-1][0]

    def page(self, label: str, *, after: RecordKey | None, limit: int) -> list[tuple[RecordKey, int]]:
        with self._reads.read() as db:
            rows = db.execute(_PAGE, (label, *(after or (-1, b"", b"")), limit))
            return [(RecordKey(*key), size) for *key, size in rows]

    def manifest(self, label: str) -> Manifest | None:
        with self._reads.read() as db:
            row = db.execute(_MANIFEST, (label,)).fetchone()
        return Manifest(*row) if row else None


def _is_as_named(key: RecordKey, data: object) -> bool:
    return isinstance(data, bytes) and hashlib.sha256(data).digest() == key.digest


def _one(db: Connection, sql: str, label: str, key: RecordKey) -> Any:
    row = db.execute(sql, (label, *key)).fetchone()
    if row is None:
        raise StoreRefused("RECORD_ABSENT", "the account has no such record")
    return row[0]
