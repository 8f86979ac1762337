"""The directory's readers in a file of SQLite.

Tested by tests/store/readers/test_contract.py.
"""

import hmac
import secrets
from collections.abc import Collection, Iterable
from pathlib import Path

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from ipls.store.engine.sqlite import Connection, Database, Schema
from ipls.store.errors import StoreRefused, StoreUnavailable
from ipls.store.readers.contract import ReadersStore
from ipls.store.replay import sqlite as replay
from ipls.units import DAY_MS

_STATEMENTS = """
CREATE TABLE IF NOT EXISTS secret(one INTEGER PRIMARY KEY CHECK (one = 1), value BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS asked(
    reader BLOB NOT NULL, label BLOB NOT NULL, first_ms INTEGER NOT NULL, PRIMARY KEY(reader, label)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS asked_time ON asked(first_ms);
"""
SCHEMA = Schema("the directory's readers", replay.STATEMENTS + _STATEMENTS, frozenset({"secret", "asked"}))


class SqliteReaders(ReadersStore):
    """One file; see `ReadersStore`, here and for each method."""

    def __init__(self, path: Path) -> None:
        self._db = Database(path, SCHEMA)
        with self._db.read() as db:
            # A read must not wait for the disk; what a power loss takes back is a few labels of somebody's quota.
            db.execute("PRAGMA synchronous=NORMAL")
        with self._db.write() as db:
            db.execute("INSERT OR IGNORE INTO secret VALUES (1, ?)", (secrets.token_bytes(32),))
            (self._secret,) = db.execute("SELECT value FROM secret").fetchone()
        self._pseudonyms = self.derived_key("pseudonyms")
        self._spare = Database.in_memory(SCHEMA)
        self._nonces = replay.Nonces(self._db, self._spare)

    def close(self) -> None:
        self._db.close()
        self._spare.close()

    def derived_key(self, purpose: str) -> bytes:
        info = b"ipls/directory/v1 " + purpose.encode()
        return HKDF(SHA256(), 32, salt=None, info=info).derive(self._secret)

    def admit(
        self, label: str, nonce: bytes, timestamp_ms: int, *, now_ms: int, window_ms: int, max_calls: int, reading: bool
    ) -> None:
        name = self._pseudonym(label.encode()).hex()
        self._nonces.admit(replay.Call(name, nonce, timestamp_ms, now_ms, window_ms, max_calls), reading=reading)

    def count(self, reader: bytes, labels: Collection[bytes], now_ms: int, *, daily_labels: int) -> None:
        name = self._pseudonym(reader)
        wanted = {self._pseudonym(label) for label in labels}
        with self._db.read() as file, self._spare.read() as spare:
            both = (file, spare)
            known = "SELECT 1 FROM asked WHERE reader = ? AND label = ? AND first_ms > ?"
            of_today = [(name, label, now_ms - DAY_MS) for label in wanted]
            new = [row[1] for row in of_today if not any(db.execute(known, row).fetchone() for db in both)]
            if not new:
                return
            try:
                with self._db.write():
                    _count(file, both, name, new, now_ms, daily_labels)
            except StoreUnavailable:
                with self._spare.write():
                    _count(spare, both, name, new, now_ms, daily_labels)

    def _pseudonym(self, label: bytes) -> bytes:
        return hmac.digest(self._pseudonyms, label, "sha256")[:16]


def _count(
    into: Connection, both: Iterable[Connection], name: bytes, new: Collection[bytes], now_ms: int, daily_labels: int
) -> None:
    into.execute("DELETE FROM asked WHERE first_ms <= ?", (now_ms - DAY_MS,))
    query = "SELECT first_ms FROM asked WHERE reader = ? AND first_ms > ?"
    times = sorted(ms for db in both for (ms,) in db.execute(query, (name, now_ms - DAY_MS)))
    over = len(times) + len(new) - daily_labels
    if over > 0:
        free_ms = times[over - 1] + DAY_MS if over <= len(times) else now_ms + DAY_MS
        raise StoreRefused(
            "LABEL_QUOTA", f"{daily_labels} different labels in a day", retry_after_s=(free_ms - now_ms) / 1000
        )
    into.executemany("INSERT OR IGNORE INTO asked VALUES (?, ?, ?)", [(name, label, now_ms) for label in new])
