import hashlib
import os
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCMSIV
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given
from hypothesis import strategies as st

from ipls.contacts.errors import CardError
from ipls.contacts.version1 import check_value, open_manifest, open_record
from tests.contacts.old_records import MAX_CARD, Manifest, seal_manifest, seal_record

KEY = bytes(range(32))
LABEL = "+12025550123"
ID = bytes.fromhex("a0a1a2a3a4a5a6a7a8a9aaabacadaeaf")
OTHER_ID = bytes.fromhex("b0b1b2b3b4b5b6b7b8b9babbbcbdbebf")
CARD = b"BEGIN:VCARD\r\nFN:Ada\r\nEND:VCARD"
NONCE = bytes(12)

# The formats of docs/protocol/contacts.md once more, written out from the primitives.


def derived(key: bytes, info: bytes) -> bytes:
    return HKDF(SHA256(), 32, salt=None, info=info).derive(key)


def sealed(plaintext: bytes, context: bytes, key: bytes = KEY, nonce: bytes = NONCE) -> bytes:
    return nonce + AESGCMSIV(derived(key, b"ipls/contacts/v1 record")).encrypt(nonce, plaintext, context)


def opened(ciphertext: bytes, context: bytes) -> bytes:
    return AESGCMSIV(derived(KEY, b"ipls/contacts/v1 record")).decrypt(ciphertext[:12], ciphertext[12:], context)


def context(generation: int = 1, record_id: bytes = ID, label: bytes = LABEL.encode()) -> bytes:
    sized_label = len(label).to_bytes(8, "big") + label
    return sized_label + generation.to_bytes(8, "big") + (16).to_bytes(8, "big") + record_id


def manifest_context(generation: int, version: int) -> bytes:
    return context(generation, bytes(16)) + version.to_bytes(8, "big") + derived(KEY, b"ipls/contacts/v1 check")


def padded(content: bytes, size: int) -> bytes:
    return len(content).to_bytes(4, "big") + content + bytes(size - 4 - len(content))


def manifest_plaintext(generation: int, version: int, entries: bytes, count: int, check: bytes | None = None) -> bytes:
    numbers = generation.to_bytes(8, "big") + version.to_bytes(8, "big")
    return numbers + (check or check_value(KEY)) + count.to_bytes(4, "big") + entries


def refused(call: Callable[..., object], *arguments: object) -> str:
    with pytest.raises(CardError) as error:
        call(*arguments)
    assert LABEL not in str(error.value)
    return error.value.reason


def test_known_answers():
    # For clients in other languages; docs/protocol/contacts.md lists the same values.
    assert check_value(KEY).hex() == "9df7b0f274bc47839673ac7e29c9d388c98aeb4de648e886b2af84883a92b87f"
    ciphertext = sealed(padded(CARD, 256), context())
    assert len(ciphertext) == 12 + 256 + 16
    assert hashlib.sha256(ciphertext).hexdigest() == "f6b07f922e68d25d05766b343e866609a4fdb968469456a4c1eaf5952575c408"
    assert open_record(KEY, LABEL, 1, ID, ciphertext) == CARD
    entries = ID + bytes(32) + OTHER_ID + bytes.fromhex("ff" * 32)
    ciphertext = sealed(padded(manifest_plaintext(1, 7, entries, 2), 256), manifest_context(1, 7))
    assert hashlib.sha256(ciphertext).hexdigest() == "a74f3cb874cbb6b320bf5ca3595bafa09f8dfbaa06eadaade0d5072a2f1557ce"
    manifest = open_manifest(KEY, LABEL, 1, 7, check_value(KEY), ciphertext)
    assert manifest == {ID: bytes(32), OTHER_ID: b"\xff" * 32}


@pytest.mark.parametrize(
    ("size", "padding"), [(0, 256), (252, 256), (253, 512), (508, 512), (509, 1024), (MAX_CARD, 2**21)]
)
def test_sizes_are_hidden_in_powers_of_two(size: int, padding: int):
    card = os.urandom(size)
    ciphertext = seal_record(KEY, LABEL, 1, ID, card)
    assert len(ciphertext) == 12 + padding + 16
    assert open_record(KEY, LABEL, 1, ID, ciphertext) == card


@given(st.binary(max_size=3000), st.integers(0, 2**64 - 1), st.binary(min_size=16, max_size=16).filter(any))
def test_what_was_sealed_opens(card: bytes, generation: int, record_id: bytes):
    assert open_record(KEY, LABEL, generation, record_id, seal_record(KEY, LABEL, generation, record_id, card)) == card


@given(st.dictionaries(st.binary(min_size=16, max_size=16).filter(any), st.binary(min_size=32, max_size=32)))
def test_what_was_listed_is_listed(records: dict[bytes, bytes]):
    manifest = Manifest(3, 4, records)
    assert open_manifest(KEY, LABEL, 3, 4, check_value(KEY), seal_manifest(KEY, LABEL, manifest)) == records


@pytest.mark.parametrize(
    ("key", "label", "generation", "record_id"),
    [
        (KEY, "+12025550124", 1, ID),
        (KEY, LABEL, 2, ID),
        (KEY, LABEL, 1, OTHER_ID),
        (bytes(32), LABEL, 1, ID),
    ],
    ids=["other account", "other generation", "other record", "other key"],
)
def test_a_swapped_record_is_refused(key: bytes, label: str, generation: int, record_id: bytes):
    ciphertext = seal_record(KEY, LABEL, 1, ID, CARD)
    assert refused(open_record, key, label, generation, record_id, ciphertext) == "RECORD_INVALID"


