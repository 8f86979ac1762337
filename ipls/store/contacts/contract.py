"""What every backend of the contact store gives; tests/store/contacts/test_contract.py holds each of them to it."""

from abc import abstractmethod
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from ipls.store.line import LineStore
from ipls.store.replay import ReplayGuard


class RecordKey(NamedTuple):
    """One ciphertext: several of one contact stand side by side until the manifest picks one."""

    generation: int
    id: bytes
    digest: bytes


class Manifest(NamedTuple):
    """`ciphertext` is the sealed list; the rest is what stands in clear beside it."""

    version: int
    generation: int
    check_value: bytes
    ciphertext: bytes


class ContactsStore(ReplayGuard):
    """What the contact store keeps, and what it promises.

    - *Lines* (`lines`): see `LineStore`.
    - *Version 1*: records and a manifest that accounts stored before there were lines are read until `LineStore` lets
      them go; nothing is added. A record is named by the digest of its bytes, and one that has others is not given.
    - *Single use* of signed calls: see `ReplayGuard`.

    Calls may come from any thread, and over one database from any process. Every method may raise StoreUnavailable and
    StoreDamaged.
    """

    @property
    @abstractmethod
    def lines(self) -> LineStore:
        """The accounts' lines, in the same database; closed with it."""

    @abstractmethod
    def close(self) -> None:
        """Close the database; no call may follow."""

    @abstractmethod
    def sizes(self, label: str, keys: Iterable[RecordKey]) -> list[int]:
        """The size of each record, in order. Raises StoreRefused RECORD_ABSENT."""

    @abstractmethod
    def read(self, label: str, keys: Iterable[RecordKey]) -> bytes:
        """The ciphertexts one after another, in order. Raises StoreRefused RECORD_ABSENT."""

    @abstractmethod
    def damaged(self) -> Iterator[RecordKey]:
        """Of all accounts, the records whose ciphertext is not the one that they are named by."""

    @abstractmethod
    def page(self, label: str, *, after: RecordKey | None, limit: int) -> list[tuple[RecordKey, int]]:
        """Keys and sizes in order of their keys, at most `limit`, those behind `after` only."""

    @abstractmethod
    def manifest(self, label: str) -> Manifest | None:
        """The newest manifest, None before the first."""
