"""Where those wait who have not said who they are: a flood of them must cost those who have nothing.

Tested by tests/runtime/test_half_open.py, tests/hsm/core/test_flood.py and tests/attack/test_standing_streams.py.
"""

from collections.abc import Hashable
from typing import Generic, TypeVar

Guest = TypeVar("Guest")


class HalfOpenTable(Generic[Guest]):
    """Holds so many and no more: who comes when it is full takes the place of one of those of whom there are most, the
    one that has been there longest.

    Whoever only sits is out first, so that one who goes on at once gets through; and who has fewer places than others
    loses none to them.
    """

    def __init__(self, places: int) -> None:
        self._places = places
        self._whose: dict[Guest, Hashable] = {}
        self._guests: dict[Hashable, dict[Guest, None]] = {}

    def admit(self, guest: Guest, whose: Hashable = None) -> Guest | None:
        """Who had to leave for it, if anybody. `whose` it is: those of one address, say."""
        self._whose[guest] = whose
        self._guests.setdefault(whose, {})[guest] = None
        return self.push_out() if len(self._whose) > self._places else None

    def push_out(self, *whose: Hashable) -> Guest | None:
        """Who has been there longest, of whom there are most or of `whose`, leaves; None if nobody is there."""
        guests = max((self._guests.get(each, {}) for each in whose or self._guests), key=len, default={})
        longest = next(iter(guests), None)
        if longest is not None:
            self.leave(longest)
        return longest

    def leave(self, guest: Guest) -> None:
        """Also one that is not there."""
        if guest not in self._whose:
            return
        whose = self._whose.pop(guest)
        del self._guests[whose][guest]
        if not self._guests[whose]:
            del self._guests[whose]
