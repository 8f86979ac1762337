"""The one way in which anything but a witness's message is hashed before it is signed (the vault spec, Encoding)."""

import hashlib


def tagged_hash(domain: str, *fields: bytes | str | int) -> bytes:
    """SHA-256(lp(domain) || lp(x1) || ...), lp(b) = u64(len(b)) || b, as 32 bytes.

    `domain` is ASCII; an int is a u64, big-endian; a str is UTF-8. Flags are 0 or 1, so a bool does as an int.
    """
    digest = hashlib.sha256()
    for field in (domain.encode("ascii"), *map(_field, fields)):
        digest.update(len(field).to_bytes(8, "big"))
        digest.update(field)
    return digest.digest()


def _field(value: bytes | str | int) -> bytes:
    if isinstance(value, int):
        return value.to_bytes(8, "big")
    return value.encode() if isinstance(value, str) else value
