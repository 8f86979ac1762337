"""Places that callers share, so that nobody who has few is kept out by others who have many."""

from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any

from ipls.errors import IplsError

RETRY_AFTER_S = 1.0


class Busy(IplsError):
    """There is no place; nothing was done. Its reason is SERVICE_BUSY."""

    def __init__(self, why: str) -> None:
        super().__init__("SERVICE_BUSY", f"{why}; try again", retry_after_s=RETRY_AFTER_S)


class Places:
    """So many, of which one holder has at most a `share` of its own and those that are left free, and at most `each`.

    So whoever has none gets one as long as there is any, and n holders who want all, one after the other, leave
    (1 - 1/share)^n of them: of 1,000, 7 leave 8 by halves, and 20 leave 95 by ninths. All holders of one `site` have
    together what one has that is a site by itself, and share it by halves.
    """

    def __init__(
        self,
        places: int,
        each: int | None = None,
        *,
        share: int = 2,
        site: Callable[[Any], Hashable] = lambda holder: holder,
    ) -> None:
        self._free = places
        self._each = places if each is None else each
        self._others = share - 1
        self._site = site
        self._held = Counter[Hashable]()
        """By holders and by sites."""

    def take(self, holder: Hashable) -> None:
        """`leave` has to follow. Raises Busy SERVICE_BUSY."""
        site = self._site(holder)
        left = max(1, self._free // self._others) - self._held[site]
        own = self._each if holder == site else min(self._each, left)
        if not self._free or left <= 0 or self._held[holder] >= own:
            raise Busy("all places are taken")
        self._free -= 1
        self._held.update({site, holder})

    def leave(self, holder: Hashable) -> None:
        self._free += 1
        self._held.subtract({self._site(holder), holder})
        self._held += Counter()  # those at 0 go

    @contextmanager
    def place(self, holder: Hashable) -> Iterator[None]:
        """One, for as long as the block lasts. Raises Busy SERVICE_BUSY."""
        self.take(holder)
        try:
            yield
        finally:
            self.leave(holder)
