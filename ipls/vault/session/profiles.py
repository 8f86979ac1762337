"""Key derivation profiles: how 32 bytes of input become a key under a secret (the vault spec, Session, step 3).

An HSM has exactly one, for session keys and records alike; the bundle names it, the HSM's signed hello repeats it, and
nothing is negotiated. The input is always a T of this protocol, so a key is bound to its name and its transcript.

Tested by tests/hsm/token/test_derivation.py.
"""

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from ipls.vault.errors import SessionRefused

SOFTHSM_AES_CBC = "softhsm-aes-cbc"
"""AES-256-CBC of the input under the secret itself, IV 0: ad hoc, for a token without a standard KDF."""
HKDF_SHA256 = "hkdf-sha256"
"""HKDF-SHA-256 (RFC 5869) of the secret, without a salt, the input as info."""


def check_profile(profile: str) -> None:
    """Raises SessionRefused VAULT_PROFILE_UNKNOWN."""
    if profile not in (SOFTHSM_AES_CBC, HKDF_SHA256):
        raise SessionRefused("VAULT_PROFILE_UNKNOWN", "the bundle's HSM derives keys by a profile not known here")


def derive(profile: str, secret: bytes, data: bytes) -> bytes:
    """The 32-byte key that such a token derives from a 32-byte secret and input. Raises as `check_profile`."""
    check_profile(profile)
    if profile == HKDF_SHA256:
        return HKDF(SHA256(), 32, salt=None, info=data).derive(secret)
    encryptor = Cipher(algorithms.AES256(secret), modes.CBC(bytes(16))).encryptor()
    return encryptor.update(data) + encryptor.finalize()
