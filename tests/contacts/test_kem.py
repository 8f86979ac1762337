"""HPKE to a device: what is sealed to one, for one purpose, opens there and nowhere else. Known answers:
tests/contacts/test_linking.py."""

import os
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipls.contacts.errors import LineError
from ipls.contacts.kem import PUBLIC_BYTES, SEALED_OVERHEAD, SECRET_BYTES, KemKey, seal_to

MINE, OTHER = KemKey(bytes(SECRET_BYTES)), KemKey(bytes([1]) * SECRET_BYTES)
KEY = bytes(range(32))


def opened(sealed: bytes, key: KemKey = MINE, info: bytes = b"for this") -> bytes:
    return key.open(info, sealed)


@given(st.binary(max_size=300), st.binary(max_size=80))
def test_what_is_sealed_opens(content: bytes, info: bytes) -> None:
    sealed = seal_to(MINE.public, info, content)
    assert len(sealed) == SEALED_OVERHEAD + len(content)
    assert opened(sealed, info=info) == content
    assert seal_to(MINE.public, info, content) != sealed


def test_a_key_is_had_back_from_its_secret() -> None:
    new = KemKey()
    assert len(new.secret) == SECRET_BYTES
    assert len(new.public) == PUBLIC_BYTES
    assert KemKey(new.secret).public == new.public != KemKey().public
    assert opened(seal_to(new.public, b"for this", KEY), KemKey(new.secret)) == KEY


@pytest.mark.parametrize("where", [{"key": OTHER}, {"info": b"for that"}], ids=["device", "purpose"])
def test_it_opens_nowhere_else(where: dict[str, Any]) -> None:
    with pytest.raises(LineError) as refused:
        opened(seal_to(MINE.public, b"for this", KEY), **where)
    assert refused.value.reason == "SEAL_BROKEN"


SEALED = seal_to(MINE.public, b"for this", KEY)


@given(st.integers(0, len(SEALED) - 1), st.integers(0, 7))
def test_a_flipped_bit_is_noticed(at: int, bit: int) -> None:
    altered = bytearray(SEALED)
    altered[at] ^= 1 << bit
    with pytest.raises(LineError):
        opened(bytes(altered))


@given(st.integers(0, len(SEALED) - 1))
def test_one_that_is_cut_off_is_refused(length: int) -> None:
    with pytest.raises(LineError):
        opened(SEALED[:length])


@pytest.mark.parametrize(
    "public",
    [
        b"",
        MINE.public[:-1],
        MINE.public + b"\0",
        b"\xff" * 1184 + MINE.public[1184:],  # coefficients that are not reduced
        MINE.public[:1184] + bytes(32),  # a point of small order: everybody knows the secret
        MINE.public[:1184] + (1).to_bytes(32, "little"),
    ],
    ids=["none", "short", "long", "not reduced", "zero", "one"],
)
def test_nothing_is_sealed_to_what_is_no_key(public: bytes) -> None:
    with pytest.raises(LineError) as refused:
        seal_to(public, b"for this", KEY)
    assert refused.value.reason == "KEY_INVALID"


@pytest.mark.parametrize("size", [0, 32, 95, 97])
def test_a_secret_has_96_bytes(size: int) -> None:
    with pytest.raises(LineError) as refused:
        KemKey(os.urandom(size))
    assert refused.value.reason == "KEY_INVALID"
