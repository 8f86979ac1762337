import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ipls.contacts.cards.lines import NO_BEGIN, NO_END, Card, Skipped, join_cards, split_cards
from ipls.contacts.cards.reading import read_card

ROOT = Path(__file__).parents[3]
ADA = b"BEGIN:VCARD\r\nVERSION:3.0\r\nFN:Ada\r\nEND:VCARD"
BOB = b"begin:vcard\nversion:3.0\nfn:Bob\nend:vcard"


def cards(data: bytes) -> list[bytes]:
    """All of the address book, which must be nothing but cards."""
    found = list(split_cards(data))
    assert all(isinstance(each, Card) for each in found), found
    return [each.data for each in found if isinstance(each, Card)]


def card(*lines: str, version: str = "3.0") -> bytes:
    return "\r\n".join(["BEGIN:VCARD", f"VERSION:{version}", *lines, "END:VCARD"]).encode()


# Cutting


@pytest.mark.parametrize("between", [b"", b"\r\n", b"\n", b"\r", b" ", b"\n\n\r\n", b"\r\n\xef\xbb\xbf", b"\nwords\n"])
def test_a_card_is_its_own_bytes(between: bytes):
    assert cards(ADA + between + BOB) == [ADA, BOB]
    assert cards(b"\xef\xbb\xbf" + ADA + between + BOB + between) == [ADA, BOB]


def test_lines_are_counted_from_one_whatever_ends_them():
    book = b"\r\n".join([ADA, BOB, b"", BOB.replace(b"\n", b"\r"), ADA, b"END:VCARD"])
    assert [each.line for each in split_cards(book)] == [1, 5, 10, 14, 18]


@pytest.mark.parametrize("marker", ["Begin:vCard", "BEGIN : VCARD", "bEGIN:\tvcard", "BEGIN:VCARD   "])
def test_markers_are_found_in_any_case_and_with_blanks(marker: str):
    book = f"{marker}\nFN:Ada\n{marker.lower().replace('begin', 'End')}\n".encode()
    assert cards(book) == [book.rstrip()]


def test_a_whole_card_may_share_a_line():
    assert cards(b"BEGIN:VCARD FN:Ada END:VCARD BEGIN:VCARDEND:VCARD\nBEGIN:VCARD\nEND:VCARD") == [
        b"BEGIN:VCARD FN:Ada END:VCARD",
        b"BEGIN:VCARDEND:VCARD",
        b"BEGIN:VCARD\nEND:VCARD",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "NOTE:ends with END:VCARD",
        "NOTE:BEGIN:VCARD\\nFN:Eve\\nEND:VCARD",
        "NOTE:folded\r\n END:VCARD\r\n\tBEGIN:VCARD",
        "NOTE:\r\n BEGIN:VCARD",
        "END:VCARDS",
        "BEGIN:VCARD-LIKE",
        "BEGIN:VCALENDAR\r\nEND:VCALENDAR",
        "item1.END:VCARD",
        "NOTE;ENCODING=QUOTED-PRINTABLE:soft=\r\nBEGIN:VCARD\r\nTEL:1",
        "NOTE;ENCODING=QUOTED-PRINTABLE:soft=\r\nEND:VCARD\r\nTEL:1",
        "NOTE;quoted-printable:soft=\r\nEND:VCARD=0D=0A=\r\nBEGIN:VCARD=0D=0A=\r\nEND:VCARD",
        "NOTE;CHARSET=UTF-8;\r\n ENCODING=QUOTED-PRINTABLE:soft= \r\nEND:VCARD\r\nTEL:1",
        "NOTE;ENCODING=QUOTED-PRINTABLE:wrong end of line=\r\r\nEND:VCARD\r\nTEL:1",
        "PHOTO;ENCODING=BASE64:\r\n END:VCARD\r\n BEGIN:VCARD\r\n",
        "PHOTO;ENCODING=BASE64:\r\nENDVCARD\r\nBEGIN/VCARD==\r\n",
        "AGENT:\r\nBEGIN:VCARD\r\nN:Nested\r\nEND:VCARD",
        "AGENT;X=1:BEGIN:VCARD\r\nN:Nested\r\nitem1.AGENT:\r\n\r\nBEGIN:VCARD\r\nEND:VCARD\r\nEND:VCARD",
        "AGENT:BEGIN:VCARD\\nFN:Nested\\nEND:VCARD\\n",
        "AGENT:BEGIN:VCARD\r\n \\nFN:Nested\\nEND:VCARD\\n",
        "AGENT:\r\n BEGIN:VCARD\\nFN:Nested\\nEND:VCARD\\n",
    ],
)
def test_markers_inside_a_value_do_not_cut(text: str):
    one = card("FN:Ada", text)
    assert cards(join_cards([one, ADA, one])) == [one, ADA, one]
    assert read_card(one).name == "Ada"


@pytest.mark.parametrize("after", [b"", b"\r\n" + ADA, b"\n\n\xef\xbb\xbf " + ADA, b"\r\n\r\n"])
def test_a_soft_break_left_before_the_end_costs_no_card(after: bytes):
    broken = card("N:Ada", "NOTE;ENCODING=QUOTED-PRINTABLE:cut off=", version="2.1")
    assert cards(broken + after) == [broken, *cards(after)]


