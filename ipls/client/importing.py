"""What becomes of a file's cards: each is new, changed, the same, removed here before, or bad. Nothing is written here.

Tested by tests/client/test_address_book.py.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import replace
from typing import NamedTuple

from ipls.client.profile import Contact, ImportedCard
from ipls.contacts.cards.editing import with_uid
from ipls.contacts.cards.lines import NEWLINE, Card, Skipped
from ipls.contacts.cards.reading import read_card, read_person
from ipls.contacts.cards.units import card_form
from ipls.contacts.envelope import Envelope
from ipls.contacts.merge import merge
from ipls.contacts.sealing import MAX_ENVELOPE, id_of_uid, new_id
from ipls.contacts.whole import UNEDITABLE, fits, is_keepable, unkeepable
from ipls.crypto.encoding import tagged_hash


class Imported(NamedTuple):
    """How many cards of a file are `new`, `changed` (a contact with that UID was, by them), the `same` as here, or
    `removed` here since they were imported, and so not taken again. `bad` are none, with line and reason.

    `conflicts`: contacts of which a value that was changed here too gave way; it is kept as a conflict. `shared_uids`:
    lines of cards that came under a UID of ours, for another person in the file has theirs. `large`: lines of cards
    that go to the store without their largest values.
    """

    new: int
    changed: int
    same: int
    removed: int
    bad: list[Skipped]
    conflicts: int
    shared_uids: list[int]
    large: list[int]

    @property
    def readable(self) -> bool:
        """There was a card in the file."""
        return self.new + self.changed + self.same + self.removed > 0


class Import:
    """Files' cards against the contacts that are here. `contacts` and `remembered` are what is to be written."""

    def __init__(
        self,
        contacts: Iterable[Contact],
        imported: Iterable[ImportedCard],
        *,
        label: str | None,
        country: str | None,
        device: bytes,
        placement: int,
        again: bool,
    ) -> None:
        """`label`: the account's, if there is one yet. `device`: its Ed25519 key. `placement`: of new contacts.
        `again`: take what was removed here since."""
        self.contacts: dict[bytes, Contact] = {}
        self.remembered: dict[bytes, ImportedCard] = {}
        self._label, self._country, self._device, self._again = label, country, device, again
        self._new = Envelope(placement=placement)
        self._there = {contact.id: contact for contact in contacts}
        self._by_bytes = {_digest(contact.card): id for id, contact in self._there.items()}
        self._imported = {row.key: row for row in imported}
        self._by_uid: dict[str, bytes] = {}
        self._by_name: dict[str, _Namesakes] = {}
        self._indexed = False

    def take(self, parts: Iterable[Card | Skipped]) -> Imported:
        """The cards of one file."""
        self._people: dict[str, tuple[str, ...]] = {}  # of this file: UID -> names
        self._counts = dict.fromkeys(("new", "changed", "same", "removed", "conflicts"), 0)
        self._bad: list[Skipped] = []
        self._shared: list[int] = []
        self._large: list[int] = []
        for part in parts:
            self._take_part(part)
        counts = self._counts
        return Imported(
            counts["new"],
            counts["changed"],
            counts["same"],
            counts["removed"],
            self._bad,
            counts["conflicts"],
            self._shared,
            self._large,
        )

    def _take_part(self, part: Card | Skipped) -> None:
        if isinstance(part, Skipped):
            self._bad.append(part)
            return
        if reason := unkeepable(part.data):
            self._bad.append(Skipped(part.line, reason))
            return
        if len(part.data) > MAX_ENVELOPE and not fits(Envelope(part.data)):
            self._large.append(part.line)
        if outcome := self._take(part):
            self._counts[outcome] += 1

    def _take(self, part: Card) -> str | None:
        """What came of it; None: nothing, and `_bad` has why."""
        card = part.data
        if _digest(card) in self._by_bytes:
            return "same"
        person = read_person(card)
        uid = person.uid
        if uid:
            names = self._people.setdefault(uid, person.names)
            own = f"urn:ipls:{tagged_hash('ipls/client/v1 uid', uid, *person.names)[:16].hex()}"
            if names != person.names or self._with_uid(own):
                # Somebody else has this UID: a bad exporter gave it to two people.
                card, uid = with_uid(card, own), own
                if _digest(card) in self._by_bytes:
                    return "same"
                if names != person.names:
                    self._shared.append(part.line)
        key = _key(uid, card)
        row = self._imported.get(key)
        there = self._with_uid(uid) if uid else self._alike(card, row)
        if there is None:
            if row is not None and not self._again:
                return "removed"
            self._put(Contact(self._id(uid), self._new.with_card(card)), key, card, uid)
            return "new"
        if not uid or card_form(there.card, self._country) == card_form(card, self._country):
            return "same"
        base, was = self._base(row, there), there.envelope
        merged = merge(
            replace(was, card=base) if base else None,
            was.with_card(card),
            was,
            device=self._device,
            ms=was.changed_ms,
            country=self._country,
        )
        assert merged is not None  # neither side is
        if merged != was and not is_keepable(merged):
            self._bad.append(Skipped(part.line, UNEDITABLE))
            return None
        self._counts["conflicts"] += bool(set(merged.conflicts) - set(was.conflicts))
        changed = merged != was
        self._put(there._replace(envelope=merged, sent=False) if changed else there, key, card, uid)
        return "changed" if changed else "same"

    def _put(self, contact: Contact, key: bytes, card: bytes, uid: str) -> None:
        if before := self._there.get(contact.id):
            self._by_bytes.pop(_digest(before.card), None)
        self._there[contact.id] = self.contacts[contact.id] = contact
        self._by_bytes[_digest(contact.card)] = contact.id
        kept = b"" if contact.card == card else card
        row = ImportedCard(key, contact.id, hashlib.sha256(card).digest(), kept)
        self._imported[key] = self.remembered[key] = row
        if self._indexed:
            self._index(contact, uid)

    def _id(self, uid: str) -> bytes:
        id = id_of_uid(self._label, uid) if uid and self._label else new_id()
        return id if id not in self._there else new_id()

    @staticmethod
    def _base(row: ImportedCard | None, there: Contact) -> bytes:
        """What was last imported under this UID; empty if that is not known any more."""
        if row is None or row.id != there.id:
            return b""
        return row.card or (there.card if hashlib.sha256(there.card).digest() == row.digest else b"")

    def _with_uid(self, uid: str) -> Contact | None:
        self._index_all()
        id = self._by_uid.get(uid)
        return None if id is None else self._there[id]

    def _alike(self, card: bytes, row: ImportedCard | None) -> Contact | None:
        """Who came of this very card before, or says the same as it."""
        if row is not None and row.id in self._there:
            return self._there[row.id]
        self._index_all()
        namesakes = self._by_name.get(read_card(card).name)
        if namesakes is None:
            return None
        for id in namesakes.unread:  # each once, however many cards have this name
            namesakes.by_form.setdefault(self._form(self._there[id].card), id)
        namesakes.unread.clear()
        alike = namesakes.by_form.get(self._form(card))
        return None if alike is None else self._there[alike]

    def _form(self, card: bytes) -> frozenset[tuple[bytes, int]]:
        return frozenset(card_form(card, self._country).items())

    def _index_all(self) -> None:
        if not self._indexed:
            self._indexed = True
            for contact in self._there.values():
                self._index(contact, read_person(contact.card).uid)

    def _index(self, contact: Contact, uid: str) -> None:
        if uid:
            self._by_uid.setdefault(uid, contact.id)
        else:
            self._by_name.setdefault(read_card(contact.card).name, _Namesakes([], {})).unread.append(contact.id)


class _Namesakes(NamedTuple):
    """Contacts of one name without a UID: those whose form is not known yet, and the others by it."""

    unread: list[bytes]
    by_form: dict[frozenset[tuple[bytes, int]], bytes]


def _digest(card: bytes) -> bytes:
    """Of its bytes, whatever ends its lines."""
    return hashlib.sha256(NEWLINE.sub(b"\n", card)).digest()


def imported_key(card: bytes) -> bytes:
    """Of the row in which an import remembers this card."""
    return _key(read_person(card).uid, card)


def _key(uid: str, card: bytes) -> bytes:
    return tagged_hash("ipls/client/v1 imported", uid) if uid else _digest(card)
