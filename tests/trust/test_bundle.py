import hashlib
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from ipls.proto.vault.v1.vault_pb2 import Bundle, Hsm, SignedBundle
from ipls.trust.bundle import MAX_LIFE_MS, hsm_for, shard_of, sign_bundle, verify_bundle
from ipls.trust.encoding import T
from ipls.trust.errors import BundleRefused, TrustError, TrustRootRefused
from ipls.trust.heads import cosign
from ipls.trust.keys import sign
from ipls.trust.root import TrustRoot
from tests.trust.roots import HOUR, NAMESPACE, NOW, OPERATOR, THIEF, WITNESSES, YEAR, make_root, three_of


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


def operator_signs(data: bytes) -> SignedBundle:
    """Whatever it is: `sign_bundle` would refuse to."""
    return SignedBundle(bundle=data, operator_signature=sign(OPERATOR, T("ipls/fleet/v1 bundle", data)))


def refused(signed: SignedBundle, root: TrustRoot | None = None, now_ms: int = NOW, at_least_number: int = 0) -> str:
    with pytest.raises(TrustError) as e:
        verify_bundle(root or make_root(), signed, now_ms=now_ms, at_least_number=at_least_number)
    return e.value.reason


def test_a_development_bundle_needs_the_operator_alone() -> None:
    assert verify_bundle(make_root(), sign_bundle(OPERATOR, bundle()), now_ms=NOW, at_least_number=1) == bundle()


def test_a_development_bundle_under_another_trust_root_is_refused() -> None:
    assert refused(sign_bundle(OPERATOR, bundle()), make_root(development=False)) == "BUNDLE_DEVELOPMENT"


def test_any_other_bundle_needs_the_witnesses_over_its_very_bytes() -> None:
    root = three_of(2, development=False)
    signed = sign_bundle(OPERATOR, bundle(number=4, previous=bytes(32), development=False))
    digest = hashlib.sha256(signed.bundle).digest()
    assert refused(signed, root) == refused(signed) == "HEAD_NO_QUORUM"
    signed.cosignatures.append(cosign(WITNESSES[0], f"{NAMESPACE}/fleet", 4, digest, NOW))
    assert refused(signed, root) == "HEAD_NO_QUORUM"
    for namespace, number, hashed, reason in (
        (NAMESPACE, 4, digest, "HEAD_OTHER_NAMESPACE"),
        (f"{NAMESPACE}/fleet", 3, digest, "HEAD_OTHER_ROOT"),
        (f"{NAMESPACE}/fleet", 4, bytes(32), "HEAD_OTHER_ROOT"),
    ):
        forged = SignedBundle.FromString(signed.SerializeToString())
        forged.cosignatures.append(cosign(WITNESSES[1], namespace, number, hashed, NOW))
        assert refused(forged, root) == reason
    signed.cosignatures.append(cosign(WITNESSES[1], f"{NAMESPACE}/fleet", 4, digest, NOW))
    assert verify_bundle(root, signed, now_ms=NOW).number == 4


def test_an_expired_bundle_is_refused() -> None:
    signed = sign_bundle(OPERATOR, bundle(expires_ms=NOW + 1))
    verify_bundle(make_root(), signed, now_ms=NOW)
    assert refused(signed, now_ms=NOW + 1) == "BUNDLE_EXPIRED"


def test_a_bundle_good_for_more_than_30_days_is_refused() -> None:
    assert refused(sign_bundle(OPERATOR, bundle(expires_ms=NOW + MAX_LIFE_MS + HOUR))) == "BUNDLE_EXPIRED"


def test_a_lower_bundle_is_refused() -> None:
    assert refused(sign_bundle(OPERATOR, bundle()), at_least_number=2) == "BUNDLE_BELOW_HIGHEST"


def test_a_bundle_of_another_namespace_is_refused() -> None:
    assert refused(sign_bundle(OPERATOR, bundle(namespace="other"))) == "BUNDLE_OTHER_NAMESPACE"


def test_a_bundle_signed_by_another_key_is_refused() -> None:
    assert refused(sign_bundle(THIEF, bundle())) == "SIGNATURE_INVALID"
    assert refused(sign_bundle(WITNESSES[0], bundle())) == "SIGNATURE_INVALID"
    assert refused(SignedBundle(bundle=bundle().SerializeToString())) == "SIGNATURE_LENGTH"


def test_an_edited_bundle_is_refused() -> None:
    signed = sign_bundle(OPERATOR, bundle())
    signed.bundle = bundle(hsm(2)).SerializeToString(deterministic=True)
    assert refused(signed) == "SIGNATURE_INVALID"


def test_no_bundle_holds_under_an_expired_trust_root() -> None:
    with pytest.raises(TrustRootRefused):
        verify_bundle(make_root(expires_ms=NOW), sign_bundle(OPERATOR, bundle()), now_ms=NOW)


@pytest.mark.parametrize(
    "unsound",
    [
        bundle(number=0),
        bundle(number=1, previous=bytes(32)),
        bundle(number=2),
        bundle(hsms=[]),
        bundle(hsm(1, 0), hsm(2, 0)),
        bundle(hsm(1, 0), hsm(2, 2)),
        bundle(hsm(1, 0, 0)),
        bundle(hsm(public_key=point(1)[:33])),
        bundle(hsm(public_key=b"\x02" + point(1)[1:33])),
        bundle(hsm(public_key=b"\x06" + point(1)[1:])),
        bundle(hsm(public_key=b"\x04" + bytes(64))),
        bundle(hsm(transport_key=b"")),
        bundle(hsm(policy_digest=b"")),
        bundle(hsm(profile="")),
        bundle(hsm(report_hash=b"x")),
        bundle(hsm(report_hash=b""), development=False),
    ],
)
def test_an_unsound_bundle_is_neither_signed_nor_taken(unsound: Bundle) -> None:
    with pytest.raises(BundleRefused) as e:
        sign_bundle(OPERATOR, unsound)
    assert e.value.reason == refused(operator_signs(unsound.SerializeToString())) == "BUNDLE_INVALID"


@given(st.binary(max_size=300))
def test_signed_junk_is_refused(data: bytes) -> None:
    assert refused(operator_signs(data)) == "BUNDLE_INVALID"


def test_a_huge_bundle_is_refused() -> None:
    assert refused(operator_signs(bundle(hsm(profile="x" * 70_000)).SerializeToString())) == "BUNDLE_INVALID"


@given(st.from_regex(r"\+[0-9]{1,15}", fullmatch=True))
def test_each_label_has_the_one_hsm_of_its_shard(label: str) -> None:
    fleet = bundle(hsm(1, 0, 2), hsm(2, 1))
    owner = hsm_for(fleet, label, now_ms=NOW)
    assert shard_of(label, 3) in owner.shards
    assert shard_of(label, 1) == 0


def test_an_hsm_out_of_its_time_is_refused() -> None:
    for window in ({"not_before_ms": NOW + 1}, {"not_after_ms": NOW}):
        with pytest.raises(BundleRefused) as e:
            hsm_for(bundle(hsm(**window)), "+1", now_ms=NOW)
        assert e.value.reason == "BUNDLE_HSM_NOT_VALID"
