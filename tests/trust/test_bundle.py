import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipls.crypto.encoding import tagged_hash
from ipls.crypto.errors import VerificationError
from ipls.crypto.keys import sign
from ipls.proto.vault.v1.vault_pb2 import Bundle, SignedBundle
from ipls.proto.witness.v1.head_pb2 import SignedHead
from ipls.trust.bundle import (
    MAX_LIFE_MS,
    bundle_head,
    check_follows,
    hsm_for,
    predecessor,
    shard_of,
    sign_bundle,
    verify_bundle,
)
from ipls.trust.errors import BundleRefused, HeadRefused, TrustRootRefused
from ipls.trust.heads import Head, verify_head
from ipls.trust.limits import MAX_AHEAD_MS
from ipls.trust.root import TrustRoot
from tests.trust.bundles import after, bundle, countersigned, hsm, point, signed_bundle
from tests.trust.roots import NAMESPACE, NOW, OPERATOR, THIEF, WITNESSES, cosign, make_root, three_of

FIRST = signed_bundle(bundle())
SEEN = bundle_head(FIRST)


def operator_signs(data: bytes) -> SignedBundle:
    """Whatever it is: `sign_bundle` would refuse to."""
    return SignedBundle(bundle=data, operator_signature=sign(OPERATOR, tagged_hash("ipls/fleet/v1 bundle", data)))


def refused(signed: SignedBundle, root: TrustRoot | None = None, now_ms: int = NOW, seen: Head | None = None) -> str:
    with pytest.raises(VerificationError) as e:
        verify_bundle(root or make_root(), signed, now_ms=now_ms, seen=seen)
    return e.value.reason


def test_operator_and_witnesses_vouch_for_a_bundle() -> None:
    assert verify_bundle(make_root(), FIRST, now_ms=NOW) == bundle()
    assert verify_bundle(make_root(), FIRST, now_ms=NOW, seen=SEEN) == bundle()


def test_a_development_bundle_needs_no_ceremony() -> None:
    unreported = bundle(hsm(report_hash=b""))
    assert verify_bundle(make_root(), signed_bundle(unreported), now_ms=NOW) == unreported


def test_a_development_bundle_under_another_trust_root_is_refused() -> None:
    assert refused(FIRST, make_root(development=False)) == "BUNDLE_DEVELOPMENT"


@pytest.mark.parametrize("development", [True, False])
def test_every_bundle_needs_k_witnesses_over_its_very_bytes(development: bool) -> None:
    root = three_of(2, development=development)
    number = {"number": 4, "previous": bytes(32), "development": development}
    signed = sign_bundle(OPERATOR, bundle(**number))
    digest = hashlib.sha256(signed.bundle).digest()
    assert refused(signed, root) == refused(countersigned(signed, WITNESSES[0]), root) == "HEAD_NO_QUORUM"
    assert refused(countersigned(signed, WITNESSES[0], WITNESSES[0]), root) == "HEAD_NO_QUORUM"
    assert refused(countersigned(signed, WITNESSES[0], THIEF), root) == "HEAD_KEY_UNPINNED"
    for namespace, signed_number, hashed, reason in (
        (NAMESPACE, 4, digest, "HEAD_OTHER_NAMESPACE"),
        (f"{NAMESPACE}/trust", 4, digest, "HEAD_OTHER_NAMESPACE"),
        (f"{NAMESPACE}/fleet", 3, digest, "HEAD_OTHER_ROOT"),
        (f"{NAMESPACE}/fleet", 4, bytes(32), "HEAD_OTHER_ROOT"),
    ):
        forged = countersigned(signed, WITNESSES[0])
        forged.cosignatures.append(cosign(WITNESSES[1], namespace, signed_number, hashed, NOW))
        assert refused(forged, root) == reason
    assert verify_bundle(root, countersigned(signed, *WITNESSES[:2]), now_ms=NOW).number == 4


