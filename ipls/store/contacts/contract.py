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

    - *Atomic and durable*: a method that changes something does all of it in one transaction and has it on disk when it
      returns; killed at any point, it has done all or nothing. A method that raises StoreRefused has changed nothing;
      after StoreUnavailable all of it is there or nothing, and the same call may be made again.
    - *Immutable records*: a record is named by the digest of its bytes, so a put replaces none and may be repeated.
    - *Compare-and-swap*: of several writers who saw the same manifest version exactly one succeeds. The same swap,
      repeated while it is the newest, succeeds again. A generation never falls.
    - *Single use* of signed calls: see `ReplayGuard`.

    What has a line (`lines`) takes no such writes any more: StoreRefused LINE_EXISTS, of `put`, `drop` and `swap`.

    It doesn't know what the ciphertexts say: dropping a record that a manifest names is the caller's mistake to make.
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
    def put(self, label: str, records: Iterable[tuple[RecordKey, bytes]], *, max_records: int, max_bytes: int) -> None:
        """Add ciphertexts that the caller has checked against their digests.

        Raises StoreRefused ACCOUNT_QUOTA if the account would hold more records or bytes than given.
        """

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
    def drop(self, label: str, keys: Iterable[RecordKey]) -> None:
        """Remove these records, those not there anyhow."""

    @abstractmethod
    def manifest(self, label: str) -> Manifest | None:
        """The newest manifest, None before the first."""

    @abstractmethod
    def swap(self, label: str, expected_version: int, manifest: Manifest) -> None:
        """Replace the manifest of `expected_version` (0: none yet) by the next one.

        Raises StoreRefused MANIFEST_CONFLICT if another one is the newest, or the generation would fall.
        """
