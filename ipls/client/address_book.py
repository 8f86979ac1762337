"""What people do with their contacts on this device: find, add, edit, remove, import, export, merge, and take it back.

All of it is local; `Device.store` sends it.
"""

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from string import hexdigits
from typing import Literal, NamedTuple, TypeVar

from ipls.client.addressbook.dav.service import DavService
from ipls.client.addressbook.folder import Folder
from ipls.client.addressbook.plan import Account as SyncedAccount
from ipls.client.addressbook.sync import SyncReport, SyncTerms, sync
from ipls.client.errors import ProfileError, SideError
from ipls.client.importing import Import, Imported, imported_key
from ipls.client.linked_devices import LinkedDevices
from ipls.client.profile import Account, Apart, Contact, ImportedCard, Profile, Step
from ipls.client.rows import Unreadable
from ipls.contacts.cards.editing import Changes, edit_card, new_card, replace_card
from ipls.contacts.cards.lines import Card, Skipped, join_cards, split_cards
from ipls.contacts.cards.merging import ALONE, SINGLE, join_units, put_unit
from ipls.contacts.cards.numbers import comparable_number, country_of
from ipls.contacts.cards.reading import NO_NAME, describe_unit, read_card, read_members, read_person
from ipls.contacts.cards.reading import Contact as Read
from ipls.contacts.cards.search import SearchIndex, search_key
from ipls.contacts.cards.tables import read_table, write_table
from ipls.contacts.cards.units import card_units, unit_of
from ipls.contacts.envelope import Envelope, Placement
from ipls.contacts.merge import merge
from ipls.contacts.sealing import ID_BYTES, id_of_uid, new_id
from ipls.crypto.encoding import lp, tagged_hash
from ipls.crypto.keys import public_key
from ipls.units import DAY_MS

Some = TypeVar("Some", Contact, Contact | Unreadable)
_WHY = ("number", "email", "name")
UNDO_FOR_MS = 30 * DAY_MS
"""How long what was done can be taken back."""


class Listed(NamedTuple):
    """A contact as it is shown. `id` is 32 hex digits; `stored`: the newest manifest that was sent names it. Of one
    that is damaged here (`unreadable`) there is nothing but an id of its own, and every search finds it. `conflicts`:
    how many wait to be settled. `only_ipls`: it is kept out of the person's other address books."""

    id: str
    name: str
    numbers: tuple[str, ...]
    stored: bool
    unreadable: bool = False
    emails: tuple[str, ...] = ()
    conflicts: int = 0
    only_ipls: bool = False


class Undone(NamedTuple):
    """What was taken back, when it was done (ms), how many contacts are as they were, and how many were changed since
    and stay."""

    what: str
    ms: int
    contacts: int
    kept: int


class Group(NamedTuple):
    """A group of contacts: its `members` in its order, and how many more it names that are not in the list."""

    id: str
    name: str
    members: list[Listed]
    absent: int


class Duplicate(NamedTuple):
    """Two contacts that may be one person, and why: `number`, `email` or `name`."""

    first: Listed
    second: Listed
    why: str


PLACED = {
    Placement.IPLS_ONLY: "only in IPLS",
    Placement.ADDRESS_BOOK: "also in the phone's address book",
}
"""In words."""
Settlement = Literal["keep", "take", "both"]


class OpenConflict(NamedTuple):
    """What gave way in a contact, until a person settles it. `number`: among the contact's, from 1. `property`: of
    which it is; `here`: what the card says of that now; `other`: what gave way.

    `device`: the Ed25519 key, in hex, of the device that wrote that, at `ms` by its clock, and in words, `wrote`.
    `both_fit`: a card may have both.
    """

    contact: Listed
    number: int
    property: str
    here: tuple[str, ...]
    other: str
    device: str
    wrote: str
    ms: int
    both_fit: bool


