"""vCard 2.1, 3.0 and 4.0 as bytes: an exported address book cut into cards, and a card into its lines.

`split_cards` decides what a record is: a card's own bytes, from the B of BEGIN:VCARD to the D of its END:VCARD, the
line ending after it left out, nothing rewritten. `card_lines` says where in them each property stands. Both take time
linear in their input, whatever it holds, and no card is refused for what can't be read.
"""

import codecs
import re
from collections.abc import Container, Iterable, Iterator
from typing import Literal, NamedTuple

NO_BEGIN = "an END:VCARD without a BEGIN:VCARD"
NO_END = "no END:VCARD"
MAX_LINES = 5000
"""Of a card that is merged unit by unit, which takes about 0.4 ms for each."""
MOST_LINES = 1 << 19
"""Of a card that is taken in, folded ones too: the largest picture has fewer. Of the shortest ones so many take some
seconds, and 200 MB."""
_LINE_ENDS = re.compile(rb"[\r\n](?![ \t\r\n])")


class Card(NamedTuple):
    """One card; `line` is where it begins in the file, counted from 1."""

    line: int
    data: bytes


class Skipped(NamedTuple):
    """What is no card: the line where it begins (for NO_BEGIN, of its END), and NO_BEGIN or NO_END."""

    line: int
    reason: str


class Line(NamedTuple):
    """One property of a card, with everything that belongs to it: folded lines, soft breaks, an unindented picture, the
    card of an AGENT.

    `card[start:stop]` is its text as it stands there; the line endings after it reach to `end`, where the next begins.
    `group` and `name` are upper case, without blanks. `header` is what stands between name and colon, `value` what
    comes after it: unfolded, not decoded. `rest`: lines that belong to it and are no part of its value. `text`: all of
    it on one line, and the rest.
    """

    start: int
    stop: int
    end: int
    group: str
    name: str
    header: bytes
    value: bytes
    rest: bytes
    text: bytes


def split_cards(data: bytes) -> Iterator[Card | Skipped]:
    """Cuts a whole address book (a UTF-16 one is turned into UTF-8 first, see `utf8`).

    Outside cards, BEGIN:VCARD counts wherever it stands in a line. Inside one, markers count at the start of a line,
    but not where a folded or quoted-printable value goes on, and after another marker on its line. The card of an
    AGENT property belongs to the card around it; any other BEGIN:VCARD inside a card shows that the END before it is
    missing. Text between cards is passed over.
    """
    data = utf8(data)
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
            yield Card(first_line, data[begin:stop])
            opened = None
    if opened:
        yield Skipped(opened[0], NO_END)


def join_cards(cards: Iterable[bytes]) -> bytes:
    """An address book of these cards; `split_cards` gives each card that it once gave back byte for byte."""
    return b"".join(card + b"\r\n" for card in cards)


def is_long(text: bytes) -> bool:
    """Whether it has more than MAX_LINES lines, folded ones counted once: its units are not looked at one by one."""
    return len(_LINE_ENDS.findall(text)) > MAX_LINES


def is_endless(text: bytes) -> bool:
    """Whether it has more than MOST_LINES lines."""
    return _count_lines(text, 0, len(text)) > MOST_LINES


def card_lines(card: bytes, only: Container[bytes] | None = None) -> list[Line]:
    """The properties of a card, in order. Every byte between its markers is in one of them, but what stands before the
    first and blanks between markers on one line. `only`: names in upper case; most others are left out, which is
    quicker.
    """
    places: list[tuple[int, int]] = []  # start, and stop of the logical line
    end = len(card)
    for kind, start, stop, depth in _scan(card):
        # A line without a colon is no property: it belongs to what stands before it.
        if kind == "property" and depth == 1 and (b":" in card[start:stop] or not places):
            places.append((start, stop))
        elif kind == "end" and depth == 0:
            end = start
            break
    old = keeps_folded_blanks(card)
    ends = [*(start for start, _ in places), end][1:]
    return [
        _line(card, start, stop, after, old)
        for (start, stop), after in zip(places, ends, strict=True)
        if only is None or not (name := _NAME.match(card, start)) or name[1].upper() in only
    ]


def card_end(card: bytes) -> int:
    """Where its END stands."""
    return next((start for kind, start, _, depth in _scan(card) if kind == "end" and depth == 0), len(card))


def keeps_folded_blanks(card: bytes) -> bool:
    """Whether folding breaks this card's lines *before* a blank that is theirs, as in 2.1; the others put one in."""
    return b"2.1" in card and _OLD.search(card) is not None  # the first is quick, and says no of nearly all


def _line(card: bytes, start: int, stop: int, end: int, old: bool) -> Line:
    whole = card[start:end].rstrip(b"\r\n")
    text = card[start:stop]
    header, name, value = _parted(text, old)
    rest = b""
    if len(whole) > len(text):
        if _BASE64.search(header):
            text = whole  # a picture whose lines are not indented
            header, name, value = _parted(text, old)
        rest = NEWLINE.sub(b"\r\n", whole[len(text) :].strip(b"\r\n"))
    written = b"".join(name.split())
    group, _, plain = written.upper().decode("latin-1").rpartition(".")
    colon = b":" if b":" in text else b""
    one = written + header + colon + value + (b"\r\n" + rest if rest else b"")
    return Line(start, start + len(whole), end, group, plain, header, value, rest, one)


