"""Registrations under way.

contract    what every backend gives          sqlite      a file
                                              postgres    a server (loaded where it is used: it is slow to load)
"""

from pathlib import Path

from ipls.store.engine import Server
from ipls.store.registration.contract import (
    ATTEMPTS,
    CODE_LIFE_MS,
    KEPT_MS,
    PEERS,
    REPEATING_PEERS,
    CodeHash,
    RegistrationStore,
)
from ipls.store.registration.sqlite import SqliteRegistration

__all__ = [
    "ATTEMPTS",
    "CODE_LIFE_MS",
    "KEPT_MS",
    "PEERS",
    "REPEATING_PEERS",
    "CodeHash",
    "RegistrationStore",
    "open_registration_store",
]


def open_registration_store(database: Path | Server) -> RegistrationStore:
    """The database: a file of SQLite, or one of a PostgreSQL server; its tables are made if they are not there.

    Raises StoreUnavailable, StoreDamaged.
    """
    if isinstance(database, Path):
        return SqliteRegistration(database)
    from ipls.store.registration.postgres import PostgresRegistration

    return PostgresRegistration(database)
