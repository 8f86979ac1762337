"""Signed calls in a file of SQLite, beside what else the store has in it.

Tested by tests/store/replay/test_contract.py.
"""

from typing import NamedTuple

from ipls.store.engine.sqlite import Connection, Database
from ipls.store.errors import StoreRefused, StoreUnavailable
from ipls.units import date

STATEMENTS = """
CREATE TABLE IF NOT EXISTS nonce (
    label TEXT NOT NULL, nonce BLOB NOT NULL, timestamp_ms INTEGER NOT NULL,
    PRIMARY KEY (label, nonce)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS nonce_time ON nonce (timestamp_ms);
CREATE TABLE IF NOT EXISTS clock (one INTEGER PRIMARY KEY CHECK (one = 1), floor_ms INTEGER NOT NULL);
INSERT OR IGNORE INTO clock VALUES (1, 0);
"""


class Call(NamedTuple):
    """What is known of a signed call, and what `ReplayGuard.admit` is to hold it to."""

    label: str
    nonce: bytes
    timestamp_ms: int
    now_ms: int
    window_ms: int
    max_calls: int


class Nonces:
    """`ReplayGuard` over a store's file and, for reads while its disk takes nothing, a database in memory; both have
    the STATEMENTS."""

    def __init__(self, file: Database, memory: Database) -> None:
        self._file = file
        self._memory = memory

    def admit(self, call: Call, *, reading: bool) -> None:
        """See `ReplayGuard`."""
        with self._memory.read() as memory:  # no other thread comes between
            _check(memory, call)
            try:
                with self._file.write() as file:
                    _check(file, call)
                    _take(file, call)
            except StoreUnavailable:
                if not reading:
                    raise
                with self._file.read() as file, self._memory.write():
                    _check(file, call)
                    _take(memory, call)


def _floor_ms(db: Connection, call: Call) -> int:
    """The newest time that was forgotten, or that is too old by the clock. A clock that was ahead leaves no more."""
    return max(int(db.execute("SELECT floor_ms FROM clock").fetchone()[0]), call.now_ms - call.window_ms)


def _check(db: Connection, call: Call) -> None:
    floor_ms = _floor_ms(db, call)
    if not floor_ms < call.timestamp_ms <= call.now_ms + call.window_ms:
        message = f"the call's time is more than two minutes from the service's clock, which says {date(call.now_ms)}"
        raise StoreRefused("CALL_STALE", f"{message}: set the clock that is wrong")
    count = "SELECT COUNT(*) FROM nonce WHERE label = ? AND timestamp_ms > ? AND timestamp_ms <= ?"
    if db.execute(count, (call.label, floor_ms, call.now_ms + call.window_ms)).fetchone()[0] >= call.max_calls:
        message = f"more than {call.max_calls} calls within the last minutes"
        raise StoreRefused("CALL_QUOTA", message, retry_after_s=call.window_ms / 1000)
    known = "SELECT 1 FROM nonce WHERE label = ? AND nonce = ? AND timestamp_ms > ?"
    if db.execute(known, (call.label, call.nonce, floor_ms)).fetchone():
        raise StoreRefused("CALL_REPLAYED", "this very call was made before")


def _take(db: Connection, call: Call) -> None:
    old_ms = call.now_ms - call.window_ms
    newest = "SELECT coalesce(max(timestamp_ms), 0) FROM nonce WHERE timestamp_ms <= ?"
    db.execute(f"UPDATE clock SET floor_ms = max(floor_ms, ({newest}))", (old_ms,))  # noqa: S608  # ours
    db.execute("DELETE FROM nonce WHERE timestamp_ms <= ?", (old_ms,))
    db.execute("INSERT INTO nonce VALUES (?, ?, ?)", (call.label, call.nonce, call.timestamp_ms))
