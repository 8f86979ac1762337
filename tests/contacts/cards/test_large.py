import pytest

from ipls.contacts.cards.large import without_largest
from ipls.contacts.errors import CardError


def card(*lines: bytes) -> bytes:
    return b"\r\n".join([b"BEGIN:VCARD", b"VERSION:3.0", *lines, b"END:VCARD"])


def test_the_largest_values_are_left_out_as_few_as_must_be():
    photo, logo = b"PHOTO;ENCODING=b:" + b"\r\n ".join([b"A" * 70] * 20), b"LOGO;ENCODING=b:" + b"B" * 900
    whole = card(photo, b"FN:Ada", logo, b"TEL:1")
    assert without_largest(whole, len(whole)) == whole
    assert without_largest(whole, len(whole) - 1) == card(b"FN:Ada", logo, b"TEL:1")
    assert without_largest(whole, 100) == card(b"FN:Ada", b"TEL:1")


def test_a_card_of_which_nothing_can_be_taken_is_refused():
    broken = card(b"NOTE;QUOTED-PRINTABLE:open=", b"TEL:" + b"1" * 200, b"UNHEARD-OF:1")
    with pytest.raises(CardError) as refused:
        without_largest(broken, len(broken) - 1)
    assert refused.value.reason == "CARD_EDIT_REFUSED"
