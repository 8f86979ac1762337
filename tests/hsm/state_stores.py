"""A ledger without a token, its anchor in memory, under an HMAC by a key of its own; and one without a database."""

import hmac
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from ipls.hsm.state.anchor import AnchorService, genesis
from ipls.hsm.state.store import StateStore
from ipls.store.errors import StoreDamaged
from ipls.store.vault import Changes, LogRow, Server, VaultStore, open_vault_store
from ipls.vault.errors import SessionRefused

T = TypeVar("T")


class MemoryNotary:
    """`ipls.hsm.state.anchor.Notary`."""

    key = b"log key"
    shard = 0
    key_id = b"this token".ljust(32)

    def __init__(self) -> None:
        self.values: list[bytes] = []

    def hsm_key_id(self) -> bytes:
        return self.key_id

    def macs(self, digests: Sequence[bytes]) -> list[bytes]:
        return [hmac.digest(self.key, digest, "sha256") for digest in digests]

    def holds(self, digests: Sequence[bytes], macs: Sequence[bytes], *, retired: bool = False) -> list[bool]:
        return [made == mac for made, mac in zip(self.macs(digests), macs, strict=True)]

    def first_log_key(self) -> int:
        return 1

    def anchors(self) -> list[bytes]:
        return list(self.values)

    def replace(self, expected: Sequence[bytes], new: bytes) -> None:
        if sorted(expected) != sorted(self.values):
            raise SessionRefused("VAULT_ANCHOR_MOVED", "another")
        self.values = [new]


class Keys(MemoryNotary):
    """With log keys of these numbers: all but the highest are retired."""

    def __init__(self, *numbers: int) -> None:
        super().__init__()
        self.numbers = sorted(numbers)

    def macs(self, digests: Sequence[bytes]) -> list[bytes]:
        return self._macs(digests, self.numbers[-1])

    def holds(self, digests: Sequence[bytes], macs: Sequence[bytes], *, retired: bool = False) -> list[bool]:
        numbers = self.numbers if retired else self.numbers[-1:]
        made = [set(each) for each in zip(*(self._macs(digests, n) for n in numbers), strict=True)]
        return [mac in each for each, mac in zip(made, macs, strict=True)]

    def first_log_key(self) -> int:
        return self.numbers[0]

    def _macs(self, digests: Sequence[bytes], number: int) -> list[bytes]:
        self.key = b"log key %d" % number
        return super().macs(digests)


class MemoryStore(VaultStore):
    """A database without a disk, for tests that make thousands of them."""

    def __init__(self) -> None:
        self.rows: dict[int, LogRow] = {}
        self.records: dict[bytes, bytes] = {}
        self.bodies: dict[bytes, bytes] = {}

    def copy(self) -> "MemoryStore":
        """What is there now, elsewhere."""
        copy = MemoryStore()
        copy.rows, copy.records, copy.bodies = dict(self.rows), dict(self.records), dict(self.bodies)
        return copy

    def append_all(self, steps: Iterable[Changes]) -> None:
        before = self.copy()
        try:
            for changes in steps:
                for row in changes.log:
                    if row.sequence in self.rows:
                        raise StoreDamaged("DATABASE_UNREADABLE", "there is such a row")
                    self.rows[row.sequence] = row
                self.records |= changes.records
                self.bodies |= changes.nodes
        except BaseException:  # all of a write or nothing, whatever ended it
            self.__dict__ |= before.__dict__
            raise

    def mend(self, sequence: int, row: LogRow) -> None:
        if row.sequence in self.rows.keys() - {sequence}:
            raise StoreDamaged("DATABASE_UNREADABLE", "there is such a row")
        del self.rows[sequence]
        self.rows[row.sequence] = row

    def record(self, key: bytes) -> bytes | None:
        return self.records.get(key)

    def next_key(self, key: bytes) -> bytes | None:
        return min((each for each in self.records if each >= key), default=None)

    def nodes(self, prefixes: Sequence[bytes]) -> dict[bytes, bytes]:
        return {prefix: self.bodies[prefix] for prefix in prefixes if prefix in self.bodies}

    def last(self) -> LogRow | None:
        return self.rows[max(self.rows)] if self.rows else None

    def log(self, first: int, count: int) -> list[LogRow]:
        return [row for sequence, row in sorted(self.rows.items()) if sequence >= first][:count]

    def newest(self, key: bytes) -> LogRow | None:
        return max((row for row in self.rows.values() if row.key == key), key=lambda row: row.sequence, default=None)

    def uses(self, key: bytes, first: int, count: int) -> list[LogRow]:
        found = [row for row in self.rows.values() if row.key == key and (row.use_number or 0) >= first]
        return sorted(found, key=lambda row: row.use_number or 0)[:count]


class Killed(BaseException):
    """A process's end."""


class Fuse:
    """Burns down by a step before and after each thing that lasts; None: it does not burn."""

    def __init__(self, left: int | None = None) -> None:
        self.left = left

    def step(self) -> None:
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise Killed


class Dying:
    """A store or a anchor service whose process is killed where its fuse ends."""

    def __init__(self, inner: Any, fuse: Fuse) -> None:
        self._inner = inner
        self._fuse = fuse

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def append(self, changes: Changes) -> None:
        self._fuse.step()
        self._inner.append(changes)
        self._fuse.step()

    def replace(self, expected: Sequence[bytes], new: bytes) -> None:
        self._fuse.step()
        self._inner.replace(expected, new)
        self._fuse.step()


@contextmanager
def new_ledger(database: Path | Server, anchor_service: AnchorService | None = None) -> Iterator[StateStore]:
    """After its genesis."""
    anchor_service = anchor_service or MemoryNotary()
    with closing(open_vault_store(database)) as store:
        genesis(store, anchor_service)
        yield StateStore(store, anchor_service)


def perform(state_store: StateStore, work: Callable[[], T]) -> T:
    """One work's result. Raises what it raised."""
    [outcome] = state_store.perform([work])
    if isinstance(outcome, Exception):
        raise outcome
    return outcome
