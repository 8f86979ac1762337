"""Registrations under way in a file of SQLite.

Tested by tests/store/registration/test_contract.py.
"""

from pathlib import Path

from ipls.store.engine.sqlite import Connection, Database, Schema
from ipls.store.registration.contract import (
    ATTEMPTS,
    CODE_LIFE_MS,
    KEPT_MS,
    CodeHash,
    RegistrationStore,
    judge_approval,
    judge_attempt,
    judge_begin,
    judge_rate,
)
from ipls.units import HOUR_MS

_STATEMENTS = """
CREATE TABLE IF NOT EXISTS registration(
    request_id BLOB PRIMARY KEY, label TEXT NOT NULL, salt BLOB NOT NULL, code_hash BLOB NOT NULL,
    expires_ms INTEGER NOT NULL, attempts_left INTEGER NOT NULL, record BLOB) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS registration_expires ON registration(expires_ms);
CREATE INDEX IF NOT EXISTS registration_approved ON registration(label) WHERE record IS NOT NULL;
CREATE TABLE IF NOT EXISTS sent(label TEXT NOT NULL, at_ms INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS sent_label ON sent(label, at_ms);
CREATE INDEX IF NOT EXISTS sent_at ON sent(at_ms);
ALTER TABLE sent ADD COLUMN peer TEXT NOT NULL DEFAULT '';
"""
SCHEMA = Schema("the registration service", _STATEMENTS, frozenset({"registration", "sent"}))


class SqliteRegistration(RegistrationStore):
    """One file; see `RegistrationStore`, here and for each method."""

    def __init__(self, path: Path) -> None:
        self._db = Database(path, SCHEMA)

    def close(self) -> None:
        self._db.close()

    def check_rate(self, label: str, peer: str, now_ms: int, *, codes_per_hour: int) -> None:
        with self._db.read() as db:
            judge_rate(_sent(db, label, now_ms), peer, now_ms, codes_per_hour)

    def begin(self, request_id: bytes, label: str, peer: str, now_ms: int, *, codes_per_hour: int) -> None:
        with self._db.write() as db:
            db.execute("DELETE FROM registration WHERE expires_ms < ?", (now_ms - KEPT_MS,))
            # Those that nobody finished: anyone can begin as many as there are numbers.
            db.execute("DELETE FROM registration WHERE expires_ms < ? AND record IS NULL", (now_ms - HOUR_MS,))
            db.execute("DELETE FROM sent WHERE at_ms <= ?", (now_ms - HOUR_MS,))
            judge_begin(_known(db, request_id), label)
            judge_rate(_sent(db, label, now_ms), peer, now_ms, codes_per_hour)
            db.execute("INSERT INTO sent(label, peer, at_ms) VALUES (?, ?, ?)", (label, peer, now_ms))

    def sent(self, request_id: bytes, label: str, code: CodeHash, now_ms: int) -> None:
        with self._db.write() as db:
            judge_begin(_known(db, request_id), label)
            db.execute(
                "INSERT OR REPLACE INTO registration VALUES (?, ?, ?, ?, ?, ?, NULL)",
                (request_id, label, *code, now_ms + CODE_LIFE_MS, ATTEMPTS),
            )

    def not_sent(self, label: str, peer: str, begun_ms: int) -> None:
        query = """DELETE FROM sent WHERE rowid IN (
                   SELECT rowid FROM sent WHERE label = ? AND peer = ? AND at_ms = ? LIMIT 1)"""
        with self._db.write() as db:
            db.execute(query, (label, peer, begun_ms))

    def attempt(self, request_id: bytes, label: str, now_ms: int) -> CodeHash:
        with self._db.write() as db:
            query = (
                "SELECT expires_ms, attempts_left, salt, code_hash FROM registration WHERE request_id = ? AND label = ?"
            )
            code = judge_attempt(db.execute(query, (request_id, label)).fetchone(), now_ms)
            db.execute("UPDATE registration SET attempts_left = attempts_left - 1 WHERE request_id = ?", (request_id,))
        return code

    def approve(self, request_id: bytes, record: bytes) -> None:
        with self._db.write() as db:
            db.execute(
                "UPDATE registration SET record = ? WHERE request_id = ? AND record IS NULL", (record, request_id)
            )
            row = db.execute("SELECT record, label FROM registration WHERE request_id = ?", (request_id,)).fetchone()
            db.execute(
                "DELETE FROM registration WHERE label = ? AND record IS NOT NULL AND request_id != ?",
                (judge_approval(row, record), request_id),
            )

    def approved(self, request_id: bytes, label: str) -> bytes | None:
        query = "SELECT record FROM registration WHERE request_id = ? AND label = ?"
        with self._db.read() as db:
            row = db.execute(query, (request_id, label)).fetchone()
        return row[0] if row else None


def _known(db: Connection, request_id: bytes) -> tuple[str, bytes | None] | None:
    query = "SELECT label, record FROM registration WHERE request_id = ?"
    row: tuple[str, bytes | None] | None = db.execute(query, (request_id,)).fetchone()
    return row


def _sent(db: Connection, label: str, now_ms: int) -> list[tuple[str, int]]:
    query = "SELECT peer, at_ms FROM sent WHERE label = ? AND at_ms > ? ORDER BY at_ms DESC"
    return db.execute(query, (label, now_ms - HOUR_MS)).fetchall()
