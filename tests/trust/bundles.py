"""Fleet bundles as operator and witnesses sign them, honestly or not."""

import hashlib
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ipls.proto.vault.v1.vault_pb2 import Bundle, Hsm, SignedBundle
from ipls.trust.bundle import MAX_LIFE_MS, sign_bundle
from tests.trust.roots import HOUR, NAMESPACE, NOW, OPERATOR, WITNESSES, YEAR, cosign, make_root


def point(number: int) -> bytes:
    key = ec.derive_private_key(number, ec.SECP256R1()).public_key()
    return key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


def hsm(number: int = 1, *shards: int, **changes: Any) -> Hsm:
    fields: dict[str, Any] = {
        "public_key": point(number),
        "profile": "softhsm-aes-cbc",
        "policy_digest": make_root().policy_digest,
        "shards": shards or (0,),
        "not_before_ms": NOW - HOUR,
        "not_after_ms": NOW + YEAR,
        "transport_key": point(number + 100),
        "report_hash": bytes(32),
    }
    return Hsm(**{**fields, **changes})


def bundle(*hsms: Hsm, **changes: Any) -> Bundle:
    fields: dict[str, Any] = {
        "number": 1,
        "expires_ms": NOW + MAX_LIFE_MS,
        "namespace": NAMESPACE,
        "development": True,
        "hsms": hsms or (hsm(),),
    }
    return Bundle(**{**fields, **changes})


def after(signed: SignedBundle, *hsms: Hsm, **changes: Any) -> Bundle:
    """The one that continues it."""
    number = Bundle.FromString(signed.bundle).number + 1
    return bundle(*hsms, **{"number": number, "previous": hashlib.sha256(signed.bundle).digest(), **changes})


def countersigned(signed: SignedBundle, *seeds: bytes, time: int = NOW) -> SignedBundle:
    """With these witnesses' signatures: by default that of `make_root`'s only one."""
    number, digest = Bundle.FromString(signed.bundle).number, hashlib.sha256(signed.bundle).digest()
    cosignatures = [cosign(s, f"{NAMESPACE}/fleet", number, digest, time) for s in seeds or WITNESSES[:1]]
    return SignedBundle(bundle=signed.bundle, operator_signature=signed.operator_signature, cosignatures=cosignatures)


def signed_bundle(bundle: Bundle, *seeds: bytes) -> SignedBundle:
    """By the operator and these witnesses."""
    return countersigned(sign_bundle(OPERATOR, bundle), *seeds)
