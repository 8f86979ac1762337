"""vCard 2.1, 3.0 and 4.0: an exported address book cut into cards, and names and numbers read from a card.

`split_cards` decides what a record is: a card's own bytes, from the B of BEGIN:VCARD to the D of its END:VCARD, the
line ending after it left out, nothing rewritten. `read_card` is for showing and finding only: no card is refused for
what it can't read. Both take time linear in their input, whatever it holds.
"""

import binascii
import codecs
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Literal, NamedTuple

from vobject.base import ContentLine
from vobject.icalendar import stringToTextValues
from vobject.vcard import NameBehavior, splitFields

from ipls.contacts.records import MAX_CARD

NO_BEGIN = "an END:VCARD without a BEGIN:VCARD"
NO_END = "no END:VCARD"
TOO_LARGE = f"over {MAX_CARD} bytes"

NO_NAME = "(no name)"


class Card(NamedTuple):
    """One card; `line` is where it begins in the file, counted from 1."""

    line: int
    data: bytes


class Skipped(NamedTuple):
    """What is no card: the line where it begins (for NO_BEGIN, of its END), and NO_BEGIN, NO_END or TOO_LARGE."""

    line: int
    reason: str


class Contact(NamedTuple):
    """What is shown of a card: each one line of text, without control characters; `name` is never empty."""

    name: str
    numbers: tuple[str, ...]


def split_cards(data: bytes) -> Iterator[Card | Skipped]:
    """Cuts a whole address book (a UTF-16 one, known by its byte order mark, is turned into UTF-8 first).

    Outside cards, BEGIN:VCARD counts wherever it stands in a line. Inside one, markers count at the start of a line,
    but not where a folded or quoted-printable value goes on, and after another marker on its line. The card of an
    AGENT property belongs to the card around it; any other BEGIN:VCARD inside a card shows that the END before it is
    missing. Text between cards is passed over.
    """
    data = _utf8(data)
    line, counted = 1, 0
    opened: tuple[int, int] | None = None  # line and start of the card that is being read
    for kind, start, stop, depth in _scan(data):
        if kind == "property" or depth != (kind == "begin"):
            continue  # of the card or of one inside it
        line += _count_lines(data, counted, start)
        counted = start
        if kind == "begin":
            if opened:
                yield Skipped(opened[0], NO_END)
            opened = line, start
        elif not opened:
            yield Skipped(line, NO_BEGIN)
        else:
            first_line, begin = opened
            fits = stop - begin <= MAX_CARD
            yield Card(first_line, data[begin:stop]) if fits else Skipped(first_line, TOO_LARGE)
            opened = None
    if opened:
        yield Skipped(opened[0], NO_END)


def join_cards(cards: Iterable[bytes]) -> bytes:
    """An address book of these cards; `split_cards` gives each card that it once gave back byte for byte."""
    return b"".join(card + b"\r\n" for card in cards)


def read_card(card: bytes) -> Contact:
    """Reads the name (FN, else N, nickname, organisation, e-mail, number, else NO_NAME) and all numbers in order."""
    properties: dict[str, list[bytes]] = {}
    for kind, start, stop, depth in _scan(card):
        if kind == "property" and depth == 1 and stop - start <= _LONGEST_READ:
            name = card[start:stop].partition(b":")[0].partition(b";")[0].rpartition(b".")[2]
            properties.setdefault(name.strip().upper().decode("latin-1"), []).append(card[start:stop])
    # 2.1 folds before white space that is there, the others put some in.
    folded = rb"\1" if any(b"2.1" in line for line in properties.get("VERSION", ())) else b""

    def texts(name: str) -> Iterator[str]:
        for line in properties.get(name, ()):
            try:
                text = " ".join(_READERS[name](_value(line, folded)).translate(_INVISIBLE).split())
            except ValueError:  # base64 that is none
                continue
            if text:
                yield text

    numbers = tuple(dict.fromkeys(texts("TEL")))
    names = (text for name in ("FN", "N", "NICKNAME", "ORG", "EMAIL") for text in texts(name))
    return Contact(next(names, numbers[0] if numbers else NO_NAME), numbers)


# Lines and markers

_LINE = re.compile(rb"[^\r\n]+")
# What may stand between a line and the next; more than that has an empty line in it. The last is Windows' slip.
_ENDINGS = (b"\n", b"\r\n", b"\r", b"\r\r\n")
_FOLD = re.compile(rb"(?:\r\r\n|\r\n|\n|\r)([ \t])")
_SOFT_BREAK = re.compile(rb"=[ \t]*+(?:\r\r\n|\r\n|\n|\r|$)")
_WORD = rb"(BEGIN|END)[ \t]*+:[ \t]*+VCARD"
# Not VCARDS, and not VCARD=0D=0A or VCARD\n, which are inside a value; but END:VCARDBEGIN:VCARD.
_MARKER = re.compile(_WORD + rb"(?:(?![\w=\\-])|(?=" + _WORD + rb"))", re.IGNORECASE)
_AGENT = re.compile(rb"(?:[\w-]++\.)?AGENT[ \t]*+(?:;[^:]*+)?:[ \t]*+", re.IGNORECASE)

_Kind = Literal["begin", "end", "property"]


