"""Where a store may lie, of each kind of database, and the way to it behind the store's back."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol

import pytest

from ipls.config import PostgresConfig
from tests.store.postgres import PostgresServer


class Place(Protocol):
    """One store's, empty at first. Statements have question marks for their values."""

    @property
    def location(self) -> Any:
        """What the store is opened by, also in another process: it can be pickled."""

    def rows(self, query: str, *values: object) -> list[Any]: ...

    def change(self, statement: str) -> None: ...

    def tables(self) -> dict[str, list[Any]]:
        """All that is there."""


class File:
    """Of SQLite."""

    def __init__(self, path: Path) -> None:
        self.location = path

    def rows(self, query: str, *values: object) -> list[Any]:
        with closing(sqlite3.connect(self.location)) as db:
            return db.execute(query, values).fetchall()

    def change(self, statement: str) -> None:
        with closing(sqlite3.connect(self.location, isolation_level=None)) as db:
            db.execute(statement)

    def tables(self) -> dict[str, list[Any]]:
        names = self.rows("SELECT name FROM sqlite_schema WHERE type = 'table'")
        return {name: sorted(map(repr, self.rows(f"SELECT * FROM {name}"))) for (name,) in names}


class Schema:
    """Of a PostgreSQL server's database."""

    def __init__(self, server: PostgresServer) -> None:
        self._database = server.new()
        self.location = PostgresConfig(postgres=self._database.place.postgres)

    def rows(self, query: str, *values: object) -> list[Any]:
        return self._database.rows(query, *values)

    def change(self, statement: str) -> None:
        self._database.execute(statement)

    def tables(self) -> dict[str, list[Any]]:
        names = self.rows("SELECT tablename FROM pg_tables WHERE schemaname = current_schema()")
        return {name: sorted(map(repr, self.rows(f"SELECT * FROM {name}"))) for (name,) in names}


def new_place(kind: str, request: pytest.FixtureRequest, folder: Path) -> Place:
    """For a store of this backend, `sqlite` or `postgres`."""
    return File(folder / "store.db") if kind == "sqlite" else Schema(request.getfixturevalue("postgres"))
