"""What every store relies on: a transaction that fails leaves nothing behind, and says what it failed of."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from ipls.store.engine import sqlite
from ipls.store.engine.sqlite import Database, Schema
from ipls.store.errors import StoreDamaged, StoreUnavailable

SCHEMA = Schema(
    "the vault",
    """
CREATE TABLE IF NOT EXISTS parent(id INTEGER PRIMARY KEY, data BLOB);
CREATE TABLE IF NOT EXISTS child(id INTEGER REFERENCES parent(id) DEFERRABLE INITIALLY DEFERRED);
""",
    frozenset({"parent", "child"}),
)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with closing(Database(tmp_path / "some.db", SCHEMA)) as database:
        yield database


def counts(database: Database) -> tuple[int, int]:
    with database.read() as db:
        (children, parents) = db.execute(
            "SELECT (SELECT count(*) FROM child), (SELECT count(*) FROM parent)"
        ).fetchone()
    return children, parents


def test_a_file_that_is_replaced_while_it_is_opened_is_not_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A restore puts another in its place: what is written to the old one would be lost."""
    for name in ("some.db", "other.db"):
        Database(tmp_path / name, SCHEMA).close()
    real = sqlite._is_marked

    def is_marked(*arguments: Any) -> bool:
        if (tmp_path / "other.db").exists():
            (tmp_path / "other.db").replace(tmp_path / "some.db")
        return real(*arguments)

    monkeypatch.setattr(sqlite, "_is_marked", is_marked)
    with pytest.raises(StoreUnavailable, match="replaced"):
        Database(tmp_path / "some.db", SCHEMA)
    Database(tmp_path / "some.db", SCHEMA).close()


def test_a_commit_is_on_the_disk_when_it_returns(database: Database) -> None:
    with database.read() as db:
        assert db.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
        assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_commit_that_fails_is_undone_and_the_next_transaction_succeeds(database: Database) -> None:
    with pytest.raises(StoreDamaged, match="FOREIGN KEY"), database.write() as db:
        db.execute("INSERT INTO child VALUES (1)")
    with database.write() as db:
        db.execute("INSERT INTO parent(id) VALUES (1)")
    assert counts(database) == (0, 1)


def test_a_full_disk_is_raised_as_what_it_is(database: Database) -> None:
    with database.read() as db:
        db.execute("PRAGMA max_page_count=20")
    rows = [(bytes(4000),)] * 50
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="full"), database.write() as db:
            db.executemany("INSERT INTO parent(data) VALUES (?)", rows)
    assert counts(database) == (0, 0)


def test_a_database_in_memory_ends_at_its_limit_and_goes_on_once_there_is_room() -> None:
    database = Database.in_memory(Schema("a witness", "CREATE TABLE kept (data BLOB);", frozenset()), max_pages=64)
    with database.write() as db:
        db.execute("INSERT INTO kept VALUES (zeroblob(100000))")
    with pytest.raises(StoreUnavailable), database.write() as db:
        db.execute("INSERT INTO kept VALUES (zeroblob(200000))")
    with database.write() as db:
        db.execute("DELETE FROM kept")
        db.execute("INSERT INTO kept VALUES (zeroblob(200000))")
    database.close()
