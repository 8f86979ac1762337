"""What a contact key seals, and how: contacts.md, Keys (docs/protocol/contacts.md). Pure; random bytes aside."""

import hashlib
import hmac
import os
from functools import cached_property

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCMSIV
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from ipls.contacts.errors import LineError
from ipls.crypto.encoding import lp, tagged_hash, u32, u64
from ipls.crypto.keys import SeedSigner

KEY_BYTES = 32
ID_BYTES = 16
NAME_BYTES = 32
OVERHEAD = 12 + 16
"""Nonce and tag: a sealed message is this and a power of two."""
MAX_ENVELOPE = (1 << 21) - 4
MAX_SNAPSHOT = (1 << 24) - 4
"""Bytes of content: with the length before it, it fills 2 MiB, or 16."""

SETTINGS_ID = tagged_hash("ipls/contacts/v2 settings")[:ID_BYTES]
"""Of the record of an account's settings, which there is one of."""

_NONCE_BYTES = 12
_LENGTH_BYTES = 4
_SMALLEST = 256


class ContactKey:
    """A contact key of an account: what is sealed and written under it as `generation`.

    Raises LineError KEY_INVALID for one that is not 32 bytes.
    """

    def __init__(self, secret: bytes, label: str, generation: int) -> None:
        if len(secret) != KEY_BYTES:
            raise LineError("KEY_INVALID", f"a contact key is {KEY_BYTES} bytes")
        self.secret = secret
        self.label = label
        self.generation = generation
        self._context = lp(label.encode()) + u64(generation)

    @cached_property
    def writer(self) -> SeedSigner:
        """Signs what the store takes into the line; its public half, the write key, is the key check."""
        return SeedSigner(_derive(self.secret, "write"))

    def seal(self, aad: bytes, content: bytes, nonce: bytes | None = None) -> bytes:
        """nonce || AES-256-GCM-SIV(u32(length) || content || zeros); the nonce is random where none is given."""
        nonce = nonce or os.urandom(_NONCE_BYTES)
        padded = (u32(len(content)) + content).ljust(padded_size(len(content)), b"\0")
        return nonce + self._cipher.encrypt(nonce, padded, self._context + aad)

    def open(self, aad: bytes, sealed: bytes, limit: int = MAX_ENVELOPE) -> bytes:
        """The content, of `limit` bytes at most.

        Raises LineError SEAL_BROKEN: another key, account, generation or place, altered, or not in the one encoding.
        """
        # Refused before any work is done on it.
        if not OVERHEAD + _SMALLEST <= len(sealed) <= OVERHEAD + padded_size(limit):
            raise _broken()
        try:
            padded = self._cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], self._context + aad)
        except InvalidTag:
            raise _broken() from None
        content = padded[_LENGTH_BYTES:][: int.from_bytes(padded[:_LENGTH_BYTES], "big")]
        if padded != (u32(len(content)) + content).ljust(padded_size(len(content)), b"\0"):
            raise _broken()
        return content

    def seal_record(self, id: bytes, envelope: bytes) -> bytes:
        """The record of a contact: the same bytes whenever it is made again of the same contents.

        Raises LineError ENVELOPE_TOO_LARGE.
        """
        if len(envelope) > MAX_ENVELOPE:
            raise LineError("ENVELOPE_TOO_LARGE", f"a record holds {MAX_ENVELOPE} bytes at most")
        nonce = hmac.digest(self._nonce_key, lp(id) + envelope, "sha256")[:_NONCE_BYTES]
        return self.seal(_record_aad(id), envelope, nonce)

    def open_record(self, id: bytes, record: bytes) -> bytes:
        """The envelope. Raises LineError SEAL_BROKEN."""
        return self.open(_record_aad(id), record)

    @cached_property
    def _cipher(self) -> AESGCMSIV:
        return AESGCMSIV(_derive(self.secret, "seal"))

    @cached_property
    def _nonce_key(self) -> bytes:
        return _derive(self.secret, "nonce")


def name_of(sealed: bytes) -> bytes:
    """A record's or snapshot's name: its SHA-256."""
    return hashlib.sha256(sealed).digest()


def new_id() -> bytes:
    """The id of a contact that has no UID."""
    return os.urandom(ID_BYTES)


def id_of_uid(label: str, uid: str) -> bytes:
    """The id of a card with this UID: one file that is imported on two devices makes one contact."""
    return tagged_hash("ipls/contacts/v2 id", label, uid)[:ID_BYTES]


def id_of_part(id: bytes, index: int) -> bytes:
    """The id of part `index` of a contact whose envelope is over MAX_ENVELOPE."""
    return tagged_hash("ipls/contacts/v2 part", id, index)[:ID_BYTES]


def padded_size(content_size: int) -> int:
    """The power of two, from 256, that holds a length and `content_size` bytes."""
    return max(_SMALLEST, 1 << (_LENGTH_BYTES + content_size - 1).bit_length())


def is_sealed_size(size: int, limit: int = MAX_ENVELOPE) -> bool:
    """Whether something of at most `limit` bytes, sealed, can be so long: nothing else is taken for a record."""
    padded = size - OVERHEAD
    return _SMALLEST <= padded <= padded_size(limit) and padded.bit_count() == 1


def _broken() -> LineError:
    return LineError("SEAL_BROKEN", "what is sealed is not this account's, or not of this place, or was altered")


def _record_aad(id: bytes) -> bytes:
    return lp(b"record") + lp(id)


def _derive(secret: bytes, name: str) -> bytes:
    return HKDF(SHA256(), KEY_BYTES, salt=None, info=f"ipls/contacts/v2 {name}".encode()).derive(secret)