def _parted(text: bytes, old: bool) -> tuple[bytes, bytes, bytes]:
    """Header, name, value, unfolded."""
    folded = b"\n" in text or b"\r" in text
    front = text.partition(b":")[0]
    if b"QUOTED-PRINTABLE" in (_FOLD.sub(b"", front) if folded else front).upper():
        text = _SOFT_BREAK.sub(b"", text)
    if folded:
        text = NEWLINE.sub(b"", _FOLD.sub(rb"\1" if old else b"", text))
    match = _HEADER.match(text)
    front, value = (match[1], text[match.end() :]) if match else text.partition(b":")[::2]
    name, semicolon, parameters = front.partition(b";")
    return semicolon + parameters, name, value


# Lines and markers

_LINE = re.compile(rb"[^\r\n]+")
NEWLINE = re.compile(rb"\r\r\n|\r\n|\n|\r")
# What may stand between a line and the next; more than that has an empty line in it. The last is Windows' slip.
_ENDINGS = (b"\n", b"\r\n", b"\r", b"\r\r\n")
_FOLD = re.compile(rb"(?:\r\r\n|\r\n|\n|\r)([ \t])")
_SOFT_BREAK = re.compile(rb"=[ \t]*+(?:[\r\n]++|$)")
_NAME = re.compile(rb"(?:[\w-]++\.)?+([\w-]++)[;:]")  # one without blanks and folds
_HEADER = re.compile(rb'((?:[^":]++|"[^"]*+")*+):')
_BASE64 = re.compile(rb";[ \t]*(?:ENCODING[ \t]*=[ \t\"]*)?(?:B|BASE64)[ \t\"]*(?:;|$)", re.IGNORECASE)
_OLD = re.compile(rb"(?:^|[\r\n])VERSION[^:\r\n]*:[ \t]*2\.1", re.IGNORECASE)
_WORD = rb"(BEGIN|END)[ \t]*+:[ \t]*+VCARD"
# Not VCARDS, and not VCARD=0D=0A or VCARD\n, which are inside a value; but END:VCARDBEGIN:VCARD.
_MARKER = re.compile(_WORD + rb"(?:(?![\w=\\-])|(?=" + _WORD + rb"))", re.IGNORECASE)
_AGENT = re.compile(rb"(?:[\w-]++\.)?AGENT[ \t]*+(?:;[^:]*+)?:[ \t]*+", re.IGNORECASE)
# What may stand after a soft break that an exporter left at the end of a value: the next property.
_PROPERTY = re.compile(
    rb"(?:[\w-]++\.)?(VERSION|FN|N|NICKNAME|PHOTO|BDAY|ANNIVERSARY|GENDER|ADR|LABEL|TEL|EMAIL|IMPP|LANG|MAILER|TZ|GEO"
    rb"|TITLE|ROLE|LOGO|AGENT|ORG|MEMBER|RELATED|CATEGORIES|CLASS|NOTE|PRODID|REV|SORT-STRING|SOUND|UID|URL|KEY|FBURL"
    rb"|CALADRURI|CALURI|SOURCE|NAME|KIND|XML|CLIENTPIDMAP|X-[\w-]++)[;:]",
    re.IGNORECASE,
)

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
    header = b""  # the end of what it has had of one
    for found in _LINE.finditer(data):
        (begin, stop), text = found.span(), found[0]
        if depth:
            marker = _MARKER.match(data, begin, stop) if text[0] in b"BbEe" else None
        else:
            marker = _MARKER.search(data, begin, stop)
        if start is not None:
            if soft and (data[previous:begin] in _ENDINGS or b":" not in text):
                goes_on = not (_is_real(data, marker, stop) if marker else _is_property(data, start, text))
            else:
                goes_on = False
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
                    if marker:
                        yield "property", begin, marker.start(), depth
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
            start, in_header, encoded, header = begin, True, False, b""
        if in_header:
            more, colon, _ = text.partition(b":")
            header += more.strip()
            encoded = encoded or b"QUOTED-PRINTABLE" in header.upper()
            header = header[-len(b"QUOTED-PRINTABLE") :]
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


def _is_property(data: bytes, start: int, text: bytes) -> bool:
    """Whether a line after a soft break is a property of its own, in the case that the one before it is written in:
    some exporters leave a soft break at the end of a value.
    """
    found, before = _PROPERTY.match(text), _PROPERTY.match(data, start)
    if not found:
        return False
    name, other = found[1], before[1] if before else b"FN"
    return name[:2].upper() == b"X-" or (name.isupper(), name.islower()) == (other.isupper(), other.islower())


def _count_lines(data: bytes, start: int, stop: int) -> int:
    return data.count(b"\n", start, stop) + data.count(b"\r", start, stop) - data.count(b"\r\n", start, stop)


def utf8(data: bytes) -> bytes:
    """A UTF-16 file, known by its byte order mark or by the NUL bytes of its ASCII letters, in UTF-8; others as is."""
    if data[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        encoding = "utf-16"
    else:
        high, low = data[::2].count(0), data[1::2].count(0)
        if max(high, low) * 8 < len(data) // 2 or max(high, low) < 8 * min(high, low) or not data:
            return data
        encoding = "utf-16-be" if high > low else "utf-16-le"
    whole = data[: len(data) // 2 * 2]
    return whole.decode(encoding, "surrogatepass").encode("utf-8", "surrogatepass")
