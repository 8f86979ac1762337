"""The directory's database, and the check of one (`ipls.store.directory.fsck`).

contract    what every backend gives          sqlite      a file
"""

from pathlib import Path

from ipls.store.directory.contract import (
    ChangeCounters,
    DirectoryStore,
    EpochRow,
    Leaf,
    Lease,
    PendingUpdate,
    PreparedEpoch,
    StoredHead,
)
from ipls.store.directory.sqlite import LeftOut, SqliteDirectory, left_out

__all__ = [
    "ChangeCounters",
    "DirectoryStore",
    "EpochRow",
    "Leaf",
    "Lease",
    "LeftOut",
    "PendingUpdate",
    "PreparedEpoch",
    "StoredHead",
    "left_out",
    "open_directory_store",
]


def open_directory_store(database: Path, namespace: str, vrf_public_key: bytes) -> DirectoryStore:
    """The database, a file of SQLite; made if it is not there.

    Raises StoreRefused DATABASE_FOREIGN if it belongs to another namespace or VRF key; StoreUnavailable, StoreDamaged.
    """
    return SqliteDirectory(database, namespace, vrf_public_key)
