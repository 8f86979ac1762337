from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipls.crypto.errors import VerificationError
from ipls.crypto.keys import public_key, sign
from ipls.proto.witness.v1.head_pb2 import Cosignature, SignatureMessage, SignedHead
from ipls.trust.errors import HeadRefused, TrustRootRefused
from ipls.trust.heads import Head, quorum_timestamp, signature_message, signers, verify_head
from ipls.trust.root import TrustRoot, Witness, WitnessKey
from tests.trust.points import SMALL_ORDER
from tests.trust.roots import HOUR, NOW, THIEF, WITNESSES, YEAR, cosign, make_root, seed, signed, three_of

HEAD = Head(7, b"\x07" * 32)
OTHER = Head(7, b"\x08" * 32)
A, B, C = WITNESSES


def refused(root: TrustRoot, head: SignedHead, now_ms: int = NOW, **options: Any) -> str:
    with pytest.raises(HeadRefused) as e:
        verify_head(root, head, now_ms=now_ms, **options)
    return e.value.reason


def one_signed(message: bytes, by: bytes = A) -> SignedHead:
    cosignature = Cosignature(message=message, public_key=public_key(by), signature=sign(by, message))
    return SignedHead(epoch=HEAD.epoch, root_hash=HEAD.root_hash, cosignatures=[cosignature])


def test_the_signed_message_has_the_published_encoding() -> None:
    message = signature_message("ns", 7, b"\x07" * 32, 300)
    assert message == b"\x08\x01\x12\x02ns\x18\xac\x02\x22\x02\x08\x07\x2a\x20" + b"\x07" * 32
    assert signature_message("ns", 0, b"", 0) == b"\x08\x01\x12\x02ns\x18\x00\x22\x02\x08\x00\x2a\x00"


def test_a_quorum_is_accepted() -> None:
    assert verify_head(make_root(), signed(HEAD, A), now_ms=NOW) == HEAD
    assert verify_head(three_of(2), signed(HEAD, A, C), now_ms=NOW) == HEAD
    assert signers(three_of(2), signed(HEAD, C, A), now_ms=NOW) == {"w0": NOW, "w2": NOW}


def test_too_few_witnesses_are_refused() -> None:
    assert refused(three_of(2), signed(HEAD, A)) == "HEAD_NO_QUORUM"
    assert refused(make_root(), signed(HEAD)) == "HEAD_NO_QUORUM"


def test_a_witness_counts_once() -> None:
    assert refused(three_of(2), signed(HEAD, A, A)) == "HEAD_NO_QUORUM"
    keys = tuple(WitnessKey(public_key(s), NOW - YEAR, NOW + YEAR) for s in (A, seed(30)))
    root = three_of(2, witnesses=(Witness("w0", "https://w0.example", keys), *three_of().witnesses[1:]))
    assert refused(root, signed(HEAD, A, seed(30))) == "HEAD_NO_QUORUM"
    assert verify_head(root, signed(HEAD, A, seed(30), B), now_ms=NOW) == HEAD


def test_an_unpinned_key_is_refused() -> None:
    assert refused(make_root(), signed(HEAD, THIEF)) == "HEAD_KEY_UNPINNED"
    assert refused(three_of(2), signed(HEAD, A, THIEF)) == "HEAD_KEY_UNPINNED"


def test_a_signature_by_a_pinned_operator_or_proposal_key_is_none_of_a_witness() -> None:
    for key in (seed(2), seed(3)):
        assert refused(make_root(), signed(HEAD, key)) == "HEAD_KEY_UNPINNED"


@pytest.mark.parametrize("point", SMALL_ORDER, ids=bytes.hex)
def test_a_small_order_key_is_refused(point: bytes) -> None:
    head = signed(HEAD, A)
    head.cosignatures[0].public_key = point
    head.cosignatures[0].signature = bytes([1]) + bytes(63)
    assert refused(make_root(), head) == "HEAD_KEY_UNPINNED"


def test_a_signature_that_does_not_count_does_not_spoil_those_that_do() -> None:
    head = signed(HEAD, THIEF, A, B)
    head.cosignatures.add(message=b"\xff", public_key=public_key(C), signature=b"")
    assert verify_head(three_of(2), head, now_ms=NOW) == HEAD


