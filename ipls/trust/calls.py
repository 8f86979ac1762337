"""What a device signs when it calls the contact store (the design, Store)."""

import hashlib

from ipls.trust.encoding import T

CALL_WINDOW_MS = 2 * 60 * 1000
"""How far a call's time may lie from the store's clock, either way."""

NONCE_BYTES = 16


def call_digest(
    namespace: str, label: str, public_key: bytes, method: str, body: bytes, timestamp_ms: int, nonce: bytes
) -> bytes:
    """The 32 bytes under a contact-store call's signature; `method` is the bare name, e.g. `PutRecords`."""
    body_hash = hashlib.sha256(body).digest()
    return T("ipls/contacts/v1 call", namespace, label, public_key, method, body_hash, timestamp_ms, nonce)
