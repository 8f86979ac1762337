"""What a device signs when it calls the contact store, or opens a session of reads (the design, Store and Read)."""

import hashlib

from ipls.crypto.encoding import tagged_hash

CALL_WINDOW_MS = 2 * 60 * 1000
"""How far a call's time may lie from the service's clock, either way."""

NONCE_BYTES = 16


def is_timely(timestamp_ms: int, now_ms: int) -> bool:
    """Whether a call's time may be taken at all: the cheapest that a service can ask of it."""
    return abs(timestamp_ms - now_ms) <= CALL_WINDOW_MS


def call_digest(
    namespace: str,
    label: str,
    public_key: bytes,
    method: str,
    body: bytes,
    timestamp_ms: int,
    nonce: bytes,
    *,
    version: int = 1,
) -> bytes:
    """The 32 bytes under a contact-store call's signature; `method` is the bare name, e.g. `PutRecords`, and `version`
    that of its package, `ipls.contacts.v1`."""
    domain, body_hash = f"ipls/contacts/v{version} call", hashlib.sha256(body).digest()
    return tagged_hash(domain, namespace, label, public_key, method, body_hash, timestamp_ms, nonce)


def session_digest(namespace: str, label: str, public_key: bytes, timestamp_ms: int, nonce: bytes) -> bytes:
    """The 32 bytes under the signature that opens a session of reads at the directory."""
    return tagged_hash("ipls/directory/v1 session", namespace, label, public_key, timestamp_ms, nonce)