@pytest.mark.parametrize("length", [0, 32, 63, 65])
def test_a_signature_of_the_wrong_length_is_refused_by_name(length: int) -> None:
    head = signed(HEAD, A)
    head.cosignatures[0].signature = head.cosignatures[0].signature.ljust(length, b"\0")[:length]
    assert refused(make_root(), head) == "SIGNATURE_LENGTH"


def test_a_signature_by_another_pinned_witness_s_key_is_refused() -> None:
    head = signed(HEAD, A, B)
    first, second = head.cosignatures
    first.signature, second.signature = second.signature, first.signature
    assert refused(three_of(2), head) == "SIGNATURE_INVALID"


@pytest.mark.parametrize("namespace", ["other", "test.ipls/fleet", "test.ipls/trust", "", "TEST.IPLS"])
def test_a_signature_over_another_namespace_is_refused(namespace: str) -> None:
    assert refused(make_root(), signed(HEAD, A, namespace=namespace)) == "HEAD_OTHER_NAMESPACE"


@pytest.mark.parametrize("claimed", [Head(8, HEAD.root_hash), Head(6, HEAD.root_hash), OTHER], ids=str)
def test_a_signature_over_another_epoch_or_root_is_refused(claimed: Head) -> None:
    head = signed(HEAD, A)
    head.epoch, head.root_hash = claimed
    assert refused(make_root(), head) == "HEAD_OTHER_ROOT"


def test_a_head_without_a_root_hash_is_refused() -> None:
    for head in (Head(7, b""), Head(7, bytes(31)), Head(7, bytes(33)), Head(2**63, bytes(32))):
        assert refused(make_root(), signed(head, A)) == "HEAD_ENCODING"


def test_a_message_that_is_not_its_own_encoding_is_refused() -> None:
    honest = signature_message(make_root().namespace, *HEAD, NOW)
    reordered = SignatureMessage.FromString(honest)
    reordered.ClearField("digest")
    for message in (
        honest + b"\x30\x01",  # an unknown field
        honest + b"\x08\x01",  # a repeated field
        b"\x2a\x20" + HEAD.root_hash + reordered.SerializeToString(),  # fields out of order
        b"\x08\x81\x00" + honest[2:],  # an overlong varint
        b"\x08\x02" + honest[2:],  # another ciphersuite
        honest[2:],  # no ciphersuite
    ):
        assert refused(make_root(), one_signed(message)) == "HEAD_ENCODING"


def test_an_unreadable_message_is_refused() -> None:
    for message in (b"", b"\xff", b"\x12\x02\xff\xff"):
        assert refused(make_root(), one_signed(message)) in ("HEAD_ENCODING", "HEAD_OTHER_NAMESPACE")


def test_the_age_of_a_head_is_bounded_both_ways() -> None:
    root, head = make_root(), signed(HEAD, A)
    assert verify_head(root, head, now_ms=NOW + HOUR) == HEAD
    assert refused(root, head, NOW + HOUR + 1) == "HEAD_TOO_OLD"
    assert verify_head(root, head, now_ms=NOW - 120_000) == HEAD
    assert refused(root, head, NOW - 120_001) == "HEAD_FROM_FUTURE"


def test_one_old_signature_is_not_counted_beside_a_new_one() -> None:
    head = signed(HEAD, A)
    head.cosignatures.append(cosign(B, make_root().namespace, *HEAD, NOW - HOUR - 1))
    assert refused(three_of(2), head) == "HEAD_TOO_OLD"
    assert verify_head(three_of(2), head, now_ms=NOW, check_age=False) == HEAD


def test_a_head_of_the_past_is_taken_where_age_does_not_matter_but_never_one_of_the_future() -> None:
    head = signed(HEAD, A)
    assert verify_head(make_root(), head, now_ms=NOW + 100 * HOUR, check_age=False) == HEAD
    assert refused(make_root(), head, NOW - HOUR, check_age=False) == "HEAD_FROM_FUTURE"


def test_a_rotated_out_key_is_refused_at_the_times_after_it_and_before() -> None:
    keys = WitnessKey(public_key(A), NOW - YEAR, NOW), WitnessKey(public_key(B), NOW, NOW + YEAR)
    root = make_root(witnesses=(Witness("w", "https://w.example", keys),))
    assert verify_head(root, signed(HEAD, A, time=NOW - 1), now_ms=NOW) == HEAD
    assert refused(root, signed(HEAD, A, time=NOW)) == "HEAD_KEY_EXPIRED"
    assert refused(root, signed(HEAD, B, time=NOW - 1)) == "HEAD_KEY_EXPIRED"
    assert verify_head(root, signed(HEAD, B, time=NOW), now_ms=NOW) == HEAD


