"""A contact code: a person's number and name, for another one's device to read (docs/protocol/contacts.md, Contact
codes). It proves nothing; whose key the number has the directory says. Pure."""

import re
from base64 import b32decode, b32encode
from binascii import Error
from typing import NamedTuple

from ipls.contacts.errors import CardError
from ipls.contacts.names import is_shown_as_it_is
from ipls.crypto.codes import read_code
from ipls.trust.errors import IdentityRefused
from ipls.trust.identity import check_label

MAX_NAME = 128
"""Bytes of UTF-8."""

_FIELDS = re.compile(r"(\+[0-9]{1,15}):([A-Z2-7]{2,205})")


class ContactCode(NamedTuple):
    """A number in E.164 and what its owner is called."""

    label: str
    name: str

    @classmethod
    def parse(cls, text: str) -> "ContactCode":
        """The inverse of `text`, also of one that was broken into lines. Raises CardError CONTACT_CODE_INVALID."""
        label, name = read_code(text, "CONTACT", "contact code", _FIELDS, _invalid)
        try:
            code = cls(label, b32decode(name + "=" * (-len(name) % 8)).decode())
        except (Error, UnicodeDecodeError):
            raise _invalid("the name in the contact code can't be read") from None
        if not code.text.endswith(f":{name}"):  # bits beyond the last byte
            raise _invalid("a character of the contact code is wrong")
        return code

    @property
    def text(self) -> str:
        """In characters of a QR's alphanumeric mode. Raises CardError CONTACT_CODE_INVALID for what is no number, or
        a name that can't be shown as it is."""
        try:
            check_label(self.label)
        except IdentityRefused as e:
            raise _invalid(e.message) from e
        if not is_shown_as_it_is(self.name, MAX_NAME):
            raise _invalid(f"the name in a contact code has 1 to {MAX_NAME} bytes, without control characters")
        return f"IPLS-CONTACT:1:{self.label}:{b32encode(self.name.encode()).decode().rstrip('=')}"


def _invalid(message: str) -> CardError:
    return CardError("CONTACT_CODE_INVALID", message)
