import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ipls.contacts.cards.editing import Changes, edit_card, new_card, replace_card
from ipls.contacts.cards.lines import Card, card_lines, split_cards
from ipls.contacts.cards.reading import one_line, read_card
from ipls.contacts.cards.writing import write_lines
from ipls.contacts.errors import CardError
from tests.contacts.cards.strategies import any_cards


def card(*lines: str, version: str = "3.0", newline: str = "\r\n") -> bytes:
    return newline.join(["BEGIN:VCARD", f"VERSION:{version}", *lines, "END:VCARD"]).encode()


def edited(data: bytes, changes: Changes, country: str | None = None) -> list[str]:
    return edit_card(data, changes, country).decode().splitlines()[2:-1]


ODD = (
    "item1.EMAIL;TYPE=INTERNET:ada@example.org",
    "item1.X-ABLabel:_$!<Other>!$_",
    "NOTE:a long note that an exporter has folded in the mid",
    " dle of a word\\, with commas",
    "PHOTO;ENCODING=b;TYPE=JPEG:/9j/4AAQSkZJRgABAQAAAQABAAD",
    " /2wBDAAgGBgcGBQgHBwcJCQgK",
    "",
    'X-UNKNOWN;X-P="a;b":kept\\, too',
    "x-mixed-Case:Kept",
)


@pytest.mark.parametrize("newline", ["\r\n", "\n", "\r"])
@pytest.mark.parametrize("version", ["2.1", "3.0", "4.0"])
def test_every_other_byte_stays(newline: str, version: str):
    before = card("FN:Ada Long", *ODD, "N:Long;Ada;;;", "TEL;TYPE=CELL:1", version=version, newline=newline)
    changes = Changes("Ada King", add_numbers=["2"], remove_numbers=["1"], add_emails=["a@example.org"])
    after = card("FN:Ada King", *ODD, "N:King;Ada;;;", "TEL:2", "EMAIL:a@example.org", version=version, newline=newline)
    assert edit_card(before, changes, None) == after


def test_a_number_goes_with_its_label_and_nothing_else_does():
    boat = "item1.TEL:+1 202 555 0164", "item1.X-ABLabel:Boat"
    barn = "item2.TEL:+1 202 555 0165", "item2.X-ABLabel:Barn"
    remove = Changes(remove_numbers=["(202) 555-0164"])
    assert edited(card("FN:Bo", *boat, *barn), remove, "US") == ["FN:Bo", *barn]
    # Another property of the group keeps the label.
    mixed = card("FN:Bo", boat[0], "item1.EMAIL:b@example.org", boat[1])
    assert edited(mixed, remove, "US") == ["FN:Bo", "item1.EMAIL:b@example.org", boat[1]]
    assert edited(mixed, Changes(remove_emails=["B@example.org"])) == ["FN:Bo", *boat]


@pytest.mark.parametrize(
    "listed", ["+1 202 555 0164", "tel:+1-202-555-0164", "+1\u00a0202 555\u20110164", "0012025550164"]
)
def test_a_number_is_taken_out_by_any_spelling(listed: str):
    assert edited(card("FN:Bo", "TEL;VALUE=uri:tel:+1-202-555-0164"), Changes(remove_numbers=[listed])) == ["FN:Bo"]


def test_what_is_not_there_is_not_taken_out():
    for changes in (Changes(remove_numbers=["2"]), Changes(remove_emails=["b@example.org"])):
        with pytest.raises(CardError) as refused:
            edit_card(card("FN:Bo", "TEL:1"), changes, None)
        assert refused.value.reason == "CARD_VALUE_ABSENT"


@pytest.mark.parametrize(
    ("name", "n"),
    [
        ("Ada King Noel", "Noel;Ada King;;;"),
        ("Ada", ";Ada;;;"),
        ("山田 太郎", "山田;太郎;;;"),
        ("A; B, C\\", "C\\\\;A\\; B\\,;;;"),
    ],
)
def test_a_name_is_written_in_fn_and_n(name: str, n: str):
    after = edited(card("FN;LANGUAGE=en:Old", 'item1.N;CHARSET=UTF-8;SORT-AS="x:y":Old;;;;'), Changes(name))
    assert after[1] == f'item1.N;SORT-AS="x:y":{n}'
    assert read_card(card(*after)).name == name
    assert edited(card("TEL:1", version="2.1"), Changes("Bo"))[1:] == ["FN:Bo", "N:;Bo;;;"]


