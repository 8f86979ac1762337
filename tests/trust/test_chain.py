from dataclasses import replace
from typing import Any

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from ipls.crypto.errors import VerificationError
from ipls.crypto.keys import public_key
from ipls.proto.trust.v1.trust_pb2 import SignedTrustRoot, TrustChain
from ipls.proto.witness.v1.head_pb2 import SignedHead
from ipls.trust.chain import TrustRootVersion, follow, follow_versions
from ipls.trust.errors import HeadRefused, TrustRootRefused
from ipls.trust.heads import Head, verify_head
from ipls.trust.root import WitnessKey
from tests.trust.chains import after, first, signed
from tests.trust.roots import HOUR, NAMESPACE, NOW, OPERATOR, THIEF, WITNESSES, YEAR, cosign, seed, three_of, witness

A, B, C = WITNESSES
D, E, A2 = seed(14), seed(15), seed(21)
PINNED = first(three_of(expires_ms=NOW - 1))
NEWCOMERS = three_of().witnesses[0], witness("d", D), witness("e", E)
"""Of the old three only the first stays: no signer of the old quorum but A is in the new one."""


def refused(version: SignedTrustRoot, old: TrustRootVersion = PINNED) -> str:
    with pytest.raises(TrustRootRefused) as e:
        follow(old, version, NOW)
    return e.value.reason


def test_the_newest_of_a_chain_is_found_through_expired_versions_between() -> None:
    second = after(PINNED, witnesses=NEWCOMERS)
    third = after(second, k=3, expires_ms=NOW + YEAR)
    chain = [signed(second, A, B, D), signed(third, A, D, E)]
    assert second.root.expires_ms < NOW
    assert follow_versions(PINNED, chain, now_ms=NOW) == third
    assert follow_versions(PINNED, [], now_ms=NOW) == PINNED


def test_the_last_ones_expiry_counts() -> None:
    expired = follow_versions(PINNED, [signed(after(PINNED), A, B)], now_ms=NOW).root
    head = SignedHead(
        epoch=1, root_hash=bytes(32), cosignatures=[cosign(s, NAMESPACE, 1, bytes(32), NOW) for s in (A, B)]
    )
    with pytest.raises(TrustRootRefused, check=lambda e: e.reason == "TRUST_ROOT_EXPIRED"):
        verify_head(expired, head, now_ms=NOW)
    verify_head(replace(expired, expires_ms=NOW + 1), head, now_ms=NOW)


def test_signatures_have_no_age_but_a_window_and_an_end() -> None:
    assert follow(PINNED, signed(after(PINNED), A, B, time=NOW - YEAR), NOW)
    assert refused(signed(after(PINNED), A, B, time=NOW - YEAR - 1)) == "TRUST_ROOT_OLD_QUORUM"
    assert refused(signed(after(PINNED), A, B, time=NOW + HOUR)) == "TRUST_ROOT_OLD_QUORUM"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"number": 3}, "TRUST_ROOT_GAP"),
        ({"number": 1, "previous": b""}, "TRUST_ROOT_FORK"),
        ({"previous": bytes(32)}, "TRUST_ROOT_PREVIOUS"),
        ({"namespace": "other"}, "TRUST_ROOT_OTHER_NAMESPACE"),
        ({"vrf_public_key": public_key(THIEF)}, "TRUST_ROOT_VRF_KEY"),
        ({"start_root": bytes([1]) * 32}, "TRUST_ROOT_START"),
    ],
)
def test_what_does_not_continue_is_refused_whoever_signed_it(changes: dict[str, Any], reason: str) -> None:
    assert refused(signed(after(PINNED, **changes), A, B, C)) == reason


def test_a_version_below_is_refused_and_so_is_a_lower_start() -> None:
    second = follow(PINNED, signed(after(PINNED, start_epoch=7, start_root=bytes([7]) * 32), A, B), NOW)
    third = follow(second, signed(after(second), A, B), NOW)
    assert refused(signed(second, A, B), third) == "TRUST_ROOT_ROLLED_BACK"
    assert refused(signed(after(third, start_epoch=6), A, B), third) == "TRUST_ROOT_START"


def test_two_files_of_one_number_are_a_fork() -> None:
    one, other = after(PINNED), after(PINNED, k=3)
    chain = [signed(one, A, B, C), signed(other, A, B, C)]
    with pytest.raises(TrustRootRefused, check=lambda e: e.reason == "TRUST_ROOT_FORK"):
        follow_versions(PINNED, chain, now_ms=NOW)


