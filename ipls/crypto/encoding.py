"""Byte encodings of the specs, and the one way in which anything but a witness's message is hashed before it is signed
(the vault spec, Encoding). Integers are big-endian.

Tested by tests/crypto/test_keys.py.
"""

import hashlib


def u32(number: int) -> bytes:
    return number.to_bytes(4, "big")


def u64(number: int) -> bytes:
    return number.to_bytes(8, "big")


def lp(data: bytes) -> bytes:
    """u64(len(data)) || data."""
    return u64(len(data)) + data


def tagged_hash(domain: str, *fields: bytes | str | int) -> bytes:
    """SHA-256(lp(domain) || lp(x1) || ...), as 32 bytes.

    `domain` is ASCII; an int is a u64; a str is UTF-8. Flags are 0 or 1, so a bool does as an int.
    """
    digest = hashlib.sha256()
    for field in (domain.encode("ascii"), *map(_field, fields)):
        digest.update(lp(field))
    return digest.digest()


def _field(value: bytes | str | int) -> bytes:
    if isinstance(value, int):
        return u64(value)
    return value.encode() if isinstance(value, str) else value
