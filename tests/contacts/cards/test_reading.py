import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipls.contacts.cards.reading import NO_NAME, Contact, one_line, read_card
from tests.contacts.cards.test_lines import card, cards


def contact(*lines: str, version: str = "3.0") -> Contact:
    return read_card(card(*lines, version=version))


@pytest.mark.parametrize(
    ("lines", "name"),
    [
        (["FN:Ada Lovelace", "N:X;Y"], "Ada Lovelace"),
        (["N:Lovelace;Ada;King,Noel;Lady;Countess", "FN:"], "Lady Ada King Noel Lovelace Countess"),
        (["N:;;;;", "NICKNAME:Ada"], "Ada"),
        (["ORG:Smith\\, Jones & Co.\\; Ltd;Field;;Lab"], "Smith, Jones & Co.; Ltd, Field, Lab"),
        (["EMAIL;TYPE=INTERNET:ada@example.org"], "ada@example.org"),
        (["TEL:+1 202-555-0100"], "+1 202-555-0100"),
        (["NOTE:nothing to go by"], NO_NAME),
        (["item1.FN;LANGUAGE=en:Ada"], "Ada"),
        (['fn;x="a:b;c":Ada'], "Ada"),
        (["FN:Smith, John; Jr\\n\\\\"], "Smith, John; Jr \\"),
        (["FN:Ada\\"], "Ada\\"),
        (["FN:A\r\n da\r\n\t Lovelace"], "Ada Lovelace"),
        (["FN;ENCODING=b:QWRh"], "Ada"),
        (["FN;ENCODING=b:Q", "N:Lovelace;Ada"], "Ada Lovelace"),
        (["FN;CHARSET=no-such;ENCODING=QUOTED-PRINTABLE:Zo=C3=AB"], "Zoë"),
        (["FN:\x1b[2JAda\x07\x9b \u202eevoL\u202c"], "[2JAda evoL"),
        (["FN:👩‍👩‍👧‍👦 𠮷野 ΑΒΓ"], "👩‍👩‍👧‍👦 𠮷野 ΑΒΓ"),
        (["FN" + ":x" * 40_000, "N:Short"], "Short"),
        (["no colon at all", ":", ";;:", "=\x00", "FN:Ada"], "Ada"),
    ],
)
def test_names(lines: list[str], name: str):
    assert contact(*lines).name == name


def test_names_in_other_encodings():
    for charset, name in (("ISO-8859-1", "Müller"), ("Shift_JIS", "ソ表山"), ("KOI8-R", "Анна"), ("GBK", "王芳")):
        raw = name.encode(charset)
        line = f"FN;CHARSET={charset}".encode()
        assert read_card(b"BEGIN:VCARD\n" + line + b":" + raw + b"\nEND:VCARD").name == name
        quoted = "".join(f"={byte:02x}" for byte in raw).encode()
        coded = line + b";ENCODING=QUOTED-PRINTABLE:=\n" + quoted
        assert read_card(b"BEGIN:VCARD\n" + coded + b"\nEND:VCARD").name == name
    assert read_card(b"BEGIN:VCARD\nFN:M\xfcller\nEND:VCARD").name == "Müller"
    # A fold may part the bytes of one character.
    assert read_card(b"BEGIN:VCARD\nVERSION:3.0\nFN:M\xc3\r\n \xbcller\nEND:VCARD").name == "Müller"


def test_old_cards_fold_at_blanks_that_are_theirs():
    assert contact("FN:Ada\r\n Lovelace", version="2.1").name == "Ada Lovelace"
    assert contact("FN:Ada Love\r\n lace", version="4.0").name == "Ada Lovelace"


@pytest.mark.parametrize(
    ("lines", "numbers"),
    [
        ([], ()),
        (["TEL:", "TEL;CELL: "], ()),
        (["TEL;CELL;VOICE:+1 202-555-0100", "item1.TEL:0123", "A.TEL;PREF=1:0123"], ("+1 202-555-0100", "0123")),
        (['TEL;VALUE=uri;TYPE="voice,home":tel:+1-202-555-0100;ext=7'], ("+1-202-555-0100;ext=7",)),
        (["TEL:\u202a+1 202\u00a0555\u202c"], ("+1 202 555",)),
        (["TEL;ENCODING=QUOTED-PRINTABLE:=2B1=\r\n202"], ("+1202",)),
        (["X-TEL:1", "TELEX:2", "IMPP:tel:3"], ()),
        (["AGENT:", "BEGIN:VCARD", "TEL:1", "END:VCARD", "TEL:2"], ("2",)),
    ],
)
def test_numbers(lines: list[str], numbers: tuple[str, ...]):
    assert contact(*lines).numbers == numbers


