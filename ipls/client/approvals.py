"""How one device lets another one in before the account's change delay is over, in two lines that a person carries:

the waiting device shows a request, `NUMBER:VERSION:KEY`; a device that the owner named in the vault before signs it
and shows `APPROVER:SIGNATURE`, which the waiting one hands to the vault. Keys and signatures are in hex.
"""

from typing import NamedTuple

from ipls.client.errors import ProfileError
from ipls.crypto.errors import VerificationError
from ipls.crypto.keys import check_public_key, public_key, sign
from ipls.trust.identity import check_label
from ipls.trust.limits import MAX_INT
from ipls.vault.session.transcript import approval_statement


class ApprovalRequest(NamedTuple):
    """The identity that waits: number, version, Ed25519 key."""

    label: str
    version: int
    key: bytes

    def __str__(self) -> str:
        return f"{self.label}:{self.version}:{self.key.hex()}"

    @classmethod
    def parse(cls, text: str) -> "ApprovalRequest":
        """The inverse of `str`. Raises ProfileError APPROVAL_REQUEST_INVALID."""
        try:
            label, version, key = text.strip().split(":")
            number = int(version)
            if not 0 < number <= MAX_INT:
                raise ValueError
            return cls(check_label(label), number, check_public_key(bytes.fromhex(key)))
        except (ValueError, VerificationError):
            raise ProfileError(
                "APPROVAL_REQUEST_INVALID", "not a line that `ipls client vault request` shows on the waiting device"
            ) from None


class Approval(NamedTuple):
    """Who approves, an Ed25519 key, and its signature."""

    approver: bytes
    signature: bytes

    def __str__(self) -> str:
        return f"{self.approver.hex()}:{self.signature.hex()}"

    @classmethod
    def parse(cls, text: str) -> "Approval":
        """The inverse of `str`; the vault judges what it says. Raises ProfileError APPROVAL_UNREADABLE."""
        try:
            approver, signature = text.strip().split(":")
            return cls(bytes.fromhex(approver), bytes.fromhex(signature))
        except ValueError:
            raise ProfileError(
                "APPROVAL_UNREADABLE", "not a line that `ipls client vault sign` shows on the approving device"
            ) from None

    @classmethod
    def make(cls, seed: bytes, namespace: str, request: ApprovalRequest) -> "Approval":
        """By the approver's seed, for this one identity version."""
        approver = public_key(seed)
        return cls(approver, sign(seed, approval_statement(namespace, *request, approver)))


def parse_approver(text: str) -> bytes:
    """An approver's key from hex. Raises ProfileError APPROVER_INVALID."""
    try:
        return check_public_key(bytes.fromhex(text.strip()))
    except (ValueError, VerificationError):
        text = "not a line that `ipls client vault key` shows on the other device"
        raise ProfileError("APPROVER_INVALID", text) from None
