"""A profile's rows with a list in them, and a side that fails when it is told to: what a sync is tried on."""

import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from ipls.client.addressbook.dav.access import CLIENTS
from ipls.client.addressbook.dav.book import BOOK, RESOURCES, UIDS
from ipls.client.addressbook.plan import Account
from ipls.client.addressbook.shadows import SHADOWS, SIDES, Shadow
from ipls.client.addressbook.side import Bad, ChangedMeanwhile, Listing, Seen, Side
from ipls.client.addressbook.sync import SyncReport, SyncTerms, sync
from ipls.client.errors import SideError
from ipls.client.rows import Rows, Table, Unreadable, schema
from ipls.contacts.envelope import Envelope
from ipls.contacts.whole import fitting
from ipls.crypto.encoding import u64

LABEL = "+442071838750"
ACCOUNT = Account(LABEL, "GB", bytes(32))
NOW_MS = 1_800_000_000_000


class Listed(NamedTuple):
    id: bytes
    envelope: bytes


LIST = Table("listed", Listed, "id")


class Crash(Exception):
    """Here the process was killed."""


class RowList:
    """The list, as rows of the profile."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows

    def entries(self) -> dict[bytes, Envelope]:
        found = (row for row in self.rows.iterate(LIST) if not isinstance(row, Unreadable))
        return {row.id: Envelope.decode(row.envelope) for row in found}

    def is_whole(self) -> bool:
        return not any(isinstance(row, Unreadable) for row in self.rows.iterate(LIST))

    def edit(self, changes: Mapping[bytes, Envelope | None]) -> None:
        self.rows.delete(LIST, (id for id, now in changes.items() if now is None))
        kept = ((id, fitting(now.encode())) for id, now in changes.items() if now is not None)
        self.rows.put_many(LIST, (Listed(id, envelope) for id, envelope in kept))


class MemorySide(Side):
    """Cards by href. `steps`: writes until it is killed, before or after the write; `others`: what another program does
    before the next write."""

    def __init__(self, id: str = "memory") -> None:
        self.id = id
        self.cards: dict[str, bytes] = {}
        self.bad: list[Bad] = []
        self.held: set[str] = set()
        self.away = False
        self.token = ""
        self.steps: int | None = None
        self.full = False
        self.written: list[str] = []

    def listing(self, token: str, shadows: Mapping[str, Shadow]) -> Listing:
        if self.away or (token and token != self.token):
            raise SideError("SIDE_AWAY", "it is away")
        seen = {href: Seen(card, b"") for href, card in self.cards.items() if href not in self.held}
        return Listing(seen, self.bad, self.held, set(self.cards))

    def adopt(self, token: str) -> None:
        self._step()
        self.token = token
        self._step()

    def write(self, href: str, card: bytes, there: bytes | None) -> None:
        self._step()
        if self.full:
            raise OSError(28, "No space left on device")
        if self.cards.get(href) != there:
            raise ChangedMeanwhile
        self.cards[href] = card
        self.written.append(href)
        self._step()

    def remove(self, href: str, there: bytes) -> None:
        self._step()
        if self.cards.get(href) != there:
            raise ChangedMeanwhile
        del self.cards[href]
        self.written.append(href)
        self._step()

    def _step(self) -> None:
        if self.steps is not None:
            if self.steps == 0:
                raise Crash
            self.steps -= 1


class Profile:
    """One device."""

    def __init__(self, path: Path | str = ":memory:") -> None:
        self.db = sqlite3.connect(path, isolation_level=None)
        tables = [SHADOWS, SIDES, LIST, RESOURCES, UIDS, BOOK, CLIENTS]
        self.db.executescript(schema(tables))
        self.rows = Rows(self.db, bytes(32), tables)
        self.list = RowList(self.rows)

    def sync(self, side: Side, **terms: bool) -> SyncReport:
        return sync(side, ACCOUNT, self.list, self.rows, NOW_MS, SyncTerms(**{"yes": True} | terms))

    def cards(self) -> list[bytes]:
        return [entry.card for entry in self.list.entries().values()]

    def put(self, id: bytes, card: bytes | None, **fields: int) -> None:
        self.list.edit({id: None if card is None else Envelope(card=card, **fields)})


def card(uid: str | None, name: str, *lines: str) -> bytes:
    """As other programs write one."""
    said = ["BEGIN:VCARD", "VERSION:3.0", *([f"UID:{uid}"] if uid else []), f"FN:{name}", f"N:{name};;;;", *lines]
    return "\r\n".join([*said, "END:VCARD"]).encode()


def number(n: int) -> bytes:
    """An id."""
    return bytes(8) + u64(n)
