"""What a sync with a side comes to, decided before anything is written: base = shadow, theirs = the list, mine = the
side (where both changed one thing the side's stays, the list's becomes a conflict).

Tested by tests/client/addressbook/test_sync.py.
"""

import hashlib
import uuid
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import NamedTuple

from ipls.client.addressbook.shadows import Shadow
from ipls.client.addressbook.side import Bad, Listing, new_href
from ipls.contacts.cards.editing import replace_card, with_uid
from ipls.contacts.cards.reading import read_person
from ipls.contacts.cards.units import card_form
from ipls.contacts.envelope import Envelope, Kind, Placement
from ipls.contacts.errors import CardError
from ipls.contacts.merge import merge
from ipls.contacts.sealing import id_of_uid, new_id
from ipls.contacts.whole import UNEDITABLE, is_keepable

SAME_UID = "another card has the same UID"
KEPT_APART = "the list has this contact as only in IPLS"


class Account(NamedTuple):
    """Whose list it is: the number, its country (see `country_of`), and this device's Ed25519 key."""

    label: str
    country: str | None
    device: bytes


class List(NamedTuple):
    """All contacts by id; those that can be read, if it is not `whole`: then none is taken to be removed."""

    entries: Mapping[bytes, Envelope]
    whole: bool = True


class Step(NamedTuple):
    """What is to be done about one contact. `before`, `after`: in the list. `there`, `wanted`: on the side, None: it
    has none. `agreed`: the shadow of it afterwards, None: none; `old`: the one of before."""

    id: bytes
    href: str
    before: Envelope | None
    after: Envelope | None
    there: bytes | None
    wanted: bytes | None
    agreed: Shadow | None
    old: Shadow | None


class Plan(NamedTuple):
    """`gone_there`, `gone_here`: how many of the `agreed` cards only the list, or only the side, still has. `emptied`:
    one of them has none at all."""

    steps: list[Step]
    bad: list[Bad]
    gone_there: int
    gone_here: int
    agreed: int
    emptied: bool


def make_plan(
    side: str,
    account: Account,
    listing: Listing,
    shadows: Mapping[str, Shadow],
    contacts: List,
    now_ms: int,
) -> Plan:
    """What has to be done so that side and list say the same; `shadows`: by href."""
    planner, entries = _Planner(side, account, listing, shadows, contacts, now_ms), contacts.entries
    planner.match()
    for id in dict.fromkeys((*planner.places, *planner.known, *entries)):
        planner.decide(id)
    agreed = [shadow for shadow in planner.known.values() if shadow.card]
    gone_there = sum(
        shadow.id not in planner.places and shadow.href not in listing.held and _is_placed(entries.get(shadow.id))
        for shadow in agreed
    )
    gone_here = sum(contacts.whole and shadow.id in planner.places and shadow.id not in entries for shadow in agreed)
    emptied = not listing.seen or not entries
    return Plan(planner.steps, planner.bad, gone_there, gone_here, len(agreed), emptied)


