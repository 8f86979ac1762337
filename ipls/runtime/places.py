"""Places that callers share, so that nobody who has few is kept out by others who have many."""

from collections import Counter
from collections.abc import Hashable, Iterator
from contextlib import contextmanager

from ipls.errors import IplsError

RETRY_AFTER_S = 1.0


class Busy(IplsError):
    """There is no place; nothing was done. Its reason is SERVICE_BUSY."""

    def __init__(self, why: str) -> None:
        super().__init__("SERVICE_BUSY", f"{why}; try again", retry_after_s=RETRY_AFTER_S)


class Places:
    """So many, of which one holder has at most a `share` of its own and those that are left free, and at most `each`.

    So whoever has none gets one as long as there is any, and n holders who want all, one after the other, leave
    (1 - 1/share)^n of them: of 1,000, 7 leave 8 by halves, and 20 leave 95 by ninths.
    """

    def __init__(self, places: int, each: int | None = None, *, share: int = 2) -> None:
        self._free = places
        self._each = places if each is None else each
        self._others = share - 1
        self._held = Counter[Hashable]()

    def take(self, holder: Hashable) -> None:
        """`leave` has to follow. Raises Busy SERVICE_BUSY."""
        if not self._free or self._held[holder] >= min(max(1, self._free // self._others), self._each):
            raise Busy("all places are taken")
        self._free -= 1
        self._held[holder] += 1

    def leave(self, holder: Hashable) -> None:
        self._free += 1
        self._held[holder] -= 1
        self._held += Counter()  # those at 0 go

    @contextmanager
    def place(self, holder: Hashable) -> Iterator[None]:
        """One, for as long as the block lasts. Raises Busy SERVICE_BUSY."""
        self.take(holder)
        try:
            yield
        finally:
            self.leave(holder)
