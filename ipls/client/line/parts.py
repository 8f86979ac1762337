"""What a line needs of others: the store, the vault, this device's keys, the directory's word.

Tested by tests/client/line/test_line.py.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from ipls.client import line_store
from ipls.client.events import Report
from ipls.client.line.kept import Kept
from ipls.contacts.commits import Link, ListedDevice, Signed
from ipls.contacts.line import Judge, LineRead, Writer
from ipls.contacts.sealing import ContactKey
from ipls.crypto.keys import Signer

Merge = Callable[[bytes | None, bytes | None, bytes | None, Writer], bytes | None]
"""Envelopes: base, mine, theirs, and who wrote theirs -> what stands on top of theirs; None: there is no contact."""


class Store(Protocol):
    """The contact store: `ipls.client.line_store.LineStore`."""

    async def read(self, n: int) -> LineRead | None:
        """The line, to who stands at n; None where the account has none."""

    async def links(self, line: bytes, first: int, last: int) -> list[Link]:
        """Those of commits first + 1 to last, of a line that may have been left."""

    async def kept(self) -> line_store.Kept:
        """What is hidden, and kept for a while."""

    async def read_kept(self, kept: line_store.KeptLine) -> LineRead | None:
        """The links up to the end of such a line, and its commits from its last base on."""

    async def commit(
        self, line: bytes, n: int, before: bytes, signed: Signed, records: Sequence[bytes], snapshot: bytes | None
    ) -> None:
        """Put a commit at n; the snapshot is a base's."""

    async def begin(self, seed: bytes, signed: Signed, snapshot: bytes) -> None:
        """Put the first commit of a new line."""

    async def put_records(self, records: Sequence[bytes]) -> None:
        """Stage what a base will need, or give back what the line needs."""

    def get(self, names: Sequence[bytes]) -> AsyncGenerator[dict[bytes, bytes], None]:
        """What is there of these records or snapshots, by name."""

    async def have(self, names: Sequence[bytes], *, staged: bool = False) -> set[bytes]:
        """Those that are there and stay, or, `staged`, wait for a base."""

    async def heal(
        self,
        line: bytes,
        seed: bytes,
        links: Sequence[Link],
        commits: Mapping[int, Signed],
        records: Sequence[bytes],
        snapshot: bytes,
    ) -> None:
        """Give back what the store lost."""


class Checkpoint(NamedTuple):
    """What the vault keeps of an identity version: the line and place that it set last."""

    line: bytes
    n: int
    chain: bytes


NO_LINE = Checkpoint(bytes(32), 0, bytes(32))
"""What the vault keeps of an account that was deleted: its next holder has no line to look for."""


class KeyVault(Protocol):
    """The contact keys' vault, to an account's identity."""

    async def make(self, above: int) -> ContactKey:
        """A key of a generation above this one, in the vault and read back; one that was made before and never used,
        where there is one."""

    async def fetch(self, generation: int) -> ContactKey:
        """The key of this generation."""

    async def finish(self, generation: int) -> None:
        """Let the generations below go."""

    async def set_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Set that of this identity version."""

    async def checkpoints(self) -> Mapping[int, Checkpoint]:
        """Those that are kept, by identity version."""


class Author(NamedTuple):
    """This device in the line: its signing key, and how it opens a contact key that a base seals to it. `vault`: the
    identity's alone."""

    namespace: str
    label: str
    signer: Signer
    vault: KeyVault | None
    open_key: Callable[[bytes, bytes], bytes | None] = lambda sealed, info: None
    """HPKE: what is sealed, and the info that it is bound to."""
    linked_at: Checkpoint | None = None
    """Of a linked device: where the line was when it was linked."""


class Linked(NamedTuple):
    """A linked device as the identity lists it; `seal` is HPKE to its KEM key, of a secret and an info."""

    device: ListedDevice
    seal: Callable[[bytes, bytes], bytes]


class Parts(NamedTuple):
    """One account's line on this device, and what it works with."""

    kept: Kept
    store: Store
    author: Author
    judge: Callable[[], Judge]
    """The account's identities as they are known now."""
    linked: Callable[[Sequence[ListedDevice]], Sequence[Linked]]
    """These devices, as a base needs them."""
    merge: Merge
    now_ms: Callable[[], int]
    report: Report
    beside: Callable[..., Awaitable[Any]] = asyncio.to_thread
    """Calls what takes long and has nothing to do with others, while what comes is received."""
