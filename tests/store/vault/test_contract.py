"""The contract of the vault's store, which every backend is held to."""

import pickle
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from ipls.store.errors import StoreError
from ipls.store.vault import Changes, DatabaseEdited, LogRow, contract, open_vault_store
from tests.store.postgres import PostgresDatabase
from tests.store.vault_databases import BACKENDS, FAILED, Database, new_database

KEY, OTHER = b"k" * 32, b"o" * 32


@pytest.fixture(params=BACKENDS)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    return new_database(request, tmp_path)


def row(sequence: int, key: bytes = KEY, use_number: int | None = None) -> LogRow:
    return LogRow(sequence, b"entry %d" % sequence, bytes(32), key, use_number)


def changes(*log: LogRow, record: bytes = b"") -> Changes:
    return Changes(log, {each.key: record for each in log}, {b"prefix": record})


def test_what_is_appended_is_kept(database: Database) -> None:
    with closing(database.open()) as store:
        assert (store.last(), store.log(0, 9), store.record(KEY), store.nodes([b"prefix"])) == (None, [], None, {})
        store.append(changes(row(1, use_number=1), row(2, OTHER), record=b"before"))
        store.append(changes(row(3, use_number=2), record=b"after"))
    with closing(database.open()) as store:
        assert store.last() == row(3, use_number=2)
        assert store.log(2, 9) == [row(2, OTHER), row(3, use_number=2)]
        assert store.log(1, 2) == [row(1, use_number=1), row(2, OTHER)]
        assert (store.record(KEY), store.record(OTHER), store.record(b"")) == (b"after", b"before", None)
        assert store.nodes([b"other", b"prefix"]) == {b"prefix": b"after"}
        assert store.nodes([]) == {}
        assert store.uses(KEY, 1, 9) == [row(1, use_number=1), row(3, use_number=2)]
        assert store.uses(KEY, 1, 1) == [row(1, use_number=1)]
        assert store.uses(KEY, 2**64 - 1, 9) == store.uses(OTHER, 0, 9) == []


def test_numbers_and_bytes_of_any_size_are_kept(database: Database) -> None:
    most = LogRow(2**63 - 1, bytes(range(256)) * 256, b"", b"\0", 2**63 - 1)
    with closing(database.open()) as store:
        store.append(Changes([most], {b"": b"\0'\\"}, {b"\xff": b""}))
        assert store.last() == most
        assert store.uses(b"\0", 2**63 - 1, 1) == store.log(2**63 - 1, 1) == [most]
        assert (store.record(b""), store.nodes([b"\xff", b"\xff\0"])) == (b"\0'\\", {b"\xff": b""})


def test_a_row_of_the_log_is_put_right_where_none_is_in_the_way(database: Database) -> None:
    with closing(database.open()) as store:
        store.append(changes(row(1, use_number=1), row(2, use_number=2), row(2**40, OTHER)))
        store.mend(2**40, row(3, OTHER))
        for taken in (row(2, OTHER), row(4, use_number=1)):
            with pytest.raises(FAILED):
                store.mend(3, taken)
        store.mend(9, row(9))
        assert store.log(1, 9) == [row(1, use_number=1), row(2, use_number=2), row(3, OTHER)]


def test_what_is_there_is_found(database: Database) -> None:
    with closing(database.open()) as store:
        assert (store.next_key(b""), store.newest(KEY)) == (None, None)
        store.append(changes(row(1, use_number=1), row(2, OTHER), row(3)))
        assert [store.next_key(key) for key in (b"", KEY, KEY + b"\0", OTHER, b"p")] == [KEY, KEY, OTHER, OTHER, None]
        assert (store.newest(KEY), store.newest(OTHER), store.newest(b"p")) == (row(3), row(2, OTHER), None)


@pytest.mark.parametrize("taken", [row(1), row(3, use_number=1)])
def test_what_collides_with_the_log_is_refused_whole(database: Database, taken: LogRow) -> None:
    with closing(database.open()) as store:
        store.append(changes(row(1, use_number=1), record=b"before"))
        with pytest.raises(FAILED):
            store.append(changes(row(2, OTHER), taken, record=b"after"))
        assert store.last() == row(1, use_number=1)
        assert (store.record(KEY), store.nodes([b"prefix"])) == (b"before", {b"prefix": b"before"})
        store.append(changes(row(2, OTHER)))