def test_a_bundle_is_no_head_of_the_directory_and_no_trust_root() -> None:
    head = SignedHead(epoch=SEEN.epoch, root_hash=SEEN.root_hash, cosignatures=FIRST.cosignatures)
    with pytest.raises(HeadRefused) as e:
        verify_head(make_root(), head, now_ms=NOW)
    assert e.value.reason == "HEAD_OTHER_NAMESPACE"


def test_another_bundle_of_the_number_seen_is_refused() -> None:
    assert refused(signed_bundle(bundle(hsm(2))), seen=SEEN) == "BUNDLE_FORK"


def test_the_next_bundle_continues_the_one_seen() -> None:
    second = signed_bundle(after(FIRST, hsm(2)))
    assert verify_bundle(make_root(), second, now_ms=NOW, seen=SEEN).number == 2
    assert refused(signed_bundle(after(FIRST, previous=bytes(32))), seen=SEEN) == "BUNDLE_FORK"
    assert refused(FIRST, seen=bundle_head(second)) == "BUNDLE_BELOW_HIGHEST"


def test_bundles_that_were_passed_over_are_followed_by_their_hashes() -> None:
    """Whatever became of the keys that signed them, and of their time."""
    second = sign_bundle(THIEF, after(FIRST, expires_ms=NOW - 1))
    third = signed_bundle(after(second))
    newest = verify_bundle(make_root(), third, now_ms=NOW, seen=SEEN)
    between = predecessor(newest, second)
    check_follows(between, SEEN)
    for other in (FIRST, third, sign_bundle(OPERATOR, after(FIRST, hsm(2)))):
        with pytest.raises(BundleRefused) as e:
            predecessor(newest, other)
        assert e.value.reason == "BUNDLE_FORK"
    for seen in (Head(1, bytes(32)), bundle_head(second)):
        with pytest.raises(BundleRefused) as e:
            check_follows(between, seen)
        assert e.value.reason == "BUNDLE_FORK"


def test_an_expired_bundle_is_refused() -> None:
    signed = signed_bundle(bundle(expires_ms=NOW + 1))
    verify_bundle(make_root(), signed, now_ms=NOW)
    assert refused(signed, now_ms=NOW + 1) == "BUNDLE_EXPIRED"


def test_a_bundle_good_for_more_than_30_days_is_refused() -> None:
    """By a clock that may be two minutes behind the operator's."""
    longest = NOW + MAX_LIFE_MS + MAX_AHEAD_MS
    verify_bundle(make_root(), signed_bundle(bundle(expires_ms=longest)), now_ms=NOW)
    assert refused(signed_bundle(bundle(expires_ms=longest + 1))) == "BUNDLE_EXPIRED"


def test_its_witnesses_signatures_last_as_long_as_it_does() -> None:
    signed = countersigned(sign_bundle(OPERATOR, bundle()), time=NOW - MAX_LIFE_MS)
    assert verify_bundle(make_root(), signed, now_ms=NOW) == bundle()


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
        bundle(number=2**63, previous=bytes(32)),
        bundle(hsms=[]),
        bundle(hsm(1, 0), hsm(2, 0)),
        bundle(hsm(1, 0), hsm(2, 2)),
        bundle(hsm(1, 0, 0)),
        bundle(hsm(1, 0), hsm(1, 1, transport_key=point(9))),
        bundle(hsm(1, 0), hsm(2, 1, transport_key=point(101))),
        bundle(hsm(1, transport_key=point(1))),
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
    shortest = hsm(not_before_ms=NOW, not_after_ms=NOW + 1)
    assert hsm_for(bundle(shortest), "+1", now_ms=NOW) == shortest
    for window in ({"not_before_ms": NOW + 1}, {"not_after_ms": NOW}):
        with pytest.raises(BundleRefused) as e:
            hsm_for(bundle(hsm(**window)), "+1", now_ms=NOW)
        assert e.value.reason == "BUNDLE_HSM_NOT_VALID"