def test_a_card_without_an_end_is_reported_and_the_rest_goes_on():
    cut = b"BEGIN:VCARD\r\nVERSION:2.1\r\nNOTE;ENCODING=QUOTED-PRINTABLE:=\r\n"
    assert list(split_cards(cut + ADA + b"\r\n" + cut + cut)) == [
        Skipped(1, NO_END),
        Card(4, ADA),
        Skipped(8, NO_END),
        Skipped(11, NO_END),
    ]


def test_a_card_in_a_card_without_an_end_is_reported():
    open_agent = b"BEGIN:VCARD\nAGENT:\nBEGIN:VCARD\nN:Nested\nEND:VCARD\n"
    assert list(split_cards(open_agent + ADA)) == [Skipped(1, NO_END), Card(6, ADA)]


def test_a_card_without_a_beginning_is_reported():
    assert list(split_cards(b"FN:Half\nEND:VCARD\n" + ADA)) == [Skipped(2, NO_BEGIN), Card(3, ADA)]


def test_a_card_may_be_of_any_size():
    large = b"BEGIN:VCARD\nPHOTO:" + b"x" * 3_000_000 + b"\nEND:VCARD"
    assert cards(join_cards([large, ADA])) == [large, ADA]


@pytest.mark.parametrize("data", [b"", b"\r\n", b"\xef\xbb\xbf", b"name,number\nAda,1\n", b"\0\xff" * 100])
def test_what_has_no_card_gives_none(data: bytes):
    assert list(split_cards(data)) == []


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_a_utf_16_book_is_read_as_utf_8(encoding: str):
    one = card("FN:Zoë 🎸")
    book = ("\ufeff" + join_cards([one, ADA]).decode()).encode(encoding)
    assert cards(book) == [one, ADA]
    assert cards(book + b"\0") == [one, ADA]
    assert list(split_cards(book[:-60] + "\ud83c".encode(encoding, "surrogatepass"))) == [
        Card(1, one),
        Skipped(5, NO_END),
    ]


PIECES = [
    *(b"BEGIN:VCARD", b"END:VCARD", b"begin:vcard", b"VERSION:2.1", b"AGENT:", b"FN:Ada", b"TEL;X=1:+1"),
    *(b"NOTE;ENCODING=QUOTED-PRINTABLE:a=", b"=", b";", b":", b" ", b"\t", b"x", b"\\n", b"\xff", b"\xef\xbb\xbf"),
    *(b"\r\n", b"\r\n", b"\r\n", b"\n", b"\r"),
]
books = st.lists(st.sampled_from(PIECES), max_size=40).map(b"".join) | st.binary(max_size=200)


@given(books)
@example(b"BEGIN:VCARD\nA;QUOTED-PRINTABLE:=\nEND:VCARD\n\n\nBEGIN:VCARDEND:VCARDEND:VCARD")
def test_an_export_gives_the_same_cards_again(book: bytes):
    found = [each.data for each in split_cards(book) if isinstance(each, Card)]
    assert cards(join_cards(found)) == found
    for each in found:
        assert each in book or book[:2] in (b"\xff\xfe", b"\xfe\xff")
        assert read_card(each).name


@given(st.lists(st.binary(min_size=1, max_size=60)))
def test_cards_of_any_text_come_back_whole(notes: list[bytes]):
    coded = ("=\r\n".join(f"={byte:02X}" for byte in note) for note in notes)
    book = [card("NOTE;ENCODING=QUOTED-PRINTABLE:" + note, "FN:Ada") for note in coded]
    assert cards(join_cards(book)) == book


def test_hostile_books_take_linear_time():
    size = 200_000  # what took the square of it would run into the suite's time limit
    for book in (
        b"\n" * size,
        b"BEGIN:VCARD\nAGENT:\n" * size,
        b"BEGIN:VCARD\nA;QUOTED-PRINTABLE:=\n" + b"END:VCARD=\n" * size,
        b"BEGIN:VCARD\nA;QUOTED-PRINTABLE:=\n" + b"END:VCARD\n\n\n=\n" * size,
        b"BEGIN" + b" " * size + b"BEGIN:" + b" " * size,
        b"BEGIN:VCARD\n" + b"a." * size + b"\nEND:VCARD",
    ):
        assert all(isinstance(each, Skipped | Card) for each in split_cards(book))
    for line in (
        b'TEL;A="' + b'","' * size,
        b"TEL;A=" + b"1," * 30_000 + b"=",
        b"FN;CHARSET=punycode;QUOTED-PRINTABLE:" + b"a-" * 30_000,
        b"N:" + b"\\" * 60_001,
        b"FN:" + b";,\\" * 20_000,
    ):
        assert read_card(b"BEGIN:VCARD\n" + line + b"\nEND:VCARD").numbers == ()


# The bundled address book


def test_the_bundled_address_book_is_fresh_and_all_cards(tmp_path: Path):
    bundled = ROOT / "ipls/demo/data/addressbook.vcf"
    fresh = tmp_path / "addressbook.vcf"
    subprocess.run([sys.executable, ROOT / "scripts/addressbook", "--out", fresh], check=True, timeout=60)
    book = bundled.read_bytes()
    assert fresh.read_bytes() == book, "run scripts/addressbook and commit"
    found = cards(book)
    assert len(found) == len(set(found)) == 1000
    assert len(book) < 1_000_000
    contacts = [read_card(each) for each in found]
    assert {len(each.numbers) for each in contacts} >= {0, 1, 2, 3}
    assert max(len(each.name) for each in contacts) > 100
    assert any("🎸" in each.name for each in contacts)
    assert not any("\ufffd" in each.name or "=" in each.name for each in contacts)
