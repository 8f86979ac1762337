"""What every backend of the readers' store gives; tests/store/readers/test_contract.py holds each of them to it."""

from abc import abstractmethod
from collections.abc import Collection

from ipls.store.replay import ReplayGuard


class ReadersStore(ReplayGuard):
    """What the directory keeps of those who read it: which signed calls were used, and who asked for how many labels.

    It lies beside the directory's database, for all of its processes. Guarantees:
    - Counts and nonces survive the death of any process; a power loss may take back those of the last moments.
    - No number lies in it: accounts and labels are pseudonyms under the store's own secret.
    - It is bounded: a nonce is forgotten after minutes, a label that was asked for after a day.
    - Lost, it is made anew: then all sessions end, and quotas begin again. The directory's data does not depend on it.
    - What is refused changes no count.
    - Reads go on where the disk takes nothing: then nonces and counts are this process's, in 16 MiB of memory, and the
      quota is one for those and for what the file has.
    Methods block; each may be called from any thread, and may raise StoreUnavailable and StoreDamaged.
    """

    @abstractmethod
    def close(self) -> None:
        """Give the database back; the store is of no use afterwards."""

    @abstractmethod
    def derived_key(self, purpose: str) -> bytes:
        """32 bytes, the same in every process over this database, another for each purpose."""

    @abstractmethod
    def count(self, reader: bytes, labels: Collection[bytes], now_ms: int, *, daily_labels: int) -> None:
        """Count the labels that the account `reader` did not ask for within 24 hours; all of them or none.

        Raises StoreRefused LABEL_QUOTA if they would be over `daily_labels`, saying when they would not.
        """
