from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipls.contacts.envelope import Conflict, Envelope, Kind, Parts, Placement, Verified
from ipls.contacts.errors import CardError
from ipls.proto.contacts.v2 import envelope_pb2

WHOLE = Envelope(
    b"BEGIN:VCARD\r\nEND:VCARD",
    Kind.GROUP,
    Placement.IPLS_ONLY,
    1,
    2,
    (Conflict(b"FN:A", b"k" * 32, 3), Conflict(b"FN:B", b"k" * 32, 3)),
    (Verified("+1", b"v" * 32, 4, 5), Verified("+2", b"v" * 32, 4, 5)),
    Parts(2, b"d" * 32),
)
LATER = b"\xfa\x01\x01x"  # field 31

numbers = st.integers(0, 2**64 - 1)
envelopes = st.builds(
    Envelope,
    st.binary(max_size=20),
    st.integers(0, 9),
    st.integers(0, 9),
    numbers,
    numbers,
    st.lists(st.builds(Conflict, st.binary(max_size=3), st.binary(max_size=3), numbers), max_size=3).map(
        lambda found: tuple(sorted(found))
    ),
    st.lists(
        st.builds(Verified, st.text(max_size=3), st.binary(max_size=3), numbers, numbers),
        max_size=3,
        unique_by=lambda each: each.label,
    ).map(lambda found: tuple(sorted(found))),
    st.none() | st.builds(Parts, st.integers(0, 2**32 - 1), st.binary(max_size=3)),
    st.sampled_from([b"", LATER]),
)


@given(envelopes)
def test_an_envelope_comes_back_with_the_fields_of_a_later_client(envelope: Envelope):
    assert Envelope.decode(envelope.encode()) == envelope


@given(st.binary(max_size=60))
def test_other_bytes_are_refused_or_are_the_one_encoding(data: bytes):
    with suppress(CardError):
        assert Envelope.decode(data).encode() == data


def test_the_bytes_are_these():
    envelope = Envelope(b"card", Kind.CONTACT, Placement.ADDRESS_BOOK, 1, 2, verified=(Verified("+1", b"k", 3, 4),))
    assert envelope.encode().hex() == "0a046361726410011802200128023a0b0a022b3112016b18032004"
    swapped = Envelope(conflicts=WHOLE.conflicts[::-1], verified=WHOLE.verified[::-1])
    assert swapped.encode() == Envelope(conflicts=WHOLE.conflicts, verified=WHOLE.verified).encode()


def another_order(data: bytes) -> bytes:
    message = envelope_pb2.Envelope.FromString(data)
    conflicts = list(message.conflicts)
    message.ClearField("conflicts")
    message.conflicts.extend(reversed(conflicts))
    return message.SerializeToString()


def one_number_twice(data: bytes) -> bytes:
    message = envelope_pb2.Envelope.FromString(data)
    message.verified[1].label = message.verified[0].label
    message.verified[1].epoch += 1
    return message.SerializeToString()


@pytest.mark.parametrize(
    "change",
    [
        another_order,
        one_number_twice,
        lambda data: data + b"\x10\x02",  # a field twice
        lambda data: data[:1] + b"\x97\x00" + data[2:],  # a length in two bytes
        lambda data: LATER + data,
        lambda data: data + b"\x32\x07\x0a\x01F" + LATER,  # a field that a conflict does not have
        lambda data: data[:-1],
    ],
)
def test_another_encoding_of_the_same_is_refused(change):
    data = WHOLE.encode()
    assert Envelope.decode(data) == WHOLE
    with pytest.raises(CardError) as refused:
        Envelope.decode(change(data))
    assert refused.value.reason == "ENVELOPE_INVALID"


def test_one_of_more_conflicts_than_there_can_be_is_refused():
    conflicts = tuple(Conflict(b"X:%04d" % n, bytes(32), 1) for n in range(1001))
    assert Envelope.decode(Envelope(conflicts=conflicts[1:]).encode()).conflicts == conflicts[1:]
    with pytest.raises(CardError) as refused:
        Envelope.decode(Envelope(conflicts=conflicts).encode())
    assert refused.value.reason == "ENVELOPE_INVALID"
