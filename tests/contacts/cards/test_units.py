from collections import Counter

import pytest
from hypothesis import given

from ipls.contacts.cards.units import Groups, card_form, card_units, unit_of
from tests.contacts.cards.strategies import any_cards


def card(*lines: str, version: str = "3.0", newline: str = "\r\n") -> bytes:
    return newline.join(["BEGIN:VCARD", f"VERSION:{version}", *lines, "END:VCARD"]).encode()


def form(*lines: str) -> Counter[bytes]:
    return card_form(card(*lines), "US")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (["FN:Ada", "NOTE:x"], ["NOTE:x", "fn:Ada"]),
        (["NOTE:long\r\n er"], ["NO\r\n TE:longer"]),
        (["FN:Zoë"], ["FN:Zoe\u0308"]),
        (["FN:Zoë"], ["FN;CHARSET=UTF-8;ENCODING=QUOTED-PRINTABLE:Zo=C3=AB"]),
        (["FN:Zoë"], ["FN;CHARSET=ISO-8859-1;QUOTED-PRINTABLE:Zo=\r\n=EB"]),
        (["FN:Ada"], ["FN;ENCODING=b:QWRh"]),
        (["NOTE:a\\nb"], ["NOTE;ENCODING=QUOTED-PRINTABLE:a=0D=0Ab"]),
        (["NOTE:a\\Nb"], ["NOTE:a\\nb"]),
        (["URL:https\\://example.org"], ["URL;VALUE=uri:https://example.org"]),
        (["TEL;TYPE=CELL,VOICE:1"], ["TEL;voice;CELL:1"]),
        (["TEL;TYPE=CELL;TYPE=VOICE:1"], ['TEL;TYPE="voice,cell":1']),
        (["TEL;TYPE=PREF:1"], ["TEL;PREF=1:1"]),
        (["TEL:(202) 555-0100"], ["TEL;VALUE=uri:tel:+1-202-555-0100"]),
        (["PHOTO;ENCODING=b;TYPE=JPEG:AAAA\r\n BBBB"], ["PHOTO;JPEG;BASE64:\r\n AAAABB\r\n BB\r\n"]),
        (["PHOTO;ENCODING=b;TYPE=JPEG:AAAABBBB"], ["PHOTO;JPEG;BASE64:\r\nAAAA\r\nBBBB\r\n"]),
        (["item1.TEL:1", "item1.X-ABLabel:Boat"], ["x.X-ABLabel:Boat", "FN:Ada", "X.TEL:1"]),
        (["item1.TEL:1", "item1.X-ABLabel:Boat"], ["item2.TEL;TYPE=X-boat:1", "item2.X-ABLabel:Boat"]),
        (["item1.TEL:1"], ["TEL:1"]),
    ],
)
def test_what_programs_write_in_other_ways_is_the_same(one: list[str], other: list[str]):
    assert form(*one) == form(*(line for line in other if line != "FN:Ada" or "FN:Ada" in one))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (["FN:Ada"], ["FN:ada"]),
        (["FN:Ada"], ["FN:Ada", "FN:Ada"]),
        (["N:a\\;b"], ["N:a;b"]),
        (["NOTE:a\\\\nb"], ["NOTE:a\\nb"]),
        (["TEL;TYPE=CELL:1"], ["TEL;TYPE=HOME:1"]),
        (["TEL:+1 202 555 0100"], ["TEL:+1 202 555 0100,,4"]),
        (["TEL;PREF=2:1"], ["TEL;PREF=1:1"]),
        (["FN;LANGUAGE=en:Ada"], ["FN:Ada"]),
        (["item1.TEL:1", "item1.X-ABLabel:Boat"], ["item1.TEL:1", "item2.X-ABLabel:Boat"]),
        (["item1.TEL:1", "item1.X-ABLabel:home"], ["item1.TEL;TYPE=home:1", "item1.X-ABLabel:home"]),
        (["PHOTO;ENCODING=b:AAAA"], ["PHOTO;ENCODING=b:AAAB"]),
        (["PHOTO;ENCODING=b:A"], ["PHOTO;ENCODING=b:B"]),
        (["AGENT:", "BEGIN:VCARD", "N:A", "END:VCARD"], ["AGENT:", "BEGIN:VCARD", "N:B", "END:VCARD"]),
    ],
)
def test_what_says_something_else_is_not(one: list[str], other: list[str]):
    assert form(*one) != form(*other)


def test_a_card_as_khard_writes_it_anew_differs_in_what_khard_added():
    ours = card("UID:u", "item1.TEL:+1 202 555 0100", "item1.X-ABLabel:Boat", "FN:Ada", 'x-own;X-P="a;b":kept\\, too')
    khards = card(
        *("FN:Ada", "GROUP0.TEL;TYPE=X-boat:+1 202 555 0100", "GROUP0.X-ABLABEL:Boat", "REV:2026", "UID:u"),
        *("X-KIND:individual", 'X-OWN;X-P="a;b":kept\\, too'),
        newline="\n",
    )
    added = card_form(khards, None) - card_form(ours, None)
    assert (added.total(), card_form(ours, None) - card_form(khards, None)) == (2, Counter())


def test_the_version_decides_where_a_folded_line_goes_on():
    assert form("NOTE:a\r\n  b") == form("NOTE:a b")
    old = card("NOTE:a\r\n  b", version="2.1")
    assert card_form(old, None) == card_form(card("NOTE:a  b", version="2.1"), None)


@given(any_cards)
def test_a_unit_is_known_by_its_text(card: bytes):
    for unit in card_units(card, "US"):
        if not any(line.rest or b"\r" in line.text for line in unit.lines) and not unit.text.startswith((b" ", b"\t")):
            assert unit_of(unit.text, "US").form == unit.form


def test_a_unit_that_comes_to_a_card_gets_a_group_of_its_own():
    groups = Groups(card_units(card("item1.TEL:1", "ITEM2.TEL:2", "item4.TEL:3"), None))
    came = [
        groups.admit(unit).text for unit in card_units(card("Item1.TEL:5", "item2.TEL:6", "x.TEL:7", "TEL:8"), None)
    ]
    assert came == [b"VERSION:3.0", b"item3.TEL:5", b"item5.TEL:6", b"x.TEL:7", b"TEL:8"]