IPHONE = """\
BEGIN:VCARD
VERSION:3.0
PRODID:-//Apple Inc.//iPhone OS 17.1//EN
N:O’Neill;Siobhán;;;
FN:Siobhán O’Neill
item1.ORG:Ærø Færgefart;
item2.EMAIL;type=INTERNET;type=pref:siobhan@example.org
item2.X-ABLabel:_$!<HomePage>!$_
item3.TEL;type=pref:\u202a+353 20 915 0123\u202c
item3.X-ABLabel:Mum’s
TEL;type=CELL;type=VOICE:+44 7700 900123
item4.ADR;type=HOME:;;1 High Street\\nFlat 2;Galway;;;Ireland
PHOTO;ENCODING=b;TYPE=JPEG:/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAgGBgcGBQgHBwcJCQgKDBQ
 NDAsLDBkSEw8UHRofHh0aHBwgJC4nICIsIxwcKDcpLDAxNDQ0Hyc5PTgyPC4zNDL/2wBDAQkJCQwLDBg=
X-SOCIALPROFILE;type=twitter;x-user=siobhan:http://twitter.com/siobhan
END:VCARD
"""
GOOGLE = """\
BEGIN:VCARD
VERSION:3.0
FN:Dr. Łukasz Wójcik
N:Wójcik;Łukasz;;Dr.;
EMAIL;TYPE=INTERNET;TYPE=HOME:lukasz@example.org
TEL;TYPE=CELL:+46701740601
TEL;TYPE=WORK:+46 70 174 06 02
item1.URL:http\\://www.google.com/profiles/1
item1.X-ABLabel:PROFILE
NOTE:first line\\nsecond\\, with a comma
CATEGORIES:myContacts,Friends
END:VCARD
"""
OUTLOOK = """\
BEGIN:VCARD
VERSION:2.1
N;LANGUAGE=de;CHARSET=Windows-1252:M\xfcller;J\xf6rg;;Herr
FN;CHARSET=Windows-1252:J\xf6rg M\xfcller
ORG:Gro\xdfmann & S\xf6hne
TEL;WORK;VOICE:+49 (30) 23125 001
TEL;CELL;VOICE:+49 30 23125002
ADR;WORK;PREF:;;Stra\xdfe 1;Berlin;;10115;Deutschland
LABEL;WORK;PREF;ENCODING=QUOTED-PRINTABLE:Stra=DFe 1=0D=0A=
10115 Berlin
X-MS-OL-DEFAULT-POSTAL-ADDRESS:2
X-MS-CARDPICTURE;TYPE=JPEG;ENCODING=BASE64:
 /9j/4AAQSkZJRgABAQEAYABgAAD/2wBDAAYEBQYFBAYGBQYHBwYIChAKCgkJChQODwwQFxQY
 GBcUFhYaHSUfGhsjHBYWICwgIyYnKSopGR8tMC0oMCUoKSj=

X-MS-OL-DESIGN;CHARSET=utf-8:<card xmlns="http://schemas.microsoft.com/office/outlook/12/" ver="1.0"/>
REV:20240101T000000Z
END:VCARD
"""
NOKIA = """\
BEGIN:VCARD
VERSION:2.1
N;CHARSET=UTF-8;ENCODING=QUOTED-PRINTABLE:=D0=98=D0=B2=D0=B0=D0=BD=D0=BE=D0=
=B2=D0=B0;=D0=90=D0=BD=D0=BD=D0=B0
TEL;PREF;VOICE:+79000000001
TEL;CELL:+79000000002
X-CLASS:private
END:VCARD

"""
ANDROID = """\
BEGIN:VCARD
VERSION:2.1
N;CHARSET=UTF-8;ENCODING=QUOTED-PRINTABLE:=F0=9F=8E=B8;=E5=A4=AA=E9=83=8E;;;
FN;CHARSET=UTF-8;ENCODING=QUOTED-PRINTABLE:=E5=A4=AA=E9=83=8E=20=F0=9F=8E=B8
X-PHONETIC-LAST-NAME;CHARSET=UTF-8;ENCODING=QUOTED-PRINTABLE:=E3=82=
=AE=E3=82=BF
TEL;CELL:090-0000-0000
X-ANDROID-CUSTOM:vnd.android.cursor.item/nickname;Taro;1;;;;;;;;;;;;;
PHOTO;ENCODING=BASE64;JPEG:/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAEBAQEBAQEBAQEB
 AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=

END:VCARD
"""
MODERN = """\
BEGIN:VCARD
VERSION:4.0
KIND:individual
FN;PREF=1;ALTID=1;LANGUAGE=jp:山田太郎
FN;ALTID=1;LANGUAGE=en:Taro Yamada
N;SORT-AS="Yamada,Taro":山田;太郎;;;
TEL;VALUE=uri;PREF=1;TYPE="voice,home":tel:+81-90-0000-0000
TEL;TYPE=cell:+81 90 0000 0001
PHOTO:data:image/png;base64,iVBORw0KGgo=
RELATED;TYPE=friend:urn:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bf6
END:VCARD
"""