def test_many_steps_are_one_and_each_sees_those_before_it(database: Database) -> None:
    with closing(database.open()) as store:

        def steps(end: Exception | None) -> Iterator[Changes]:
            yield changes(row(1), record=b"first")
            assert store.record(KEY) == b"first"
            if end is not None:
                raise end
            yield changes(row(2), record=b"second")

        with pytest.raises(ZeroDivisionError):
            store.append_all(steps(ZeroDivisionError()))
        assert (store.last(), store.record(KEY)) == (None, None)
        store.append_all(steps(None))
        assert (store.last(), store.record(KEY)) == (row(2), b"second")


OPEN = """
import pickle, sys
from ipls.store.vault import open_vault_store
place = pickle.loads(bytes.fromhex(sys.argv[1]))
print("waiting", flush=True)
store = open_vault_store(place)
print("open", flush=True)
sys.stdin.read()
"""


def opening(database: Database) -> subprocess.Popen[bytes]:
    """Another process, which waits for the database and then has it open until it is killed."""
    command = [sys.executable, "-c", OPEN, pickle.dumps(database.place).hex()]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_second_process_waits_for_the_first_and_goes_on_after_its_death(database: Database, elsewhere: bool) -> None:
    store = database.open()
    with opening(database.elsewhere() if elsewhere else database) as second:
        assert second.stdout
        assert second.stdout.readline() == b"waiting\n"
        with pytest.raises(subprocess.TimeoutExpired):
            second.wait(0.2)
        store.close()
        assert second.stdout.readline() == b"open\n"
        second.kill()
    database.open().close()


def test_one_of_this_host_is_not_waited_for_without_end(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contract, "LOCK_WAIT_S", 0.1)
    with closing(database.open()), pytest.raises(StoreError) as refusal:
        database.open()
    assert refusal.value.reason == "VAULT_RUNNING"


@pytest.mark.parametrize("elsewhere", [False, True])
def test_who_does_not_wait_is_refused(database: Database, elsewhere: bool) -> None:
    other = database.elsewhere() if elsewhere else database
    with closing(database.open()) as store:
        store.append(changes(row(1)))
        for _ in range(2):
            with pytest.raises(StoreError) as refusal:
                other.open(wait=False)
            assert refusal.value.reason == "VAULT_RUNNING"
        store.append(changes(row(2)))
    other.open(wait=False).close()


@pytest.mark.parametrize(
    ("table", "column"), [("records", "record"), ("nodes", "body"), ("log", "entry"), ("log", "mac"), ("log", "key")]
)
@pytest.mark.parametrize("value", ["text", None, 5])
def test_values_of_another_type_are_refused(database: Database, table: str, column: str, value: object) -> None:
    with closing(database.open()) as store:  # at its opening other columns are refused
        store.append(changes(row(1, use_number=1)))
        if isinstance(database, PostgresDatabase):
            database.execute(f"ALTER TABLE {table} ALTER {column} DROP NOT NULL")
            kind = "int" if value == 5 else "text"
            database.execute(f"ALTER TABLE {table} ALTER {column} TYPE {kind} USING NULL")
        elif value is None:
            value = 0.5  # a column that is not to be null can't be
        assert database.execute(f"UPDATE {table} SET {column} = ?", value)
        reads = {"records": lambda: store.record(KEY), "nodes": lambda: store.nodes([b"prefix"]), "log": store.last}
        with pytest.raises(DatabaseEdited) as refusal:
            reads[table]()
    assert refusal.value.reason == "VAULT_DATABASE_EDITED"


@pytest.mark.parametrize("table", ["log", "records", "nodes"])
def test_a_table_that_is_gone_is_a_database_that_fails(database: Database, table: str) -> None:
    with closing(database.open()) as store:
        store.append(changes(row(1)))
        database.execute(f"DROP TABLE {table}")
        for _ in range(2):
            with pytest.raises(FAILED):
                (store.last(), store.record(KEY), store.nodes([b"prefix"]))


def test_files_are_for_their_owner_alone(tmp_path: Path) -> None:
    open_vault_store(tmp_path / "vault.db").close()
    assert (tmp_path / "vault.db").stat().st_mode & 0o077 == 0


def test_a_file_whose_schema_is_damaged_is_a_database_that_fails(tmp_path: Path) -> None:
    """SQLite says what is wrong in the file's own bytes."""
    path = tmp_path / "vault.db"
    open_vault_store(path).close()
    damaged = path.read_bytes().replace(b"CREATE TABLE records", b"CREATE TABL\xc5 records")
    path.write_bytes(damaged)
    for _ in range(2):
        with pytest.raises(FAILED):
            open_vault_store(path)
