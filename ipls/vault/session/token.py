"""What the vault's side of a session asks of an HSM token; `ipls.hsm.token.pkcs11` is the PKCS#11 one.

A token and all that it hands out belong to one thread. No secret key ever leaves it in plaintext.

Tested by tests/vault/session/test_session.py.
"""

from typing import Protocol


class Channel(Protocol):
    """The four session keys of one session, in the token."""

    def mac_c2v(self, digest: bytes) -> bytes:
        """HMAC-SHA-256 (32 bytes) by `c2v mac`."""

    def mac_v2c(self, digest: bytes) -> bytes:
        """HMAC-SHA-256 (32 bytes) by `v2c mac`."""

    def store(self, blob: bytes, storage_key_id: bytes, record: bytes) -> bytes:
        """Unwraps a 40-byte AES-KW blob under `c2v wrap` and wraps it (40 bytes) under the key of a record.

        `record` is the record's 32-byte T. Raises SessionRefused VAULT_BLOB_REFUSED, VAULT_ROOT_MISSING.
        """

    def retrieve(self, wrapped: bytes, storage_key_id: bytes, record: bytes) -> bytes:
        """The reverse, under `v2c wrap`.

        Raises SessionRefused VAULT_RECORD_REFUSED when it is not that record's, VAULT_ROOT_MISSING.
        """

    def close(self) -> None:
        """Destroys the keys. May be called twice."""


class Ephemeral(Protocol):
    """A P-256 key pair in the token, good for one agreement."""

    point: bytes  # 65 bytes, uncompressed

    def agree(self, peer: bytes, h2: bytes) -> Channel:
        """Derives the session keys from ECDH with the peer's validated 65-byte point; destroys the pair in any case."""

    def close(self) -> None:
        """Destroys the pair. May be called twice."""


class Token(Protocol):
    """An open token."""

    hsm_key_id: bytes  # SHA-256 of public_point
    public_point: bytes  # the fleet key's, 65 bytes
    storage_key_id: bytes  # names the storage root that what is stored goes under, 16 bytes
    profile: str  # how it derives (`ipls.vault.session.profiles`); its storage root fits no other

    def sign(self, digest: bytes) -> bytes:
        """ECDSA P-256 by the fleet key over a 32-byte digest: r||s, 64 bytes."""

    def storage_key_ids(self) -> list[bytes]:
        """Of all storage roots that are there now, the newest first."""

    def ephemeral(self) -> Ephemeral:
        """A fresh key pair."""

    def close(self) -> None:
        """Logs out; whoever has a session open closes that first."""
