import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipls.contacts.cards.lines import card_lines, utf8
from ipls.contacts.cards.values import components, parameters, plain_text, unescape, value_text


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (["windows-1251", "CP1251", "cp-1251", "x-cp1251", "win1251", "1251", "WINDOWS_1251", "windows 1251"], "Ольга"),
        (["ISO-8859-2", "iso8859-2", "ISO_8859-2:1987", "latin2", "28592", "csISOLatin2"], "Łukasz"),
        (["windows-1252", "ISO-8859-1", "latin1", "us-ascii", "ANSI", "cp1252", "iso_8859-1"], "Zoë €"),
        (["Shift_JIS", "shift-jis", "sjis", "x-sjis", "MS_Kanji", "windows-31j", "cp932", "csShiftJIS"], "表 能子①"),
        (["EUC-KR", "ks_c_5601-1987", "windows-949", "cp949", "uhc", "csEUCKR"], "똠방"),
        (["GB2312", "GBK", "x-gbk", "cp936", "GB18030", "54936"], "王芳㐀"),
        (["Big5", "big5-hkscs", "cp950", "csBig5", "x-big5"], "許功蓋"),
        (["EUC-JP", "x-euc-jp", "51932"], "山田"),
        (["ISO-2022-JP", "csISO2022JP", "50220"], "山田"),
        (["KOI8-R", "koi8_r", "20866", "cskoi8r"], "Анна"),
        (["x-mac-cyrillic", "maccyrillic", "10007"], "Анна"),
        (["IBM866", "cp866", "dos-866"], "Анна"),
    ],
)
def test_code_pages_by_all_their_names(names: list[str], text: str):
    codec = {"windows-1252": "cp1252", "Shift_JIS": "cp932", "EUC-KR": "cp949", "GB2312": "gb18030"}.get(
        names[0], names[0]
    )
    codec = {"ISO-2022-JP": "iso2022_jp", "x-mac-cyrillic": "mac_cyrillic"}.get(codec, codec)
    for name in names:
        assert plain_text(text.encode(codec), name) == text, name


@pytest.mark.parametrize("charset", ["", "UTF-8", "ISO-8859-1", "windows-1251", "no such", "utf-16", "punycode", "\0"])
def test_well_formed_utf_8_is_utf_8(charset: str):
    assert plain_text("Françoise Лев 表".encode(), charset) == "Françoise Лев 表"


def test_an_east_asian_code_page_has_the_two_byte_letters_of_utf_8_too():
    for text in ("女裡", "怜蠶"):
        both = text.encode("gb18030")
        assert both.decode("gb18030") == text
        assert plain_text(both, "GBK") == text
    assert plain_text("山田".encode(), "Shift_JIS") == "山田"


@pytest.mark.parametrize("charset", ["", "utf-8", "no-such"])
def test_a_bad_byte_costs_itself(charset: str):
    assert plain_text(b"Zo\xc3\xab Bj\xf6rk \xc3\x98deg", charset) == "Zoë Björk Ødeg"
    assert plain_text(b"J\xfcrgen Gro\xdf", charset) == "Jürgen Groß"
    assert plain_text(b"\xc3\xab\x81\xe2\x82", charset) == "ë\ufffdâ‚"


def test_a_bad_byte_of_a_declared_code_page_costs_itself():
    assert plain_text("똠".encode("cp949") + b"\xff" + "방".encode("cp949"), "EUC-KR") == "똠\ufffd방"


def test_halves_of_a_letter_are_one():
    rocket = "\ud83d\ude80".encode("utf-8", "surrogatepass")
    assert plain_text(b"a" + rocket + b"b") == "a🚀b"
    assert plain_text(rocket[:3] + b"b" + rocket[3:]) == "\ufffdb\ufffd"


@given(st.binary(max_size=60), st.sampled_from(["", "utf-8", "cp1251", "Shift_JIS", "GBK", "ISO-2022-JP", "EUC-KR"]))
def test_any_bytes_are_text(value: bytes, charset: str):
    plain_text(value, charset).encode()


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_utf_16_is_known_with_and_without_its_mark(encoding: str, mark: str):
    book = "BEGIN:VCARD\r\nFN:Ольга Ней 山田\r\nEND:VCARD\r\n"
    assert utf8((mark + book).encode(encoding)) == book.encode()
    assert utf8(book.encode()) == book.encode()


def test_a_few_nul_bytes_make_no_utf_16():
    book = b"BEGIN:VCARD\r\nFN:A\0da\0\r\nNOTE:" + b"x" * 40 + b"\r\nEND:VCARD"
    assert utf8(book) == book
    assert utf8(b"") == b""


def parsed(header: str) -> list[tuple[str, str]]:
    (line,) = card_lines(f"BEGIN:VCARD\n{header}:x\nEND:VCARD".encode())
    return list(parameters(line))


def test_parameters():
    assert parsed('FN;X-S="a:b;c";SORT-AS="O^\'Dell^n^^^x"') == [("X-S", "a:b;c"), ("SORT-AS", 'O"Dell\n^^x')]
    assert parsed("tel;type=cell;; CELL ; pref = 1") == [
        *(("TYPE", "cell"), ("", ""), ("", "CELL")),
        ("PREF", "1"),
    ]
    assert parsed('TEL;A="open') == [("A", "open")]


def test_escapes():
    assert unescape("a\\nb\\Nc\\, \\; \\: \\\\ \\x \\") == "a\nb\nc, ; : \\ \\x \\"
    assert components(r"a\;b;c,d\,e;;") == [["a;b"], ["c", "d,e"], [""], [""]]
    assert components("a,b;c", ";") == [["a,b"], ["c"]]


def test_a_value_is_decoded():
    lines = card_lines(
        b"BEGIN:VCARD\nA;quoted-printable:=c3=ab\nB;ENCODING=b:w6s=\nC;BASE64:\nw6\ns=\n\nD:x\nEND:VCARD"
    )
    assert [value_text(line) for line in lines] == ["ë", "ë", "ë", "x"]
