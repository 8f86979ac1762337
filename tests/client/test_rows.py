"""Rows that are sealed: each is what was put, or unreadable, and no other row suffers for it."""

import itertools
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import pytest

from ipls.client.errors import ProfileError
from ipls.client.rows import Rows, Table, Unreadable, schema, single
from tests.faults.disks import nothing_is_written


class Link(NamedTuple):
    """One of each kind of field."""

    n: int
    name: str
    digest: bytes
    last: bool


class Title(NamedTuple):
    text: str


class Older(NamedTuple):
    n: int
    name: str


class Newer(NamedTuple):
    n: int
    name: str
    note: str = "none"


LINKS = Table("link", Link, "n")
OTHERS = Table("other", Link, "n")
TITLE = single(Title, "title")
SECOND = single(Title, "second")
TABLES = [TITLE, SECOND, LINKS, OTHERS]
KEY = bytes(range(32))


def link(n: int) -> Link:
    return Link(n, f"Łukasz {n}", bytes([n % 256]) * 32, n % 2 == 1)


@pytest.fixture
def db(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(tmp_path / "rows.db", isolation_level=None)) as connection:
        connection.executescript(schema(TABLES))
        yield connection


@pytest.fixture
def rows(db: sqlite3.Connection) -> Rows:
    return Rows(db, KEY, TABLES)


def test_a_row_is_as_it_was_put_and_keeps_its_place(rows: Rows) -> None:
    rows.put_many(LINKS, map(link, (3, 1, 2)))
    rows.put(LINKS, link(1)._replace(name=""), link(0))
    assert [*rows.iterate(LINKS)] == rows.all(LINKS) == [link(3), link(1)._replace(name=""), link(2), link(0)]
    assert (rows.get(LINKS, 2), rows.get(LINKS, 9), rows.count(LINKS)) == (link(2), None, 4)
    rows.delete(LINKS, [3, 2, 9])
    assert rows.all(LINKS) == [link(1)._replace(name=""), link(0)]
    assert rows.count(OTHERS) == 0


def test_there_is_one_of_a_single(rows: Rows) -> None:
    assert rows.only(TITLE) is None
    rows.put(TITLE, Title("first"))
    rows.put(TITLE, Title("last"))
    assert (rows.only(TITLE), rows.only(SECOND)) == (Title("last"), None)
    rows.delete(TITLE, [TITLE.key])
    assert rows.only(TITLE) is None


def test_what_fails_changes_nothing(rows: Rows) -> None:
    def failing() -> Iterator[Link]:
        yield link(1)
        raise InterruptedError

    with pytest.raises(InterruptedError):
        rows.put_many(LINKS, failing())
    with pytest.raises(InterruptedError), rows.transaction():
        rows.put_many(LINKS, itertools.chain([link(2)], failing()))
    assert (rows.all(LINKS), rows.only(TITLE)) == ([], None)


def test_a_full_disk_changes_nothing(rows: Rows) -> None:
    rows.put(LINKS, link(1))
    with nothing_is_written(), pytest.raises(sqlite3.OperationalError):
        rows.put_many(LINKS, map(link, range(1000)))
    assert rows.all(LINKS) == [link(1)]


def test_a_field_that_came_later_has_its_default_in_rows_of_before(db: sqlite3.Connection) -> None:
    older, newer = Table("link", Older, "n"), Table("link", Newer, "n")
    Rows(db, KEY, [older]).put(older, Older(1, "Ana"))
    assert Rows(db, KEY, [newer]).all(newer) == [Newer(1, "Ana", "none")]


def stored(db: sqlite3.Connection) -> bytes:
    """All that a file's reader sees of its rows."""
    return b"".join(
        bytes(value)
        for name in ("link", "single")
        for row in db.execute(f"SELECT key, sealed FROM {name}")
        for value in row
    )


def test_nothing_of_a_row_or_of_what_finds_it_is_in_the_file(
    rows: Rows, db: sqlite3.Connection, tmp_path: Path
) -> None:
    by_name = Table("link", Link, "name")
    rows.put(by_name, Link(5, "+4915112345678", b"a secret of 23 bytes...", False))
    rows.put(TITLE, Title("Doctor"))
    for data in (stored(db), (tmp_path / "rows.db").read_bytes()):
        for clear in (b"+49151", b"a secret", b"Doctor", b"title"):
            assert clear not in data
    same = [Rows(db, os.urandom(32), TABLES) for _ in range(2)]
    for other in same:  # the same key is another one in each profile
        other.put(by_name, Link(5, "+4915112345678", b"", False))
    assert rows.count(LINKS) == 3