def _scan(data: bytes) -> Iterator[tuple[_Kind, int, int, int]]:
    """Gives the markers and, inside cards, the properties: kind, start, stop, and the depth of cards after it.

    A property is a logical line: with the lines folded into it and its soft line breaks. When the END of a card is
    missing, the BEGIN after it comes at depth 1 again.
    """
    depth = 0
    previous = 0  # where the line before stopped
    start: int | None = None  # of the property that the line before belongs to
    agent = False  # that property is an AGENT without a value yet: its card may come next
    in_header = encoded = soft = False  # it has had no colon yet; is quoted-printable; ended in a soft line break
    for found in _LINE.finditer(data):
        (begin, stop), text = found.span(), found[0]
        marker = (_MARKER.match if depth else _MARKER.search)(data, begin, stop)
        if start is not None:
            goes_on = soft and data[previous:begin] in _ENDINGS and not (marker and _is_real(data, marker, stop))
            if goes_on or text[0] in b" \t":
                agent = agent and not text.strip()
            else:
                yield "property", start, previous, depth
                start = None
        if start is None:
            if depth and not marker:
                value = _AGENT.match(data, begin, stop)
                if value and not _FOLD.match(data, stop):
                    marker = _MARKER.match(data, value.end(), stop)
                agent = value is not None and (value.end() == stop or marker is not None)
            if marker or not depth:
                while marker:
                    if marker[1].upper() == b"BEGIN":
                        depth = depth + 1 if agent else 1
                        yield "begin", *marker.span(), depth
                    else:
                        depth = max(depth - 1, 0)
                        yield "end", *marker.span(), depth
                    agent = False
                    marker = _MARKER.search(data, marker.end(), stop)
                continue
            start, in_header, encoded = begin, True, False
        if in_header:
            header, colon, _ = text.partition(b":")
            encoded = encoded or b"QUOTED-PRINTABLE" in header.upper()
            in_header = not colon
        soft = encoded and text.rstrip().endswith(b"=")
        previous = stop
    if start is not None:
        yield "property", start, previous, depth


def _is_real(data: bytes, marker: re.Match[bytes], stop: int) -> bool:
    """Whether a marker after a soft line break is one all the same, as nothing else makes a card of what follows it:
    some phones end a quoted-printable value in a soft break before END:VCARD.
    """
    following = _LINE.search(data, stop)
    text = following[0].removeprefix(codecs.BOM_UTF8).lstrip() if following else b""
    if marker[1].upper() == b"BEGIN":
        return text[:8].upper() == b"VERSION:"
    after = _MARKER.match(text)
    return not following or (after is not None and after[1].upper() == b"BEGIN")


def _count_lines(data: bytes, start: int, stop: int) -> int:
    return data.count(b"\n", start, stop) + data.count(b"\r", start, stop) - data.count(b"\r\n", start, stop)


def _utf8(data: bytes) -> bytes:
    if data[:2] not in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        return data
    whole = data[: len(data) // 2 * 2]
    return whole.decode("utf-16", "surrogatepass").encode("utf-8", "surrogatepass")


# Values

_LONGEST_READ = 64 * 1024  # bytes of a property; a longer one is kept but not read for showing
_HEADER = re.compile(rb'((?:[^":]++|"[^"]*+")*+):')
_CHARSET = re.compile(
    r"(utf-?8|utf-?16|us-ascii|ascii|latin|iso|windows|cp|koi8|gb|big5|euc|shift|sjis|mac)[\w-]*", re.I
)
# Control characters (a name must not command a terminal), and the marks that turn the direction of text around.
_INVISIBLE = dict.fromkeys((*range(32), *range(127, 160), 8232, 8233), " ") | dict.fromkeys(
    (*range(8234, 8239), *range(8294, 8298))
)


def _value(line: bytes, folded: bytes) -> str:
    """The value of a property as text, unfolded and decoded; raises ValueError on base64 that is none."""
    line_header = line.partition(b":")[0].upper()
    encoded = b"QUOTED-PRINTABLE" in line_header
    if encoded:
        line = _SOFT_BREAK.sub(b"", line)
    line = _FOLD.sub(folded, line)
    match = _HEADER.match(line)
    header, value = (match[1], line[match.end() :]) if match else line.partition(b":")[::2]
    charset, base64 = "utf-8", False
    for parameter in header.decode("latin-1").split(";")[1:]:
        key, _, content = (part.strip(' "\t') for part in parameter.upper().rpartition("="))
        if key == "CHARSET" and _CHARSET.fullmatch(content):
            charset = content
        base64 = base64 or (key in ("", "ENCODING") and content in ("B", "BASE64"))
    if encoded:
        value = binascii.a2b_qp(value)
    elif base64:
        value = binascii.a2b_base64(value)
    for encoding in (charset, "utf-8"):
        try:
            return value.decode(encoding)
        except (UnicodeDecodeError, LookupError):
            continue
    return value.decode("windows-1252", "replace")


def _whole(text: str) -> str:
    """Closes an escape that the text ends in: vobject would read on past the end."""
    return text + "\\" * ((len(text) - len(text.rstrip("\\"))) % 2)


def _text(text: str) -> str:
    return str(stringToTextValues(_whole(text), listSeparator=None)[0])


def _name(text: str) -> str:
    return str(NameBehavior.transformToNative(ContentLine("N", [], _whole(text))).value)


def _organisation(text: str) -> str:
    parts = (", ".join(part) if isinstance(part, list) else str(part) for part in splitFields(_whole(text)))
    return ", ".join(part for part in parts if part)


def _number(text: str) -> str:
    text = _text(text)
    return text[4:] if text[:4].lower() == "tel:" else text


_READERS: dict[str, Callable[[str], str]] = {
    "FN": _text,
    "N": _name,
    "NICKNAME": _text,
    "ORG": _organisation,
    "EMAIL": _text,
    "TEL": _number,
}