def test_what_is_signed_is_the_file_to_the_byte() -> None:
    commented = TrustRootVersion.parse(b"# the same to a reader\n" + after(PINNED).file)
    assert commented.root == after(PINNED).root
    assert refused(SignedTrustRoot(file=commented.file, cosignatures=signed(after(PINNED), A, B).cosignatures)) == (
        "TRUST_ROOT_OLD_QUORUM"
    )
    third = after(after(PINNED))
    assert refused(signed(third, A, B), commented) == "TRUST_ROOT_PREVIOUS"


def test_it_takes_a_quorum_of_the_old_and_of_the_new_witnesses() -> None:
    new = after(PINNED, witnesses=NEWCOMERS)
    assert refused(signed(new, A, B)) == "TRUST_ROOT_NEW_QUORUM"
    assert refused(signed(new, A, D, E)) == "TRUST_ROOT_OLD_QUORUM"
    assert refused(signed(new)) == "TRUST_ROOT_OLD_QUORUM"
    assert follow(PINNED, signed(new, A, B, D), NOW) == new


def test_a_smaller_k_of_the_new_version_does_not_count_for_the_old_one() -> None:
    alone = after(PINNED, witnesses=three_of().witnesses[:1], k=1)
    assert refused(signed(alone, A)) == "TRUST_ROOT_OLD_QUORUM"


def test_signatures_of_one_witness_are_one_vote_however_many_and_whichever_key() -> None:
    keys = (*three_of().witnesses[0].keys, WitnessKey(public_key(A2), NOW - HOUR, NOW + YEAR))
    two_keys = (replace(three_of().witnesses[0], keys=keys), *three_of().witnesses[1:])
    old = first(three_of(witnesses=two_keys))
    assert refused(signed(after(old), A, A, A2, A2), old) == "TRUST_ROOT_OLD_QUORUM"
    assert follow(old, signed(after(old), A2, B), NOW)


def test_a_stranger_and_the_operator_count_for_nothing() -> None:
    assert refused(signed(after(PINNED), A, THIEF, OPERATOR)) == "TRUST_ROOT_OLD_QUORUM"


def test_a_heads_signature_is_none_on_a_version_nor_a_bundles_nor_the_other_way_round() -> None:
    new = after(PINNED)
    for namespace in (NAMESPACE, f"{NAMESPACE}/fleet"):
        other = [cosign(s, namespace, *new.head, NOW) for s in (A, B)]
        assert refused(SignedTrustRoot(file=new.file, cosignatures=other)) == "TRUST_ROOT_OLD_QUORUM"
    head = SignedHead(
        epoch=new.head.epoch, root_hash=new.head.root_hash, cosignatures=signed(new, A, B, C).cosignatures
    )
    with pytest.raises(HeadRefused, check=lambda e: e.reason == "HEAD_OTHER_NAMESPACE"):
        verify_head(three_of(), head, now_ms=NOW)


def test_a_key_rotated_with_an_overlap() -> None:
    """In the overlap either key signs; after it the old key signs nothing new, and what it signed still counts."""
    old_key, new_key = WitnessKey(public_key(A), NOW - YEAR, NOW + HOUR), WitnessKey(public_key(A2), NOW, NOW + YEAR)
    rotated = (replace(three_of().witnesses[0], keys=(old_key, new_key)), *three_of().witnesses[1:])
    root = follow(PINNED, signed(after(PINNED, witnesses=rotated, expires_ms=NOW + YEAR), A, B), NOW).root

    def heads(key: bytes, time: int) -> Head:
        made = [cosign(key, NAMESPACE, 1, bytes(32), time), cosign(B, NAMESPACE, 1, bytes(32), time)]
        head = SignedHead(epoch=1, root_hash=bytes(32), cosignatures=made)
        return verify_head(root, head, now_ms=NOW + 2 * HOUR, check_age=False)

    assert heads(A, NOW + HOUR - 1) == heads(A2, NOW) == heads(A2, NOW + HOUR) == Head(1, bytes(32))
    with pytest.raises(HeadRefused, check=lambda e: e.reason == "HEAD_KEY_EXPIRED"):
        heads(A, NOW + HOUR)


