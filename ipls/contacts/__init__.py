"""Contacts as the device has them and as the store gets them: cards, sealed records, the manifest. Pure."""

from ipls.contacts.errors import CardError, ContactsError
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
from ipls.contacts.vcard import Card, Contact, Skipped, join_cards, read_card, split_cards

__all__ = [
    "ID_SIZE",
    "KEY_SIZE",
    "MAX_CARD",
    "MAX_MANIFEST",
    "Card",
    "CardError",
    "Contact",
    "ContactsError",
    "Manifest",
    "Skipped",
    "check_value",
    "digest",
    "join_cards",
    "open_manifest",
    "open_record",
    "read_card",
    "seal_manifest",
    "seal_record",
    "split_cards",
]
