"""SQLite as every store here uses it: a file that says whose it is, a write-ahead log, a full sync on each commit,
explicit transactions, and in its schema nothing but what the role's statements make.

A file is its writer's: triggers, views, generated columns and expressions of indices in it would run as this process
reads and writes its rows. So the schema is compared before any of it is used."""

import re
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path
from sqlite3 import Connection
from typing import Any, NamedTuple, Self

from ipls.store.errors import StoreDamaged, StoreUnavailable, altered

__all__ = [
    "Connection",
    "Database",
    "Schema",
    "alone",
    "copy",
    "defects",
    "make",
    "open_database",
    "open_read_only",
    "reindex",
    "settle",
    "temporary",
    "transaction",
    "translated",
]

_IDS = {
    role: int.from_bytes(code)
    for role, code in {
        "the directory": b"ipld",
        "a check of the directory": b"iplf",
        "the directory's readers": b"iplr",
        "a witness": b"iplw",
        "the vault": b"iplv",
        "the contact store": b"iplc",
        "the registration service": b"iplg",
        "a client's profile": b"iplp",
    }.items()
}
"""The `application_id` in a file's header, by whose it is. Never changed: files bear them."""


_Object = tuple[str, str, str, str | None]
"""Of a schema: what it is, its name, its table's name, and its SQL, which an index of a constraint has not."""


class Schema(NamedTuple):
    """Whose the file is, and what its statements make there; they may be run again. What earlier versions made is there
    on the way: what they did not make comes last, a column by ALTER TABLE, and what is no more is made and dropped. The
    tables `marks` have been there ever since; a file that was made before files said what they are is known by them."""

    role: str
    statements: str
    marks: frozenset[str]
    version: int = 1

    @property
    def identity(self) -> tuple[int, int]:
        """`application_id` and `user_version`."""
        return _IDS[self.role], self.version


def open_database(path: Path, schema: Schema, *, page_size: int = 4096, alone: bool = False) -> Connection:
    """Open (or create, mode 0600) a database in autocommit mode; usable from any thread, one at a time.

    What a `transaction` has committed survives a power loss (journal_mode=WAL, synchronous=FULL). A writer waits up
    to 10 s for another process's transaction. `page_size` (bytes) counts only when the file is made. `alone`:
    no other connection comes meanwhile, and what is there can be read on a full disk (otherwise SQLite needs room for
    the index of its log, which processes share).

    Raises StoreDamaged, and the file is as it was: DATABASE_UNREADABLE, DATABASE_OTHER_ROLE, DATABASE_NEWER,
    DATABASE_ALTERED; StoreUnavailable, also where another file was put in this one's place meanwhile; OSError.
    """
    path.touch(mode=0o600, exist_ok=True)
    opened = path.stat().st_ino
    with translated(path):
        connection = _connect(path, check_same_thread=False, timeout=10)
        try:
            if alone:
                connection.execute("PRAGMA locking_mode=EXCLUSIVE")
            marked = _is_marked(connection, path, schema)  # before anything in it changes, or is run
            connection.execute(f"PRAGMA page_size={page_size:d}")
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute("PRAGMA foreign_keys=ON")
            if not marked:
                with transaction(connection):
                    if not _is_marked(connection, path, schema):  # still: another process may have been first
                        make(connection, schema)
            if path.stat().st_ino != opened:  # whoever had it for himself (`alone`) put another one in its place
                raise StoreUnavailable(f"{path}: it was replaced while it was opened; start again")
        except BaseException:  # Ctrl-C too
            connection.close()
            raise
    return connection


def open_read_only(path: Path, schema: Schema) -> Connection:
    """Of a file that another process may write to meanwhile; nothing can be written. Raises as `open_database`."""
    with translated(path):
        connection = _connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
        try:
            _is_marked(connection, path, schema)
        except BaseException:  # Ctrl-C too
            connection.close()
            raise
    return connection


def temporary() -> Connection:
    """An empty database, on disk as far as it must be, that ends with its connection."""
    return _connect("")


def defects(path: Path, schema: Schema) -> list[str]:
    """What SQLite finds wrong in a file's pages and indexes, also while it is in use; at most 20 lines.

    What stands in the rows is for their store to judge. Raises as `open_database`, but what can't be read is a line.
    """
    try:
        with closing(open_read_only(path, schema)) as connection, translated(path):  # the check runs what is in it
            found = [line for (line,) in connection.execute("PRAGMA integrity_check(20)")]
    except StoreDamaged as damaged:
        if damaged.reason != "DATABASE_UNREADABLE":
            raise
        return [damaged.message]
    return [] if found == ["ok"] else found


def reindex(path: Path, schema: Schema) -> None:
    """Make the indexes again from the rows. Raises as `open_database`."""
    with closing(open_database(path, schema)) as connection, translated(path):
        connection.execute("REINDEX")


def copy(source: Path, target: Path) -> None:
    """A file of its own with what is in another now, which may be in use."""
    with translated(source), closing(_connect(source)) as there, closing(_connect(target)) as made:
        there.backup(made)


