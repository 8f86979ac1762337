"""The records and the manifest of before there was a line of commits, for reading (docs/protocol/contacts.md, Version
1). Pure.
"""

import hmac

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCMSIV
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from ipls.contacts.errors import CardError
from ipls.contacts.sealing import ID_BYTES, KEY_BYTES, MAX_ENVELOPE, NAME_BYTES, OVERHEAD, padded_size
from ipls.crypto.encoding import lp, u32, u64

MAX_MANIFEST = (1 << 24) - 4
"""Bytes of an encoded manifest: 349,524 records."""

_MANIFEST_ID = bytes(ID_BYTES)
_NONCE_BYTES = 12
_ENTRY_BYTES = ID_BYTES + NAME_BYTES
_FIXED_BYTES = 8 + 8 + KEY_BYTES + 4


def check_value(contact_key: bytes) -> bytes:
    """The 32 bytes that stand with a manifest and show, before anything is opened, that a key is its key.

    Raises CardError KEY_INVALID.
    """
    return _derive(contact_key, b"ipls/contacts/v1 check")


def open_record(contact_key: bytes, label: str, generation: int, id: bytes, ciphertext: bytes) -> bytes:
    """The card. Raises CardError RECORD_INVALID: another key, account, generation or id, or altered."""
    return _open(contact_key, _context(label, generation, id), ciphertext, MAX_ENVELOPE)


def open_manifest(
    contact_key: bytes, label: str, generation: int, version: int, check: bytes, ciphertext: bytes
) -> dict[bytes, bytes]:
    """The records that the manifest names, id -> SHA-256, which the store gave with this generation, version and check.

    Raises CardError: KEY_CHECK_FAILED (the check value is another key's), RECORD_INVALID (as for a record),
    MANIFEST_INVALID (sealed with this key, but not in the one encoding).
    """
    if not hmac.compare_digest(check, check_value(contact_key)):
        raise CardError("KEY_CHECK_FAILED", "the contact key is not the one that the contacts are stored under")
    context = _context(label, generation, _MANIFEST_ID) + u64(version) + check
    plaintext = _open(contact_key, context, ciphertext, MAX_MANIFEST)
    entries = plaintext[_FIXED_BYTES:]
    records = {
        entries[at : at + ID_BYTES]: entries[at + ID_BYTES : at + _ENTRY_BYTES]
        for at in range(0, len(entries), _ENTRY_BYTES)
    }
    listed = b"".join(id + digest for id, digest in sorted(records.items()))
    if (
        len(entries) % _ENTRY_BYTES
        or _MANIFEST_ID in records
        or plaintext != u64(generation) + u64(version) + check + u32(len(records)) + listed
    ):
        raise CardError("MANIFEST_INVALID", "the manifest is not encoded as it must be")
    return records


def _context(label: str, generation: int, id: bytes) -> bytes:
    return lp(label.encode()) + u64(generation) + lp(id)


def _derive(contact_key: bytes, info: bytes) -> bytes:
    if len(contact_key) != KEY_BYTES:
        raise CardError("KEY_INVALID", f"a contact key is {KEY_BYTES} bytes")
    return HKDF(SHA256(), KEY_BYTES, salt=None, info=info).derive(contact_key)


def _open(contact_key: bytes, context: bytes, ciphertext: bytes, limit: int) -> bytes:
    refused = CardError("RECORD_INVALID", "a stored record is not this account's, or was altered")
    if not OVERHEAD + padded_size(0) <= len(ciphertext) <= OVERHEAD + padded_size(limit):
        raise refused
    cipher = AESGCMSIV(_derive(contact_key, b"ipls/contacts/v1 record"))
    try:
        plaintext = cipher.decrypt(ciphertext[:_NONCE_BYTES], ciphertext[_NONCE_BYTES:], context)
    except InvalidTag:
        raise refused from None
    content = plaintext[4:][: int.from_bytes(plaintext[:4], "big")]
    if plaintext != (u32(len(content)) + content).ljust(padded_size(len(content)), b"\0"):
        raise refused
    return content
