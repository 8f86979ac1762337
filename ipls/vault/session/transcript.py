"""What both sides of a vault session hash, tag and seal (the vault spec, Encoding and Session).

Every hash is over the very bytes that were sent: a protobuf message has several encodings. h2 covers the key exchange,
h3 the client's proof as well; all that follows is bound to h3.
"""

import hashlib
import hmac
from typing import NamedTuple, TypeVar

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from google.protobuf.message import DecodeError, Message

from ipls.crypto.encoding import tagged_hash
from ipls.vault.errors import SessionRefused

VERSION = 1
MAX_FRAME = 64 * 1024
MAX_REQUESTS = 64
NONCE_BYTES = 32
POINT_BYTES = 65
# AES-KW (RFC 3394) of a 32-byte key. A token would unwrap a 24-byte blob as well.
BLOB_BYTES = 40
CONTACT_KEY_BYTES = 32
STORE_ID_BYTES = 16
CHAIN_BYTES = 32

_DOMAIN = "ipls/vault/v1 "
SESSION_KEYS = ("c2v mac", "v2c mac", "c2v wrap", "v2c wrap")

M = TypeVar("M", bound=Message)


def hsm_key_id(public_point: bytes) -> bytes:
    """How a session names an HSM: SHA-256 of its 65-byte point."""
    return hashlib.sha256(public_point).digest()


def server_digest(m1: bytes, m2: bytes) -> bytes:
    """What the fleet key signs."""
    return tagged_hash(_DOMAIN + "server", m1, m2)


def key_exchange_hash(m1: bytes, m2: bytes, sig2: bytes) -> bytes:
    """h2."""
    return tagged_hash(_DOMAIN + "keys", m1, m2, sig2)


def session_key_input(name: str, h2: bytes) -> bytes:
    """The 32 bytes that the session key `name` is derived from under the ECDH secret, by the HSM's profile.

    The name is inside the hash: of an encryption PKCS#11 keeps the leading bytes, and a name behind a hash would not
    matter.
    """
    return tagged_hash(_DOMAIN + name, h2)


def client_statement(m1: bytes, m2: bytes, sig2: bytes, label: str, identity_key: bytes) -> bytes:
    """What the identity key signs."""
    return f"{_DOMAIN}client\0".encode() + tagged_hash(_DOMAIN + "client", m1, m2, sig2, label, identity_key)


def client_confirm_digest(h2: bytes, m3: bytes) -> bytes:
    """What tag3 is over, by `c2v mac`."""
    return tagged_hash(_DOMAIN + "client confirm", h2, m3)


def session_hash(h2: bytes, m3: bytes, tag3: bytes) -> bytes:
    """h3."""
    return tagged_hash(_DOMAIN + "session", h2, m3, tag3)


def confirm_digest(h3: bytes, identity_version: int, epoch: int) -> bytes:
    """What the confirmation's tag is over, by `v2c mac`."""
    return tagged_hash(_DOMAIN + "confirm", h3, identity_version, epoch)


def request_digest(h3: bytes, seq: int, body: bytes) -> bytes:
    """What a request's tag is over, by `c2v mac`; the body as sent, sealed."""
    return tagged_hash(_DOMAIN + "request", h3, seq, body)


def answer_digest(h3: bytes, seq: int, request_body: bytes, answer_body: bytes) -> bytes:
    """What an answer's tag is over, by `v2c mac`; both bodies as sent, sealed."""
    return tagged_hash(_DOMAIN + "answer", h3, seq, request_body, answer_body)


def record_digest(storage_key_id: bytes, account: bytes, generation: int, store_id: bytes) -> bytes:
    """The 32 bytes that the record's wrapping key is derived from under the storage root, by the HSM's profile.

    `account` is SHA-256(label), which the vault keeps: it wraps records anew without their owners.
    """
    return tagged_hash(_DOMAIN + "record", storage_key_id, account, generation, store_id)


def approval_statement(
    namespace: str, label: str, identity_version: int, identity_key: bytes, approver: bytes
) -> bytes:
    """What a device signs to let an identity version in before its change delay is over; good for that one only."""
    digest = tagged_hash(_DOMAIN + "approve", namespace, label, identity_version, identity_key, approver)
    return f"{_DOMAIN}approve\0".encode() + digest


class Bodies(NamedTuple):
    """Seals requests and answers under the ML-KEM secret, so that a recorder must break it and P-256."""

    c2v: AESGCM
    v2c: AESGCM
    h3: bytes

    @classmethod
    def derive(cls, kem_secret: bytes, h2: bytes, h3: bytes) -> "Bodies":
        """The keys of one session."""

        def key(name: str) -> AESGCM:
            info = f"{_DOMAIN}{name} body".encode()
            return AESGCM(HKDF(SHA256(), 32, salt=h2, info=info).derive(kem_secret))

        return cls(key("c2v"), key("v2c"), h3)

    def seal(self, key: AESGCM, seq: int, message: Message) -> bytes:
        """The body of request or answer `seq`. Each key seals each seq once."""
        return key.encrypt(_nonce(seq), message.SerializeToString(), self.h3)

    def open(self, key: AESGCM, seq: int, body: bytes, kind: type[M]) -> M:
        """The inverse. Raises SessionRefused VAULT_BODY_REFUSED, VAULT_FRAME_MALFORMED."""
        try:
            return decode(kind, key.decrypt(_nonce(seq), body, self.h3))
        except InvalidTag:
            raise SessionRefused("VAULT_BODY_REFUSED", "a sealed body doesn't open") from None


def _nonce(seq: int) -> bytes:
    return bytes(4) + seq.to_bytes(8, "big")


def decode(kind: type[M], data: bytes) -> M:
    """The message in `data`. Raises SessionRefused VAULT_FRAME_MALFORMED."""
    try:
        return kind.FromString(data)
    except DecodeError:
        raise SessionRefused("VAULT_FRAME_MALFORMED", "a message can't be read") from None


def check_frame_size(size: int) -> None:
    """Raises SessionRefused VAULT_FRAME_TOO_LARGE."""
    if size > MAX_FRAME:
        raise SessionRefused("VAULT_FRAME_TOO_LARGE", f"a frame holds at most {MAX_FRAME} bytes")


def hmac_sha256(key: bytes, digest: bytes) -> bytes:
    """A tag, 32 bytes, by a side that holds its key in memory."""
    return hmac.digest(key, digest, "sha256")


def check_tag(expected: bytes, tag: bytes) -> None:
    """Raises SessionRefused VAULT_TAG_INVALID."""
    if not hmac.compare_digest(expected, tag):
        raise SessionRefused("VAULT_TAG_INVALID", "a message's tag doesn't hold")


def check_length(what: str, data: bytes, length: int) -> None:
    """Raises SessionRefused VAULT_FIELD_INVALID."""
    if len(data) != length:
        raise SessionRefused("VAULT_FIELD_INVALID", f"the {what} has {len(data)} bytes, not {length}")


def check_point(point: bytes) -> ec.EllipticCurvePublicKey:
    """The P-256 key in its 65-byte uncompressed form, the only one taken. Raises SessionRefused VAULT_POINT_INVALID."""
    try:
        if len(point) != POINT_BYTES:  # the library, like a token, takes compressed points too
            raise ValueError
        return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point)
    except ValueError:
        raise SessionRefused("VAULT_POINT_INVALID", "not an uncompressed point on P-256") from None


def encode_point(key: ec.EllipticCurvePublicKey) -> bytes:
    """The inverse of `check_point`."""
    return key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
