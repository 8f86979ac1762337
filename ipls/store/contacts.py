"""The contact store's database: ciphertext records, one manifest an account, the calls of the last minutes."""

import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from ipls.store.errors import StoreError
from ipls.store.nonces import SCHEMA as NONCES
from ipls.store.nonces import admit
from ipls.store.sqlite import connect, transaction

_SCHEMA = """
CREATE TABLE IF NOT EXISTS record (
    label TEXT NOT NULL, generation INTEGER NOT NULL, id BLOB NOT NULL, digest BLOB NOT NULL,
    size INTEGER NOT NULL, ciphertext BLOB NOT NULL);
CREATE UNIQUE INDEX IF NOT EXISTS record_key ON record (label, generation, id, digest, size);
CREATE TABLE IF NOT EXISTS manifest (
    label TEXT PRIMARY KEY, version INTEGER NOT NULL, generation INTEGER NOT NULL, check_value BLOB NOT NULL,
    ciphertext BLOB NOT NULL);
"""
_SIZE = "SELECT size FROM record WHERE label = ? AND generation = ? AND id = ? AND digest = ?"
_CIPHERTEXT = "SELECT ciphertext FROM record WHERE label = ? AND generation = ? AND id = ? AND digest = ?"
_DROP = "DELETE FROM record WHERE label = ? AND generation = ? AND id = ? AND digest = ?"
_MANIFEST = "SELECT version, generation, check_value, ciphertext FROM manifest WHERE label = ?"
_PAGE = """
SELECT generation, id, digest, size FROM record WHERE label = ? AND (generation, id, digest) > (?, ?, ?)
ORDER BY generation, id, digest LIMIT ?
"""


class RecordKey(NamedTuple):
    """One ciphertext: several of one contact stand side by side until the manifest picks one."""

    generation: int
    id: bytes
    digest: bytes


class Manifest(NamedTuple):
    """`ciphertext` is the sealed list; the rest is what stands in clear beside it."""

    version: int
    generation: int
    check_value: bytes
    ciphertext: bytes


class ContactsStore:
    """What the contact store keeps, and what it promises.

    - *Atomic and durable*: a method that changes something does all of it in one transaction and has it on disk when it
      returns; killed at any point, it has done all or nothing. A method that raises has changed nothing.
    - *Immutable records*: a record is named by the digest of its bytes, so a put replaces none and may be repeated.
    - *Compare-and-swap*: of several writers who saw the same manifest version exactly one succeeds. The same swap,
      repeated while it is the newest, succeeds again. A generation never falls.
    - *Single use*: a nonce is admitted once for a label as long as its time can be admitted at all, across restarts and
      even if the clock is set back: no time at or below one already forgotten is admitted.

    It doesn't know what the ciphertexts say: dropping a record that a manifest names is the caller's mistake to make.
    Calls may come from any thread; they are taken one at a time.
    """

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self._db = connect(path)
        self._db.executescript(_SCHEMA + NONCES)

    def close(self) -> None:
        """Close the database; no call may follow."""
        with self._lock:
            self._db.close()

    def admit(
        self, label: str, nonce: bytes, timestamp_ms: int, *, now_ms: int, window_ms: int, max_calls: int
    ) -> None:
        """Take a signed call's nonce. Raises StoreError CALL_STALE, CALL_REPLAYED, CALL_QUOTA (see `nonces`)."""
        with self._lock, transaction(self._db) as db:
            admit(db, label, nonce, timestamp_ms, now_ms=now_ms, window_ms=window_ms, max_calls=max_calls)

    def put(self, label: str, records: Iterable[tuple[RecordKey, bytes]], *, max_records: int, max_bytes: int) -> None:
        """Add ciphertexts that the caller has checked against their digests.

        Raises StoreError ACCOUNT_QUOTA if the account would hold more records or bytes than given.
        """
        with self._lock, transaction(self._db) as db:
            db.executemany(
                "INSERT OR IGNORE INTO record VALUES (?, ?, ?, ?, ?, ?)",
                ((label, *key, len(ciphertext), ciphertext) for key, ciphertext in records),
            )
            count, size = db.execute("SELECT COUNT(*), TOTAL(size) FROM record WHERE label = ?", (label,)).fetchone()
            if count > max_records or size > max_bytes:
                raise StoreError("ACCOUNT_QUOTA", f"an account holds {max_records} records of {max_bytes} bytes")

    def sizes(self, label: str, keys: Iterable[RecordKey]) -> list[int]:
        """The size of each record, in order. Raises StoreError RECORD_ABSENT."""
        with self._lock:
            return [self._one(_SIZE, label, key) for key in keys]

    def read(self, label: str, keys: Iterable[RecordKey]) -> bytes:
        """The ciphertexts one after another, in order. Raises StoreError RECORD_ABSENT."""
        with self._lock:
            return b"".join(self._one(_CIPHERTEXT, label, key) for key in keys)

    def page(self, label: str, *, after: RecordKey | None, limit: int) -> list[tuple[RecordKey, int]]:
        """Keys and sizes in order of their keys, at most `limit`, those behind `after` only."""
        with self._lock:
            rows = self._db.execute(_PAGE, (label, *(after or (-1, b"", b"")), limit))
            return [(RecordKey(*key), size) for *key, size in rows]

    def drop(self, label: str, keys: Iterable[RecordKey]) -> None:
        """Remove these records, those not there anyhow."""
        with self._lock, transaction(self._db) as db:
            db.executemany(_DROP, ((label, *key) for key in keys))

    def manifest(self, label: str) -> Manifest | None:
        """The newest manifest, None before the first."""
        with self._lock:
            row = self._db.execute(_MANIFEST, (label,)).fetchone()
        return Manifest(*row) if row else None

    def swap(self, label: str, expected_version: int, manifest: Manifest) -> None:
        """Replace the manifest of `expected_version` (0: none yet) by the next one.

        Raises StoreError MANIFEST_CONFLICT if another one is the newest, or the generation would fall.
        """
        with self._lock, transaction(self._db) as db:
            row = db.execute(_MANIFEST, (label,)).fetchone()
            current = Manifest(*row) if row else Manifest(0, 0, b"", b"")
            if current == manifest:
                return
            if (current.version, expected_version + 1) != (expected_version, manifest.version):
                raise StoreError("MANIFEST_CONFLICT", f"the newest manifest is version {current.version}")
            if manifest.generation < current.generation:
                raise StoreError("MANIFEST_CONFLICT", "a manifest's generation never falls")
            db.execute("INSERT OR REPLACE INTO manifest VALUES (?, ?, ?, ?, ?)", (label, *manifest))

    def _one(self, sql: str, label: str, key: RecordKey) -> Any:
        row = self._db.execute(sql, (label, *key)).fetchone()
        if row is None:
            raise StoreError("RECORD_ABSENT", "the account has no such record")
        return row[0]
