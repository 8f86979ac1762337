"""The contact store's file."""

import sqlite3
from pathlib import Path

from ipls.store.contacts import open_contacts_store
from tests.store.contacts.test_contract import put, record


def test_the_database_is_the_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "contacts.db"
    store = open_contacts_store(path)
    put(store, record(1))
    assert {file.stat().st_mode & 0o777 for file in path.parent.iterdir()} == {0o600}
    assert sqlite3.connect(path).execute("PRAGMA journal_mode").fetchone() == ("wal",)
