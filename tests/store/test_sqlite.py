"""What every store relies on: a transaction that fails leaves nothing behind, whatever it fails of."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from ipls.store.sqlite import connect, transaction


@pytest.fixture
def database(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    with closing(connect(tmp_path / "some.db")) as connection:
        connection.execute("CREATE TABLE parent(id INTEGER PRIMARY KEY, data BLOB)")
        connection.execute("CREATE TABLE child(id INTEGER REFERENCES parent(id) DEFERRABLE INITIALLY DEFERRED)")
        yield connection


def test_a_commit_is_on_the_disk_when_it_returns(database: sqlite3.Connection) -> None:
    assert database.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
    assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_commit_that_fails_is_undone_and_the_next_transaction_succeeds(database: sqlite3.Connection) -> None:
    with pytest.raises(sqlite3.IntegrityError), transaction(database) as db:
        db.execute("INSERT INTO child VALUES (1)")
    with transaction(database) as db:
        db.execute("INSERT INTO parent(id) VALUES (1)")
    assert database.execute("SELECT (SELECT count(*) FROM child), (SELECT count(*) FROM parent)").fetchone() == (0, 1)


def test_a_full_disk_is_raised_as_what_it_is(database: sqlite3.Connection) -> None:
    database.execute("PRAGMA max_page_count=20")
    rows = [(bytes(4000),)] * 50
    for _ in range(2):
        with pytest.raises(sqlite3.OperationalError, match="full"), transaction(database) as db:
            db.executemany("INSERT INTO parent(data) VALUES (?)", rows)
    assert database.execute("SELECT count(*) FROM parent").fetchone() == (0,)
