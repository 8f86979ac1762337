"""A property's parameters and its value as text: transfer encodings, code pages, escapes.

Code pages: bytes that are well-formed UTF-8 are UTF-8, whatever is declared, but for the two-byte letters that an East
Asian code page has too; else what is declared, by any name that is in use; else UTF-8, each byte that is none in it
taken for windows-1252. A bad byte costs itself and no more.
"""

import binascii
import codecs
import re
from collections.abc import Iterator

from ipls.contacts.cards.lines import Line


def parameters(line: Line) -> Iterator[tuple[str, str]]:
    """Name (upper case; "" for a bare value, as 2.1 has them) and value of each parameter, in order."""
    if not line.header:
        return
    for match in _PARAMETER.finditer(plain_text(line.header)):
        name, equals, value = match[1].partition("=")
        if not equals:
            name, value = "", name
        yield name.strip(' "\t').upper(), _CARET.sub(_uncaret, value.strip(' "\t'))


def decoded(line: Line) -> tuple[bytes, str, bool]:
    """The value's bytes without their transfer encoding, the code page that is declared, and whether it was base64.

    Raises ValueError on base64 that is none.
    """
    encoding = charset = ""
    if not _CODED.search(line.header):
        return line.value, charset, False
    for name, value in parameters(line):
        upper = value.upper()
        if name == "CHARSET":
            charset = value
        elif name == "ENCODING" or (name == "" and upper in _ENCODINGS):
            encoding = upper
    if encoding == "QUOTED-PRINTABLE":
        return binascii.a2b_qp(line.value), charset, False
    if encoding in ("B", "BASE64"):
        return binascii.a2b_base64(line.value), charset, True
    return line.value, charset, False


def value_text(line: Line) -> str:
    """The value as text, escapes as they are. Raises ValueError on base64 that is none."""
    value, charset, _ = decoded(line)
    if value.isascii() and not charset:
        return value.decode("ascii")
    return plain_text(value, charset)


def plain_text(value: bytes, charset: str = "") -> str:
    """Bytes as text; see above for the rules."""
    codec = _codec(charset) if charset else ""
    if codec not in ("", "utf-8"):
        try:
            text = value.decode("utf-8")
            if codec not in _EAST_ASIAN or any(c >= "\u0800" for c in text):
                return text if not text.isascii() else value.decode(codec)
        except UnicodeDecodeError:
            pass
        return value.decode(codec, "replace")
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        # Java writes a letter beyond 16 bits as two halves of three bytes each; half of one is no letter.
        whole = _HALVES.sub(_joined, value)
        return _HALF.sub("\ufffd".encode(), whole).decode("utf-8", _WINDOWS)


def components(text: str, separators: str = ";,") -> list[list[str]]:
    """A structured value: split at the first separator, each part at the second, and unescaped."""
    parts, last = [[""]], separators[1:]
    for match in _PIECE.finditer(text):
        piece = match[0]
        if piece == separators[:1]:
            parts.append([""])
        elif piece and piece == last:
            parts[-1].append("")
        else:
            parts[-1][-1] += _unescaped(piece)
    return parts


def unescape(text: str) -> str:
    """A text value without its escapes; a backslash before anything that is never escaped is itself."""
    return _ESCAPE.sub(lambda match: _unescaped(match[0]), text) if "\\" in text else text


def _unescaped(piece: str) -> str:
    if len(piece) != 2 or piece[0] != "\\":
        return piece
    if piece[1] in "nN":
        return "\n"
    return piece[1] if piece[1] in "\\,;:" else piece


# A header without any of these says nothing of codes: a B may stand for base64.
_CODED = re.compile(rb"CHARSET|CODING|PRINTABLE|BASE64|\bB\b", re.IGNORECASE)
_ENCODINGS = ("QUOTED-PRINTABLE", "BASE64", "B", "8BIT", "7BIT")
_PARAMETER = re.compile(r';((?:[^";]++|"[^"]*+"?)*+)')
_CARET = re.compile(r"\^([n'^])")
_ESCAPE = re.compile(r"\\.", re.DOTALL)
_PIECE = re.compile(r"\\.|[;,]|[^\\;,]+|\\", re.DOTALL)


def _uncaret(match: re.Match[str]) -> str:  # RFC 6868
    return {"n": "\n", "'": '"', "^": "^"}[match[1]]


# Code pages

_HALVES = re.compile(rb"\xed[\xa0-\xaf][\x80-\xbf]\xed[\xb0-\xbf][\x80-\xbf]")
_HALF = re.compile(rb"\xed[\xa0-\xbf][\x80-\xbf]")


def _joined(match: re.Match[bytes]) -> bytes:
    halves = match[0].decode("utf-8", "surrogatepass")
    return halves.encode("utf-16-le", "surrogatepass").decode("utf-16-le").encode()


def _as_windows(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    byte = error.object[error.start : error.start + 1]
    return byte.decode("windows-1252", "replace"), error.start + 1


_WINDOWS = "ipls.windows-1252"
codecs.register_error(_WINDOWS, _as_windows)

# The code page that is meant by a smaller one: what programs call by the old name has the newer letters.
_MEANT = {
    "ascii": "cp1252",
    "iso8859-1": "cp1252",
    "iso8859-9": "cp1254",
    "iso8859-11": "cp874",
    "tis-620": "cp874",
    "shift_jis": "cp932",
    "euc_kr": "cp949",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "cp936": "gb18030",
    "big5": "big5hkscs",
    "cp950": "big5hkscs",
}
_EAST_ASIAN = {"cp932", "cp949", "gb18030", "big5hkscs", "euc_jp", "johab"}
_NUMBERED = {
    "65001": "utf-8",
    "20866": "koi8-r",
    "21866": "koi8-u",
    "10000": "mac_roman",
    "10006": "mac_greek",
    "10007": "mac_cyrillic",
    "10029": "mac_latin2",
    "10081": "mac_turkish",
    "20127": "ascii",
    "20932": "euc_jp",
    "51932": "euc_jp",
    "51949": "cp949",
    "51936": "gb18030",
    "54936": "gb18030",
    "50220": "iso2022_jp",
    "50221": "iso2022_jp",
    "50225": "iso2022_kr",
}
_NAME = re.compile(r"[a-z0-9 ._:-]{1,40}")
_NUMBER = re.compile(r"(?:x|cs)?[-_ ]?(?:windows|win|cp|ms|ibm|dos|codepage|code page)?[-_ ]?(\d{3,5})")
_KNOWN = re.compile(r"utf-8|ascii|(iso8859|cp|koi8|mac|gb|big5|euc|shift|iso2022|johab|tis|hp|ptcp|kz)[\w-]*")


def _codec(charset: str) -> str:
    """Python's name of a code page, or "" for one that is none: also for those of 16 bits, which no card is in."""
    name = charset.lower().strip()
    if not _NAME.fullmatch(name):
        return ""
    tried = [name, name.removeprefix("x-").removeprefix("cs"), name.removeprefix("x-").replace("-", "_")]
    if number := _NUMBER.fullmatch(name):
        page = number[1]
        iso = f"iso8859-{int(page) - 28590}" if page.startswith(("2859", "2860")) else f"cp{page}"
        tried = [_NUMBERED.get(page, iso)]
    elif name in ("ansi", "x-ansi"):
        tried = ["cp1252"]
    elif name in ("x-sjis", "ms_kanji", "windows-31j", "mskanji"):
        tried = ["cp932"]
    for one in tried:
        try:
            found = codecs.lookup(one).name
        except (LookupError, ValueError):
            continue
        if _KNOWN.fullmatch(found):
            return _MEANT.get(found, found)
    return ""