@pytest.mark.parametrize(
    ("export", "encoding", "expected"),
    [
        (IPHONE, "utf-8", Contact("Siobhán O’Neill", ("+353 20 915 0123", "+44 7700 900123"))),
        (GOOGLE, "utf-8", Contact("Dr. Łukasz Wójcik", ("+46701740601", "+46 70 174 06 02"))),
        (OUTLOOK, "windows-1252", Contact("Jörg Müller", ("+49 (30) 23125 001", "+49 30 23125002"))),
        (NOKIA, "utf-8", Contact("Анна Иванова", ("+79000000001", "+79000000002"))),
        (ANDROID, "utf-8", Contact("太郎 🎸", ("090-0000-0000",))),
        (MODERN, "utf-8", Contact("山田太郎", ("+81-90-0000-0000", "+81 90 0000 0001"))),
    ],
    ids=["iphone", "google", "outlook", "nokia", "android", "4.0"],
)
@pytest.mark.parametrize("ending", ["\r\n", "\n", "\r", "\r\r\n"])
def test_exports_as_telephones_and_programs_write_them(export: str, encoding: str, expected: Contact, ending: str):
    book = export.replace("\n", ending).encode(encoding)
    one = book.rstrip()
    assert cards(book * 3) == [one] * 3
    assert read_card(one)[:2] == expected[:2]


@given(st.binary(max_size=300).filter(lambda line: b"END:VCARD" not in line.upper()))
def test_no_property_condemns_its_card(line: bytes):
    assert read_card(b"BEGIN:VCARD\n" + line + b"\nFN:Ada\nEND:VCARD").name == "Ada"


def test_what_else_a_contact_is_found_by():
    found = contact(
        *(
            "FN:Chief",
            "FN;PREF=1:The Chief",
            "N:Okafor;Ngozi;;;",
            "NICKNAME:Zizi,Zi",
            "ORG:Harbour;Night",
            "TITLE:Boss",
        ),
        *("EMAIL:a@example.org", "EMAIL;TYPE=home:b@example.org", "EMAIL:a@example.org", "NOTE:two\\nlines"),
    )
    assert found.name == "The Chief"
    assert found.emails == ("a@example.org", "b@example.org")
    assert found.others == ("Chief", "Ngozi Okafor", "Zizi,Zi", "Harbour, Night", "Boss", "two lines")


def test_the_preferred_name_is_shown():
    assert contact("FN:a", "FN;PREF=2:b", "FN;PREF=1:c", version="4.0").name == "c"
    assert contact("FN:a", "FN;TYPE=pref:b").name == "b"
    assert contact("FN:a", "FN;PREF:b", version="2.1").name == "b"
    assert contact("FN:a", "FN;PREF=high:b", "FN;PREF=1:").name == "a"


def test_an_east_asian_family_name_comes_first():
    assert contact("N:山田;太郎;;;").name == "山田 太郎"
    assert contact("N:김;하늘;;;").name == "김 하늘"
    assert contact("N:Yamada;太郎;;;").name == "太郎 Yamada"


@pytest.mark.parametrize("name", ["\u200b", "\ufeff \u2060", "\u200e\u202e"])
def test_a_name_that_shows_nothing_is_none(name: str):
    assert contact(f"FN:{name}", "EMAIL:a@example.org").name == "a@example.org"


def test_a_group_is_nobody():
    assert contact("FN:Choir", "X-ADDRESSBOOKSERVER-KIND:group").is_group
    assert contact("FN:Choir", "KIND:GROUP", version="4.0").is_group
    assert not contact("FN:Choir", "KIND:individual", version="4.0").is_group


def test_a_stray_soft_break_does_not_swallow_the_next_property():
    for quoted in ("FN;QUOTED-PRINTABLE:Ayla=", "fn;quoted-printable:Ayla="):
        tel = "TEL;CELL:1" if quoted[0] == "F" else "tel;cell:1"
        assert contact(quoted, tel, version="2.1")[:2] == ("Ayla", ("1",))
    assert contact("FN;QUOTED-PRINTABLE:Ayla=", "item1.TEL:1", version="2.1")[:2] == ("Ayla", ("1",))
    # What goes on with a word and a colon is no property.
    note = contact("FN:Ayla", "NOTE;QUOTED-PRINTABLE:call me, =", "Tel: 1, or else", version="2.1")
    assert (note.numbers, note.others) == ((), ("call me, Tel: 1, or else",))


def test_a_header_may_be_folded_anywhere():
    assert contact("F\r\n N:Ada", "TE\r\n L;TYPE=ce\r\n ll\r\n :1")[:2] == ("Ada", ("1",))
    assert contact("FN;ENCODING=QUOTED-\r\n PRINTABLE:Zo=C3=\r\n=AB").name == "Zoë"


def test_a_line_is_one_line_and_commands_nothing():
    assert one_line("a\r\n\tb\x1b[31m\u2028c\u202ed\u200e") == "a b [31m cd"
    assert one_line("👩\u200d👩") == "👩\u200d👩"
