"""Contacts as the device has them and as the store gets them: cards, envelopes, sealed records, the manifest. Pure."""

from ipls.contacts.cards.editing import Changes
from ipls.contacts.cards.lines import Card, Skipped, join_cards, split_cards
from ipls.contacts.cards.numbers import country_of
from ipls.contacts.cards.reading import Contact, read_card
from ipls.contacts.contact_code import ContactCode
from ipls.contacts.envelope import Conflict, Envelope, Kind, Parts, Placement, Verified
from ipls.contacts.errors import CardError, ContactsError
from ipls.contacts.merge import merge
from ipls.contacts.records import (
    ID_SIZE,
    KEY_SIZE,
    MAX_CARD,
    MAX_MANIFEST,
    Manifest,
    check_value,
    digest,
    open_manifest,
    open_record,
    seal_manifest,
    seal_record,
)

__all__ = [
    "ID_SIZE",
    "KEY_SIZE",
    "MAX_CARD",
    "MAX_MANIFEST",
    "Card",
    "CardError",
    "Changes",
    "Conflict",
    "Contact",
    "ContactCode",
    "ContactsError",
    "Envelope",
    "Kind",
    "Manifest",
    "Parts",
    "Placement",
    "Skipped",
    "Verified",
    "check_value",
    "country_of",
    "digest",
    "join_cards",
    "merge",
    "open_manifest",
    "open_record",
    "read_card",
    "seal_manifest",
    "seal_record",
    "split_cards",
]
