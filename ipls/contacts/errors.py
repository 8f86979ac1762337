"""What the contacts package raises, and nothing else:

ContactsError
└── CardError       a card, record or manifest that can't be read or does not hold up

Tested by tests/contacts/test_records.py.
"""

from ipls.errors import IplsError


class ContactsError(IplsError):
    """The base; no message holds a key, a number, a name or anything else of a contact."""


class CardError(ContactsError):
    """A card, a record or a manifest that can't be read or fails its check."""