def test_a_key_taken_out_signs_no_head_any_more() -> None:
    root = replace(three_of(), witnesses=(witness("w0", A2), *three_of().witnesses[1:]))
    new = follow(PINNED, signed(after(PINNED, witnesses=root.witnesses, expires_ms=NOW + YEAR), A, A2, B), NOW)
    head = SignedHead(
        epoch=1, root_hash=bytes(32), cosignatures=[cosign(s, NAMESPACE, 1, bytes(32), NOW) for s in (A, B)]
    )
    verify_head(three_of(), head, now_ms=NOW)
    with pytest.raises(HeadRefused, check=lambda e: e.reason == "HEAD_KEY_UNPINNED"):
        verify_head(new.root, head, now_ms=NOW)


def test_a_namespace_with_a_slash_is_no_trust_roots() -> None:
    """Or x/fleet's heads would be signatures on the bundles of x."""
    for namespace in ("x/fleet", "x/trust"):
        file = PINNED.file.replace(b'"test.ipls"', f'"{namespace}"'.encode())
        assert file != PINNED.file
        with pytest.raises(TrustRootRefused, check=lambda e: e.reason == "TRUST_ROOT_INVALID"):
            TrustRootVersion.parse(file)


def test_two_live_keys_of_one_id_are_refused() -> None:
    """The last byte is all by which auditors in the field tell a witness's keys apart."""
    twin = next(s for s in (n.to_bytes(32) for n in range(2**16)) if public_key(s)[-1] == public_key(A)[-1])
    keys = (*PINNED.root.witnesses[0].keys, WitnessKey(public_key(A2), NOW, NOW + YEAR))
    sound = after(PINNED, witnesses=(replace(PINNED.root.witnesses[0], keys=keys), *PINNED.root.witnesses[1:]))
    file = sound.file.replace(public_key(A2).hex().encode(), public_key(twin).hex().encode())
    twins = SignedTrustRoot(file=file, cosignatures=signed(sound, A, B, C).cosignatures)
    assert refused(twins) == "TRUST_ROOT_INVALID"


LAST = after(after(PINNED, witnesses=NEWCOMERS), k=3, expires_ms=NOW + YEAR)
CHAIN = [signed(after(PINNED, witnesses=NEWCOMERS), A, B, D), signed(LAST, A, D, E)]
ENCODED = TrustChain(versions=CHAIN).SerializeToString()


@given(st.data())
def test_no_change_to_a_chains_bytes_leads_elsewhere(data: st.DataObject) -> None:
    """Every one is refused, or leads to where one honest version or both lead: an unknown field does no harm."""
    at, end = sorted(data.draw(st.tuples(*2 * [st.integers(0, len(ENCODED))])))
    mutated = ENCODED[:at] + data.draw(st.binary(max_size=8)) + ENCODED[end:]
    try:
        newest = follow_versions(PINNED, TrustChain.FromString(mutated).versions, now_ms=NOW)
    except (DecodeError, VerificationError):
        return
    assert newest.file in (PINNED.file, CHAIN[0].file, LAST.file)


@given(st.integers(0, len(ENCODED) * 8 - 1))
def test_no_flipped_bit_of_a_chain_is_accepted(bit: int) -> None:
    flipped = bytearray(ENCODED)
    flipped[bit // 8] ^= 1 << bit % 8
    try:
        newest = follow_versions(PINNED, TrustChain.FromString(bytes(flipped)).versions, now_ms=NOW)
    except (DecodeError, VerificationError):
        return
    assert newest.file != LAST.file


@given(st.lists(st.sampled_from(CHAIN), max_size=4))
def test_the_order_of_the_versions_is_the_one_in_which_they_were_made(versions: list[SignedTrustRoot]) -> None:
    if versions in ([], CHAIN[:1], CHAIN):
        assert follow_versions(PINNED, versions, now_ms=NOW).root.number == 1 + len(versions)
        return
    with pytest.raises(TrustRootRefused):
        follow_versions(PINNED, versions, now_ms=NOW)


@given(st.sampled_from([0, 1]), st.integers(0, 2))
def test_no_signature_of_a_chain_can_be_left_out(version: int, signature: int) -> None:
    """A is in both of the first version's quorums, and each of the others in one."""
    cut = [SignedTrustRoot.FromString(each.SerializeToString()) for each in CHAIN]
    del cut[version].cosignatures[signature]
    with pytest.raises(TrustRootRefused):
        follow_versions(PINNED, cut, now_ms=NOW)
