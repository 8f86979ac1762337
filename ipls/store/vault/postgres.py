"""The vault's store in a PostgreSQL server, whose settings (docs/operations.md) say how many machines keep a write."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from ipls.store.errors import DatabaseFailed
from ipls.store.vault.contract import Changes, LogRow, Server, VaultStore, as_bytes, log_row, running, take_lock
from ipls.trust.limits import MAX_INT

_DEFAULTS = {
    "application_name": "ipls vault",
    "connect_timeout": "10",  # s
    "target_session_attrs": "read-write",  # of several hosts the one that is no standby
    # A server that is gone without a word is noticed within 25 s.
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "25000",
}
"""Where the connection string says nothing else."""
_SETTINGS = """
SET synchronous_commit = on;
SET statement_timeout = 0; SET lock_timeout = 0; SET idle_session_timeout = 0;
SET idle_in_transaction_session_timeout = 0;
SET tcp_keepalives_idle = 10; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3;
SET tcp_user_timeout = 25000;
"""
"""A timeout would end the wait for standbys, and the commit then *succeeds*. Keepalives: of a host that is gone without
a word the server lets the lock go."""
_SCHEMA = """
CREATE TABLE records (key bytea PRIMARY KEY, record bytea NOT NULL);
CREATE TABLE nodes (prefix bytea PRIMARY KEY, body bytea NOT NULL);
CREATE TABLE log (
    sequence bigint PRIMARY KEY, entry bytea NOT NULL, mac bytea NOT NULL, key bytea NOT NULL, use_number bigint
);
CREATE UNIQUE INDEX uses ON log (key, use_number) WHERE use_number IS NOT NULL;
"""
_LOG = "SELECT sequence, entry, mac, key, use_number FROM log"
_LOCK = f"({int.from_bytes(b'ipls')}, hashtext(current_schema()))"
_TRY, _WAIT = f"SELECT pg_try_advisory_lock{_LOCK}", f"SELECT pg_advisory_lock{_LOCK}"


class PostgresVault(VaultStore):
    """One schema of a database. Two locks: the file keeps this host's processes apart, notaries among them; the
    server's advisory lock keeps other hosts out, as long as the connection lasts.

    Whatever fails, the connection is given up, and the next call makes another one. It first waits until all that the
    server has is where a commit must be: what an earlier connection did not hear of is read only then.
    """

    def __init__(self, server: Server, *, wait: bool = True) -> None:
        """See `open_vault_store`."""
        chosen = {name: str(value) for name, value in conninfo_to_dict(server.postgres).items()}
        self._conninfo = make_conninfo("", **_DEFAULTS | chosen)
        self._warning: str | None = None
        self._connection: psycopg.Connection | None = None
        self.lock = take_lock(server.lock, wait=wait)
        try:
            with self._connected(wait=wait, opening=True) as c:
                if c.execute("SELECT 1 WHERE to_regclass('log') IS NULL").fetchone():
                    c.execute(_SCHEMA)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """See `VaultStore`."""
        self._give_up()
        self.lock.close()

    def append_all(self, steps: Iterable[Changes]) -> None:
        """See `VaultStore`."""
        with self._connected() as c:
            with c.transaction(), c.cursor() as cursor:
                for changes in steps:
                    cursor.executemany(
                        "INSERT INTO log (sequence, entry, mac, key, use_number) VALUES (%s, %s, %s, %s, %s)",
                        changes.log,
                    )
                    cursor.executemany(
                        "INSERT INTO records (key, record) VALUES (%s, %s)"
                        " ON CONFLICT (key) DO UPDATE SET record = excluded.record",
                        changes.records.items(),
                    )
                    cursor.executemany(
                        "INSERT INTO nodes (prefix, body) VALUES (%s, %s)"
                        " ON CONFLICT (prefix) DO UPDATE SET body = excluded.body",
                        changes.nodes.items(),
                    )
            self._check_replicated()

    def record(self, key: bytes) -> bytes | None:
        """See `VaultStore`."""
        with self._connected() as c:
            row = c.execute("SELECT record FROM records WHERE key = %s", (key,), binary=True).fetchone()
            return as_bytes(row[0]) if row else None

    def nodes(self, prefixes: Sequence[bytes]) -> dict[bytes, bytes]:
        """See `VaultStore`."""
        with self._connected() as c:
            query = "SELECT prefix, body FROM nodes WHERE prefix = ANY(%s::bytea[])"
            rows = c.execute(query, (list(prefixes),), binary=True)
            return {as_bytes(prefix): as_bytes(body) for prefix, body in rows}

    def last(self) -> LogRow | None:
        """See `VaultStore`."""
        with self._connected() as c:
            row = c.execute(f"{_LOG} ORDER BY sequence DESC LIMIT 1", binary=True).fetchone()
            return log_row(row) if row else None

    def log(self, first: int, count: int) -> list[LogRow]:
        """See `VaultStore`."""
        with self._connected() as c:
            query = f"{_LOG} WHERE sequence >= %s ORDER BY sequence LIMIT %s"
            return [log_row(row) for row in c.execute(query, (first, count), binary=True)]

    def uses(self, key: bytes, first: int, count: int) -> list[LogRow]:
        """See `VaultStore`."""
        with self._connected() as c:
            query = f"{_LOG} WHERE key = %s AND use_number >= %s ORDER BY use_number LIMIT %s"
            return [log_row(row) for row in c.execute(query, (key, min(first, MAX_INT), count), binary=True)]

    @contextmanager
    def _connected(self, *, wait: bool = False, opening: bool = False) -> Iterator[psycopg.Connection]:
        try:
            if self._connection is None:
                self._connect(wait=wait, opening=opening)
            assert self._connection
            yield self._connection
        except psycopg.Error as error:
            self._give_up()
            raise DatabaseFailed(_message(error)) from error

    def _connect(self, *, wait: bool, opening: bool) -> None:
        self._connection = c = psycopg.connect(self._conninfo, autocommit=True)
        c.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        c.add_notice_handler(self._on_notice)
        c.execute(_SETTINGS)
        taken = c.execute(_WAIT if wait else _TRY).fetchone()
        if not wait and taken != (True,):
            self._give_up()
            raise running() if opening else psycopg.OperationalError("another process has the database open")
        # A commit that waits for standbys waits for all that was written before it.
        c.execute("SELECT pg_logical_emit_message(true, 'ipls vault', '')")
        self._check_replicated()

    def _check_replicated(self) -> None:
        """That the last commit was not let off its wait, which shows in a warning alone."""
        if self._warning is not None:
            raise psycopg.OperationalError(self._warning)

    def _on_notice(self, notice: psycopg.errors.Diagnostic) -> None:
        if notice.severity_nonlocalized == "WARNING":
            self._warning = notice.message_primary or "a warning"

    def _give_up(self) -> None:
        connection, self._connection, self._warning = self._connection, None, None
        if connection is not None:
            with suppress(psycopg.Error):  # the lock goes now, and not when the server sees that the connection is gone
                connection.execute("SELECT pg_advisory_unlock_all()")
            connection.close()


def _message(error: psycopg.Error) -> str:
    """Its first line: the next ones may quote rows."""
    return error.diag.message_primary or next(iter(str(error).splitlines()), type(error).__name__)
