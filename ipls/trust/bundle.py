"""The fleet bundle: the one list of the HSM keys that clients may talk to (the vault spec, Shards and fleet).

Bundles are a chain: each names the SHA-256 of the one before. The operator signs one, and k of the trust root's
witnesses do, as they sign heads: everybody sees one list a number.
"""

import hashlib

from cryptography.hazmat.primitives.asymmetric import ec
from google.protobuf.message import DecodeError

from ipls.crypto.encoding import tagged_hash
from ipls.crypto.keys import Signer, sign, verify
from ipls.proto.vault.v1.vault_pb2 import Bundle, Hsm, SignedBundle
from ipls.proto.witness.v1.head_pb2 import Cosignature
from ipls.trust.errors import BundleRefused, HeadRefused
from ipls.trust.heads import Head, cosign, count
from ipls.trust.limits import MAX_AHEAD_MS, MAX_INT
from ipls.trust.root import TrustRoot
from ipls.units import DAY_MS, date

MAX_LIFE_MS = 30 * DAY_MS
MAX_BUNDLE = 64 * 1024
MAX_SIGNED_BUNDLE = 2 * MAX_BUNDLE
"""With its signatures, 64 at most."""


def sign_bundle(seed: bytes, bundle: Bundle) -> SignedBundle:
    """The bundle under the operator's signature. Raises BundleRefused BUNDLE_INVALID for one that nobody would take."""
    _check(bundle)
    data = bundle.SerializeToString(deterministic=True)
    return SignedBundle(bundle=data, operator_signature=sign(seed, _digest(data)))


def check_bundle(root: TrustRoot, signed: SignedBundle, *, now_ms: int, check_expiry: bool = True) -> Bundle:
    """The bundle, if the operator signed these very bytes and it is good now, whoever else signed: a witness's check.

    Without `check_expiry` its time may have run out: no device takes it then, and each follows past it to the next.
    Raises BundleRefused (BUNDLE_INVALID, BUNDLE_OTHER_NAMESPACE, BUNDLE_EXPIRED, BUNDLE_DEVELOPMENT), SignatureRefused,
    TrustRootRefused.
    """
    root.check_expiry(now_ms)
    check_operator(root, signed)
    bundle = parse_bundle(signed.bundle)
    if bundle.namespace != root.namespace:
        raise BundleRefused("BUNDLE_OTHER_NAMESPACE", "the bundle is for another namespace")
    if check_expiry and now_ms >= bundle.expires_ms:
        message = f"bundle {bundle.number}, the HSM keys of {root.namespace}, ran out on {date(bundle.expires_ms)}"
        raise BundleRefused("BUNDLE_EXPIRED", f"{message}: its operator renews it with `ipls keys renew`")
    if bundle.expires_ms > now_ms + MAX_AHEAD_MS + MAX_LIFE_MS:
        message = f"bundle {bundle.number} claims to be good until {date(bundle.expires_ms)}, over 30 days from now"
        raise BundleRefused("BUNDLE_EXPIRED", f"{message}: its operator, or this machine's clock, is wrong")
    if bundle.development and not root.development:
        raise BundleRefused("BUNDLE_DEVELOPMENT", "a development bundle under a trust root that allows none")
    return bundle


def verify_bundle(
    root: TrustRoot, signed: SignedBundle, *, now_ms: int, seen: Head | None = None, check_expiry: bool = True
) -> Bundle:
    """The bundle, if operator and witnesses signed it and it is good now; `seen` is the highest seen before.

    k of the witnesses have signed it in the namespace NS/fleet, at any time. One above the next after `seen` is yet to
    be followed back to it, by `predecessor` and `check_follows`. Raises as `check_bundle`;
    HeadRefused below k; BundleRefused BUNDLE_BELOW_HIGHEST, BUNDLE_FORK.
    """
    bundle = check_bundle(root, signed, now_ms=now_ms, check_expiry=check_expiry)
    head = bundle_head(signed)
    countersigners(root, signed, now_ms=now_ms)
    if seen is not None:
        if head.epoch < seen.epoch:
            raise BundleRefused("BUNDLE_BELOW_HIGHEST", f"bundle {head.epoch} is below {seen.epoch}, seen before")
        if head.epoch == seen.epoch and head != seen:
            raise BundleRefused("BUNDLE_FORK", f"another bundle {head.epoch} than the one seen before")
        if head.epoch == seen.epoch + 1:
            check_follows(bundle, seen)
    return bundle


