"""PostgreSQL as every store here uses it: one connection, whose commits are kept by as many machines as the server's
settings say (docs/operations.md)."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import psycopg
from psycopg import Connection
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from ipls.store.errors import StoreDamaged, StoreUnavailable

__all__ = ["Connection", "Database"]

_DEFAULTS = {
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
a word the server lets the locks go."""
_PASSING = (psycopg.OperationalError, psycopg.InterfaceError, psycopg.errors.ReadOnlySqlTransaction)
"""A server that is gone, busy, or a standby now; the rest is a database that is not as it must be."""


class Database:
    """One schema of a database, for the threads of this process, one at a time.

    Whatever fails, the connection is given up, and the next block makes another one. It first waits until all that the
    server has is where a commit must be: what an earlier connection did not hear of is read only then.
    """

    def __init__(
        self, conninfo: str, name: str, on_connect: Callable[[Connection], None] = lambda connection: None
    ) -> None:
        """Connects at the first block. `name` is told to the server; `on_connect` does what else each connection is to
        begin with, and may raise, to give it up."""
        chosen = {key: str(value) for key, value in conninfo_to_dict(conninfo).items()}
        self._conninfo = make_conninfo("", **{"application_name": name, **_DEFAULTS, **chosen})
        self._name = name
        self._on_connect = on_connect
        self._lock = threading.RLock()
        self._warning: str | None = None
        self._connection: Connection | None = None

    def close(self) -> None:
        """A later block would connect again."""
        with self._lock:
            connection, self._connection, self._warning = self._connection, None, None
            if connection is not None:
                with suppress(psycopg.Error):  # a lock goes now, and not when the server sees that nobody is there
                    connection.execute("SELECT pg_advisory_unlock_all()")
                connection.close()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """In autocommit mode. What psycopg raises becomes StoreUnavailable or StoreDamaged."""
        with self._lock:
            try:
                if self._connection is None:
                    self._connect()
                assert self._connection
                yield self._connection
            except psycopg.Error as error:
                self.close()
                if isinstance(error, _PASSING):
                    raise StoreUnavailable(_message(error)) from error
                raise StoreDamaged("DATABASE_UNREADABLE", _message(error)) from error

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction: all of the block or none of it, and wherever a commit must be. Raises as `read`."""
        with self.read() as connection:
            with connection.transaction():
                yield connection
            self._check_replicated()

    def _connect(self) -> None:
        self._connection = connection = psycopg.connect(self._conninfo, autocommit=True)
        try:
            connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            connection.add_notice_handler(self._on_notice)
            connection.execute(_SETTINGS)
            self._on_connect(connection)
            # A commit that waits for standbys waits for all that was written before it.
            connection.execute("SELECT pg_logical_emit_message(true, %s, '')", (self._name,))
            self._check_replicated()
        except BaseException:  # Ctrl-C too
            self.close()
            raise

    def _check_replicated(self) -> None:
        """That the last commit was not let off its wait, which shows in a warning alone."""
        if self._warning is not None:
            raise psycopg.OperationalError(self._warning)

    def _on_notice(self, notice: psycopg.errors.Diagnostic) -> None:
        if notice.severity_nonlocalized == "WARNING":
            self._warning = notice.message_primary or "a warning"


def _message(error: psycopg.Error) -> str:
    """Its first line: the next ones may quote rows."""
    return error.diag.message_primary or next(iter(str(error).splitlines()), type(error).__name__)
