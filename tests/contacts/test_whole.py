"""An envelope in parts: what comes of it is the whole, byte for byte, or nothing."""

from dataclasses import replace
from hashlib import sha256

import pytest

from ipls.contacts.envelope import Conflict, Envelope, Kind, Parts
from ipls.contacts.errors import CardError
from ipls.contacts.sealing import MAX_ENVELOPE, id_of_part
from ipls.contacts.whole import MAX_WHOLE, PART_BYTES, fitting, join, own_record, part_ids, split

ID = bytes([0xA0]) * 16


def card(*lines: bytes) -> bytes:
    return b"\r\n".join([b"BEGIN:VCARD", b"VERSION:4.0", *lines, b"END:VCARD"])


def whole(size: int) -> bytes:
    """An envelope of so many bytes."""
    over = len(Envelope(bytes(size)).encode()) - size
    made = Envelope(card(b"PHOTO:".ljust(size - over - len(card(b"")), b"x"))).encode()
    assert len(made) == size
    return made


LARGE = whole(3 << 20)


def test_what_fits_is_one_record():
    at_most = whole(MAX_ENVELOPE)
    assert split(ID, at_most) == {ID: at_most}
    assert own_record(at_most) == at_most
    assert join(ID, {ID: at_most}) == at_most


@pytest.mark.parametrize("size", [MAX_ENVELOPE + 1, 2 * PART_BYTES, 2 * PART_BYTES + 1, MAX_WHOLE])
def test_what_does_not_goes_in_parts_and_comes_back(size: int):
    envelope = whole(size)
    records = split(ID, envelope)
    assert all(len(data) <= MAX_ENVELOPE for data in records.values())
    assert list(records) == [*(id_of_part(ID, i) for i in range(len(records) - 1)), ID]
    assert len(records) - 1 == -(-size // PART_BYTES) <= 16
    assert join(ID, dict(reversed(records.items()))) == envelope


def test_the_records_are_those_of_the_specification():
    records = split(ID, LARGE)
    own = Envelope.decode(records.pop(ID))
    assert own == Envelope(kind=0, placement=0, parts=Parts(2, sha256(LARGE).digest()))
    assert part_ids(ID, own) == list(records)
    parts = [Envelope.decode(data) for data in records.values()]
    assert parts == [Envelope(part.card, Kind.PART, placement=0) for part in parts]
    assert b"".join(part.card for part in parts) == LARGE


def of_part(data: bytes) -> bytes:
    return Envelope(data, Kind.PART, placement=0).encode()


def cut_otherwise(data: bytes, at: int) -> dict[bytes, bytes]:
    parts = [data[:at], data[at:]]
    return {id_of_part(ID, i): of_part(part) for i, part in enumerate(parts)} | {ID: split(ID, LARGE)[ID]}


FIRST, SECOND = (id_of_part(ID, i) for i in range(2))
NESTED = Envelope(bytes(MAX_ENVELOPE), Kind.PART).encode()
SMALL = Envelope(card(b"FN:Ada")).encode()
FALSE = {
    "a part is not there": {FIRST: split(ID, LARGE)[FIRST], ID: split(ID, LARGE)[ID]},
    "a part is another's": split(ID, LARGE) | {FIRST: split(ID, LARGE[::-1])[FIRST]},
    "they are in another order": split(ID, LARGE) | {FIRST: split(ID, LARGE)[SECOND], SECOND: split(ID, LARGE)[FIRST]},
    "a part is more than a part": split(ID, LARGE)
    | {FIRST: replace(Envelope.decode(split(ID, LARGE)[FIRST]), created_ms=1).encode()},
    "they are cut elsewhere": cut_otherwise(LARGE, PART_BYTES - 1),
    "what fits is cut": {
        FIRST: of_part(SMALL),
        ID: Envelope(kind=0, placement=0, parts=Parts(1, sha256(SMALL).digest())).encode(),
    },
    "what speaks of parts says more": split(ID, LARGE)
    | {ID: replace(Envelope.decode(split(ID, LARGE)[ID]), card=card()).encode()},
    "there are parts of parts": split(ID, NESTED),
    "there are too many": {ID: Envelope(kind=0, placement=0, parts=Parts(17, bytes(32))).encode()},
    "there are too many by far": {ID: Envelope(kind=0, placement=0, parts=Parts(2**32 - 1, bytes(32))).encode()},
    "they are no envelope": split(ID, whole(MAX_ENVELOPE)[:-1].ljust(MAX_ENVELOPE + 1, b"\xff")),
}


@pytest.mark.parametrize("why", FALSE)
def test_anything_else_is_refused(why: str):
    with pytest.raises(CardError) as refused:
        join(ID, FALSE[why])
    assert refused.value.reason == "ENVELOPE_INVALID"


def test_one_beyond_every_limit_loses_its_largest_values_alone():
    photo, logo = b"PHOTO:" + b"A" * (MAX_WHOLE - 1000), b"LOGO:" + b"B" * 2000
    envelope = Envelope(card(b"FN:Ada", photo, logo, b"TEL:1"), created_ms=7)
    assert fitting(LARGE) == LARGE
    assert Envelope.decode(fitting(envelope.encode())) == replace(envelope, card=card(b"FN:Ada", logo, b"TEL:1"))
    gave_way = Conflict(photo, bytes(32), 1)
    conflicts = (Conflict(logo, bytes(32), 1), gave_way)
    envelope = replace(envelope, card=card(b"FN:Ada", b"NOTE:" + b"C" * 10_000), conflicts=conflicts)
    assert Envelope.decode(fitting(envelope.encode())) == replace(envelope, conflicts=conflicts[:1])


def test_as_few_conflicts_as_must_be_are_left_out_of_very_many(monkeypatch: pytest.MonkeyPatch):
    """The largest, in one go: the envelope is made once, not for each of them."""
    conflicts = tuple(Conflict(b"NOTE:%04d" % n + b"x" * n, bytes(32), 1) for n in range(1000))
    rest = Envelope(card(b"FN:Ada"), conflicts=conflicts[:100])
    whole, fits = replace(rest, conflicts=conflicts).encode(), rest.encode()
    monkeypatch.setattr("ipls.contacts.whole.MAX_WHOLE", len(fits))
    encode, made = Envelope.encode, list[int]()
    monkeypatch.setattr(Envelope, "encode", lambda self: made.append(len(self.conflicts)) or encode(self))
    assert fitting(whole) == fits
    assert sum(made) < 10_000


def test_one_so_broken_that_nothing_can_be_taken_out_is_refused():
    broken = card(b"NOTE;QUOTED-PRINTABLE:open=", b"TEL:" + b"1" * MAX_WHOLE, b"UNHEARD-OF:1")
    with pytest.raises(CardError) as refused:
        fitting(Envelope(broken).encode())
    assert refused.value.reason == "CARD_EDIT_REFUSED"
