"""Registrations under way: the code's hash, what attempts are left, and the record that was let through.

What a method has returned from is durable: an attempt is counted before its code is looked at, so that neither a
crash nor many calls at once give a guess for nothing. Methods block; each may be called from any thread.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from sqlite3 import Connection
from typing import NamedTuple

from ipls.store.errors import StoreError
from ipls.store.sqlite import connect, transaction
from ipls.units import HOUR_MS

CODE_LIFE_MS = 10 * 60_000
ATTEMPTS = 5
KEPT_MS = 24 * HOUR_MS
"""How long after its code's expiry a registration that was let through can still be repeated."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS registration(
    request_id BLOB PRIMARY KEY, label TEXT NOT NULL, salt BLOB NOT NULL, code_hash BLOB NOT NULL,
    expires_ms INTEGER NOT NULL, attempts_left INTEGER NOT NULL, record BLOB) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS registration_expires ON registration(expires_ms);
CREATE INDEX IF NOT EXISTS registration_approved ON registration(label) WHERE record IS NOT NULL;
CREATE TABLE IF NOT EXISTS sent(label TEXT NOT NULL, at_ms INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS sent_label ON sent(label, at_ms);
CREATE INDEX IF NOT EXISTS sent_at ON sent(at_ms);
"""


class CodeHash(NamedTuple):
    """A salted hash of a code; the code itself is not kept."""

    salt: bytes
    digest: bytes


class RegistrationStore:
    """The registration service's SQLite file."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self._connection = connect(path)
        self._connection.executescript(_SCHEMA)

    def close(self) -> None:
        """Give the file back."""
        with self._lock:
            self._connection.close()

    @contextmanager
    def _write(self) -> Iterator[Connection]:
        with self._lock, transaction(self._connection) as db:
            yield db

    def check_rate(self, label: str, now_ms: int, *, codes_per_hour: int) -> None:
        """Raises StoreError CODE_RATE, as `begin` would; before a code is hashed for nothing."""
        with self._lock:
            _check_rate(self._connection, label, now_ms, codes_per_hour)

    def begin(self, request_id: bytes, label: str, code: CodeHash, now_ms: int, *, codes_per_hour: int) -> None:
        """Note a code that is about to be sent; the same request may ask for another one, which replaces it.

        Raises StoreError REQUEST_ID_REUSED (for another label, or done already), CODE_RATE (says when to try again).
        """
        with self._write() as db:
            db.execute("DELETE FROM registration WHERE expires_ms < ?", (now_ms - KEPT_MS,))
            # Those that nobody finished: anyone can begin as many as there are numbers.
            db.execute("DELETE FROM registration WHERE expires_ms < ? AND record IS NULL", (now_ms - HOUR_MS,))
            db.execute("DELETE FROM sent WHERE at_ms <= ?", (now_ms - HOUR_MS,))
            known = db.execute("SELECT label, record FROM registration WHERE request_id = ?", (request_id,)).fetchone()
            if known and known != (label, None):
                raise StoreError("REQUEST_ID_REUSED", "this request id has been used")
            _check_rate(db, label, now_ms, codes_per_hour)
            db.execute("INSERT INTO sent VALUES (?, ?)", (label, now_ms))
            db.execute(
                "INSERT OR REPLACE INTO registration VALUES (?, ?, ?, ?, ?, ?, NULL)",
                (request_id, label, *code, now_ms + CODE_LIFE_MS, ATTEMPTS),
            )

    def attempt(self, request_id: bytes, label: str, now_ms: int) -> CodeHash:
        """Use up one attempt and return what the code must hash to.

        Raises StoreError CODE_NOT_REQUESTED, CODE_EXPIRED, CODE_ATTEMPTS (none left).
        """
        with self._write() as db:
            query = (
                "SELECT expires_ms, attempts_left, salt, code_hash FROM registration WHERE request_id = ? AND label = ?"
            )
            row = db.execute(query, (request_id, label)).fetchone()
            if row is None:
                raise StoreError("CODE_NOT_REQUESTED", "no code was asked for in this request")
            expires_ms, attempts_left, salt, digest = row
            if now_ms >= expires_ms:
                raise StoreError("CODE_EXPIRED", "the code has expired: ask for another")
            if attempts_left == 0:
                raise StoreError("CODE_ATTEMPTS", "too many wrong codes: ask for another")
            db.execute("UPDATE registration SET attempts_left = attempts_left - 1 WHERE request_id = ?", (request_id,))
        return CodeHash(salt, digest)

    def approve(self, request_id: bytes, record: bytes) -> None:
        """The code was right: bind the request to this record. Raises StoreError REQUEST_ID_REUSED if to another.

        From now on no earlier request of the number can be repeated: one that the directory has not had yet would undo
        this one.
        """
        with self._write() as db:
            db.execute(
                "UPDATE registration SET record = ? WHERE request_id = ? AND record IS NULL", (record, request_id)
            )
            row = db.execute("SELECT record, label FROM registration WHERE request_id = ?", (request_id,)).fetchone()
            if row is None or row[0] != record:
                raise StoreError("REQUEST_ID_REUSED", "this request registered another key before")
            db.execute(
                "DELETE FROM registration WHERE label = ? AND record IS NOT NULL AND request_id != ?",
                (row[1], request_id),
            )

    def approved(self, request_id: bytes, label: str) -> bytes | None:
        """The record that the request was approved for, if it was."""
        query = "SELECT record FROM registration WHERE request_id = ? AND label = ?"
        with self._lock:
            row = self._connection.execute(query, (request_id, label)).fetchone()
        return row[0] if row else None


def _check_rate(db: Connection, label: str, now_ms: int, codes_per_hour: int) -> None:
    query = "SELECT at_ms FROM sent WHERE label = ? AND at_ms > ? ORDER BY at_ms DESC"
    recent = db.execute(query, (label, now_ms - HOUR_MS)).fetchmany(codes_per_hour)
    if len(recent) == codes_per_hour:
        wait_s = (recent[-1][0] + HOUR_MS - now_ms) / 1000
        raise StoreError("CODE_RATE", f"{codes_per_hour} codes to this number in an hour", retry_after_s=wait_s)