def test_a_head_below_the_highest_seen_is_refused() -> None:
    root, head = make_root(), signed(HEAD, A)
    assert verify_head(root, head, now_ms=NOW, at_least=HEAD) == HEAD
    assert verify_head(root, head, now_ms=NOW, at_least=Head(6, bytes(32))) == HEAD
    assert refused(root, head, at_least=Head(8, bytes(32))) == "HEAD_BELOW_HIGHEST"


def test_another_root_for_an_epoch_seen_is_a_fork() -> None:
    assert refused(make_root(), signed(HEAD, A), at_least=OTHER) == "HEAD_FORK"


def test_an_unsigned_fork_is_no_evidence() -> None:
    assert refused(make_root(), signed(HEAD, THIEF), at_least=OTHER) == "HEAD_KEY_UNPINNED"


def test_the_trust_root_s_start_is_a_floor() -> None:
    root = make_root(start_epoch=7, start_root=HEAD.root_hash)
    assert verify_head(root, signed(HEAD, A), now_ms=NOW) == HEAD
    assert refused(root, signed(OTHER, A)) == "HEAD_FORK"
    assert refused(root, signed(Head(6, bytes(32)), A)) == "HEAD_BELOW_START"


def test_nothing_holds_under_an_expired_trust_root() -> None:
    with pytest.raises(TrustRootRefused) as e:
        verify_head(make_root(expires_ms=NOW), signed(HEAD, A), now_ms=NOW)
    assert e.value.reason == "TRUST_ROOT_EXPIRED"


def test_only_counted_signatures_of_a_quorum_set_a_clock() -> None:
    head = signed(HEAD, A, B)
    for by, time in ((THIEF, NOW + 60_000), (C, NOW + HOUR), (A, NOW + 9), (B, NOW + 5)):
        head.cosignatures.append(cosign(by, make_root().namespace, *HEAD, time))
    assert quorum_timestamp(three_of(2), head, now_ms=NOW) == NOW + 5


def test_a_witness_that_signed_twice_counts_by_the_newer_time_whichever_comes_first() -> None:
    times = {A: [NOW - 5, NOW], B: [NOW - 1, NOW - 9]}
    signatures = [cosign(by, make_root().namespace, *HEAD, time) for by, each in times.items() for time in each]
    for order in (signatures, signatures[::-1]):
        head = SignedHead(epoch=HEAD.epoch, root_hash=HEAD.root_hash, cosignatures=order)
        assert signers(three_of(2), head, now_ms=NOW) == {"w0": NOW, "w1": NOW - 1}


def test_the_time_of_an_old_quorum_is_told_only_where_age_does_not_matter() -> None:
    head, later = signed(HEAD, A, B), NOW + HOUR + 1
    assert quorum_timestamp(three_of(2), head, now_ms=later, check_age=False) == NOW
    with pytest.raises(HeadRefused, check=lambda e: e.reason == "HEAD_TOO_OLD"):
        quorum_timestamp(three_of(2), head, now_ms=later)


def test_a_flood_of_signatures_is_refused_unchecked() -> None:
    assert refused(make_root(), signed(HEAD, *[A] * 65)) == "HEAD_ENCODING"


@given(st.integers(0, 5000))
def test_any_flipped_bit_of_a_signature_is_refused(bit: int) -> None:
    head = signed(HEAD, A)
    cosignature = head.cosignatures[0]
    parts = bytearray(cosignature.message + cosignature.public_key + cosignature.signature)
    bit %= len(parts) * 8
    parts[bit // 8] ^= 1 << bit % 8
    m = len(cosignature.message)
    cosignature.message, cosignature.public_key = bytes(parts[:m]), bytes(parts[m : m + 32])
    cosignature.signature = bytes(parts[m + 32 :])
    refused(make_root(), head)


@given(st.binary(max_size=120), st.binary(max_size=40), st.binary(max_size=70), st.booleans())
def test_junk_is_refused_with_our_own_error(message: bytes, key: bytes, signature: bytes, pinned: bool) -> None:
    head = SignedHead(epoch=7, root_hash=bytes(32))
    head.cosignatures.add(message=message, public_key=public_key(A) if pinned else key, signature=signature)
    with pytest.raises(VerificationError):
        verify_head(make_root(), head, now_ms=NOW)
