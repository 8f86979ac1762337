"""What the directory keeps of those who read it.

contract    what every backend gives          sqlite      a file
"""

from pathlib import Path

from ipls.store.readers.contract import ReadersStore
from ipls.store.readers.sqlite import SqliteReaders

__all__ = ["ReadersStore", "open_readers_store"]


def open_readers_store(database: Path) -> ReadersStore:
    """The database, a file of SQLite; made if it is not there. Raises StoreUnavailable, StoreDamaged."""
    return SqliteReaders(database)
