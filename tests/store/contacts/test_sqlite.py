"""The contact store's file."""

import sqlite3
from pathlib import Path

from ipls.store.contacts import open_contacts_store
from ipls.store.line import Quota


def test_the_database_is_the_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "contacts.db"
    store = open_contacts_store(path)
    store.lines.put("+491700000001", 1, [bytes(284)], None, quota=Quota(9, 9000), now_ms=1)
    assert {file.stat().st_mode & 0o777 for file in path.parent.iterdir()} == {0o600}
    assert sqlite3.connect(path).execute("PRAGMA journal_mode").fetchone() == ("wal",)
