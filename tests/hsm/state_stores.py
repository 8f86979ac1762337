"""A ledger without a token: its anchor lies in memory, under an HMAC by a key of its own."""

import hmac
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from ipls.hsm.state.anchor import AnchorService, genesis
from ipls.hsm.state.store import StateStore
from ipls.store.vault import Changes, Server, open_vault_store
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

    def holds(self, digests: Sequence[bytes], macs: Sequence[bytes]) -> list[bool]:
        return [made == mac for made, mac in zip(self.macs(digests), macs, strict=True)]

    def first_log_key(self) -> int:
        return 1

    def anchors(self) -> list[bytes]:
        return list(self.values)

    def replace(self, expected: Sequence[bytes], new: bytes) -> None:
        if sorted(expected) != sorted(self.values):
            raise SessionRefused("VAULT_ANCHOR_MOVED", "another")
        self.values = [new]


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
