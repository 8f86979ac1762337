"""The fleet bundle: the one list of the HSM keys that clients may talk to (the vault spec, Shards and fleet)."""

import hashlib

from cryptography.hazmat.primitives.asymmetric import ec
from google.protobuf.message import DecodeError

from ipls.proto.vault.v1.vault_pb2 import Bundle, Hsm, SignedBundle
from ipls.trust.encoding import T
from ipls.trust.errors import BundleRefused
from ipls.trust.heads import Head, count
from ipls.trust.keys import sign, verify
from ipls.trust.limits import MAX_AHEAD_MS, MAX_INT
from ipls.trust.root import TrustRoot

MAX_LIFE_MS = 30 * 24 * 3600 * 1000
MAX_BUNDLE = 64 * 1024


def sign_bundle(seed: bytes, bundle: Bundle) -> SignedBundle:
    """The bundle under the operator's signature. Raises BundleRefused BUNDLE_INVALID for one that nobody would take."""
    _check(bundle)
    data = bundle.SerializeToString(deterministic=True)
    return SignedBundle(bundle=data, operator_signature=sign(seed, _digest(data)))


def verify_bundle(root: TrustRoot, signed: SignedBundle, *, now_ms: int, at_least_number: int = 0) -> Bundle:
    """The bundle, if the operator signed these very bytes and it is good now; `at_least_number` is the highest seen.

    One for development needs no witnesses but a trust root that says `development = true`; any other needs k of the
    witnesses, in the namespace NS/fleet with epoch = number and digest = SHA-256 of the bytes. Raises BundleRefused
    (BUNDLE_INVALID, BUNDLE_OTHER_NAMESPACE, BUNDLE_EXPIRED, BUNDLE_BELOW_HIGHEST, BUNDLE_DEVELOPMENT),
    SignatureRefused, HeadRefused, TrustRootRefused.
    """
    root.check_expiry(now_ms)
    verify(root.operator_key, _digest(signed.bundle), signed.operator_signature)
    try:
        if len(signed.bundle) > MAX_BUNDLE:
            raise _invalid("the bundle is too large")
        bundle = Bundle.FromString(signed.bundle)
    except DecodeError as e:
        raise _invalid("the bundle can't be read") from e
    _check(bundle)
    if bundle.namespace != root.namespace:
        raise BundleRefused("BUNDLE_OTHER_NAMESPACE", "the bundle is for another namespace")
    if not now_ms < bundle.expires_ms <= now_ms + MAX_AHEAD_MS + MAX_LIFE_MS:
        raise BundleRefused(
            "BUNDLE_EXPIRED", "the bundle has expired, or claims over 30 days: `ipls keys bundle` renews it"
        )
    if bundle.number < at_least_number:
        raise BundleRefused("BUNDLE_BELOW_HIGHEST", f"bundle {bundle.number} is below {at_least_number}, seen before")
    if not bundle.development:
        digest = hashlib.sha256(signed.bundle).digest()
        count(root, f"{root.namespace}/fleet", Head(bundle.number, digest), signed.cosignatures, 0, now_ms)
    elif not root.development:
        raise BundleRefused("BUNDLE_DEVELOPMENT", "a development bundle under a trust root that allows none")
    return bundle


def shard_of(label: str, shards: int) -> int:
    """The shard, 0 <= s < `shards`, that an account label falls into: SHA-256(label) modulo their number."""
    return int.from_bytes(hashlib.sha256(label.encode()).digest(), "big") % shards


def hsm_for(bundle: Bundle, label: str, *, now_ms: int) -> Hsm:
    """The one HSM that owns the label's shard in a verified bundle. Raises BundleRefused BUNDLE_HSM_NOT_VALID."""
    shard = shard_of(label, sum(len(hsm.shards) for hsm in bundle.hsms))
    hsm = next(hsm for hsm in bundle.hsms if shard in hsm.shards)
    if not hsm.not_before_ms <= now_ms < hsm.not_after_ms:
        raise BundleRefused("BUNDLE_HSM_NOT_VALID", "the shard's HSM key is not valid now")
    return hsm


def _check(bundle: Bundle) -> None:
    if not 1 <= bundle.number <= MAX_INT or len(bundle.previous) != (0 if bundle.number == 1 else 32):
        raise _invalid("bundles are numbered from 1; every later one names the SHA-256 of the one before")
    shards = sorted(shard for hsm in bundle.hsms for shard in hsm.shards)
    if not shards or shards != list(range(len(shards))):
        raise _invalid("each shard has exactly one HSM")
    for hsm in bundle.hsms:
        _check_point(hsm.public_key)
        _check_point(hsm.transport_key)
        if not hsm.profile or len(hsm.policy_digest) != 32:
            raise _invalid("an HSM has one profile and one policy digest of 32 bytes")
        if len(hsm.report_hash) != 32 and not (bundle.development and not hsm.report_hash):
            raise _invalid("the ceremony's report has a hash of 32 bytes")


def _check_point(point: bytes) -> None:
    try:
        if len(point) != 65:  # the library takes compressed points too
            raise ValueError
        ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point)
    except ValueError:
        raise _invalid("an HSM key is an uncompressed P-256 point") from None


def _digest(data: bytes) -> bytes:
    return T("ipls/fleet/v1 bundle", data)


def _invalid(message: str) -> BundleRefused:
    return BundleRefused("BUNDLE_INVALID", message)
