"""Registrations under way in a PostgreSQL server, which the service's processes on any number of hosts share."""

from collections.abc import Iterator
from contextlib import contextmanager

from ipls.store.engine import Server
from ipls.store.engine.postgres import Connection, Database
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

_SCHEMA = """
CREATE TABLE IF NOT EXISTS registration (
    request_id bytea PRIMARY KEY, label text NOT NULL, salt bytea NOT NULL, code_hash bytea NOT NULL,
    expires_ms bigint NOT NULL, attempts_left integer NOT NULL, record bytea);
CREATE INDEX IF NOT EXISTS registration_expires ON registration (expires_ms);
CREATE INDEX IF NOT EXISTS registration_approved ON registration (label) WHERE record IS NOT NULL;
CREATE TABLE IF NOT EXISTS sent (label text NOT NULL, at_ms bigint NOT NULL);
CREATE INDEX IF NOT EXISTS sent_label ON sent (label, at_ms);
CREATE INDEX IF NOT EXISTS sent_at ON sent (at_ms);
ALTER TABLE sent ADD COLUMN IF NOT EXISTS peer text NOT NULL DEFAULT '';
"""


class PostgresRegistration(RegistrationStore):
    """One schema of a database; see `RegistrationStore`, here and for each method."""

    def __init__(self, server: Server) -> None:
        """See `open_registration_store`."""
        self._database = Database(server.postgres, "ipls registration", _SCHEMA)

    def close(self) -> None:
        self._database.close()

    @contextmanager
    def _write(self) -> Iterator[Connection]:
        """One writer at a time, as with a file; the lock comes first, so that what is read then is the newest."""
        with self._database.write() as c:
            c.execute("LOCK TABLE registration IN SHARE ROW EXCLUSIVE MODE")
            yield c

    def check_rate(self, label: str, peer: str, now_ms: int, *, codes_per_hour: int) -> None:
        with self._database.read() as c:
            judge_rate(_sent(c, label, now_ms), peer, now_ms, codes_per_hour)

    def begin(self, request_id: bytes, label: str, peer: str, now_ms: int, *, codes_per_hour: int) -> None:
        with self._write() as c:
            c.execute("DELETE FROM registration WHERE expires_ms < %s", (now_ms - KEPT_MS,))
            # Those that nobody finished: anyone can begin as many as there are numbers.
            c.execute("DELETE FROM registration WHERE expires_ms < %s AND record IS NULL", (now_ms - HOUR_MS,))
            c.execute("DELETE FROM sent WHERE at_ms <= %s", (now_ms - HOUR_MS,))
            judge_begin(_known(c, request_id), label)
            judge_rate(_sent(c, label, now_ms), peer, now_ms, codes_per_hour)
            c.execute("INSERT INTO sent (label, peer, at_ms) VALUES (%s, %s, %s)", (label, peer, now_ms))

    def sent(self, request_id: bytes, label: str, code: CodeHash, now_ms: int) -> None:
        with self._write() as c:
            judge_begin(_known(c, request_id), label)
            c.execute("DELETE FROM registration WHERE request_id = %s", (request_id,))
            c.execute(
                "INSERT INTO registration VALUES (%s, %s, %s, %s, %s, %s, NULL)",
                (request_id, label, *code, now_ms + CODE_LIFE_MS, ATTEMPTS),
            )

    def not_sent(self, label: str, peer: str, begun_ms: int) -> None:
        query = """DELETE FROM sent WHERE ctid IN (
                   SELECT ctid FROM sent WHERE label = %s AND peer = %s AND at_ms = %s LIMIT 1)"""
        with self._write() as c:
            c.execute(query, (label, peer, begun_ms))

    def attempt(self, request_id: bytes, label: str, now_ms: int) -> CodeHash:
        with self._write() as c:
            query = """SELECT expires_ms, attempts_left, salt, code_hash FROM registration
                       WHERE request_id = %s AND label = %s"""
            code = judge_attempt(c.execute(query, (request_id, label), binary=True).fetchone(), now_ms)
            c.execute("UPDATE registration SET attempts_left = attempts_left - 1 WHERE request_id = %s", (request_id,))
        return code

    def approve(self, request_id: bytes, record: bytes) -> None:
        with self._write() as c:
            c.execute(
                "UPDATE registration SET record = %s WHERE request_id = %s AND record IS NULL", (record, request_id)
            )
            query = "SELECT record, label FROM registration WHERE request_id = %s"
            row = c.execute(query, (request_id,), binary=True).fetchone()
            c.execute(
                "DELETE FROM registration WHERE label = %s AND record IS NOT NULL AND request_id != %s",
                (judge_approval(row, record), request_id),
            )

    def approved(self, request_id: bytes, label: str) -> bytes | None:
        query = "SELECT record FROM registration WHERE request_id = %s AND label = %s"
        with self._database.read() as c:
            row = c.execute(query, (request_id, label), binary=True).fetchone()
        return row[0] if row else None


def _known(c: Connection, request_id: bytes) -> tuple[str, bytes | None] | None:
    row: tuple[str, bytes | None] | None = c.execute(
        "SELECT label, record FROM registration WHERE request_id = %s", (request_id,)
    ).fetchone()
    return row


def _sent(c: Connection, label: str, now_ms: int) -> list[tuple[str, int]]:
    query = "SELECT peer, at_ms FROM sent WHERE label = %s AND at_ms > %s ORDER BY at_ms DESC"
    return c.execute(query, (label, now_ms - HOUR_MS)).fetchall()