class AddressBook:
    """The contacts of one open profile."""

    def __init__(self, profile: Profile, now_ms: Callable[[], int]) -> None:
        self._profile = profile
        self._now_ms = now_ms

    @property
    def country(self) -> str | None:
        """By which national numbers are read: that of the account's number."""
        account = self._profile.get(Account)
        return country_of(account.label) if account else None

    def contacts(self) -> list[Listed]:
        """Everybody, by name, then who can't be read; groups are nobody."""
        read, damaged = self._read()
        read.sort(key=_by_name)
        return [*(_listed(contact, shown) for contact, shown in read), *damaged]

    def find(self, query: str, limit: int | None = None) -> list[Listed]:
        """Whom a query finds, best first; see `SearchIndex`."""
        read, damaged = self._read()
        index = SearchIndex(((each, each[1]) for each in read), self.country)
        return [*(_listed(contact, shown) for contact, shown in index.find(query, limit)), *damaged]

    def card(self, id: str) -> bytes:
        """The card whose id begins with these hex digits. Raises ProfileError CONTACT_UNKNOWN, CONTACT_AMBIGUOUS."""
        return self._contact(id).card

    def cards(self) -> list[bytes]:
        """All cards, groups too, byte for byte, in the order in which they came."""
        return [contact.card for contact in self._profile.contacts()]

    def contact(self, id: str) -> Listed:
        """Likewise as it is listed; a group, too."""
        contact = self._contact(id)
        return _listed(contact, read_card(contact.card))

    def conflicts(self, id: str | None = None) -> list[OpenConflict]:
        """What is to be settled of this contact, or of all, by name. Raises as `card`."""
        contacts = self._profile.contacts() if id is None else [self._contact(id)]
        open = [(contact, read_card(contact.card)) for contact in contacts if contact.envelope.conflicts]
        open.sort(key=_by_name)
        names = self._device_names() if open else {}
        return [each for contact, shown in open for each in self._conflicts_of(contact, shown, names)]

    def _conflicts_of(self, contact: Contact, shown: Read, names: Mapping[bytes, str]) -> Iterator[OpenConflict]:
        units = card_units(contact.card, self.country)
        for number, (text, device, ms) in enumerate(contact.envelope.conflicts, 1):
            unit = unit_of(text, self.country)
            here = tuple(describe_unit(each.text)[1] for each in units if each.names == unit.names)
            listed, (label, other) = _listed(contact, shown), describe_unit(text)
            both_fit = not ALONE.intersection(unit.names)
            wrote = names.get(device) or (f"device {device.hex()[:8]}" if device else "another device")
            yield OpenConflict(listed, number, label, here, other, device.hex(), wrote, ms, both_fit)

    def _device_names(self) -> dict[bytes, str]:
        """Of those that are known here, by their keys."""
        names = {each.public_key: f"the phone of identity version {each.version}" for each in self._profile.versions()}
        if self._profile.get(Account):
            linked = LinkedDevices(self._profile).all()
            names |= {each.key: f"the device {each.name}" for each in linked if each.name}
        return names | {self._device: "this device"}

    def settle(self, id: str, how: Settlement, numbers: Collection[int] = ()) -> Listed:
        """Settle conflicts of a contact, as `conflicts` numbers them; all, if none is named. `keep` what the card says,
        `take` what gave way in its place, or have `both`. All or none; the account's other devices follow.

        Raises as `card`; ProfileError CONFLICT_UNKNOWN, CONFLICT_ALONE (both don't fit, or of two only one can be
        taken); CardError CARD_EDIT_REFUSED.
        """
        contact = self._contact(id)
        kept = dict(enumerate(contact.envelope.conflicts, 1))
        chosen = sorted(set(numbers or kept))
        if not kept or not kept.keys() >= set(chosen):
            raise ProfileError("CONFLICT_UNKNOWN", "the contact has no such conflict")
        texts = [kept.pop(number).unit for number in chosen]
        names = [unit_of(text, self.country).names for text in texts]
        alone = how == "both" and any(ALONE.intersection(each) for each in names)
        if alone or (how == "take" and any(SINGLE.intersection(each) and names.count(each) > 1 for each in names)):
            raise ProfileError("CONFLICT_ALONE", "of this the card can have only one")
        card = contact.card
        for text in texts if how != "keep" else ():
            card = put_unit(card, text, self.country, beside=how == "both")
        settled = replace(contact.envelope, conflicts=tuple(kept.values())).with_card(card)
        self._write("settling", [contact._replace(envelope=settled)])
        return self.contact(contact.id.hex())

    def groups(self) -> list[Group]:
        """By name; who is named in one is in the list by UID."""
        read = [(contact, read_card(contact.card)) for contact in self._profile.contacts()]
        people = {
            read_person(contact.card).uid: _listed(contact, shown) for contact, shown in read if not shown.is_group
        }
        groups = []
        for contact, shown in sorted((each for each in read if each[1].is_group), key=_by_name):
            uids = read_members(contact.card)
            members = [people[uid] for uid in uids if uid in people]
            groups.append(Group(contact.id.hex(), shown.name, members, len(uids) - len(members)))
        return groups

    def export(self, layout: str = "vcard") -> bytes:
        """All cards as one address book: `vcard`, or a table for `google` or `outlook`."""
        return join_cards(self.cards()) if layout == "vcard" else write_table(self.cards(), layout)

    @property
    def placement(self) -> Placement:
        """Of new contacts; of what a side has that is new here, it is always ADDRESS_BOOK."""
        return _placement(self._profile.settings)

    def place_new(self, placement: Placement) -> None:
        """Have new contacts be placed so, on all devices of the account."""
        self._profile.put_settings(replace(self._profile.settings, placement=placement))

    def place(self, ids: Sequence[str], placement: Placement) -> list[Listed]:
        """Have contacts also in the person's other address books, or only in IPLS: the next sync of each book takes
        them out there, but for what was changed there last. All or none. Raises as `card`."""
        contacts = self._profile.contacts()
        placed = [
            each._replace(envelope=replace(each.envelope, placement=placement), sent=False)
            for each in (_one(contacts, id) for id in ids)
        ]
        self._write("placing", placed)
        return [_listed(contact, read_card(contact.card)) for contact in placed]

    def add(self, changes: Changes, placement: Placement | None = None) -> Listed:
        """A new contact. `placement`: None for that of all new ones."""
        uid = f"urn:ipls:{new_id().hex()}"
        account = self._profile.get(Account)
        id = id_of_uid(account.label, uid) if account else new_id()
        contact = Contact(id, Envelope(placement=placement or self.placement).with_card(new_card(uid, changes)))
        self._write("add", [contact])
        return _listed(contact, read_card(contact.card))

    def edit(self, id: str, changes: Changes) -> Listed:
        """Change these lines of a card, and no other byte. Raises as `card`; CardError as `edit_card`."""
        contact = self._contact(id)
        return self._edited(contact, edit_card(contact.card, changes, self.country))

    def replace(self, id: str, before: bytes, edited: bytes) -> Listed:
        """Put in a card as a person left it in an editor that showed `before`. Raises as `card`; ProfileError
        CONTACT_CHANGED (meanwhile, elsewhere), CardError CARD_EDIT_REFUSED."""
        contact = self._contact(id)
        if contact.card != before:
            raise ProfileError("CONTACT_CHANGED", "the contact was changed while it was open in the editor")
        return self._edited(contact, replace_card(contact.card, edited, self.country))

    def remove(self, ids: Sequence[str]) -> list[Listed]:
        """Remove contacts, all or none; an import does not bring them back by itself. One that is damaged here goes for
        good. Raises as `card`."""
        contacts = self._profile.all_contacts()
        named = [_one(contacts, id) for id in ids]
        gone = [each for each in named if isinstance(each, Contact)]
        lost = [each.key for each in named if isinstance(each, Unreadable)]
        with self._profile.transaction():
            self._write("remove", (), removed=gone)
            for name in lost:
                self._profile.line.remove_unreadable(name)
        return [*(_listed(contact, read_card(contact.card)) for contact in gone), *map(_damaged, lost)]

    def import_cards(self, *books: bytes, again: bool = False, dry_run: bool = False) -> list[Imported]:
        """Add the cards of exported address books, all or none: vCards, or tables as Google, Outlook or Thunderbird
        write them; what became of each book's. `again`: also those that were removed here. `dry_run`: only say what
        would become of them.
        """
        account = self._profile.get(Account)
        label = account.label if account else None
        taken = Import(
            self._profile.contacts(),
            self._profile.imported(),
            label=label,
            country=self.country,
            device=self._device,
            placement=self.placement,
            again=again,
        )
        outcomes = [taken.take(_parts(book)) for book in books]
        if not dry_run:
            self._write("import", taken.contacts.values(), remembered=taken.remembered.values())
        return outcomes

    def copy_to(self, other: "AddressBook", ids: Sequence[str]) -> list[Listed]:
        """Have contacts in another profile, too, with all that is kept beside their cards: as they are there then. What
        that has of them already stays, and what these say otherwise becomes a conflict there. Repeated it changes
        nothing. Raises as `card`."""
        contacts = self._profile.contacts()
        taken = other._taken([_one(contacts, id) for id in ids], self._device)
        other._write("copy", taken)
        return [_listed(contact, read_card(contact.card)) for contact in taken]

    def remove_moved(self, other: "AddressBook", ids: Sequence[str]) -> list[Listed]:
        """Remove contacts that were copied to another profile, and which its account's line has: all or none. Raises as
        `card`; ProfileError MOVE_UNFINISHED."""
        contacts = self._profile.contacts()
        moved = [_one(contacts, id) for id in ids]
        if not all(contact.sent for contact in other._taken(moved, self._device)):
            raise ProfileError("MOVE_UNFINISHED", "not all of them are stored in the other account yet")
        self._write("move", (), removed=moved)
        return [_listed(contact, read_card(contact.card)) for contact in moved]

    def _taken(self, given: Iterable[Contact], device: bytes) -> list[Contact]:
        """Contacts of another profile, whose device has this key, as they are here or are to be."""
        account = self._profile.get(Account)
        there = {contact.id: contact for contact in self._profile.contacts()}
        by_uid = {read_person(contact.card).uid: id for id, contact in there.items()}
        ids = []
        for contact in given:
            uid = read_person(contact.card).uid
            made = id_of_uid(account.label, uid) if uid and account else _id_of_copy(contact.id)
            id = by_uid.get(uid, made) if uid else made
            was, now = there.get(id), contact.envelope
            if was:
                joined = merge(None, was.envelope, now, device=device, ms=now.changed_ms, country=self.country)
                assert joined is not None  # neither is
                now = joined
            there[id] = was if was and was.envelope == now else Contact(id, now)
            ids.append(id)
        return [there[id] for id in dict.fromkeys(ids)]

    def duplicates(self) -> list[Duplicate]:
        """Pairs that may be one person, by name: an equal number or address, or an equal name and one more equal fact.
        Nothing is merged unasked; of whom a person said that they are two, nothing is said."""
        apart = self._profile.apart()
        people, _ = self._read()
        country = self.country
        by_fact: dict[tuple[str, str], list[int]] = {}
        for at, (_, shown) in enumerate(people):
            name = search_key(shown.name) if shown.name != NO_NAME else ""
            facts = {("number", comparable_number(number, country)) for number in shown.numbers}
            facts |= {("email", email.casefold()) for email in shown.emails}
            facts |= {("name", f"{name}\0{search_key(other)}") for other in shown.others if name}
            for fact in facts:
                by_fact.setdefault(fact, []).append(at)
        pairs: dict[tuple[int, int], str] = {}
        for (why, _), places in sorted(by_fact.items(), key=lambda each: _WHY.index(each[0][0])):
            # Of many who share one number, as a company's, each is held against the first.
            for other in places[1:]:
                pairs.setdefault((places[0], other), why)
        found = [(people[one], people[other], why) for (one, other), why in pairs.items()]
        kept = [each for each in found if _pair(each[0][0].id, each[1][0].id) not in apart]
        proposed = [Duplicate(_listed(*one), _listed(*other), why) for one, other, why in kept]
        return sorted(proposed, key=lambda each: (search_key(each.first.name), each.first.id, each.second.id))

    def merge(self, id: str, other: str) -> Listed:
        """Make one contact of two: the first, with all that the second says besides. Raises as `card`; ProfileError
        CONTACT_SAME, CardError CARD_EDIT_REFUSED."""
        one, two = self._two(id, other)
        card = join_units(one.card, two.card, self.country)
        both = [replace(each.envelope, card=card, kind=one.envelope.kind) for each in (one, two)]
        joined = merge(None, *both, device=self._device, ms=two.envelope.changed_ms, country=self.country)
        assert joined is not None  # neither is
        changed = one._replace(envelope=joined, sent=False)
        self._write("merge", [changed], removed=[two])
        return _listed(changed, read_card(card))

    def keep_apart(self, id: str, other: str) -> None:
        """Say that two contacts are two people: they are proposed no more. Raises as `merge`."""
        one, two = self._two(id, other)
        self._profile.put_apart(Apart(_pair(one.id, two.id)))

    def sync_folder(self, path: Path, terms: SyncTerms) -> SyncReport:
        """Bring the contacts and a folder of vCards together, as khard and vdirsyncer keep one; see `SyncTerms`.

        Raises SideError SIDE_AWAY, SIDE_SHRUNK: then nothing was changed.
        """
        contacts = _Synced(self._profile, self._write)
        return sync(Folder(path), self._synced_account, contacts, self._profile.rows, self._now_ms(), terms)

    def dav_service(self, *, allow_removals: bool, told: Callable[[SideError], None]) -> DavService:
        """The contacts for CardDAV clients; see `DavService`."""
        contacts, rows = _Synced(self._profile, self._write), self._profile.rows
        return DavService(rows, contacts, self._synced_account, self._now_ms, allow_removals=allow_removals, told=told)

    @property
    def _synced_account(self) -> SyncedAccount:
        account = self._profile.get(Account)
        return SyncedAccount(account.label if account else "", self.country, self._device)

    @property
    def _device(self) -> bytes:
        """This device's Ed25519 key; empty where there is no account yet."""
        account = self._profile.get(Account)
        return public_key(account.seed) if account else b""

    def undo(self, what: str | None = None) -> Undone:
        """Take back what was newest done to contacts in the last 30 days, or the newest step of the kind `what`, as
        `Undone` names it. What was changed again since stays as it is; what was damaged since comes back as it was
        before. Raises ProfileError NOTHING_TO_UNDO."""
        steps = [step for step in self._profile.steps() if step.ms > self._now_ms() - UNDO_FOR_MS]
        steps = [step for step in steps if what in (None, step.what)]
        if not steps:
            raise ProfileError("NOTHING_TO_UNDO", "there is nothing of the last 30 days to be taken back")
        step = steps[-1]
        there = {contact.id: contact for contact in self._profile.contacts()}
        back: list[Contact] = []
        gone: list[bytes] = []
        kept = 0
        for id, before, after in _decoded(step.changes):
            now = there.get(id)
            if _digest(now) != after and not self._profile.line.is_damaged(id):
                kept += 1
            elif before:
                was = Envelope.decode(before)
                back.append(Contact(id, replace(was, verified=now.envelope.verified) if now else was))
            else:
                gone.append(id)
        with self._profile.transaction():
            self._profile.put_contacts(back)
            self._profile.remove_contacts(gone)
            self._profile.remove_imported(row.key for row in self._profile.imported() if row.id in set(gone))
            self._profile.remove_steps([step.number])
        return Undone(step.what, step.ms, len(back) + len(gone), kept)

    def note_recovery(self, before: Iterable[Contact]) -> None:
        """Have `undo` take back what became of the contacts since they were `before`, and the person began anew."""
        there, here = {contact.id: contact for contact in before}, {each.id: each for each in self._profile.contacts()}
        both = [(id, there.get(id), here.get(id)) for id in {**there, **here}]
        self._put_step("recovery", [each for each in both if _digest(each[1]) != _digest(each[2])])

    def _read(self) -> tuple[list[tuple[Contact, Read]], list[Listed]]:
        """Everybody, and those that are damaged."""
        read: list[tuple[Contact, Read]] = []
        damaged: list[Listed] = []
        for contact in self._profile.all_contacts():
            if isinstance(contact, Unreadable):
                damaged.append(_damaged(contact.key))
            elif not (shown := read_card(contact.card)).is_group:
                read.append((contact, shown))
        return read, damaged

    def _contact(self, id: str) -> Contact:
        whole = len(id) == 2 * ID_BYTES and set(id.lower()) <= set(hexdigits)
        return (whole and self._profile.contact(bytes.fromhex(id))) or _one(self._profile.contacts(), id)

    def _two(self, id: str, other: str) -> tuple[Contact, Contact]:
        contacts = self._profile.contacts()
        one, two = _one(contacts, id), _one(contacts, other)
        if one.id == two.id:
            raise ProfileError("CONTACT_SAME", "these are one contact")
        return one, two

    def _edited(self, contact: Contact, card: bytes) -> Listed:
        changed = contact
        if card != contact.card:
            changed = contact._replace(envelope=contact.envelope.with_card(card), sent=False)
            self._write("edit", [changed])
        return _listed(changed, read_card(card))

    def _write(
        self,
        what: str,
        contacts: Iterable[Contact],
        removed: Sequence[Contact] = (),
        remembered: Iterable[ImportedCard] = (),
    ) -> None:
        """Write contacts and what takes it back, in one transaction. Of an imported card that is changed here, what was
        imported is kept: the base of what the next import brings."""
        contacts = list(contacts)
        ids = {contact.id for contact in (*contacts, *removed)}
        there = {id: contact for id in ids if (contact := self._profile.contact(id))}
        now_ms = self._now_ms()
        changed = [
            contact._replace(envelope=_stamped(contact.envelope, there.get(contact.id), now_ms))
            for contact in contacts
            if contact.id not in there or contact.envelope != there[contact.id].envelope
        ]
        changes: list[tuple[bytes, Contact | None, Contact | None]] = [
            *((contact.id, there.get(contact.id), contact) for contact in changed),
            *((contact.id, contact, None) for contact in removed),
        ]
        rows = {row.key: row for row in remembered}
        if what != "import":
            for card in (there[contact.id].card for contact in changed if contact.id in there):
                row = self._profile.imported_as(imported_key(card))
                if row and not row.card and hashlib.sha256(card).digest() == row.digest:
                    rows[row.key] = row._replace(card=card)
        with self._profile.transaction():
            self._profile.put_contacts(changed)
            self._profile.remove_contacts(contact.id for contact in removed)
            self._profile.put_imported(rows.values())
            self._put_step(what, changes)

    def _put_step(self, what: str, changes: Sequence[tuple[bytes, Contact | None, Contact | None]]) -> None:
        steps, now_ms = self._profile.steps(), self._now_ms()
        with self._profile.transaction():
            self._profile.remove_steps(step.number for step in steps if step.ms <= now_ms - UNDO_FOR_MS)
            if changes:
                number = steps[-1].number + 1 if steps else 1
                self._profile.put_step(Step(number, now_ms, what, _encoded(changes)))


