"""Ed25519 keys and signatures (RFC 8032). A seed is 32 bytes, a public key 32, a signature 64."""

from nacl.bindings import crypto_core_ed25519_is_valid_point
from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey, VerifyKey

from ipls.trust.errors import SignatureRefused

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


def verify(public: bytes, message: bytes, signature: bytes) -> None:
    """Raises SignatureRefused: KEY_INVALID, SIGNATURE_LENGTH, SIGNATURE_INVALID."""
    check_public_key(public)
    if len(signature) != SIGNATURE_BYTES:
        raise SignatureRefused("SIGNATURE_LENGTH", f"a signature has {SIGNATURE_BYTES} bytes, not {len(signature)}")
    try:
        VerifyKey(public).verify(message, signature)
    except BadSignatureError:
        raise SignatureRefused("SIGNATURE_INVALID", "the signature doesn't hold") from None
