"""Ed25519 keys and signatures (RFC 8032). A seed is 32 bytes, a public key 32, a signature 64."""

from typing import Protocol

from nacl.bindings import crypto_core_ed25519_is_valid_point
from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey, VerifyKey

from ipls.crypto.errors import SignatureRefused

KEY_BYTES = 32
SIGNATURE_BYTES = 64


def check_public_key(key: bytes) -> bytes:
    """`key`, if an honest seed can have made it: canonical, on the curve, of prime order.

    Raises SignatureRefused KEY_INVALID, also for points of small or of mixed order: under one of small order a
    signature holds for messages that nobody signed.
    """
    if len(key) != KEY_BYTES or not crypto_core_ed25519_is_valid_point(key):
        raise SignatureRefused("KEY_INVALID", "not an Ed25519 public key of prime order")
    return key


def public_key(seed: bytes) -> bytes:
    """The public key of a 32-byte seed."""
    return bytes(SigningKey(seed).verify_key)


def sign(seed: bytes, message: bytes) -> bytes:
    """A detached signature over `message`, 64 bytes."""
    return SigningKey(seed).sign(message).signature


class Signer(Protocol):
    """A key that signs, wherever it lies. Any thread may call it."""

    @property
    def public_key(self) -> bytes:
        """32 bytes."""

    def sign(self, message: bytes) -> bytes:
        """A detached signature over `message`, 64 bytes."""


class SeedSigner:
    """A key that lies in this process's memory."""

    def __init__(self, seed: bytes) -> None:
        self.public_key = public_key(seed)
        self._seed = seed

    def sign(self, message: bytes) -> bytes:
        """See `Signer`."""
        return sign(self._seed, message)


def verify(public: bytes, message: bytes, signature: bytes) -> None:
    """Raises SignatureRefused: KEY_INVALID, SIGNATURE_LENGTH, SIGNATURE_INVALID."""
    check_public_key(public)
    if len(signature) != SIGNATURE_BYTES:
        raise SignatureRefused("SIGNATURE_LENGTH", f"a signature has {SIGNATURE_BYTES} bytes, not {len(signature)}")
    try:
        VerifyKey(public).verify(message, signature)
    except BadSignatureError:
        raise SignatureRefused("SIGNATURE_INVALID", "the signature doesn't hold") from None
