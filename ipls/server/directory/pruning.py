"""What the directory lets go of, in small transactions while nothing else is due. Blocking."""

from bisect import bisect_left
from collections.abc import Callable

from ipls.config import DirectoryConfig
from ipls.proto.witness.v1.head_pb2 import SignedHead
from ipls.store.directory import DirectoryStore
from ipls.trust.heads import timestamp
from ipls.units import DAY_MS

ROWS = 500
"""Rows looked at in one transaction: a few milliseconds, which is all that an epoch may have to wait."""

START = (0, 0)


class Pruner:
    """Carries out the policy of a `DirectoryConfig`. A crash anywhere is harmless: what is left goes the next time."""

    def __init__(
        self, store: DirectoryStore, config: DirectoryConfig, max_head_age_ms: int, now_ms: Callable[[], int]
    ) -> None:
        """`max_head_age_ms` is the trust root's: an epoch whose head someone may still judge by is always kept."""
        self._store = store
        self._max_head_age_ms = max_head_age_ms
        self._config = config
        self._now_ms = now_ms
        self._next: tuple[int, int] | None = START
        self._pins: tuple[int, ...] = ()

    def some(self, term: int) -> bool:
        """One small transaction of each kind; whether there may be more to do. Raises StoreRefused LEASE_LOST."""
        floor, wanted = self._store.floor(), self._wanted_floor()
        if wanted - floor >= self._config.prune_every:
            self._store.raise_floor(term, wanted)
            self._next = self._next or START
        pins = self._store.pins()
        if pins != self._pins:  # what a pin has held may be free now
            self._pins, self._next = pins, START
        if self._next:
            self._next = self._store.prune_tiles(term, self._next, ROWS)
        before_ms = self._now_ms() - int(self._config.keep_tickets_days * DAY_MS)
        return self._store.prune_tickets(term, before_ms, ROWS) == ROWS or self._next is not None

    def _wanted_floor(self) -> int:
        """The oldest epoch that the policy keeps."""
        head = self._store.head()
        epochs, age_s = self._config.keep_epochs, self._config.keep_age_s
        if head is None or (epochs is None and age_s is None):
            return 0
        old = range(self._store.floor(), head.epoch if epochs is None else head.epoch - epochs + 1)
        since_ms = self._now_ms() - max(int((age_s or 0) * 1000), self._max_head_age_ms)
        return old.start + bisect_left(old, since_ms, key=self._signed_ms)

    def _signed_ms(self, epoch: int) -> int:
        head = self._store.head(epoch)
        assert head is not None, "epochs follow one another"
        return max(map(timestamp, SignedHead.FromString(head.signed).cosignatures))
