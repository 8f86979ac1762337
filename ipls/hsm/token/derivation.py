"""How a token derives keys inside itself, for each profile of `ipls.vault.session.profiles`."""

import ctypes
from collections.abc import Callable
from typing import Any, NamedTuple

from pkcs11 import KeyType, Mechanism, MechanismFlag

from ipls.hsm.token.module import hidden
from ipls.vault.session.profiles import HKDF_SHA256, SOFTHSM_AES_CBC


def _mechanism(name: str, value: int) -> Mechanism:
    """A mechanism that python-pkcs11 has no name for; it takes members of the enumeration only."""
    member = int.__new__(Mechanism, value)
    member._name_, member._value_ = name, value
    return member


# PKCS #11 3.0, pkcs11t.h: CKM_HKDF_DERIVE, CKM_SHA256 (for prfHashMechanism), CKF_HKDF_SALT_NULL.
HKDF_DERIVE = _mechanism("HKDF_DERIVE", 0x402A)
_SHA256, _SALT_NULL = 0x250, 1


class _HkdfParams(ctypes.Structure):
    """CK_HKDF_PARAMS of PKCS #11 3.0."""

    _fields_ = (
        ("extract", ctypes.c_ubyte),
        ("expand", ctypes.c_ubyte),
        ("hash", ctypes.c_ulong),
        ("salt_type", ctypes.c_ulong),
        ("salt", ctypes.c_void_p),
        ("salt_length", ctypes.c_ulong),
        ("salt_key", ctypes.c_ulong),
        ("info", ctypes.c_void_p),
        ("info_length", ctypes.c_ulong),
    )


class Derivation(NamedTuple):
    """A profile in the token."""

    profile: str
    base: KeyType  # of the storage root, and of an ECDH secret
    mechanism: Mechanism
    parameter: Callable[[bytes], object]  # for the input, which must live until the token has used it

    def derive(self, base: Any, data: bytes, kind: KeyType, use: MechanismFlag, mechanism: Mechanism) -> Any:
        """A 256-bit session object, derived from `base` and 32 bytes, that serves one mechanism."""
        return base.derive_key(
            kind,
            256,
            mechanism=self.mechanism,
            mechanism_param=self.parameter(data),
            capabilities=use,
            template=hidden(mechanism),
        )


def _hkdf(data: bytes) -> bytes:
    address = ctypes.cast(ctypes.c_char_p(data), ctypes.c_void_p)  # of the bytes themselves: nothing is copied
    return bytes(_HkdfParams(1, 1, _SHA256, _SALT_NULL, None, 0, 0, address, len(data)))


def _aes_cbc(data: bytes) -> tuple[bytes, bytes]:
    return bytes(16), data


DERIVATIONS = (
    Derivation(HKDF_SHA256, KeyType.GENERIC_SECRET, HKDF_DERIVE, _hkdf),
    Derivation(SOFTHSM_AES_CBC, KeyType.AES, Mechanism.AES_CBC_ENCRYPT_DATA, _aes_cbc),
)
"""The standard one first."""


def by_profile(profile: str) -> Derivation:
    """Raises KeyError."""
    return {derivation.profile: derivation for derivation in DERIVATIONS}[profile]


def by_root(root: Any) -> Derivation:
    """The one that a storage root was made for: its type and its one mechanism serve no other."""
    return {derivation.base: derivation for derivation in DERIVATIONS}[root.key_type]
