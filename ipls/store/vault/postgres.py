"""The vault's store in a PostgreSQL server, whose settings (docs/operations.md) say how many machines keep a write."""

from collections.abc import Iterable, Sequence

import psycopg

from ipls.store.engine.postgres import Connection, Database
from ipls.store.errors import StoreError
from ipls.store.vault.contract import Changes, LogRow, Server, VaultStore, as_bytes, log_row, running, take_lock
from ipls.trust.limits import MAX_INT

_SCHEMA = """
CREATE TABLE records (key bytea PRIMARY KEY, record bytea NOT NULL);
CREATE TABLE nodes (prefix bytea PRIMARY KEY, body bytea NOT NULL);
CREATE TABLE log (
    sequence bigint PRIMARY KEY, entry bytea NOT NULL, mac bytea NOT NULL, key bytea NOT NULL, use_number bigint
);
CREATE UNIQUE INDEX uses ON log (key, use_number) WHERE use_number IS NOT NULL;
"""
_LOG = "SELECT sequence, entry, mac, key, use_number FROM log"
_LOCK = f"({int.from_bytes(b'ipls')}, pg_catalog.hashtext(pg_catalog.current_schema()::pg_catalog.text))"
_TRY, _WAIT = f"SELECT pg_catalog.pg_try_advisory_lock{_LOCK}", f"SELECT pg_catalog.pg_advisory_lock{_LOCK}"


class PostgresVault(VaultStore):
    """One schema of a database. Two locks: the file keeps this host's processes apart, anchor services among them; the
    server's advisory lock keeps other hosts out, as long as the connection lasts."""

    def __init__(self, server: Server, *, wait: bool = True) -> None:
        """See `open_vault_store`."""
        self._lock_query = _WAIT if wait else _TRY
        self._taken: StoreError | psycopg.Error = running()
        self.lock = take_lock(server.lock, wait=wait)
        try:
            self._database = Database(server.postgres, "ipls vault", _SCHEMA, self._take_lock)
        except BaseException:  # Ctrl-C too
            self.lock.close()
            raise
        # From now on another host's is why a connection fails, and may pass.
        self._lock_query = _TRY
        self._taken = psycopg.OperationalError("another process has the database open")

    def close(self) -> None:
        """See `VaultStore`."""
        self._database.close()
        self.lock.close()

    def _take_lock(self, connection: Connection) -> None:
        if connection.execute(self._lock_query).fetchone() == (False,):
            raise self._taken

    def append_all(self, steps: Iterable[Changes]) -> None:
        """See `VaultStore`."""
        with self._database.write() as c, c.cursor() as cursor:
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

    def mend(self, sequence: int, row: LogRow) -> None:
        """See `VaultStore`."""
        with self._database.write() as c:
            c.execute(
                "UPDATE log SET sequence = %s, entry = %s, mac = %s, key = %s, use_number = %s WHERE sequence = %s",
                (*row, sequence),
            )

    def record(self, key: bytes) -> bytes | None:
        """See `VaultStore`."""
        with self._database.read() as c:
            row = c.execute("SELECT record FROM records WHERE key = %s", (key,), binary=True).fetchone()
            return as_bytes(row[0]) if row else None

    def next_key(self, key: bytes) -> bytes | None:
        """See `VaultStore`."""
        with self._database.read() as c:
            query = "SELECT key FROM records WHERE key >= %s ORDER BY key LIMIT 1"
            row = c.execute(query, (key,), binary=True).fetchone()
            return as_bytes(row[0]) if row else None

    def nodes(self, prefixes: Sequence[bytes]) -> dict[bytes, bytes]:
        """See `VaultStore`."""
        with self._database.read() as c:
            query = "SELECT prefix, body FROM nodes WHERE prefix = ANY(%s::bytea[])"
            rows = c.execute(query, (list(prefixes),), binary=True)
            return {as_bytes(prefix): as_bytes(body) for prefix, body in rows}

    def last(self) -> LogRow | None:
        """See `VaultStore`."""
        with self._database.read() as c:
            row = c.execute(f"{_LOG} ORDER BY sequence DESC LIMIT 1", binary=True).fetchone()
            return log_row(row) if row else None

    def log(self, first: int, count: int) -> list[LogRow]:
        """See `VaultStore`."""
        with self._database.read() as c:
            query = f"{_LOG} WHERE sequence >= %s ORDER BY sequence LIMIT %s"
            return [log_row(row) for row in c.execute(query, (first, count), binary=True)]

    def newest(self, key: bytes) -> LogRow | None:
        """See `VaultStore`."""
        with self._database.read() as c:
            query = f"{_LOG} WHERE key = %s ORDER BY sequence DESC LIMIT 1"
            row = c.execute(query, (key,), binary=True).fetchone()
            return log_row(row) if row else None

    def uses(self, key: bytes, first: int, count: int) -> list[LogRow]:
        """See `VaultStore`."""
        with self._database.read() as c:
            query = f"{_LOG} WHERE key = %s AND use_number >= %s ORDER BY use_number LIMIT %s"
            return [log_row(row) for row in c.execute(query, (key, min(first, MAX_INT), count), binary=True)]