class _Synced:
    """The contacts as a sync takes them."""

    def __init__(self, profile: Profile, write: Callable[[str, Iterable[Contact], Sequence[Contact]], None]) -> None:
        self._profile = profile
        self._write = write

    def entries(self) -> dict[bytes, Envelope]:
        """See `ContactList`."""
        return {contact.id: contact.envelope for contact in self._profile.contacts()}

    def is_whole(self) -> bool:
        """See `ContactList`."""
        return not self._profile.line.unreadable()

    def edit(self, changes: Mapping[bytes, Envelope | None]) -> None:
        """See `ContactList`."""
        there = {contact.id: contact for contact in self._profile.contacts()}
        changed = [Contact(id, now) for id, now in changes.items() if now]
        self._write("sync", changed, [there[id] for id, now in changes.items() if now is None])


def _parts(data: bytes) -> Iterator[Card | Skipped]:
    """The cards of a file; those that a table's rows make, where it has none."""
    some = False
    for part in split_cards(data):
        some = True
        yield part
    if not some:
        yield from read_table(data)


def _one(contacts: Iterable[Some], id: str) -> Some:
    found = [
        each for each in contacts if (each.id if isinstance(each, Contact) else each.key).hex().startswith(id.lower())
    ]
    if not found:
        raise ProfileError("CONTACT_UNKNOWN", "no contact has this id")
    if len(found) > 1:
        raise ProfileError("CONTACT_AMBIGUOUS", "several contacts' ids begin so; give more digits")
    return found[0]


