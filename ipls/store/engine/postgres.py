"""PostgreSQL as every store here uses it: one connection, whose commits are kept by as many machines as the server's
settings say (docs/operations.md); in its schema nothing but what the role's statements make, and no other schema.

Other roles of the server may put code where ours would call it: triggers, rules, policies, defaults, functions and
operators that fit a call better than the built-in ones. So the path is pinned and the schema compared before any of it
is used, on each connection."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import psycopg
from psycopg import Connection, IsolationLevel, sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from ipls.store.errors import StoreDamaged, StoreUnavailable, altered

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
_CHECKING = "SET search_path = pg_catalog, pg_temp"
_LOCK = f"SELECT pg_catalog.pg_advisory_xact_lock({int.from_bytes(b'iplm')}, pg_catalog.hashtext(%s))"
_OBJECTS = """
WITH n AS (SELECT * FROM pg_namespace WHERE nspname = %s),
c AS (SELECT pg_class.* FROM pg_class JOIN n ON relnamespace = n.oid)
SELECT 'relation ' || relname, ROW(relkind, relrowsecurity, relforcerowsecurity, relpersistence = 'u',
    EXISTS (SELECT 1 FROM pg_roles r, n WHERE r.oid = relowner
        AND (r.oid = nspowner OR rolsuper OR pg_has_role(r.oid, 'USAGE'))))::text FROM c
UNION ALL SELECT 'column ' || relname || '.' || attname, ROW(rank() OVER (PARTITION BY c.oid ORDER BY attnum),
    format_type(atttypid, atttypmod), attnotnull, attidentity, attgenerated, attcollation,
    pg_get_expr(adbin, adrelid))::text FROM c JOIN pg_attribute ON attrelid = c.oid AND attnum > 0 AND NOT attisdropped
    LEFT JOIN pg_attrdef ON adrelid = c.oid AND adnum = attnum
UNION ALL SELECT 'index ' || relname,
    ROW(replace(replace(pg_get_indexdef(c.oid), quote_ident(nspname) || '.', ''), 'pg_temp.', ''), indisvalid)::text
    FROM n, c JOIN pg_index ON indexrelid = c.oid
UNION ALL SELECT 'constraint ' || conname, ROW(relname, pg_get_constraintdef(o.oid))::text FROM c
    JOIN pg_constraint o ON c.oid IN (conrelid, confrelid)
UNION ALL SELECT 'table that inherits from ' || relname, '' FROM c JOIN pg_inherits ON inhparent = c.oid
UNION ALL SELECT 'trigger ' || tgname, relname FROM c JOIN pg_trigger ON tgrelid = c.oid AND NOT tgisinternal
UNION ALL SELECT 'rule ' || rulename, relname FROM c JOIN pg_rewrite ON ev_class = c.oid
UNION ALL SELECT 'policy ' || polname, relname FROM c JOIN pg_policy ON polrelid = c.oid
UNION ALL SELECT 'function ' || proname, '' FROM pg_proc JOIN n ON pronamespace = n.oid
UNION ALL SELECT 'operator ' || oprname, '' FROM pg_operator JOIN n ON oprnamespace = n.oid
UNION ALL SELECT 'type ' || typname, typtype::text FROM pg_type JOIN n ON typnamespace = n.oid
"""
"""What a schema holds: a name, and all that decides which code runs, and whose. Storage parameters, statistics and
grants are the operator's. With pg_catalog alone in the path."""
_PASSING = (psycopg.OperationalError, psycopg.InterfaceError, psycopg.errors.ReadOnlySqlTransaction)
"""A server that is gone, busy, or a standby now; the rest is a database that is not as it must be."""


