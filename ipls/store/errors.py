"""What a store raises, whatever it keeps its data in; what a driver raises ends in its backend.

StoreError
├── StoreUnavailable    now it can't: a full disk, a lock, a server that is gone; try again
├── StoreRefused        a rule of the store refused; `reason` says which, and nothing has changed
└── StoreDamaged        what is there can't be used, now or later; somebody must look

A log, and a folder of evidence, raise OSError where another store is unavailable.

Tested by tests/store/engine/test_sqlite.py and tests/store/engine/test_postgres.py.
"""

from ipls.errors import IplsError


class StoreError(IplsError):
    """The root of the tree above."""


class StoreUnavailable(StoreError):
    """What was to be written is there as a whole or not at all: only a read tells. The message is the database's."""

    def __init__(self, message: str) -> None:
        super().__init__("DATABASE_UNAVAILABLE", message)


class StoreRefused(StoreError):
    """Nothing has changed. `retry_after_s`: when the rule would let the same call through, where it would at all."""


class StoreDamaged(StoreError):
    """DATABASE_UNREADABLE: no database, damaged, or rows that contradict what is written (nothing is written then);
    DATABASE_OTHER_ROLE: another store's; DATABASE_NEWER: a later version's; DATABASE_ALTERED: not the tables that this
    software makes, or code beside them, none of which has run; and what a role's contract names."""


def altered(where: object, what: str) -> StoreDamaged:
    """DATABASE_ALTERED; whoever altered the database chose `what` is found there."""
    return StoreDamaged(
        "DATABASE_ALTERED",
        f"{where}: {what.encode('unicode_escape').decode()[:100]} is not as this software makes it; put a copy from"
        " before in its place, or undo it if it was made by hand",
    )
