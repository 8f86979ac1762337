"""Signed calls in a file of SQLite, beside what else the store has in it.

Tested by tests/store/replay/test_contract.py.
"""

from ipls.store.engine.sqlite import Connection
from ipls.store.errors import StoreRefused

STATEMENTS = """
CREATE TABLE IF NOT EXISTS nonce (
    label TEXT NOT NULL, nonce BLOB NOT NULL, timestamp_ms INTEGER NOT NULL,
    PRIMARY KEY (label, nonce)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS nonce_time ON nonce (timestamp_ms);
CREATE TABLE IF NOT EXISTS clock (one INTEGER PRIMARY KEY CHECK (one = 1), floor_ms INTEGER NOT NULL);
INSERT OR IGNORE INTO clock VALUES (1, 0);
"""


def admit(
    db: Connection,
    label: str,
    nonce: bytes,
    timestamp_ms: int,
    *,
    now_ms: int,
    window_ms: int,
    max_calls: int,
) -> None:
    """See `ReplayGuard`; in the caller's transaction."""
    floor_ms = max(db.execute("SELECT floor_ms FROM clock").fetchone()[0], now_ms - window_ms)
    if not floor_ms < timestamp_ms <= now_ms + window_ms:
        raise StoreRefused("CALL_STALE", "the call's time is more than two minutes from the service's clock")
    db.execute("UPDATE clock SET floor_ms = ?", (floor_ms,))
    db.execute("DELETE FROM nonce WHERE timestamp_ms <= ?", (floor_ms,))
    if db.execute("SELECT COUNT(*) FROM nonce WHERE label = ?", (label,)).fetchone()[0] >= max_calls:
        message = f"more than {max_calls} calls within the last minutes"
        raise StoreRefused("CALL_QUOTA", message, retry_after_s=window_ms / 1000)
    if not db.execute("INSERT OR IGNORE INTO nonce VALUES (?, ?, ?)", (label, nonce, timestamp_ms)).rowcount:
        raise StoreRefused("CALL_REPLAYED", "this very call was made before")
