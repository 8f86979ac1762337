"""Where those wait who have not said who they are: a flood of them must cost those who have nothing.

Tested by tests/hsm/core/test_flood.py and tests/attack/test_vault_flood.py.
"""

from typing import Generic, TypeVar

Guest = TypeVar("Guest")


class HalfOpenTable(Generic[Guest]):
    """Holds so many and no more: who comes when it is full takes the place of the one that has been there longest.

    Whoever only sits is out first, so that one who goes on at once gets through.
    """

    def __init__(self, places: int) -> None:
        self._places = places
        self._guests: dict[Guest, None] = {}

    def admit(self, guest: Guest) -> Guest | None:
        """Who had to leave for it, if anybody."""
        self._guests[guest] = None
        if len(self._guests) <= self._places:
            return None
        longest = next(iter(self._guests))
        del self._guests[longest]
        return longest

    def leave(self, guest: Guest) -> None:
        """Also one that is not there."""
        self._guests.pop(guest, None)
