"""Seals records and manifests as devices did before there was a line of commits; `ipls.contacts.version1` reads
them."""

import hashlib
import hmac
import os
from collections.abc import Mapping
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCMSIV
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from ipls.contacts.errors import CardError
from ipls.crypto.encoding import lp, u32, u64

KEY_SIZE = 32
ID_SIZE = 16
MAX_CARD = 2 * 1024 * 1024 - 4
"""Largest card in bytes: with its length before it, it fills 2 MiB."""
MAX_MANIFEST = 16 * 1024 * 1024 - 4
"""Largest encoded manifest in bytes: 349,524 records."""

_MANIFEST_ID = bytes(ID_SIZE)
_LENGTH_SIZE = 4
_NONCE_SIZE = 12
_TAG_SIZE = 16
_SMALLEST = 256
_DIGEST_SIZE = 32
_ENTRY_SIZE = ID_SIZE + _DIGEST_SIZE
_FIXED_SIZE = 8 + 8 + KEY_SIZE + 4


@dataclass(frozen=True)
class Manifest:
    """What an account's contact list consists of: every record's id and the SHA-256 of its ciphertext."""

    generation: int
    version: int
    records: Mapping[bytes, bytes]


def check_value(contact_key: bytes) -> bytes:
    """The 32 bytes that stand with the manifest and show, before anything is opened, that a key is its key."""
    return _derive(contact_key, b"ipls/contacts/v1 check")


def digest(ciphertext: bytes) -> bytes:
    """The SHA-256 by which the manifest and the contact store name a ciphertext."""
    return hashlib.sha256(ciphertext).digest()


def seal_record(contact_key: bytes, label: str, generation: int, record_id: bytes, card: bytes) -> bytes:
    """Encrypts a card under a fresh nonce. `record_id`: 16 random bytes made with the contact.

    Raises CardError: CARD_TOO_LARGE (over MAX_CARD), RECORD_ID_INVALID.
    """
    if len(card) > MAX_CARD:
        raise CardError("CARD_TOO_LARGE", f"a card of {len(card)} bytes is over the limit of {MAX_CARD}")
    return _seal(contact_key, _record_context(label, generation, record_id), card)


def open_record(contact_key: bytes, label: str, generation: int, record_id: bytes, ciphertext: bytes) -> bytes:
    """Returns the card. That it is the newest one, only `Manifest.records[record_id] == digest(ciphertext)` says.

    Raises CardError: RECORD_ID_INVALID, RECORD_INVALID (another key, account, generation or id, or altered).
    """
    return _open(contact_key, _record_context(label, generation, record_id), ciphertext, MAX_CARD)


def seal_manifest(contact_key: bytes, label: str, manifest: Manifest) -> bytes:
    """Encrypts a manifest. Its version and `check_value(contact_key)` go to the store in clear beside it.

    Raises CardError: MANIFEST_TOO_LARGE, RECORD_ID_INVALID.
    """
    check = check_value(contact_key)
    plaintext = _encode(manifest, check)
    if len(plaintext) > MAX_MANIFEST:
        raise CardError("MANIFEST_TOO_LARGE", f"a manifest of {len(manifest.records)} records is too long")
    return _seal(contact_key, _manifest_context(label, manifest.generation, manifest.version, check), plaintext)


def open_manifest(
    contact_key: bytes, label: str, generation: int, version: int, check: bytes, ciphertext: bytes
) -> Manifest:
    """Opens the manifest that the store gave with this generation, version and check value.

    Raises CardError: KEY_CHECK_FAILED (the check value is another key's: the key must not be used),
    RECORD_INVALID (as for a record), MANIFEST_INVALID (sealed with this key, but not in the one encoding).
    """
    if not hmac.compare_digest(check, check_value(contact_key)):
        raise CardError("KEY_CHECK_FAILED", "the contact key is not the one that the contacts are stored under")
    context = _manifest_context(label, generation, version, check)
    plaintext = _open(contact_key, context, ciphertext, MAX_MANIFEST)
    entries = plaintext[_FIXED_SIZE:]
    records = {
        entries[at : at + ID_SIZE]: entries[at + ID_SIZE : at + _ENTRY_SIZE]
        for at in range(0, len(entries), _ENTRY_SIZE)
    }
    manifest = Manifest(generation, version, records)
    # One encoding only: whole entries, sorted, no id twice, and the numbers that were asked for.
    if len(entries) % _ENTRY_SIZE or _MANIFEST_ID in records or _encode(manifest, check) != plaintext:
        raise CardError("MANIFEST_INVALID", "the manifest is not encoded as it must be")
    return manifest


def _encode(manifest: Manifest, check: bytes) -> bytes:
    for record_id in manifest.records:
        _check_id(record_id)
    entries = b"".join(record_id + digest for record_id, digest in sorted(manifest.records.items()))
    return u64(manifest.generation) + u64(manifest.version) + check + u32(len(manifest.records)) + entries


def _check_id(record_id: bytes) -> None:
    if len(record_id) != ID_SIZE or record_id == _MANIFEST_ID:
        raise CardError("RECORD_ID_INVALID", "a record id is 16 bytes, not all zero")


def _record_context(label: str, generation: int, record_id: bytes) -> bytes:
    _check_id(record_id)
    return lp(label.encode()) + u64(generation) + lp(record_id)


def _manifest_context(label: str, generation: int, version: int, check: bytes) -> bytes:
    return lp(label.encode()) + u64(generation) + lp(_MANIFEST_ID) + u64(version) + check


def _derive(contact_key: bytes, info: bytes) -> bytes:
    if len(contact_key) != KEY_SIZE:
        raise CardError("KEY_INVALID", f"a contact key is {KEY_SIZE} bytes")
    return HKDF(SHA256(), KEY_SIZE, salt=None, info=info).derive(contact_key)


def _cipher(contact_key: bytes) -> AESGCMSIV:
    return AESGCMSIV(_derive(contact_key, b"ipls/contacts/v1 record"))


def _padded_size(content_size: int) -> int:
    """The power of two, from 256, that holds a length and `content_size` bytes."""
    return max(_SMALLEST, 1 << (_LENGTH_SIZE + content_size - 1).bit_length())


def _seal(contact_key: bytes, context: bytes, content: bytes) -> bytes:
    plaintext = (u32(len(content)) + content).ljust(_padded_size(len(content)), b"\0")
    nonce = os.urandom(_NONCE_SIZE)
    return nonce + _cipher(contact_key).encrypt(nonce, plaintext, context)


def _open(contact_key: bytes, context: bytes, ciphertext: bytes, limit: int) -> bytes:
    refused = CardError("RECORD_INVALID", "a stored record is not this account's, or was altered")
    # Refused before any work is done on it; the cipher needs its nonce whole.
    if not _NONCE_SIZE + _TAG_SIZE + _SMALLEST <= len(ciphertext) <= _NONCE_SIZE + _TAG_SIZE + _padded_size(limit):
        raise refused
    nonce, sealed = ciphertext[:_NONCE_SIZE], ciphertext[_NONCE_SIZE:]
    try:
        plaintext = _cipher(contact_key).decrypt(nonce, sealed, context)
    except InvalidTag:
        raise refused from None
    content = plaintext[_LENGTH_SIZE:][: int.from_bytes(plaintext[:_LENGTH_SIZE], "big")]
    if plaintext != (u32(len(content)) + content).ljust(_padded_size(len(content)), b"\0"):
        raise refused
    return content
