"""What a witness may never forget.

contract    what every backend gives          sqlite      a file
"""

from pathlib import Path

from ipls.store.witness.contract import CosignLate, Fetched, ProposedEpoch, Signed, State, WitnessStore
from ipls.store.witness.sqlite import SqliteWitness, init_witness_state

__all__ = [
    "CosignLate",
    "Fetched",
    "ProposedEpoch",
    "Signed",
    "State",
    "WitnessStore",
    "init_witness_state",
    "open_witness_store",
]


def open_witness_store(database: Path, namespace: str, mark: Path) -> WitnessStore:
    """What `init_witness_state` made, a file of SQLite. `mark` is the watermark's file: on another disk, if there is
    one.

    Raises StoreRefused WITNESS_NO_GENESIS, WITNESS_OTHER_NAMESPACE; StoreUnavailable, StoreDamaged, OSError.
    """
    return SqliteWitness(database, namespace, mark)
