"""The directory's readers in a file of SQLite.

Tested by tests/store/readers/test_contract.py.
"""

import hmac
import secrets
from collections.abc import Collection
from pathlib import Path

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from ipls.store.engine.sqlite import Database, Schema
from ipls.store.errors import StoreRefused
from ipls.store.readers.contract import ReadersStore
from ipls.store.replay import sqlite as replay
from ipls.units import DAY_MS

_STATEMENTS = """
CREATE TABLE IF NOT EXISTS secret(one INTEGER PRIMARY KEY CHECK (one = 1), value BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS asked(
    reader BLOB NOT NULL, label BLOB NOT NULL, first_ms INTEGER NOT NULL, PRIMARY KEY(reader, label)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS asked_time ON asked(first_ms);
"""
_SCHEMA = Schema("the directory's readers", replay.STATEMENTS + _STATEMENTS, frozenset({"secret", "asked"}))


class SqliteReaders(ReadersStore):
    """One file; see `ReadersStore`, here and for each method."""

    def __init__(self, path: Path) -> None:
        self._db = Database(path, _SCHEMA)
        with self._db.read() as db:
            # A read must not wait for the disk; what a power loss takes back is a few labels of somebody's quota.
            db.execute("PRAGMA synchronous=NORMAL")
        with self._db.write() as db:
            db.execute("INSERT OR IGNORE INTO secret VALUES (1, ?)", (secrets.token_bytes(32),))
            (self._secret,) = db.execute("SELECT value FROM secret").fetchone()
        self._pseudonyms = self.derived_key("pseudonyms")

    def close(self) -> None:
        self._db.close()

    def derived_key(self, purpose: str) -> bytes:
        info = b"ipls/directory/v1 " + purpose.encode()
        return HKDF(SHA256(), 32, salt=None, info=info).derive(self._secret)

    def admit(
        self, label: str, nonce: bytes, timestamp_ms: int, *, now_ms: int, window_ms: int, max_calls: int
    ) -> None:
        name = self._pseudonym(label.encode()).hex()
        with self._db.write() as db:
            replay.admit(db, name, nonce, timestamp_ms, now_ms=now_ms, window_ms=window_ms, max_calls=max_calls)

    def count(self, reader: bytes, labels: Collection[bytes], now_ms: int, *, daily_labels: int) -> None:
        name = self._pseudonym(reader)
        wanted = {self._pseudonym(label) for label in labels}
        with self._db.read() as db:
            known = "SELECT 1 FROM asked WHERE reader = ? AND label = ? AND first_ms > ?"
            new = [label for label in wanted if not db.execute(known, (name, label, now_ms - DAY_MS)).fetchone()]
            if not new:
                return
            with self._db.write():
                db.execute("DELETE FROM asked WHERE first_ms <= ?", (now_ms - DAY_MS,))
                times = [ms for (ms,) in db.execute("SELECT first_ms FROM asked WHERE reader = ? ORDER BY 1", (name,))]
                over = len(times) + len(new) - daily_labels
                if over > 0:
                    free_ms = times[over - 1] + DAY_MS if over <= len(times) else now_ms + DAY_MS
                    raise StoreRefused(
                        "LABEL_QUOTA",
                        f"{daily_labels} different labels in a day",
                        retry_after_s=(free_ms - now_ms) / 1000,
                    )
                db.executemany("INSERT OR IGNORE INTO asked VALUES (?, ?, ?)", [(name, label, now_ms) for label in new])

    def _pseudonym(self, label: bytes) -> bytes:
        return hmac.digest(self._pseudonyms, label, "sha256")[:16]
