"""The vault's database: records, the nodes of the trie over them, and the log. `ipls.hsm` checks what it says.

contract    what every backend gives          sqlite    a file
"""

from pathlib import Path

from ipls.store.vault.contract import Changes, LogRow, VaultStore
from ipls.store.vault.sqlite import SqliteVault

__all__ = ["Changes", "LogRow", "VaultStore", "open_vault_store"]


def open_vault_store(database: Path, *, wait: bool = True) -> VaultStore:
    """The database, which is made if it is not there. Raises StoreError VAULT_RUNNING, where it does not wait for
    another process; DatabaseFailed."""
    return SqliteVault(database, wait=wait)