def countersigners(root: TrustRoot, signed: SignedBundle, *, now_ms: int) -> dict[str, int]:
    """The names of the witnesses whose signatures count on a bundle, each with the time (ms) of its newest one.

    Raises HeadRefused if they are fewer than k, BundleRefused BUNDLE_INVALID.
    """
    head = bundle_head(signed)
    if not signed.cosignatures:
        message = (
            f"no witness's signature is on bundle {head.epoch}: of a draft, name the bundle.pb that was made of it"
        )
        raise HeadRefused("HEAD_NO_QUORUM", message)
    return count(root, fleet_namespace(root), head, signed.cosignatures, 0, now_ms)


def check_operator(root: TrustRoot, signed: SignedBundle) -> None:
    """Raises SignatureRefused unless the operator signed these very bytes."""
    verify(root.operator_key, _digest(signed.bundle), signed.operator_signature)


def check_follows(bundle: Bundle, seen: Head) -> None:
    """Raises BundleRefused BUNDLE_FORK unless the bundle is the next after the one seen."""
    if (bundle.number - 1, bundle.previous) != seen:
        raise BundleRefused("BUNDLE_FORK", f"bundle {bundle.number} does not continue {seen.epoch}, as seen before")


def predecessor(bundle: Bundle, signed: SignedBundle) -> Bundle:
    """The bundle before a verified one, whoever hands it out: the later one's hash vouches for it, expired or not.

    Raises BundleRefused BUNDLE_FORK for any other, BUNDLE_INVALID.
    """
    if bundle_head(signed) != (bundle.number - 1, bundle.previous):
        raise BundleRefused("BUNDLE_FORK", f"not the bundle {bundle.number - 1} that the next one continues")
    return parse_bundle(signed.bundle)


def countersign(signer: Signer, root: TrustRoot, signed: SignedBundle, time_ms: int) -> Cosignature:
    """A witness's signature on a bundle. It checks nothing: that is the witness's business."""
    return cosign(signer, fleet_namespace(root), *bundle_head(signed), time_ms)


def bundle_head(signed: SignedBundle) -> Head:
    """What its witnesses sign: (number, SHA-256 of the bundle's bytes). Raises BundleRefused BUNDLE_INVALID."""
    return Head(parse_bundle(signed.bundle).number, hashlib.sha256(signed.bundle).digest())


def fleet_namespace(root: TrustRoot) -> str:
    """What they sign it in: no directory's namespace has a slash."""
    return f"{root.namespace}/fleet"


def parse_bundle(data: bytes) -> Bundle:
    """A sound bundle, whoever signed it. Raises BundleRefused BUNDLE_INVALID."""
    try:
        if len(data) > MAX_BUNDLE:
            raise _invalid("the bundle is too large")
        bundle = Bundle.FromString(data)
    except DecodeError as e:
        raise _invalid("the bundle can't be read") from e
    _check(bundle)
    return bundle


def shard_of(label: str, shards: int) -> int:
    """The shard, 0 <= s < `shards`, that an account label falls into: SHA-256(label) modulo their number."""
    return int.from_bytes(hashlib.sha256(label.encode()).digest(), "big") % shards


def shard_count(bundle: Bundle) -> int:
    """Of the whole fleet."""
    return sum(len(hsm.shards) for hsm in bundle.hsms)


def hsm_for(bundle: Bundle, label: str, *, now_ms: int) -> Hsm:
    """The one HSM that owns the label's shard in a verified bundle. Raises BundleRefused BUNDLE_HSM_NOT_VALID."""
    shard = shard_of(label, shard_count(bundle))
    hsm = next(hsm for hsm in bundle.hsms if shard in hsm.shards)
    if not hsm.not_before_ms <= now_ms < hsm.not_after_ms:
        window = f"from {date(hsm.not_before_ms)} to {date(hsm.not_after_ms)}"
        message = f"the HSM key of this account's shard is good {window} only"
        raise BundleRefused("BUNDLE_HSM_NOT_VALID", f"{message}: the operator of {bundle.namespace} renews it")
    return hsm


def _check(bundle: Bundle) -> None:
    if not 1 <= bundle.number <= MAX_INT or len(bundle.previous) != (0 if bundle.number == 1 else 32):
        raise _invalid("bundles are numbered from 1; every later one names the SHA-256 of the one before")
    shards = sorted(shard for hsm in bundle.hsms for shard in hsm.shards)
    if not shards or shards != list(range(len(shards))):
        raise _invalid("each shard has exactly one HSM")
    keys = [key for hsm in bundle.hsms for key in (hsm.public_key, hsm.transport_key)]
    if len(set(keys)) != len(keys):
        raise _invalid("the same key stands twice")
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
    return tagged_hash("ipls/fleet/v1 bundle", data)


def _invalid(message: str) -> BundleRefused:
    return BundleRefused("BUNDLE_INVALID", message)
