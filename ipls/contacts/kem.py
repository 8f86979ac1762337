"""A device's KEM key, and what is sealed to it: contacts.md, Devices (docs/protocol/contacts.md, Linking).

HPKE (RFC 9180) in base mode, MLKEM768-X25519, HKDF-SHA-256, AES-256-GCM. Pure; random bytes aside. A public key is
1,216 bytes, ML-KEM-768's and X25519's; the secret 96, ML-KEM's seed and X25519's scalar. What is sealed is 1,120 bytes
of encapsulated key, the content, and a tag of 16.
"""

import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import (
    AEAD,
    KDF,
    KEM,
    MLKEM768X25519PrivateKey,
    MLKEM768X25519PublicKey,
    Suite,
)

from ipls.contacts.errors import LineError

SECRET_BYTES = 96
PUBLIC_BYTES = 1216
SEALED_OVERHEAD = 1120 + 16

_MLKEM_SEED_BYTES = 64
_MLKEM_PUBLIC_BYTES = 1184
_SUITE = Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


class KemKey:
    """A device's own, new where no `secret` is given. Raises LineError KEY_INVALID for one that is not 96 bytes."""

    def __init__(self, secret: bytes | None = None) -> None:
        self.secret = os.urandom(SECRET_BYTES) if secret is None else secret
        if len(self.secret) != SECRET_BYTES:
            raise LineError("KEY_INVALID", f"a device's KEM secret is {SECRET_BYTES} bytes")
        mlkem = MLKEM768PrivateKey.from_seed_bytes(self.secret[:_MLKEM_SEED_BYTES])
        x25519 = X25519PrivateKey.from_private_bytes(self.secret[_MLKEM_SEED_BYTES:])
        self._private = MLKEM768X25519PrivateKey(mlkem, x25519)
        self.public = mlkem.public_key().public_bytes_raw() + x25519.public_key().public_bytes_raw()

    def open(self, info: bytes, sealed: bytes) -> bytes:
        """The content. Raises LineError SEAL_BROKEN: to another key, for another purpose or place, or altered."""
        try:
            return _SUITE.decrypt(sealed, self._private, info=info)
        except InvalidTag:
            raise LineError(
                "SEAL_BROKEN", "what is sealed is not for this device, or not for this, or altered"
            ) from None


def seal_to(public: bytes, info: bytes, content: bytes) -> bytes:
    """Sealed to the device of this KEM key, for what `info` says. Raises LineError KEY_INVALID."""
    try:
        mlkem = MLKEM768PublicKey.from_public_bytes(public[:_MLKEM_PUBLIC_BYTES])
        x25519 = X25519PublicKey.from_public_bytes(public[_MLKEM_PUBLIC_BYTES:])
        return _SUITE.encrypt(content, MLKEM768X25519PublicKey(mlkem, x25519), info=info)
    except ValueError:  # of another length, not reduced, or of an order that gives no secret
        raise LineError("KEY_INVALID", "not a device's KEM key") from None
