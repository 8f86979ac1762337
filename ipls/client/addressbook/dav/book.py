"""The address book that CardDAV clients see: a side that lies in the profile itself.

Each resource is the bytes that a client put, until the contact changes; then our edit of them. A change, a removal too,
has the next number: by it a client asks for what is new to it.

Tested by tests/client/addressbook/dav/test_server.py.
"""

import hashlib
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import NamedTuple

from ipls.client.addressbook.shadows import Shadow
from ipls.client.addressbook.side import ChangedMeanwhile, Listing, Seen, Side
from ipls.client.rows import Rows, Table, Unreadable, single
from ipls.contacts.cards.reading import read_person
from ipls.units import DAY_MS

KEPT_MS = 400 * DAY_MS
"""So long a removal is told."""


class Summary(NamedTuple):
    """A resource without its bytes, of which there are `size`."""

    href: str
    etag: str
    size: int
    number: int
    removed: bool


class Resource(NamedTuple):
    """`number`: of its last change, at `ms`. Removed: without its bytes."""

    href: str
    uid: str
    card: bytes
    end: bytes
    """Line ends that the client put after it."""
    number: int
    ms: int
    removed: bool = False

    @property
    def data(self) -> bytes:
        """As it was put."""
        return self.card + self.end

    @property
    def summary(self) -> Summary:
        """Of these bytes."""
        data = self.data
        return Summary(self.href, etag(data), len(data), self.number, self.removed)

    @property
    def etag(self) -> str:
        """Strong, with its quotes."""
        return etag(self.data)


class BookState(NamedTuple):
    """`id`: other than any other profile's. `number`: of the newest change. `forgotten`: of the newest removal that is
    not told any more."""

    id: str
    number: int
    forgotten: int


class UidPlace(NamedTuple):
    """Where the card with this UID is."""

    uid: str
    href: str


RESOURCES = Table("dav_resource", Resource, "href")
UIDS = Table("dav_uid", UidPlace, "uid")
BOOK = single(BookState, "dav_book")


def etag(data: bytes) -> str:
    """Of these bytes, with its quotes."""
    return f'"{hashlib.sha256(data).hexdigest()}"'


class Book(Side):
    """Of one profile. Each method is one transaction."""

    id = "dav"

    def __init__(self, rows: Rows, now_ms: int, reread: Callable[[str], Resource | None] | None = None) -> None:
        """`reread`: as `resource`, also when `rows` are closed, for what is read while an answer is on its way."""
        self._rows = rows
        self._now_ms = now_ms
        self.reread = reread or self.resource

    @property
    def state(self) -> BookState:
        """Made where there is none."""
        with self._rows.transaction():
            state = self._rows.only(BOOK)
            if state is None:
                state = BookState(secrets.token_hex(16), 0, 0)
                self._rows.put(BOOK, state)
            return state

    def resource(self, href: str) -> Resource | None:
        """What is there."""
        row = self._rows.get(RESOURCES, href)
        return None if row is None or isinstance(row, Unreadable) or row.removed else row

    def resources(self) -> Iterator[Resource]:
        """All that are there, in the order in which they came."""
        return (row for row in self._all() if not row.removed)

    def changed_since(self, number: int) -> list[Summary]:
        """What was changed or removed after that change, oldest first."""
        return sorted((row.summary for row in self._all() if row.number > number), key=lambda each: each.number)

    def transaction(self) -> AbstractContextManager[None]:
        """All of the block's changes or none, and nobody's in between."""
        return self._rows.transaction()

    def with_uid(self, uid: str) -> str | None:
        """The href of the card that has this UID."""
        row = self._rows.get(UIDS, uid)
        return None if row is None or isinstance(row, Unreadable) else row.href

    def forget(self) -> None:
        """Let go of removals that are too old to be told."""
        with self._rows.transaction():
            old = [row for row in self._all() if row.removed and row.ms + KEPT_MS < self._now_ms]
            if old:
                state = self.state
                newest = max(row.number for row in old)
                self._rows.put(BOOK, state._replace(forgotten=max(state.forgotten, newest)))
                self._rows.delete(RESOURCES, (row.href for row in old))

    def listing(self, token: str, shadows: Mapping[str, Shadow]) -> Listing:
        """See `Side`."""
        rows = list(self._all())
        seen = {row.href: Seen(row.card, b"") for row in rows if not row.removed}
        # Of one that is damaged nobody can tell which it was.
        whole = len(rows) == self._rows.count(RESOURCES)
        held = set() if whole else shadows.keys() - {row.href for row in rows}
        return Listing(seen, [], held, set(seen))

    def adopt(self, token: str) -> None:
        """See `Side`: it can't be another's."""

    def write(self, href: str, card: bytes, there: bytes | None) -> None:
        """See `Side`."""
        with self.transaction():
            row = self.resource(href)
            if (row.card if row else None) != there:
                raise ChangedMeanwhile
            self.put(href, card, row.end if row else b"\r\n")

    def remove(self, href: str, there: bytes) -> None:
        """See `Side`."""
        with self.transaction():
            row = self.resource(href)
            if row is None or row.card != there:
                raise ChangedMeanwhile
            self.put(href, None)

    def put(self, href: str, card: bytes | None, end: bytes = b"") -> None:
        """Have this card there, with these line ends, or none."""
        with self.transaction():
            row, state = self.resource(href), self.state
            uid = read_person(card).uid if card else ""
            if row and row.uid != uid:
                self._rows.delete(UIDS, [row.uid])
            if uid:
                self._rows.put(UIDS, UidPlace(uid, href))
            number = state.number + 1
            self._rows.put(BOOK, state._replace(number=number))
            self._rows.put(RESOURCES, Resource(href, uid, card or b"", end, number, self._now_ms, card is None))

    def _all(self) -> Iterator[Resource]:
        return self._rows.readable(RESOURCES)
