"""What the sync needs of a side: a place where other programs keep the same contacts, as a folder of vCards.

Tested by tests/client/addressbook/test_sync.py and tests/client/addressbook/test_folder.py.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Container, Mapping
from typing import NamedTuple

from ipls.client.addressbook.shadows import Shadow
from ipls.client.errors import SideError

MOST_NAME = 100
"""Letters of the UID in a new card's name."""


class Seen(NamedTuple):
    """A card as the side has it. `mark` is equal only while the card is, and cheaper to compare; empty: not to be
    relied on."""

    card: bytes
    mark: bytes


class Bad(NamedTuple):
    """What could not be read: where, the line in it (0: all of it), and why."""

    href: str
    line: int
    reason: str


class Listing(NamedTuple):
    """A side at one moment, by href. `held`: known ones that may be there and could not be read; they are left as they
    are. `names`: all that a new card can't be called."""

    seen: dict[str, Seen]
    bad: list[Bad]
    held: set[str]
    names: set[str]


class ChangedMeanwhile(SideError):
    """What stands at this href is not what was read there; the next sync takes it up."""

    def __init__(self) -> None:
        super().__init__("SIDE_CHANGED", "another program changed the card meanwhile")


class Side(ABC):
    """One side. Others write to it at any time: a card is written or removed only while it is as it was read."""

    id: str
    """By which its shadows are found: never another side's."""

    @abstractmethod
    def listing(self, token: str, shadows: Mapping[str, Shadow]) -> Listing:
        """All of its cards; what has a shadow's mark is taken to be what the shadow says. `token`: what `adopt` left,
        empty if it did not.

        Raises SideError SIDE_AWAY: it is not there, can't be read, or another one is in its place.
        """

    @abstractmethod
    def adopt(self, token: str) -> None:
        """Leave there by what it is known again. Raises OSError."""

    @abstractmethod
    def write(self, href: str, card: bytes, there: bytes | None) -> None:
        """Put a card in the place of `there`, or, None, of nothing; durable when this returns.

        Raises ChangedMeanwhile, and OSError: then `there` is there, or, after a crash, the card.
        """

    @abstractmethod
    def remove(self, href: str, there: bytes) -> None:
        """Take the card out for good. Raises as `write`."""


def new_href(uid: str, taken: Container[str]) -> str:
    """What a new card is called; `taken` holds names in lower case, as file systems may make no difference."""
    stem = re.sub(r"[^A-Za-z0-9\-_.@]", "_", uid)[:MOST_NAME]
    stem = re.sub(r"^\.", "_", stem) or "_"  # a hidden name would be passed over
    number, name = 1, f"{stem}.vcf"
    while name.lower() in taken:
        number += 1
        name = f"{stem}-{number}.vcf"
    return name
