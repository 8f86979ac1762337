"""The vault's database: records, the nodes of the trie over them, and the log. `ipls.hsm` checks what it says.

contract    what every backend gives          sqlite      a file
                                              postgres    a server (loaded where it is used: it is slow to load)
"""

from pathlib import Path

from ipls.store.vault.contract import Changes, DatabaseEdited, LogRow, Server, VaultStore
from ipls.store.vault.sqlite import SqliteVault

__all__ = ["Changes", "DatabaseEdited", "LogRow", "Server", "VaultStore", "open_vault_store"]


def open_vault_store(database: Path | Server, *, wait: bool = True) -> VaultStore:
    """The database: a file of SQLite, or one of a PostgreSQL server; its tables are made if they are not there.

    Raises StoreRefused VAULT_RUNNING where another process has it: at once, or, where it waits, if one of this host has
    not ended after LOCK_WAIT_S; for one of another host, which PostgreSQL has, it waits on. StoreUnavailable,
    StoreDamaged.
    """
    if isinstance(database, Path):
        return SqliteVault(database, wait=wait)
    from ipls.store.vault.postgres import PostgresVault

    return PostgresVault(database, wait=wait)
