"""contacts.md, Keys: known answers, one encoding, and nothing that opens anywhere but where it was made."""

import hashlib
import hmac
import os

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCMSIV
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given
from hypothesis import strategies as st

from ipls.contacts.errors import LineError
from ipls.contacts.sealing import (
    MAX_ENVELOPE,
    MAX_SNAPSHOT,
    ContactKey,
    id_of_part,
    id_of_uid,
    is_sealed_size,
    name_of,
    new_id,
    padded_size,
)
from ipls.crypto.keys import public_key

SECRET, LABEL = bytes(range(32)), "+15550100"
KEY = ContactKey(SECRET, LABEL, 1)
ID = b"\xa0" * 16


def derived(name: str) -> bytes:
    """HKDF of docs/protocol/contacts.md, from the primitive."""
    return HKDF(SHA256(), 32, salt=None, info=b"ipls/contacts/v2 " + name.encode()).derive(SECRET)


def context(aad: bytes = b"") -> bytes:
    return (9).to_bytes(8, "big") + b"+15550100" + (1).to_bytes(8, "big") + aad


def test_the_known_answers() -> None:
    assert KEY.writer.public_key.hex() == "4a5f83b44673acba1bcaeaf963eff57814d6a2f50ae97a54c9da3202a4428b85"
    assert KEY.writer.public_key == public_key(derived("write"))
    record = KEY.seal_record(ID, b"card")
    assert len(record) == 284
    assert name_of(record).hex() == "4c9b8dfad60e548c6e34c317ad571cfeddf33af7577a8a2115313a9499a685cd"


def test_a_record_is_made_again_from_the_primitives() -> None:
    lp_id = (16).to_bytes(8, "big") + ID
    nonce = hmac.digest(derived("nonce"), lp_id + b"card", "sha256")[:12]
    padded = (4).to_bytes(4, "big") + b"card" + bytes(248)
    aad = context((6).to_bytes(8, "big") + b"record" + lp_id)
    assert KEY.seal_record(ID, b"card") == nonce + AESGCMSIV(derived("seal")).encrypt(nonce, padded, aad)


@given(st.binary(max_size=2000), st.binary(min_size=16, max_size=16))
def test_what_is_sealed_opens_and_is_made_again_the_same(envelope: bytes, id: bytes) -> None:
    record = KEY.seal_record(id, envelope)
    assert KEY.open_record(id, record) == envelope
    assert KEY.seal_record(id, envelope) == record
    assert is_sealed_size(len(record))


def test_other_than_a_record_a_seal_has_its_own_nonce_each_time() -> None:
    assert KEY.seal(b"x", b"") != KEY.seal(b"x", b"")


@pytest.mark.parametrize(
    "other",
    [
        (ContactKey(bytes(32), LABEL, 1), ID),
        (ContactKey(SECRET, "+15550101", 1), ID),
        (ContactKey(SECRET, LABEL, 2), ID),
        (KEY, b"\xa1" * 16),
    ],
    ids=["key", "account", "generation", "contact"],
)
def test_a_record_opens_nowhere_else(other: tuple[ContactKey, bytes]) -> None:
    key, id = other
    with pytest.raises(LineError, match="not of this place"):
        key.open_record(id, KEY.seal_record(ID, b"card"))


def test_a_record_is_no_commit() -> None:
    with pytest.raises(LineError):
        KEY.open(b"commit", KEY.seal_record(ID, b"card"))


@given(st.integers(0, 283), st.integers(0, 7))
def test_a_flipped_bit_is_noticed(at: int, bit: int) -> None:
    record = bytearray(KEY.seal_record(ID, b"card"))
    record[at] ^= 1 << bit
    with pytest.raises(LineError):
        KEY.open_record(ID, bytes(record))


@pytest.mark.parametrize(
    "padded",
    [
        (5).to_bytes(4, "big")
        + b"card"
        + b"\1"
        + bytes(247),  # padding that is not zero, told as content: that is a card
        (4).to_bytes(4, "big") + b"card" + b"\1" + bytes(247),
        (4).to_bytes(4, "big") + b"card" + bytes(504),
        (2**32 - 1).to_bytes(4, "big") + bytes(252),
    ],
    ids=["content", "padding", "too much of it", "length"],
)
def test_there_is_one_padding(padded: bytes) -> None:
    nonce = os.urandom(12)
    sealed = nonce + AESGCMSIV(derived("seal")).encrypt(nonce, padded, context(b"x"))
    if padded.startswith((5).to_bytes(4, "big")):
        assert KEY.open(b"x", sealed) == b"card\1"
    else:
        with pytest.raises(LineError):
            KEY.open(b"x", sealed)


@pytest.mark.parametrize("size", [0, 1, 27, 28, 283, 285])
def test_what_has_not_a_records_size_is_not_looked_at(size: int) -> None:
    assert not is_sealed_size(size)
    with pytest.raises(LineError):
        KEY.open(b"", bytes(size))


def test_the_largest() -> None:
    assert is_sealed_size(28 + padded_size(MAX_ENVELOPE))
    assert not is_sealed_size(28 + 2 * padded_size(MAX_ENVELOPE))
    assert is_sealed_size(28 + padded_size(MAX_SNAPSHOT), MAX_SNAPSHOT)
    assert len(KEY.seal_record(ID, bytes(MAX_ENVELOPE))) == 28 + 2**21
    with pytest.raises(LineError, match="at most"):
        KEY.seal_record(ID, bytes(MAX_ENVELOPE + 1))
    with pytest.raises(LineError):
        KEY.open(b"", KEY.seal(b"", bytes(MAX_ENVELOPE + 1)))


def test_a_key_has_32_bytes() -> None:
    with pytest.raises(LineError) as refused:
        ContactKey(bytes(31), LABEL, 1)
    assert refused.value.reason == "KEY_INVALID"


def test_ids() -> None:
    assert id_of_uid(LABEL, "u") == id_of_uid(LABEL, "u") != id_of_uid("+15550101", "u")
    assert len({new_id(), new_id(), id_of_part(ID, 0), id_of_part(ID, 1)}) == 4
    fields = [b"ipls/contacts/v2 id", LABEL.encode(), b"u"]
    encoded = b"".join(len(field).to_bytes(8, "big") + field for field in fields)
    assert id_of_uid(LABEL, "u") == hashlib.sha256(encoded).digest()[:16]
