import hashlib
import json
from contextlib import suppress
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st
from nacl.bindings import crypto_core_ed25519_add

from ipls.crypto.encoding import tagged_hash
from ipls.crypto.errors import SignatureRefused
from ipls.crypto.keys import check_public_key, public_key, sign, verify
from tests.crypto import edges
from tests.trust.points import NON_CANONICAL, SMALL_ORDER
from tests.trust.roots import THIEF, seed

KEY = public_key(seed(9))


def test_T_is_the_hash_of_its_length_prefixed_fields() -> None:
    expected = hashlib.sha256(
        b"\0\0\0\0\0\0\0\x01d" + b"\0\0\0\0\0\0\0\x02ab" + b"\0\0\0\0\0\0\0\x08" + bytes(7) + b"\x05"
    )
    assert tagged_hash("d", "ab", 5) == expected.digest()


@given(st.lists(st.binary(max_size=4), max_size=4), st.lists(st.binary(max_size=4), max_size=4))
def test_different_fields_hash_differently(a: list[bytes], b: list[bytes]) -> None:
    assert (tagged_hash("d", *a) == tagged_hash("d", *b)) == (a == b)


def test_an_honest_signature_holds() -> None:
    verify(KEY, b"message", sign(seed(9), b"message"))


def test_rfc_8032_vector_2() -> None:
    s = bytes.fromhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb")
    public = "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c"
    signature = (
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
    )
    assert public_key(s).hex() == public
    assert sign(s, b"\x72").hex() == signature


@pytest.mark.parametrize("length", [0, 1, 32, 63, 65, 128])
def test_a_signature_of_the_wrong_length_is_refused_by_name(length: int) -> None:
    with pytest.raises(SignatureRefused) as e:
        verify(KEY, b"", sign(seed(9), b"").ljust(length, b"\0")[:length])
    assert e.value.reason == "SIGNATURE_LENGTH"


@given(st.integers(0, 511))
def test_any_flipped_bit_breaks_a_signature(bit: int) -> None:
    signature = bytearray(sign(seed(9), b"m"))
    signature[bit // 8] ^= 1 << bit % 8
    with pytest.raises(SignatureRefused) as e:
        verify(KEY, b"m", bytes(signature))
    assert e.value.reason == "SIGNATURE_INVALID"


def test_another_key_or_message_is_refused() -> None:
    for key, message in ((public_key(THIEF), b"m"), (KEY, b"n")):
        with pytest.raises(SignatureRefused) as e:
            verify(key, message, sign(seed(9), b"m"))
        assert e.value.reason == "SIGNATURE_INVALID"


@pytest.mark.parametrize("point", SMALL_ORDER + NON_CANONICAL, ids=bytes.hex)
def test_a_small_order_or_non_canonical_key_is_refused(point: bytes) -> None:
    """Under the identity point, (R = identity, s = 0) signs every message in a careless checker."""
    anything = bytes([1]) + bytes(63)
    for check in (lambda: check_public_key(point), lambda: verify(point, b"never signed", anything)):
        with pytest.raises(SignatureRefused) as e:
            check()
        assert e.value.reason == "KEY_INVALID"


@pytest.mark.parametrize("torsion", SMALL_ORDER[4:], ids=bytes.hex)
def test_a_key_of_mixed_order_is_refused(torsion: bytes) -> None:
    with pytest.raises(SignatureRefused):
        check_public_key(crypto_core_ed25519_add(KEY, torsion))


VECTORS = json.loads(Path("tests/vectors/ed25519.json").read_text())


@pytest.mark.parametrize("case", VECTORS, ids=lambda case: case["what"])
def test_what_verifiers_differ_on_is_refused(case: dict[str, str]) -> None:
    key, message, signature = (bytes.fromhex(case[name]) for name in ("public_key", "message", "signature"))
    refused = ""
    try:
        verify(key, message, signature)
    except SignatureRefused as error:
        refused = error.reason
    assert refused == case["refused"]


def test_another_librarys_verifier_takes_some_of_them() -> None:
    """Else they would show nothing."""
    taken = set()
    for case in VECTORS:
        key, message, signature = (bytes.fromhex(case[name]) for name in ("public_key", "message", "signature"))
        with suppress(InvalidSignature):
            Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
            taken.add(case["what"])
    assert {"honest", "R of small order, 0", "a key of mixed order, 1", "a key not canonical, 1"} <= taken


def test_the_vectors_are_what_their_generator_makes() -> None:
    made = [(what, key.hex(), signature.hex(), refused) for what, key, signature, refused in edges.cases()]
    assert made == [(c["what"], c["public_key"], c["signature"], c["refused"]) for c in VECTORS]


@given(st.binary(max_size=40))
def test_a_key_is_taken_or_refused_and_nothing_else(data: bytes) -> None:
    try:
        assert check_public_key(data) == data
    except SignatureRefused as e:
        assert e.reason == "KEY_INVALID"  # noqa: PT017  # both ends are right here
