"""Safety numbers: by which two people find out whether each of them has the other's true key, without the directory
(docs/protocol/contacts.md, Safety numbers). Pure."""

import hashlib
import re
from enum import Enum
from typing import NamedTuple

from ipls.crypto.codes import read_code
from ipls.crypto.encoding import lp
from ipls.trust.errors import IdentityRefused
from ipls.trust.identity import check_label

GROUPS, GROUP_DIGITS = 12, 5
_GROUP_BYTES = 5
_DOMAIN = b"ipls/safety/v1"
_FIELDS = re.compile(r"([A-Za-z0-9._-]{1,64}):(\+[0-9]{1,15}):(\+[0-9]{1,15}):([0-9]{60})")


class Party(NamedTuple):
    """One of the two: the number, and the Ed25519 key that it has for whoever computes, 32 bytes."""

    label: str
    public_key: bytes


class Comparison(Enum):
    """What another one's safety number says of the own one."""

    MATCHES = "matches"
    DIFFERS = "differs"
    """Of the same two numbers, by other keys: one of the two has a key that the other one doesn't have."""
    OTHER_PAIR = "other pair"
    """Of two other numbers, or of another service: it says nothing."""


class SafetyNumber(NamedTuple):
    """What both see alike when each has the other's key: 60 digits. The numbers that it is of, the lower first."""

    namespace: str
    lower: str
    higher: str
    digits: str

    @classmethod
    def between(cls, namespace: str, one: Party, other: Party) -> "SafetyNumber":
        """Of two accounts of the trust root's namespace, in whichever order.

        Raises IdentityRefused: LABEL_INVALID; SAFETY_NUMBER_INVALID for an account and itself.
        """
        for party in (one, other):
            check_label(party.label)
        if one.label == other.label:
            raise _invalid("there is no safety number of an account with itself")
        lower, higher = sorted((one, other))
        fields = (_DOMAIN, namespace.encode(), lower.label.encode(), lower.public_key)
        digest = hashlib.sha512(b"".join(map(lp, (*fields, higher.label.encode(), higher.public_key)))).digest()
        groups = (digest[at : at + _GROUP_BYTES] for at in range(0, GROUPS * _GROUP_BYTES, _GROUP_BYTES))
        digits = "".join(f"{int.from_bytes(group, 'big') % 10**GROUP_DIGITS:0{GROUP_DIGITS}}" for group in groups)
        return cls(namespace, lower.label, higher.label, digits)

    @classmethod
    def parse(cls, text: str) -> "SafetyNumber":
        """The inverse of `text`, also of one that was broken into lines.

        Raises IdentityRefused SAFETY_NUMBER_INVALID.
        """
        number = cls(*read_code(text, "SAFETY", "safety number", _FIELDS, _invalid))
        if number.lower >= number.higher:
            raise _invalid("a character of the safety number is wrong")
        return number

    @property
    def text(self) -> str:
        """For a QR: the same on both sides."""
        return f"IPLS-SAFETY:1:{self.namespace}:{self.lower}:{self.higher}:{self.digits}"

    @property
    def groups(self) -> list[str]:
        """For people: 12 times five digits."""
        return [self.digits[at : at + GROUP_DIGITS] for at in range(0, len(self.digits), GROUP_DIGITS)]

    def compare(self, other: "SafetyNumber") -> Comparison:
        """What the other one's says."""
        if self[:3] != other[:3]:
            return Comparison.OTHER_PAIR
        return Comparison.MATCHES if self.digits == other.digits else Comparison.DIFFERS


def _invalid(message: str) -> IdentityRefused:
    return IdentityRefused("SAFETY_NUMBER_INVALID", message)
