"""Whose key an account label stands for, as proved by the directory."""

import re
from typing import NamedTuple

from ipls.akd import AkdError, verify_absence, verify_history
from ipls.crypto.errors import SignatureRefused
from ipls.crypto.keys import check_public_key
from ipls.trust.errors import IdentityRefused
from ipls.trust.heads import Head
from ipls.trust.root import TrustRoot

_LABEL = re.compile(r"\+[0-9]{1,15}")
_RECORD_VERSION = b"\x01"


class Identity(NamedTuple):
    """An Ed25519 public key, the version of its label that it is, and the epoch it was published in."""

    public_key: bytes
    version: int
    epoch: int


def check_label(label: str) -> str:
    """`label`, if it is E.164: `+` and 1 to 15 digits. Raises IdentityRefused LABEL_INVALID."""
    if not _LABEL.fullmatch(label):
        raise IdentityRefused("LABEL_INVALID", "an account label is + and 1 to 15 digits")
    return label


def encode_record(public_key: bytes) -> bytes:
    """The directory's value for a key, 33 bytes. Raises SignatureRefused KEY_INVALID."""
    return _RECORD_VERSION + check_public_key(public_key)


def decode_record(value: bytes) -> bytes:
    """The public key in a directory value. Raises IdentityRefused IDENTITY_RECORD_INVALID."""
    if len(value) != 33 or value[:1] != _RECORD_VERSION:
        raise IdentityRefused("IDENTITY_RECORD_INVALID", "an identity record is 0x01 and an Ed25519 public key")
    try:
        return check_public_key(value[1:])
    except SignatureRefused as e:
        raise IdentityRefused("IDENTITY_RECORD_INVALID", e.message) from e


def verify_identity(root: TrustRoot, head: Head, label: str, proof: bytes) -> Identity:
    """The label's identity at a verified head, from an encoded HistoryProof, most recent 1, no missing values.

    A lookup proof is not accepted: it does not conflict with a later version planted between the markers of its owner's
    history. Raises IdentityRefused: LABEL_INVALID, IDENTITY_UNPROVEN, IDENTITY_RECORD_INVALID.
    """
    check_label(label)
    try:
        versions = verify_history(head.root_hash, head.epoch, root.vrf_public_key, label.encode(), proof, most_recent=1)
    except AkdError as e:
        raise IdentityRefused("IDENTITY_UNPROVEN", f"the directory's proof was refused: {e.reason}") from e
    newest = versions[0]
    return Identity(decode_record(newest.value), newest.version, newest.epoch)


def verify_no_identity(root: TrustRoot, head: Head, label: str, proof: bytes) -> None:
    """That the label has no identity at a verified head, from an encoded AbsenceProof. Raises IdentityRefused as
    `verify_identity`."""
    check_label(label)
    try:
        verify_absence(head.root_hash, head.epoch, root.vrf_public_key, label.encode(), proof)
    except AkdError as e:
        raise IdentityRefused("IDENTITY_UNPROVEN", f"the directory's proof was refused: {e.reason}") from e
