"""A ceremony's cards and report, made in software: nothing that is checked without a token needs one."""

from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from ipls.crypto.keys import public_key
from ipls.proto.vault.v1.fleet_pb2 import Card, Member, Officer, Report, SignedCard
from ipls.trust.ceremony import Officers, descriptor_digest, encode
from tests.trust.bundles import point
from tests.trust.roots import NAMESPACE, NOW, seed

OFFICERS = seed(21), seed(22), seed(23)
GROUP = Officers(2, tuple(Officer(name=f"officer {i}", public_key=public_key(s)) for i, s in enumerate(OFFICERS)))


def signed_card(number: int, *, signer: int | None = None, **changes: Any) -> SignedCard:
    """By its own fleet key, unless another one is told."""
    fields: dict[str, Any] = {
        "namespace": NAMESPACE,
        "name": f"hsm-{number}",
        "public_key": point(number),
        "transport_key": point(number + 100),
        "profile": "softhsm-aes-cbc",
        "model": "Maker HSM",
        "token": "vault",
        "serial": f"{number:08}",
    }
    card = encode(Card(**{**fields, **changes}))
    key = ec.derive_private_key(signer or number, ec.SECP256R1())
    r, s = decode_dss_signature(key.sign(descriptor_digest(card), ec.ECDSA(Prehashed(SHA256()))))
    return SignedCard(card=card, signature=r.to_bytes(32, "big") + s.to_bytes(32, "big"))


def report(*cards: SignedCard, **changes: Any) -> Report:
    """Of the first card's token and the others."""
    cards = cards or (signed_card(1), signed_card(2))
    fields: dict[str, Any] = {
        "namespace": NAMESPACE,
        "time_ms": NOW,
        "maker": Card.FromString(cards[0].card).public_key,
        "root_id": (1).to_bytes(8, "big") + bytes(8),
        "root_check": b"r" * 32,
        "log_check": b"l" * 32,
        "members": [Member(card=card, parcel_hash=bytes([i]) * 32) for i, card in enumerate(cards)],
        "m": GROUP.m,
        "officers": GROUP.officers,
    }
    return Report(**{**fields, **changes})