def test_an_altered_record_is_refused():
    ciphertext = seal_record(KEY, LABEL, 1, ID, CARD)
    for bit in range(len(ciphertext) * 8):
        altered = bytearray(ciphertext)
        altered[bit // 8] ^= 1 << bit % 8
        assert refused(open_record, KEY, LABEL, 1, ID, bytes(altered)) == "RECORD_INVALID"


def test_a_truncated_or_longer_record_is_refused():
    ciphertext = seal_record(KEY, LABEL, 1, ID, CARD)
    for size in range(len(ciphertext)):
        assert refused(open_record, KEY, LABEL, 1, ID, ciphertext[:size]) == "RECORD_INVALID"
    assert refused(open_record, KEY, LABEL, 1, ID, ciphertext + b"\0") == "RECORD_INVALID"
    assert refused(open_record, KEY, LABEL, 1, ID, bytes(2**21 + 29)) == "RECORD_INVALID"


@pytest.mark.parametrize(
    "plaintext",
    [
        padded(CARD, 512),
        padded(CARD, 257),
        padded(CARD, 255) + b"\x01",
        (253).to_bytes(4, "big") + bytes(252),
        b"\xff" * 256,
    ],
    ids=["padded too far", "no power of two", "padding not zero", "length past the end", "length huge"],
)
def test_another_padding_is_refused_even_under_the_right_key(plaintext: bytes):
    assert refused(open_record, KEY, LABEL, 1, ID, sealed(plaintext, context())) == "RECORD_INVALID"


def test_a_manifest_and_a_record_are_not_taken_for_each_other():
    manifest = seal_manifest(KEY, LABEL, Manifest(1, 1, {}))
    record = seal_record(KEY, LABEL, 1, ID, manifest_plaintext(1, 1, b"", 0))
    assert refused(open_record, KEY, LABEL, 1, ID, manifest) == "RECORD_INVALID"
    assert refused(open_manifest, KEY, LABEL, 1, 1, check_value(KEY), record) == "RECORD_INVALID"


def test_a_manifest_under_another_version_generation_or_account_is_refused():
    check = check_value(KEY)
    ciphertext = seal_manifest(KEY, LABEL, Manifest(2, 7, {ID: bytes(32)}))
    for version in (6, 8):
        assert refused(open_manifest, KEY, LABEL, 2, version, check, ciphertext) == "RECORD_INVALID"
    assert refused(open_manifest, KEY, LABEL, 1, 7, check, ciphertext) == "RECORD_INVALID"
    assert refused(open_manifest, KEY, "+12025550124", 2, 7, check, ciphertext) == "RECORD_INVALID"


def test_a_wrong_check_value_stops_before_anything_is_opened():
    ciphertext = seal_manifest(KEY, LABEL, Manifest(2, 7, {}))
    other = check_value(bytes(32))
    for check in (b"", check_value(KEY)[:31], other):
        assert refused(open_manifest, KEY, LABEL, 2, 7, check, ciphertext) == "KEY_CHECK_FAILED"
    assert refused(open_manifest, bytes(32), LABEL, 2, 7, check_value(KEY), ciphertext) == "KEY_CHECK_FAILED"
    # The store may put the right check value of a wrong key in clear: the ciphertext does not open.
    assert refused(open_manifest, bytes(32), LABEL, 2, 7, other, ciphertext) == "RECORD_INVALID"


NOT_THE_ENCODING = {
    "empty": b"",
    "unsorted": manifest_plaintext(2, 7, OTHER_ID + bytes(32) + ID + bytes(32), 2),
    "id twice": manifest_plaintext(2, 7, ID + bytes(32) + ID + bytes(32), 2),
    "too few": manifest_plaintext(2, 7, ID + bytes(32), 2),
    "too many": manifest_plaintext(2, 7, ID + bytes(32), 0),
    "short digest": manifest_plaintext(2, 7, ID + bytes(31), 1),
    "rest": manifest_plaintext(2, 7, ID[:8], 0),
    "the manifest's id": manifest_plaintext(2, 7, bytes(48), 1),
    "other version": manifest_plaintext(2, 6, b"", 0),
    "other generation": manifest_plaintext(1, 7, b"", 0),
    "other check value": manifest_plaintext(2, 7, b"", 0, check=check_value(bytes(32))),
    "longer": manifest_plaintext(2, 7, b"", 0) + b"\0",
}


@pytest.mark.parametrize("plaintext", NOT_THE_ENCODING.values(), ids=NOT_THE_ENCODING.keys())
def test_a_manifest_in_another_encoding_is_refused(plaintext: bytes):
    ciphertext = sealed(padded(plaintext, 256), manifest_context(2, 7))
    assert refused(open_manifest, KEY, LABEL, 2, 7, check_value(KEY), ciphertext) == "MANIFEST_INVALID"


@given(st.binary(max_size=400))
def test_garbage_is_only_ever_refused(ciphertext: bytes):
    assert refused(open_record, KEY, LABEL, 1, ID, ciphertext) == "RECORD_INVALID"
    assert refused(open_manifest, KEY, LABEL, 1, 1, check_value(KEY), ciphertext) == "RECORD_INVALID"


@pytest.mark.parametrize("key", [b"", KEY[:31], KEY + b"\0"])
def test_a_contact_key_is_32_bytes(key: bytes):
    assert refused(check_value, key) == "KEY_INVALID"
    assert refused(open_record, key, LABEL, 1, ID, bytes(284)) == "KEY_INVALID"
