"""What the contacts package raises, and nothing else:

ContactsError
├── CardError       a card, record, manifest or contact code that can't be read or does not hold up
├── LineError       something of the line of commits does not hold up, or has no place in it
└── LinkError       a device can't be linked by what the other one, or the store between, said

Tested by tests/contacts/test_commits.py and tests/contacts/test_linking.py.
"""

from ipls.errors import IplsError


class ContactsError(IplsError):
    """The base; no message holds a key, a number, a name or anything else of a contact."""


class CardError(ContactsError):
    """A card, a record, a manifest or a contact code that can't be read or fails its check."""


class LineError(ContactsError):
    """A commit, snapshot or record is not what it must be, or the line that a store shows is not this account's."""


class LinkError(ContactsError):
    """Something of the linking of a device does not hold up; nobody is linked by it."""
