"""The directory's file, which itself keeps what was proposed and signed."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from ipls.store.directory import DirectoryStore, open_directory_store
from ipls.store.errors import StoreRefused
from tests.store.directory.test_contract import NAMESPACE, VRF_KEY, publish, start, step_of, submit, term


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "directory.db"


@pytest.fixture
def store(path: Path) -> Iterator[DirectoryStore]:
    with closing(open_directory_store(path, NAMESPACE, VRF_KEY)) as store:
        yield store


def test_the_file_is_private_and_has_the_measured_page_size(store: DirectoryStore, path: Path) -> None:
    assert path.stat().st_mode & 0o777 == 0o600
    assert sqlite3.connect(path).execute("PRAGMA page_size").fetchone() == (8192,)


def test_a_file_from_before_updates_had_turns_and_were_held_goes_on(store: DirectoryStore, path: Path) -> None:
    start(store)
    submit(store, 1)
    with closing(sqlite3.connect(path)) as old:
        old.executescript("DROP INDEX queue_turn")
        for column in ("turn", "held", "refused"):
            old.execute(f"ALTER TABLE queue DROP COLUMN {column}")
    with closing(open_directory_store(path, NAMESPACE, VRF_KEY)) as upgraded:
        submit(upgraded, 2)
        submit(upgraded, 3, label=b"+491700000009")
        assert [queued.seq for queued in upgraded.next_batch(9)] == [1, 3]


def test_a_floor_above_the_newest_head_ends_no_reads(store: DirectoryStore, path: Path) -> None:
    """As one of which a bit has flipped: `raise_floor` sets none."""
    start(store)
    submit(store, 1)
    publish(store)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("INSERT INTO setting VALUES ('floor', ?)", (1 << 40,))
    store.check_kept(1)
    with pytest.raises(StoreRefused, match="is pruned"):
        store.check_kept(0)


def test_an_epochs_row_is_not_changed_and_not_deleted(store: DirectoryStore, path: Path) -> None:
    start(store)
    submit(store, 1)
    store.insert_step(term(store), step_of(store, *store.next_batch(10)))
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        for statement in ("UPDATE step SET new_root = x'00'", "DELETE FROM step"):
            with pytest.raises(sqlite3.IntegrityError):
                other.execute(statement)


def test_of_a_finished_epochs_row_only_the_batch_may_change(store: DirectoryStore, path: Path) -> None:
    start(store)
    submit(store, 1)
    publish(store)
    submit(store, 2, value=b"next")
    store.insert_step(term(store), step_of(store, *store.next_batch(10)))
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        for change in ("epoch = 9", "old_root = x'00'", "new_root = x'00'", "blob = x''"):
            with pytest.raises(sqlite3.IntegrityError):
                other.execute(f"UPDATE step SET {change} WHERE epoch = 1")
        with pytest.raises(sqlite3.IntegrityError):
            other.execute("UPDATE step SET batch = x'' WHERE epoch = 2")
        other.execute("UPDATE step SET batch = x'' WHERE epoch = 1")
