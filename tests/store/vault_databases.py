"""The backends of the vault's store, as their host has them in hand."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol, Self

import psycopg
import pytest

from ipls.store.errors import StoreDamaged, StoreUnavailable
from ipls.store.vault import Server, VaultStore, open_vault_store

BACKENDS = ["sqlite", "postgres"]
FAILED = (StoreUnavailable, StoreDamaged)
"""What a call raises for a database that does not do what it is asked."""
COLLISION = (sqlite3.IntegrityError, psycopg.IntegrityError)
"""What an edit raises that another row is in the way of."""


class Database(Protocol):
    """One vault's. Statements have question marks for their values."""

    @property
    def place(self) -> Path | Server: ...

    def open(self, *, wait: bool = True) -> VaultStore: ...

    def execute(self, statement: str, *values: object) -> int:
        """The number of rows that it changed."""

    def rows(self, query: str, *values: object) -> list[Any]: ...

    def copy(self) -> Self:
        """What is there now, elsewhere."""

    def put_back(self, backup: Self) -> None:
        """A copy in the place of what is there, by the database's own means, under a vault that runs."""

    def elsewhere(self) -> Self:
        """The same, as another who has it sees it: on the same host, unless it can be had on two."""


class SqliteDatabase:
    """A file."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self._copies = 0

    def open(self, *, wait: bool = True) -> VaultStore:
        return open_vault_store(self.place, wait=wait)

    def execute(self, statement: str, *values: object) -> int:
        with closing(sqlite3.connect(self.place)) as connection, connection:
            return connection.execute(statement, values).rowcount

    def rows(self, query: str, *values: object) -> list[Any]:
        with closing(sqlite3.connect(self.place)) as connection:
            return connection.execute(query, values).fetchall()

    def copy(self) -> "SqliteDatabase":
        self._copies += 1
        copy = SqliteDatabase(self.place.with_name(f"{self.place.stem}.{self._copies}.db"))
        copy.put_back(self)
        return copy

    def put_back(self, backup: "SqliteDatabase") -> None:
        with closing(sqlite3.connect(backup.place)) as old, closing(sqlite3.connect(self.place)) as live:
            old.backup(live)

    def elsewhere(self) -> "SqliteDatabase":
        return self


def new_database(request: pytest.FixtureRequest, folder: Path) -> Database:
    """Of the backend that the fixture's parameter names."""
    if request.param == "sqlite":
        return SqliteDatabase(folder / "vault.db")
    database: Database = request.getfixturevalue("postgres").new()
    return database
