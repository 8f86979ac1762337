"""What the directory keeps of those who read it: which signed calls were used, and who asked for how many labels.

A file beside the directory's database, for all of its processes. Guarantees:
- Counts and nonces survive the death of any process; a power loss may take back those of the last moments.
- No number lies in it: accounts and labels are pseudonyms under the file's own secret.
- It is bounded: a nonce is forgotten after minutes, a label that was asked for after a day.
- Lost, it is made anew: then all sessions end, and quotas begin again. The directory's data does not depend on it.
Methods block; each may be called from any thread.
"""

import hmac
import secrets
import threading
from collections.abc import Collection
from pathlib import Path

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from ipls.store import nonces
from ipls.store.errors import StoreError
from ipls.store.sqlite import connect, transaction
from ipls.units import DAY_MS

_SCHEMA = (
    nonces.SCHEMA
    + """
CREATE TABLE IF NOT EXISTS secret(one INTEGER PRIMARY KEY CHECK (one = 1), value BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS asked(
    reader BLOB NOT NULL, label BLOB NOT NULL, first_ms INTEGER NOT NULL, PRIMARY KEY(reader, label)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS asked_time ON asked(first_ms);
"""
)


class ReaderStore:
    """One directory's readers in one SQLite file."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self._db = connect(path)
        # A read must not wait for the disk; what a power loss takes back is a few labels of somebody's quota.
        self._db.execute("PRAGMA synchronous=NORMAL")
        self._db.executescript(_SCHEMA)
        with transaction(self._db) as db:
            db.execute("INSERT OR IGNORE INTO secret VALUES (1, ?)", (secrets.token_bytes(32),))
            (self._secret,) = db.execute("SELECT value FROM secret").fetchone()
        self._pseudonyms = self.derived_key("pseudonyms")

    def close(self) -> None:
        """Give the file back; the store is of no use afterwards."""
        with self._lock:
            self._db.close()

    def derived_key(self, purpose: str) -> bytes:
        """32 bytes, the same in every process over this file."""
        info = b"ipls/directory/v1 " + purpose.encode()
        return HKDF(SHA256(), 32, salt=None, info=info).derive(self._secret)

    def admit(
        self, label: bytes, nonce: bytes, timestamp_ms: int, *, now_ms: int, window_ms: int, max_calls: int
    ) -> None:
        """Take a signed call's nonce. Raises StoreError CALL_STALE, CALL_REPLAYED, CALL_QUOTA (see `nonces`)."""
        name = self._pseudonym(label).hex()
        with self._lock, transaction(self._db) as db:
            nonces.admit(db, name, nonce, timestamp_ms, now_ms=now_ms, window_ms=window_ms, max_calls=max_calls)

    def count(self, reader: bytes, labels: Collection[bytes], now_ms: int, *, daily_labels: int) -> None:
        """Count the labels that the account `reader` did not ask for within 24 hours; all of them or none.

        Raises StoreError LABEL_QUOTA if they would be over `daily_labels`, saying when they would not.
        """
        name = self._pseudonym(reader)
        wanted = {self._pseudonym(label) for label in labels}
        with self._lock:
            known = "SELECT 1 FROM asked WHERE reader = ? AND label = ? AND first_ms > ?"
            new = [label for label in wanted if not self._db.execute(known, (name, label, now_ms - DAY_MS)).fetchone()]
            if not new:
                return
            with transaction(self._db) as db:
                db.execute("DELETE FROM asked WHERE first_ms <= ?", (now_ms - DAY_MS,))
                times = [ms for (ms,) in db.execute("SELECT first_ms FROM asked WHERE reader = ? ORDER BY 1", (name,))]
                over = len(times) + len(new) - daily_labels
                if over > 0:
                    free_ms = times[over - 1] + DAY_MS if over <= len(times) else now_ms + DAY_MS
                    raise StoreError(
                        "LABEL_QUOTA",
                        f"{daily_labels} different labels in a day",
                        retry_after_s=(free_ms - now_ms) / 1000,
                    )
                db.executemany("INSERT OR IGNORE INTO asked VALUES (?, ?, ?)", [(name, label, now_ms) for label in new])

    def _pseudonym(self, label: bytes) -> bytes:
        return hmac.digest(self._pseudonyms, label, "sha256")[:16]
