"""What every backend of the vault's store gives; tests/store/vault/test_contract.py holds each of them to it."""

import fcntl
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from io import TextIOWrapper
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from ipls.store import engine
from ipls.store.errors import StoreDamaged, StoreRefused


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


class DatabaseEdited(StoreDamaged):
    """A row is not as any vault writes one."""

    def __init__(self) -> None:
        super().__init__("VAULT_DATABASE_EDITED", "a column of the vault's database has a value of another type")


class Server(engine.Server, Protocol):
    """Where a vault's database is in a PostgreSQL server."""

    @property
    def lock(self) -> Path:
        """A file of this host, for this database alone."""
        ...


class VaultStore(Protocol):
    """The contract, of which the core is the only user and the only writer:

    - `append` and `append_all` are one transaction: all of it or nothing. What it has returned from survives a power
      loss. When it raises, all of it is there or nothing: only a read tells.
    - A log row is never changed or removed, but by `mend`; and no two have one sequence: of two writers, one is
      refused.
    - One process has it open; a second waits, if it is to, until the first has closed it or died.
    - Calls come from one thread at a time. What is read has the types given here, else DatabaseEdited;
      anything more is for the caller to verify.
    - Where the database does not do what it is asked, every method raises StoreUnavailable or StoreDamaged, and may be
      called again.
    """

    lock: TextIOWrapper
    """Who inherits it shares it: a second process of this host waits for that one too."""

    def close(self) -> None:
        """Another process may open it."""

    def append(self, changes: Changes) -> None:
        """Adds to the log, and puts the records and nodes that it leads to."""
        self.append_all([changes])

    def append_all(self, steps: Iterable[Changes]) -> None:
        """As `append`, one after the other; to make a step the store may be read, and has all before it."""

    def mend(self, sequence: int, row: LogRow) -> None:
        """Puts a row of the log in the place of the damaged one that lies at `sequence`. Raises StoreDamaged where
        another row has its sequence, or its number in the account's history."""

    def record(self, key: bytes) -> bytes | None:
        """The record of this key."""

    def next_key(self, key: bytes) -> bytes | None:
        """The lowest of the records' keys that are not below this one."""

    def nodes(self, prefixes: Sequence[bytes]) -> dict[bytes, bytes]:
        """Prefix to body of the nodes at these prefixes, as far as there are any."""
        ...

    def last(self) -> LogRow | None:
        """The row of the highest sequence."""

    def log(self, first: int, count: int) -> list[LogRow]:
        """At most `count` rows from sequence `first` on, in their order."""
        ...

    def newest(self, key: bytes) -> LogRow | None:
        """The row of the highest sequence of those with this key, which is looked for from the log's end on."""

    def uses(self, key: bytes, first: int, count: int) -> list[LogRow]:
        """At most `count` rows of an account's history, from number `first` on, in their order."""
        ...


LOCK_WAIT_S = 10.0
"""For a process of this host that was killed, and what it started, to end. One that still has the lock then runs."""
LOCK_POLL_S = 0.02


def take_lock(path: Path, *, wait: bool) -> TextIOWrapper:
    """Raises StoreRefused VAULT_RUNNING where another process of this host has it: at once, or after LOCK_WAIT_S."""
    lock = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "w")  # who can open it can keep the vault off
    end = time.monotonic() + (LOCK_WAIT_S if wait else 0)
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= end:
                lock.close()
                raise running() from None
            time.sleep(LOCK_POLL_S)
        else:
            return lock


def running() -> StoreRefused:
    """For who does not wait."""
    return StoreRefused("VAULT_RUNNING", "a process has the vault's database open; end it first")


def log_row(row: Sequence[Any]) -> LogRow:
    """As it was read, in the order of LogRow's fields. Raises DatabaseEdited."""
    sequence, entry, mac, key, use_number = row
    if not isinstance(sequence, int) or not isinstance(use_number, int | None):
        raise DatabaseEdited
    return LogRow(sequence, as_bytes(entry), as_bytes(mac), as_bytes(key), use_number)


def as_bytes(value: object) -> bytes:
    """SQLite keeps anything in any column, and any database's owner may change a column's type. Raises as `log_row`."""
    if not isinstance(value, bytes):
        raise DatabaseEdited
    return value
