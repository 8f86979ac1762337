"""The contact store's database: ciphertext records, one manifest an account, the calls of the last minutes.

contract    what every backend gives          sqlite      a file
"""

from pathlib import Path

from ipls.store.contacts.contract import ContactsStore, Manifest, RecordKey
from ipls.store.contacts.sqlite import SqliteContacts

__all__ = ["ContactsStore", "Manifest", "RecordKey", "open_contacts_store"]


def open_contacts_store(database: Path) -> ContactsStore:
    """The database, a file of SQLite; made if it is not there. Raises StoreUnavailable, StoreDamaged."""
    return SqliteContacts(database)
