"""What every backend of the accounts' lines gives; tests/store/line/test_contract.py holds each of them to it."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ipls.contacts.admission import Admitted, Healed, Standing
from ipls.contacts.commits import Link, Signed
from ipls.units import DAY_MS

KEPT_MS = 90 * DAY_MS
"""For which what a later identity version hid of earlier ones' is kept."""
KEPT_OWN_MS = 30 * DAY_MS
"""The same within one version."""
LINKS_MS = 400 * DAY_MS
"""For which a line that was left keeps its links."""
STAGED_MS = 7 * DAY_MS
"""For which what is staged waits for a base, from the last of it."""


class Quota(NamedTuple):
    """What an account may hold: records, snapshots and commits, hidden and staged ones too, and their bytes.

    The earliest identity version of which there is anything has it all to itself. Those after it share as much once
    more, and each has half of what the others leave: no later one takes what an earlier one needs, none is kept out.
    """

    things: int
    size: int


class Place(NamedTuple):
    """Where a commit stands, or is to stand: behind `before`, the chain of the one before it."""

    line: bytes
    n: int
    before: bytes
    commit_hash: bytes


class View(NamedTuple):
    """A line, present or left, with `n` as its head."""

    id: int
    """By which the store knows it."""
    line: bytes
    seed: bytes
    n: int
    chain: bytes
    base_n: int
    """The newest base's number; 0 where it is not kept any more."""


class Hidden(NamedTuple):
    """Of which identity version it is, which one hid it, and until when it is kept."""

    version: int
    hidden_by: int
    until_ms: int


class KeptLine(NamedTuple):
    """A hidden base, and the commits that follow it up to `n`: a view of `id` until `n`."""

    id: int
    line: bytes
    base_n: int
    n: int
    hidden: Hidden


class KeptBlob(NamedTuple):
    """A hidden record or snapshot."""

    name: bytes
    size: int
    is_snapshot: bool
    hidden: Hidden


class LineStore(ABC):
    """What the contact store keeps of accounts' lines, and what it promises.

    - *Atomic and durable*: a method that changes something does all of it in one transaction and has it on disk when it
      returns; killed at any point, it has done all or nothing. A method that raises StoreRefused has changed nothing;
      after StoreUnavailable all of it is there or nothing, and the same call may be made again.
    - *Compare-and-swap*: of several commits that were judged by one head exactly one is taken. The same one again is
      taken again, however far the line has gone on.
    - *Hidden, not gone*: what a commit drops, replaces or compacts, and a line that another takes the place of, is
      hidden, and kept KEPT_MS where a later identity version hid it, else KEPT_OWN_MS. It is still read. What is put
      again is hidden no more.
    - *Version 1*: what an account has of it is kept as long from its first line on, and then let go.
    - *Named by its bytes*: a record or snapshot whose bytes are not those of its name is as one that is not there, and
      costs no other; put again, it is there again.

    It takes what `ipls.contacts.admission` admitted, and judges nothing again. Calls may come from any thread, and over
    one database from any process; reads wait for no write. Every method may raise StoreUnavailable and StoreDamaged.
    """

    # Reads

    @abstractmethod
    def standing(self, label: str) -> Standing | None:
        """Where the account's line stands; None before the first."""

    @abstractmethod
    def stands(self, label: str, place: Place) -> bool:
        """Whether the account's line has that very commit there."""

    @abstractmethod
    def view(self, label: str, which: bytes | int, until: int) -> View | None:
        """The account's line (`which` is empty), or the last of that name, or the one of that id, as it was when
        `until` was its head (0: as it is). None where there is none, or it is shorter."""

    @abstractmethod
    def links(self, view: View, after: int, limit: int) -> list[Link]:
        """Of the commits behind `after`, at most `limit`, in order."""

    @abstractmethod
    def commits(self, view: View, after: int, size: int) -> list[tuple[int, Signed]]:
        """The commits behind `after` that are kept, in order: one at least, and as many as `size` bytes hold."""

    @abstractmethod
    def sizes(self, label: str, names: Sequence[bytes]) -> list[int]:
        """Of records and snapshots, staged and hidden ones too; 0 where there is none."""

    @abstractmethod
    def get(self, label: str, names: Sequence[bytes]) -> list[bytes | None]:
        """Their bytes; None where there is none, or it is damaged."""

    @abstractmethod
    def missing(self, label: str, names: Sequence[bytes], *, staged: bool) -> list[int]:
        """The places of those names of which there is no record that stays (`staged`: or waits for a base)."""

    @abstractmethod
    def kept_lines(self, label: str) -> list[KeptLine]:
        """What of lines is hidden and kept, the present one's too, in order."""

    @abstractmethod
    def kept_blobs(self, label: str, place: bytes, limit: int) -> tuple[list[KeptBlob], bytes]:
        """Which of the next `limit` records and snapshots behind `place` (b"": of the first) are hidden and kept; and
        the place behind these, b"" where none was left."""

    @abstractmethod
    def damaged(self) -> Iterator[bytes]:
        """Of all accounts, the names of records and snapshots whose bytes are others."""

    # Writes

    @abstractmethod
    def append(
        self,
        label: str,
        before: Standing,
        admitted: Admitted,
        records: Sequence[bytes],
        snapshot: bytes | None,
        *,
        quota: Quota,
        now_ms: int,
    ) -> None:
        """The line's next commit, judged by `before`, with its records; of a base the snapshot, unless that is there.

        Raises StoreRefused LINE_CONFLICT, another one is the head by now; SNAPSHOT_ABSENT; ACCOUNT_QUOTA.
        """

    @abstractmethod
    def begin(self, label: str, admitted: Admitted, snapshot: bytes | None, *, quota: Quota, now_ms: int) -> None:
        """A new line; the one that was the account's is kept as what was left. What the identity version has staged is
        the new one's. Raises StoreRefused LINE_CONFLICT, the line has another first commit; SNAPSHOT_ABSENT;
        ACCOUNT_QUOTA."""

    @abstractmethod
    def heal(
        self,
        label: str,
        before: Standing | None,
        healed: Healed,
        version: int,
        snapshot: bytes | None,
        *,
        quota: Quota,
        now_ms: int,
    ) -> None:
        """What the line lost, judged by `before`, from an account of that identity version; what this has staged is the
        line's. Over a gap what was there is kept as a line that was left; no record is hidden.

        Raises StoreRefused LINE_CONFLICT, another commit is the head by now; SNAPSHOT_ABSENT; ACCOUNT_QUOTA.
        """

    @abstractmethod
    def put(
        self, label: str, version: int, records: Sequence[bytes], snapshot: bytes | None, *, quota: Quota, now_ms: int
    ) -> None:
        """Stage what a base will need; what is there, hidden or damaged, is there again. Raises StoreRefused
        ACCOUNT_QUOTA."""

    @abstractmethod
    def delete(self, label: str, version: int, now_ms: int) -> None:
        """The account has no line and nothing staged any more. What `version` stored may go at once; what earlier ones
        did, version 1 of the service too, is hidden."""

    @abstractmethod
    def mark_damaged(self, label: str, names: Sequence[bytes]) -> None:
        """Have those of these names whose bytes are others count as missing, until they are put again."""

    @abstractmethod
    def expire(self, now_ms: int, limit: int) -> bool:
        """Let go of what has been kept long enough, at most `limit` rows of a kind. Whether there may be more."""