class _Planner:
    def __init__(
        self,
        side: str,
        account: Account,
        listing: Listing,
        shadows: Mapping[str, Shadow],
        contacts: List,
        now_ms: int,
    ) -> None:
        self._side, self._account, self._listing, self._now_ms = side, account, listing, now_ms
        self._shadows, (self._entries, self._whole) = shadows, contacts
        self._taken = {name.lower() for name in (*listing.names, *shadows)}
        self.known = {shadow.id: shadow for shadow in shadows.values()}
        self.places: dict[bytes, str] = {}
        """By id, where the side has it."""
        self._uids: set[str] = set()
        """Of the cards that the side has, or will have."""
        self.steps: list[Step] = []
        self.bad = list(listing.bad)

    def match(self) -> None:
        """A card is the contact that its href was; else the one with its UID; else, of those without, one that says the
        same; else a new one."""
        seen, shadows = self._listing.seen, self._shadows
        self.places = {shadows[href].id: href for href in seen if href in shadows}
        there = self.places.keys() | {shadows[href].id for href in self._listing.held if href in shadows}
        moved = {shadow.uid: shadow.id for shadow in shadows.values() if shadow.uid and shadow.id not in there}
        self._uids = {shadows[href].uid for href in seen if href in shadows}
        for href in sorted(seen.keys() - shadows.keys()):
            uid = read_person(seen[href].card).uid
            self._uids.add(uid)
            id = moved.get(uid) or self._listed(uid, seen[href].card)
            if id in there or id in self.places:
                self.bad.append(Bad(href, 0, SAME_UID))
            else:
                self.places[id] = href

    def _listed(self, uid: str, card: bytes) -> bytes:
        if not uid:
            return self._without_uid.pop(self._form(card), None) or new_id()
        id = id_of_uid(self._account.label, uid)
        return id if id in self._entries else self._by_uid.get(uid, id)

    @cached_property
    def _by_uid(self) -> dict[str, bytes]:
        return {
            read_person(entry.card).uid: id for id, entry in reversed(list(self._entries.items())) if _is_person(entry)
        }

    @cached_property
    def _without_uid(self) -> dict[bytes, bytes]:
        entries = ((id, entry) for id, entry in self._entries.items() if id not in self.known and _is_person(entry))
        return {self._form(entry.card): id for id, entry in entries if not read_person(entry.card).uid}

    def _form(self, card: bytes) -> bytes:
        return b"".join(sorted(card_form(card, self._account.country).elements()))

    def decide(self, id: bytes) -> None:
        """What is to be done about this contact."""
        entry, old = self._entries.get(id), self.known.get(id)
        if entry is None and old and not self._whole:
            return
        if id in self.places:
            self._there(id, self.places[id], entry, old)
        elif old is None or old.href not in self._listing.held:
            self._not_there(id, entry, old)

    def _not_there(self, id: bytes, entry: Envelope | None, old: Shadow | None) -> None:
        if entry is None or not _is_placed(entry):
            if old:
                self._step(id, old.href, entry, entry, None, None, old)
        elif old and old.card and not self._is_edited(entry, old):
            self._step(id, old.href, entry, None, None, None, old)
        else:
            uid = str(uuid.UUID(bytes=id))  # of any device's making
            try:
                card = entry.card if read_person(entry.card).uid else with_uid(entry.card, uid)
            except CardError:
                self.bad.append(Bad("", 0, UNEDITABLE))
                return
            uid = read_person(card).uid
            if uid in self._uids:
                self.bad.append(Bad("", 0, SAME_UID))
                return
            self._uids.add(uid)
            # Where it was; but a file of several cards is not ours to add to.
            href = old.href if old and "/" not in old.href else new_href(uid, self._taken)
            self._taken.add(href.lower())
            self._step(id, href, entry, replace(entry, card=card), None, card, old)

    def _there(self, id: bytes, href: str, entry: Envelope | None, old: Shadow | None) -> None:
        there, mark = self._listing.seen[href]
        base = old.card if old else b""
        if old and entry and _is_placed(entry) and (there, _digest(entry.card)) == (base, old.listed):
            if (href, mark) != (old.href, old.mark):
                moved = Shadow.of(self._side, href, id, old.uid, base, mark, old.listed)
                self.steps.append(Step(id, href, entry, entry, there, there, moved, old))
            return
        if entry is None:
            if base and self._form(there) == self._form(base):
                self._step(id, href, None, None, there, None, old)
            else:
                after = Envelope(created_ms=self._now_ms, changed_ms=self._now_ms).with_card(there)
                self._step(id, href, None, after, there, there, old)
        elif not _is_placed(entry):
            if base:
                self._step(id, href, entry, self._merged(base, there, entry), there, None, old)
            else:
                self.bad.append(Bad(href, 0, KEPT_APART))
        else:
            after = self._merged(base, there, entry)
            self._step(id, href, entry, after, there, self._taken_over(href, there, after.card), old)

    def _is_edited(self, entry: Envelope, old: Shadow) -> bool:
        return _digest(entry.card) != old.listed and self._form(entry.card) != self._form(old.card)

    def _merged(self, base: bytes, there: bytes, entry: Envelope) -> Envelope:
        """What the list is to have: its own bytes but for what was changed on the side."""
        if there == base:
            return entry
        mine = replace_card(base, there, self._account.country) if base else there
        if mine == base:
            return entry
        merged = merge(
            replace(entry, card=base) if base else None,
            replace(entry, changed_ms=max(self._now_ms, entry.changed_ms)).with_card(mine),
            entry,
            device=self._account.device,
            ms=entry.changed_ms,
            country=self._account.country,
        )
        assert merged is not None  # neither side is
        return entry if merged == replace(entry, changed_ms=merged.changed_ms) else merged

    def _taken_over(self, href: str, there: bytes, card: bytes) -> bytes:
        """What the side is to have: its own bytes but for what the list says otherwise."""
        if there == card or self._form(there) == self._form(card):
            return there
        try:
            return replace_card(there, card, self._account.country)
        except CardError:
            self.bad.append(Bad(href, 0, UNEDITABLE))
            return there

    def _step(
        self,
        id: bytes,
        href: str,
        before: Envelope | None,
        after: Envelope | None,
        there: bytes | None,
        wanted: bytes | None,
        old: Shadow | None,
    ) -> None:
        if after is not None and after != before and not is_keepable(after):
            self.bad.append(Bad(href, 0, UNEDITABLE))  # both stay as they are
            return
        agreed = None
        if wanted is not None and after is not None:
            mark = self._listing.seen[href].mark if wanted == there else b""
            agreed = Shadow.of(self._side, href, id, read_person(wanted).uid, wanted, mark, _digest(after.card))
        if (before, there, agreed) != (after, wanted, old):
            self.steps.append(Step(id, href, before, after, there, wanted, agreed, old))


def _digest(card: bytes) -> bytes:
    return hashlib.sha256(card).digest()


def _is_person(entry: Envelope) -> bool:
    return entry.kind in (Kind.CONTACT, Kind.GROUP)


def _is_placed(entry: Envelope | None) -> bool:
    """Whether it is also in the person's address books."""
    return entry is not None and _is_person(entry) and entry.placement == Placement.ADDRESS_BOOK