DAMAGE = {
    "nonce": "UPDATE link SET sealed = flipped(sealed, 0) WHERE number = 2",
    "contents": "UPDATE link SET sealed = flipped(sealed, 20) WHERE number = 2",
    "tag": "UPDATE link SET sealed = flipped(sealed, length(sealed) - 1) WHERE number = 2",
    "cut": "UPDATE link SET sealed = substr(sealed, 1, length(sealed) - 1) WHERE number = 2",
    "cut to a nonce": "UPDATE link SET sealed = substr(sealed, 1, 12) WHERE number = 2",
    "empty": "UPDATE link SET sealed = x'' WHERE number = 2",
    "nothing": "UPDATE link SET sealed = NULL WHERE number = 2",
    "a number": "UPDATE link SET sealed = 7 WHERE number = 2",
    "text that is none": "UPDATE link SET sealed = CAST(x'ff00fe' AS TEXT) WHERE number = 2",
    "its key": "UPDATE link SET key = flipped(key, 3) WHERE number = 2",
    "no key": "UPDATE link SET key = NULL WHERE number = 2",
    "another row's contents": "UPDATE link SET sealed = (SELECT sealed FROM link WHERE number = 3) WHERE number = 2",
    "another table's": "UPDATE link SET (key, sealed) = (SELECT key, sealed FROM other WHERE number = 2)"
    " WHERE number = 2",
    "another profile's": "UPDATE link SET sealed = (SELECT sealed FROM foreign_link WHERE number = 2) WHERE number = 2",
    "another profile's, key and all": "UPDATE link SET (key, sealed) = (SELECT key, sealed FROM foreign_link"
    " WHERE number = 2) WHERE number = 2",
}


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


@pytest.fixture
def tampered(db: sqlite3.Connection, rows: Rows) -> sqlite3.Connection:
    """Who can write to the file, and has another profile of the same contents."""
    with closing(sqlite3.connect(":memory:")) as other:
        other.executescript(schema(TABLES))
        Rows(other, os.urandom(32), TABLES).put_many(LINKS, map(link, range(1, 5)))
        foreign = other.execute("SELECT * FROM link").fetchall()
    db.execute("CREATE TABLE foreign_link (number, key, sealed)")
    db.executemany("INSERT INTO foreign_link VALUES (?, ?, ?)", foreign)
    db.create_function("flipped", 2, flipped)
    for table in (LINKS, OTHERS):
        rows.put_many(table, map(link, range(1, 5)))
    return db


@pytest.mark.parametrize("what", DAMAGE)
def test_a_row_that_was_changed_cut_or_moved_is_unreadable_and_no_other_is(
    rows: Rows, tampered: sqlite3.Connection, what: str
) -> None:
    assert tampered.execute(DAMAGE[what]).rowcount == 1
    first, second, *others = rows.iterate(LINKS)
    assert isinstance(second, Unreadable)
    assert [first, *others] == [link(1), link(3), link(4)]
    assert not isinstance(rows.get(LINKS, 2), Link)
    assert rows.get(LINKS, 3) == link(3)
    with pytest.raises(ProfileError, check=lambda error: error.reason == "PROFILE_DAMAGED"):
        rows.all(LINKS)
    assert len(rows.all(OTHERS)) == 4
    rows.put(LINKS, link(2))  # as it is brought back
    assert rows.get(LINKS, 2) == link(2)


@pytest.mark.parametrize("column", ["key", "sealed"])
def test_a_single_that_is_damaged_is_not_taken_for_one_that_is_not_there(
    rows: Rows, tampered: sqlite3.Connection, column: str
) -> None:
    rows.put(TITLE, Title("only"))
    tampered.execute(f"UPDATE single SET {column} = flipped({column}, 3)")
    with pytest.raises(ProfileError, check=lambda error: error.reason == "PROFILE_DAMAGED"):
        rows.only(TITLE)


def test_a_key_fits_where_it_opens_anything(rows: Rows, tampered: sqlite3.Connection) -> None:
    tampered.execute("UPDATE link SET sealed = flipped(sealed, 20)")
    assert rows.fit
    assert not Rows(tampered, os.urandom(32), TABLES).fit


def test_two_rows_of_the_same_contents_are_not_the_same_in_the_file(rows: Rows, db: sqlite3.Connection) -> None:
    rows.put(LINKS, link(1))
    before = stored(db)
    rows.put(LINKS, link(1))
    assert stored(db) != before
