"""SQLite as every store here uses it: write-ahead log, a full sync on each commit, explicit transactions."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def connect(path: Path, *, page_size: int = 4096) -> sqlite3.Connection:
    """Open (or create, mode 0600) a database in autocommit mode; usable from any thread, one at a time.

    What a `transaction` has committed survives a power loss (journal_mode=WAL, synchronous=FULL). A writer waits up
    to 10 s for another process's transaction. `page_size` (bytes) counts only when the file is made.
    """
    path.touch(mode=0o600, exist_ok=True)
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=10)
    try:
        connection.execute(f"PRAGMA page_size={page_size:d}")
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")
    except BaseException:  # Ctrl-C too
        connection.close()
        raise
    return connection


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
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
