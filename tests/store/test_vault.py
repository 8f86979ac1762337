"""The contract of the vault's store."""

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from ipls.session.errors import SessionRefused
from ipls.store.errors import DatabaseFailed, StoreError
from ipls.store.vault import Changes, LogRow, open_vault_store

KEY, OTHER = b"k" * 32, b"o" * 32


def row(sequence: int, key: bytes = KEY, use_number: int | None = None) -> LogRow:
    return LogRow(sequence, b"entry %d" % sequence, bytes(32), key, use_number)


def changes(*log: LogRow, record: bytes = b"") -> Changes:
    return Changes(log, {each.key: record for each in log}, {b"prefix": record})


def test_what_is_appended_is_kept(tmp_path: Path) -> None:
    with closing(open_vault_store(tmp_path / "vault.db")) as store:
        assert (store.last(), store.log(0, 9), store.record(KEY), store.nodes([b"prefix"])) == (None, [], None, {})
        store.append(changes(row(1, use_number=1), row(2, OTHER), record=b"before"))
        store.append(changes(row(3, use_number=2), record=b"after"))
    with closing(open_vault_store(tmp_path / "vault.db")) as store:
        assert store.last() == row(3, use_number=2)
        assert store.log(2, 9) == [row(2, OTHER), row(3, use_number=2)]
        assert store.log(1, 2) == [row(1, use_number=1), row(2, OTHER)]
        assert (store.record(KEY), store.record(OTHER), store.record(b"")) == (b"after", b"before", None)
        assert store.nodes([b"other", b"prefix"]) == {b"prefix": b"after"}
        assert store.uses(KEY, 1, 9) == [row(1, use_number=1), row(3, use_number=2)]
        assert store.uses(KEY, 1, 1) == [row(1, use_number=1)]
        assert store.uses(KEY, 2**64 - 1, 9) == store.uses(OTHER, 0, 9) == []


@pytest.mark.parametrize("taken", [row(1), row(3, use_number=1)])
def test_what_collides_with_the_log_is_refused_whole(tmp_path: Path, taken: LogRow) -> None:
    with closing(open_vault_store(tmp_path / "vault.db")) as store:
        store.append(changes(row(1, use_number=1), record=b"before"))
        with pytest.raises(DatabaseFailed):
            store.append(changes(row(2, OTHER), taken, record=b"after"))
        assert store.last() == row(1, use_number=1)
        assert (store.record(KEY), store.nodes([b"prefix"])) == (b"before", {b"prefix": b"before"})
        store.append(changes(row(2, OTHER)))


def test_many_steps_are_one_and_each_sees_those_before_it(tmp_path: Path) -> None:
    with closing(open_vault_store(tmp_path / "vault.db")) as store:

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
import sys
from pathlib import Path
from ipls.store.vault import open_vault_store
print("waiting", flush=True)
store = open_vault_store(Path(sys.argv[1]))
print("open")
"""


def test_a_second_process_waits_for_the_first(tmp_path: Path) -> None:
    store = open_vault_store(tmp_path / "vault.db")
    second = subprocess.Popen([sys.executable, "-c", OPEN, str(tmp_path / "vault.db")], stdout=subprocess.PIPE)
    try:
        assert second.stdout
        assert second.stdout.readline() == b"waiting\n"
        with pytest.raises(subprocess.TimeoutExpired):
            second.wait(0.2)
        store.close()
        assert second.stdout.read() == b"open\n"
    finally:
        second.kill()
        second.wait()


def test_who_does_not_wait_is_refused(tmp_path: Path) -> None:
    with closing(open_vault_store(tmp_path / "vault.db")), pytest.raises(StoreError) as refusal:
        open_vault_store(tmp_path / "vault.db", wait=False)
    assert refusal.value.reason == "VAULT_RUNNING"
    open_vault_store(tmp_path / "vault.db", wait=False).close()


def test_values_of_another_type_are_refused(tmp_path: Path) -> None:
    with closing(open_vault_store(tmp_path / "vault.db")) as store:
        store.append(changes(row(1, use_number=1)))
    for table, column in [("records", "record"), ("nodes", "body"), ("log", "entry"), ("log", "mac"), ("log", "key")]:
        with closing(sqlite3.connect(tmp_path / "vault.db")) as connection, connection:
            connection.execute(f"UPDATE {table} SET {column} = 'text'")
        with closing(open_vault_store(tmp_path / "vault.db")) as store, pytest.raises(SessionRefused) as refusal:
            {"records": lambda: store.record(KEY), "nodes": lambda: store.nodes([b"prefix"]), "log": store.last}[
                table
            ]()
        assert refusal.value.reason == "VAULT_DATABASE_EDITED"


def test_files_are_for_their_owner_alone(tmp_path: Path) -> None:
    open_vault_store(tmp_path / "vault.db").close()
    assert (tmp_path / "vault.db").stat().st_mode & 0o077 == 0
