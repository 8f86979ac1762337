"""Contacts as the device has them and as the store gets them: cards, envelopes, sealed records, the manifest. Pure."""

from ipls.contacts.cards.editing import Changes
from ipls.contacts.cards.lines import Card, Skipped, join_cards, split_cards
from ipls.contacts.cards.numbers import country_of
from ipls.contacts.cards.reading import Contact, read_card
from ipls.contacts.contact_code import ContactCode
from ipls.contacts.envelope import Conflict, Envelope, Kind, Parts, Placement, Verified
from ipls.contacts.errors import CardError, ContactsError
from ipls.contacts.merge import merge

__all__ = [
    "Card",
    "CardError",
    "Changes",
    "Conflict",
    "Contact",
    "ContactCode",
    "ContactsError",
    "Envelope",
    "Kind",
    "Parts",
    "Placement",
    "Skipped",
    "Verified",
    "country_of",
    "join_cards",
    "merge",
    "read_card",
    "split_cards",
]