def settle(path: Path) -> None:
    """Bring all of a file that nobody has open into that one file, without a log beside it. Raises as `alone`."""
    with alone(path):
        pass


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """In the block nobody else reads or writes the file, all of which is in that one file, without a log beside it.

    Another may be put in its place: who opens it meanwhile is refused then. Raises StoreUnavailable where another
    connection has it open, StoreDamaged.
    """
    with translated(path):
        connection = _connect(path, timeout=0)
    with closing(connection):
        with translated(path):
            connection.execute("PRAGMA locking_mode=EXCLUSIVE")
            connection.execute("PRAGMA journal_mode=DELETE")
            connection.execute("BEGIN EXCLUSIVE")
        yield


def _connect(database: Path | str, **options: Any) -> Connection:
    connection: Connection = sqlite3.connect(database, isolation_level=None, **options)
    connection.execute("PRAGMA trusted_schema=OFF")
    connection.execute("PRAGMA cell_size_check=ON")
    return connection


def _is_marked(connection: Connection, path: Path, schema: Schema) -> bool:
    """Whether the file says that it is this schema's, and is; otherwise it is new or of an earlier version, and nothing
    is in it that is not made on the way to this one."""
    application_id, version = (connection.execute(f"PRAGMA {name}").fetchone()[0] for name in _HEADER)
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    if application_id == 0:
        if tables and not tables >= schema.marks:
            raise StoreDamaged("DATABASE_OTHER_ROLE", f"{path} is not the database of {schema.role}")
    elif application_id != schema.identity[0]:
        whose = next((role for role, known in _IDS.items() if known == application_id), "another program")
        raise StoreDamaged("DATABASE_OTHER_ROLE", f"{path} is the database of {whose}, not of {schema.role}")
    elif version > schema.version:
        raise StoreDamaged("DATABASE_NEWER", f"{path} was written by a later version of this software")
    there, stages = _objects(connection), _stages(schema.statements)
    other = there - frozenset().union(*stages)
    if application_id and not other and (there not in stages or not tables >= schema.marks):
        other = stages[-1] - there
    if other:
        raise altered(path, min(f"{kind} {name}" for kind, name, *_ in other))
    return (application_id, version) == schema.identity and there == stages[-1]


_HEADER = ("application_id", "user_version")


def _objects(connection: Connection) -> frozenset[_Object]:
    return frozenset(connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_schema"))


@cache
def _stages(statements: str) -> list[frozenset[_Object]]:
    """What is in an empty file after each of them."""
    with closing(temporary()) as empty:
        return [_objects(empty) for _ in _run(empty, statements)]


def _run(connection: Connection, statements: str) -> Iterator[None]:
    statement = ""
    for line in statements.splitlines(keepends=True):  # executescript would end the transaction
        statement += line
        if sqlite3.complete_statement(statement):
            column = _COLUMN.match(statement)
            if not (column and connection.execute(_HAS_COLUMN, column.groups()).fetchone()):
                connection.execute(statement)
            yield
            statement = ""


_COLUMN = re.compile(r"ALTER TABLE (\w+) ADD COLUMN (\w+)")
_HAS_COLUMN = "SELECT 1 FROM pragma_table_info(?) WHERE name = ?"


def make(connection: Connection, schema: Schema) -> None:
    """Make what the schema has in a file that lacks it, and have the file say whose it is; within a `transaction`."""
    for _ in _run(connection, schema.statements):
        pass
    for name, value in zip(_HEADER, schema.identity, strict=True):
        connection.execute(f"PRAGMA {name}={value:d}")


@contextmanager
def transaction(connection: Connection) -> Iterator[Connection]:
    """All of the block or none of it; the write lock is taken at once, so a later read sees no other writer.

    Whatever fails, the block or the commit, is raised as it is, and the connection is good for the next transaction.
    """
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield connection
        connection.execute("COMMIT")
    except BaseException:  # Ctrl-C too
        if connection.in_transaction:  # a full disk has ended it already
            connection.execute("ROLLBACK")
        raise


@contextmanager
def translated(where: object) -> Iterator[None]:
    """Turns what SQLite raises into StoreUnavailable and StoreDamaged, whose message begins with `where`."""
    try:
        yield
    except sqlite3.OperationalError as error:
        raise StoreUnavailable(f"{where}: {error}") from error
    except (sqlite3.Error, UnicodeDecodeError) as error:  # its message may quote a damaged file
        raise StoreDamaged("DATABASE_UNREADABLE", f"{where}: {error}") from error


class Database:
    """A role's file, for the threads of this process, one at a time. What a block raises of SQLite's is translated."""

    def __init__(self, path: Path, schema: Schema, *, page_size: int = 4096) -> None:
        """Raises as `open_database`."""
        self._path: object = path
        self._lock = threading.RLock()
        self._connection = open_database(path, schema, page_size=page_size)

    @classmethod
    def in_memory(cls, schema: Schema, *, max_pages: int = 4096) -> Self:
        """An empty one without a file, of at most so many pages of 4 KiB; then it is full as a disk is."""
        made = cls.__new__(cls)
        made._path, made._lock = "in memory", threading.RLock()
        made._connection = _connect(":memory:", check_same_thread=False)
        made._connection.execute(f"PRAGMA max_page_count={max_pages:d}")
        make(made._connection, schema)
        return made

    def close(self) -> None:
        """Give the file back."""
        with self._lock:
            self._connection.close()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A block that no other thread's comes between; a `write` may be in it."""
        with self._lock, translated(self._path):
            yield self._connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction: see `transaction`."""
        with self._lock, translated(self._path), transaction(self._connection) as connection:
            yield connection