def test_of_several_names_the_one_that_is_shown_is_changed():
    after = edited(card("FN:A", "FN;PREF=1:B", "N:B;;;;", version="4.0"), Changes("C"))
    assert after == ["FN:A", "FN;PREF=1:C", "N:;C;;;"]


def test_old_cards_get_quoted_printable():
    before = card("FN;CHARSET=ISO-8859-1:Jo", "N:;Jo;;;", version="2.1")
    after = edit_card(before, Changes("Zoë; Çelik\nb"), None)
    assert b"\r\nFN;CHARSET=UTF-8;ENCODING=QUOTED-PRINTABLE:Zo=C3=AB=5C; =C3=87elik=0D=0Ab\r\n" in after
    assert read_card(after).name == "Zoë; Çelik b"


@pytest.mark.parametrize("version", ["2.1", "3.0", "4.0"])
def test_new_lines_have_at_most_75_bytes_and_no_letter_is_cut(version: str):
    name = "Łukasz 👩\u200d👩\u200d👧 " * 30 + "ß=" * 60
    after = edit_card(card("FN:A", "N:A;;;;", version=version), Changes(name), None)
    assert max(map(len, after.split(b"\r\n"))) <= 75
    for line in after.split(b"\r\n"):
        quoted = re.sub(rb"=([0-9A-F]{2})", lambda found: bytes.fromhex(found[1].decode()), line.rstrip(b"="))
        quoted.decode()
    assert read_card(after).name == one_line(name)


def test_what_would_change_another_line_is_refused():
    before = card("FN:A", "NOTE;QUOTED-PRINTABLE:swallows what comes next=", version="2.1")
    for new in (b"UNHEARD-OF:1", b"END:VCARD"):
        with pytest.raises(CardError) as refused:
            write_lines(before, {}, [new])
        assert refused.value.reason == "CARD_EDIT_REFUSED"
    assert edited(before, Changes(add_numbers=["1"]))[-1] == "TEL:1"


names = st.text(min_size=1, max_size=40).filter(lambda name: name.strip())


@given(any_cards, names, st.lists(names, max_size=2))
def test_an_edited_card_is_as_wanted_or_as_it_was(data: bytes, name: str, values: list[str]):
    assume([Card(1, data)] == list(split_cards(data)))
    try:
        after = edit_card(data, Changes(name, add_numbers=values, add_emails=values), None)
    except CardError:
        return
    before = [data[line.start : line.stop] for line in card_lines(data) if line.name not in ("FN", "N", "TEL", "EMAIL")]
    kept = [after[line.start : line.stop] for line in card_lines(after) if line.name not in ("FN", "N", "TEL", "EMAIL")]
    assert kept == before
    assert [Card(1, after)] == list(split_cards(after))


def test_a_new_card():
    made = new_card("urn:uuid:1", Changes("Ada King", add_numbers=["+1 202 555 0100"], add_emails=["a@example.org"]))
    assert made.split(b"\r\n")[2:-1] == [
        *(b"UID:urn:uuid:1", b"FN:Ada King", b"N:King;Ada;;;", b"TEL:+1 202 555 0100", b"EMAIL:a@example.org"),
    ]


def test_a_card_from_an_editor_keeps_the_bytes_that_nobody_touched():
    before = card("FN:Ada", *ODD, "TEL:1")
    saved = before.replace(b"\r\n", b"\n").replace(b"FN:Ada", b"FN:Ada King").replace(b"TEL:1\n", b"")
    assert replace_card(before, saved + b"\n", None) == card("FN:Ada King", *ODD)
    assert replace_card(before, before.replace(b"\r\n", b"\n"), None) == before


@pytest.mark.parametrize("saved", [b"", b"BEGIN:VCARD\r\nFN:A", card("FN:A") * 2])
def test_what_is_not_one_card_is_refused(saved: bytes):
    with pytest.raises(CardError) as refused:
        replace_card(card("FN:A"), saved, None)
    assert refused.value.reason == "CARD_EDIT_REFUSED"
