"""The vault's database: records, the nodes of the trie over them, and the log. `ipls.hsm` checks what it says."""

import fcntl
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ipls.session.errors import SessionRefused
from ipls.store.errors import StoreError
from ipls.store.sqlite import connect, transaction
from ipls.trust.limits import MAX_INT

_SCHEMA = """
CREATE TABLE IF NOT EXISTS records (key BLOB PRIMARY KEY, record BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS nodes (prefix BLOB PRIMARY KEY, body BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS log (
    sequence INTEGER PRIMARY KEY, entry BLOB NOT NULL, mac BLOB NOT NULL, key BLOB NOT NULL, use_number INTEGER
);
CREATE UNIQUE INDEX IF NOT EXISTS uses ON log (key, use_number) WHERE use_number IS NOT NULL;
"""


class LogRow(NamedTuple):
    """An encoded entry with its HMAC, and what it is found by."""

    sequence: int
    entry: bytes
    mac: bytes
    key: bytes  # the account's
    use_number: int | None  # in the account's history, if it adds to that


class Changes(NamedTuple):
    """Rows for the end of the log; records by key and nodes by prefix, in the place of what is there."""

    log: Sequence[LogRow]
    records: Mapping[bytes, bytes]
    nodes: Mapping[bytes, bytes]


class VaultStore:
    """The contract, of which the core is the only user and the only writer:

    - `append` and `append_all` are one transaction: all of it or nothing. What it has returned from survives a power
      loss. When it raises, all of it is there or nothing: only a read tells.
    - A log row is never changed or removed, and no two have one sequence: of two writers, one is refused.
    - One process has it open; a second waits, if it is to, until the first has closed it or died.
    - Calls come from one thread at a time. What is read has the types given here, else SessionRefused
      VAULT_DATABASE_EDITED; anything more is for the caller to verify.
    """

    def __init__(self, path: Path, *, wait: bool = True) -> None:
        """Raises StoreError VAULT_RUNNING, where it does not wait for another process."""
        self.lock = path.with_name(path.name + ".lock").open("w")
        """Who inherits it shares it: a second process waits for that one too."""
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            self.lock.close()
            raise StoreError("VAULT_RUNNING", f"a process has {path} open; end it first") from None
        self._connection = connect(path)
        self._connection.executescript(_SCHEMA)

    def close(self) -> None:
        self._connection.close()
        self.lock.close()

    def append(self, changes: Changes) -> None:
        """Adds to the log, and puts the records and nodes that it leads to."""
        self.append_all([changes])

    def append_all(self, steps: Iterable[Changes]) -> None:
        """As `append`, one after the other; to make a step the store may be read, and has all before it."""
        with transaction(self._connection) as c:
            for changes in steps:
                c.executemany("INSERT INTO log VALUES (?, ?, ?, ?, ?)", changes.log)
                c.executemany("INSERT OR REPLACE INTO records VALUES (?, ?)", changes.records.items())
                c.executemany("INSERT OR REPLACE INTO nodes VALUES (?, ?)", changes.nodes.items())

    def record(self, key: bytes) -> bytes | None:
        """The record of this key."""
        row = self._connection.execute("SELECT record FROM records WHERE key = ?", (key,)).fetchone()
        return _bytes(row[0]) if row else None

    def nodes(self, prefixes: Sequence[bytes]) -> dict[bytes, bytes]:
        """Prefix to body of the nodes at these prefixes, as far as there are any."""
        places = ", ".join("?" * len(prefixes))
        rows = self._connection.execute(f"SELECT prefix, body FROM nodes WHERE prefix IN ({places})", prefixes)  # noqa: S608  # question marks
        return {_bytes(prefix): _bytes(body) for prefix, body in rows}

    def last(self) -> LogRow | None:
        """The row of the highest sequence."""
        row = self._connection.execute("SELECT * FROM log ORDER BY sequence DESC LIMIT 1").fetchone()
        return _log_row(row) if row else None

    def log(self, first: int, count: int) -> list[LogRow]:
        """At most `count` rows from sequence `first` on, in their order."""
        rows = self._connection.execute(
            "SELECT * FROM log WHERE sequence >= ? ORDER BY sequence LIMIT ?", (first, count)
        )
        return [_log_row(row) for row in rows]

    def uses(self, key: bytes, first: int, count: int) -> list[LogRow]:
        """At most `count` rows of an account's history, from number `first` on, in their order."""
        rows = self._connection.execute(
            "SELECT * FROM log WHERE key = ? AND use_number >= ? ORDER BY use_number LIMIT ?",
            (key, min(first, MAX_INT), count),
        )
        return [_log_row(row) for row in rows]


def _log_row(row: tuple[Any, ...]) -> LogRow:
    sequence, entry, mac, key, use_number = row
    if not isinstance(use_number, int | None):
        raise _edited()
    return LogRow(sequence, _bytes(entry), _bytes(mac), _bytes(key), use_number)


def _bytes(value: object) -> bytes:
    """SQLite keeps anything in any column."""
    if not isinstance(value, bytes):
        raise _edited()
    return value


def _edited() -> SessionRefused:
    return SessionRefused("VAULT_DATABASE_EDITED", "a column of the vault's database has a value of another type")