class Database:
    """One schema of a database, for the threads of this process, one at a time.

    Whatever fails, the connection is given up, and the next block makes another one. It first waits until all that the
    server has is where a commit must be: what an earlier connection did not hear of is read only then.
    """

    def __init__(
        self,
        conninfo: str,
        name: str,
        statements: str,
        on_connect: Callable[[Connection], None] = lambda connection: None,
    ) -> None:
        """Raises as `read`. `name` is told to the server; `statements` make what is to be there, those of an earlier
        version first, and may be run again over what that made; `on_connect` does what else each connection is to begin
        with, by qualified names, and may raise, to give it up."""
        chosen = {key: str(value) for key, value in conninfo_to_dict(conninfo).items()}
        self._conninfo = make_conninfo("", **{"application_name": name, **_DEFAULTS, **chosen})
        self._name = name
        self._statements = statements
        self._on_connect = on_connect
        self._lock = threading.RLock()
        self._warning: str | None = None
        self._connection: Connection | None = None
        with self.read():
            pass

    def close(self) -> None:
        """A later block would connect again."""
        with self._lock:
            connection, self._connection, self._warning = self._connection, None, None
            if connection is not None:
                with suppress(psycopg.Error):  # a lock goes now, and not when the server sees that nobody is there
                    connection.execute("SELECT pg_catalog.pg_advisory_unlock_all()")
                connection.close()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """In autocommit mode. What psycopg raises becomes StoreUnavailable or StoreDamaged; StoreDamaged
        DATABASE_ALTERED."""
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
            connection.add_notice_handler(self._on_notice)
            connection.execute(_SETTINGS)
            self._on_connect(connection)
            self._check_schema(connection)
            # A commit that waits for standbys waits for all that was written before it.
            connection.execute("SELECT pg_logical_emit_message(true, %s, '')", (self._name,))
            self._check_replicated()
        except BaseException:  # Ctrl-C too
            self.close()
            raise

    def _check_schema(self, connection: Connection) -> None:
        """Pins the path, makes what is to be there if nothing is, and compares. Raises StoreDamaged."""
        (schema,) = connection.execute("SELECT pg_catalog.current_schema()").fetchone() or (None,)
        if schema is None:
            raise StoreDamaged("DATABASE_UNREADABLE", "no schema of the search_path is there for this role")
        # pg_catalog comes first, named or not. Temporary tables would, unless they are named: behind a pooler they may
        # be another client's.
        pinned = sql.SQL("SET search_path = {}, pg_temp").format(sql.Identifier(schema))
        connection.execute(_CHECKING)
        connection.isolation_level = IsolationLevel.READ_COMMITTED  # after the lock it sees what another process made
        with connection.transaction(force_rollback=True):
            *earlier, made = _stages(connection, self._statements)
        with connection.transaction():
            connection.execute(_LOCK, (schema,))
            there = _objects(connection, schema)
            if there in earlier:
                connection.execute(pinned)
                connection.execute(self._statements)
                connection.execute(_CHECKING)
                there = _objects(connection, schema)
        if other := there ^ made:
            raise altered(f"schema {schema}", min(name for name, _ in other))
        connection.execute(pinned)
        connection.isolation_level = IsolationLevel.REPEATABLE_READ

    def _check_replicated(self) -> None:
        """That the last commit was not let off its wait, which shows in a warning alone."""
        if self._warning is not None:
            raise psycopg.OperationalError(self._warning)

    def _on_notice(self, notice: psycopg.errors.Diagnostic) -> None:
        if notice.severity_nonlocalized == "WARNING":
            self._warning = notice.message_primary or "a warning"


def _objects(connection: Connection, schema: str) -> frozenset[tuple[str, str]]:
    return frozenset(connection.execute(_OBJECTS, (schema,)))


def _stages(connection: Connection, statements: str) -> Iterator[frozenset[tuple[str, str]]]:
    """What is in an empty schema before and after each of them, up to the end of the transaction."""
    yield frozenset()
    for statement in statements.strip().split(";\n"):
        connection.execute("SET search_path = pg_temp")
        connection.execute(statement)
        connection.execute(_CHECKING)
        (scratch,) = connection.execute("SELECT nspname FROM pg_namespace WHERE oid = pg_my_temp_schema()")
        yield _objects(connection, *scratch)


def _message(error: psycopg.Error) -> str:
    """Its first line: the next ones may quote rows."""
    return error.diag.message_primary or next(iter(str(error).splitlines()), type(error).__name__)
