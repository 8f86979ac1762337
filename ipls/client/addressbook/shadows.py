"""What a side and the list last agreed on, in the profile.

Tested by tests/client/addressbook/test_sync.py.
"""

from typing import NamedTuple, Self

from ipls.client.rows import Rows, Table


class Shadow(NamedTuple):
    """One card of a side. `card`: its bytes there, when both were agreed; empty while it is only known that it is to
    be made there. `listed`: the SHA-256 of the card that the list had then. `mark`: see `Seen`."""

    key: str
    side: str
    href: str
    id: bytes
    uid: str
    card: bytes
    mark: bytes
    listed: bytes

    @classmethod
    def of(cls, side: str, href: str, id: bytes, uid: str, card: bytes, mark: bytes, listed: bytes) -> Self:
        """With the key by which it is found."""
        return cls(shadow_key(side, href), side, href, id, uid, card, mark, listed)


class KnownSide(NamedTuple):
    """A side that a person said yes to: its id, by which it is found, and what was left there to know it
    again, if anything."""

    id: str
    token: str


SHADOWS = Table("shadow", Shadow, "key")
SIDES = Table("side", KnownSide, "id")


def shadow_key(side: str, href: str) -> str:
    """Unlike any other's."""
    return f"{len(side)}:{side}{href}"


def shadows_of(rows: Rows, side: str) -> dict[str, Shadow]:
    """By href. One that can't be read is as one that is not there: what it was of is then merged without a base, which
    loses nothing."""
    found = rows.readable(SHADOWS)
    return {row.href: row for row in found if row.side == side}
