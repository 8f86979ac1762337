"""What the contact store has of version 1: it takes no such writes any more."""

import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

from ipls.store.contacts import Manifest, RecordKey


def store_before(
    database: Path, label: str, records: Iterable[tuple[RecordKey, bytes]], manifest: Manifest | None = None
) -> None:
    """Into the file of a store that was opened once."""
    with closing(sqlite3.connect(database)) as db, db:
        db.executemany(
            "INSERT INTO record VALUES (?, ?, ?, ?, ?, ?)", ((label, *key, len(data), data) for key, data in records)
        )
        if manifest:
            db.execute("INSERT OR REPLACE INTO manifest VALUES (?, ?, ?, ?, ?)", (label, *manifest))