def _listed(contact: Contact, shown: Read) -> Listed:
    envelope = contact.envelope
    return Listed(
        contact.id.hex(),
        shown.name,
        shown.numbers,
        contact.sent,
        emails=shown.emails,
        conflicts=len(envelope.conflicts),
        only_ipls=_placement(envelope) == Placement.IPLS_ONLY,
    )


def _damaged(name: bytes) -> Listed:
    return Listed(name.hex(), "", (), stored=False, unreadable=True)


def _placement(envelope: Envelope) -> Placement:
    """One of a later client's is none that goes out by this one."""
    also = envelope.placement == Placement.ADDRESS_BOOK
    return Placement.ADDRESS_BOOK if also else Placement.IPLS_ONLY


def _by_name(each: tuple[Contact, Read]) -> tuple[str, tuple[str, ...], bytes]:
    contact, shown = each
    return search_key(shown.name), shown.numbers, contact.id


def _pair(one: bytes, other: bytes) -> bytes:
    return min(one, other) + max(one, other)


def _stamped(envelope: Envelope, there: Contact | None, now_ms: int) -> Envelope:
    """With the times of a change at `now_ms`, by a clock that may be behind another device's."""
    created_ms = envelope.created_ms if there else envelope.created_ms or now_ms
    return replace(envelope, created_ms=created_ms, changed_ms=max(now_ms, envelope.changed_ms))


def _id_of_copy(id: bytes) -> bytes:
    """Of a contact without a UID: the same each time."""
    return tagged_hash("ipls/client/v1 copy", id)[:ID_BYTES]


def _digest(contact: Contact | None) -> bytes:
    """Of what steps change of it: a key may be compared, and kept with it, meanwhile."""
    if contact is None:
        return bytes(32)
    return hashlib.sha256(replace(contact.envelope, changed_ms=0, verified=()).encode()).digest()


def _encoded(changes: Iterable[tuple[bytes, Contact | None, Contact | None]]) -> bytes:
    """Of each contact: its id, its digest after the step (zeros: gone), its envelope before (empty: none)."""
    return b"".join(
        id + _digest(after) + lp(before.envelope.encode() if before else b"") for id, before, after in changes
    )


def _decoded(data: bytes) -> Iterator[tuple[bytes, bytes, bytes]]:
    """Id, envelope before, digest after."""
    at = 0
    while at < len(data):
        id, after, size = data[at : at + 16], data[at + 16 : at + 48], int.from_bytes(data[at + 48 : at + 56], "big")
        yield id, data[at + 56 : at + 56 + size], after
        at += 56 + size
