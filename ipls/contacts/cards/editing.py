"""What a person changes of a card: lines of that property are written anew, every other byte stays."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from ipls.contacts.cards.lines import Card, Line, card_lines, keeps_folded_blanks, split_cards
from ipls.contacts.cards.merging import merge_cards
from ipls.contacts.cards.numbers import comparable_number
from ipls.contacts.cards.reading import is_east_asian, preference, telephone
from ipls.contacts.cards.units import LABEL, card_units
from ipls.contacts.cards.values import components, unescape, value_text
from ipls.contacts.cards.writing import edit_refused, write_lines
from ipls.contacts.errors import CardError


class Changes(NamedTuple):
    """What is to be changed of a card; `name` None: not that."""

    name: str | None = None
    add_numbers: Sequence[str] = ()
    remove_numbers: Sequence[str] = ()
    add_emails: Sequence[str] = ()
    remove_emails: Sequence[str] = ()


def new_card(uid: str, changes: Changes) -> bytes:
    """A card (3.0) with this UID. Raises CardError as `edit_card`."""
    empty = b"\r\n".join([b"BEGIN:VCARD", b"VERSION:3.0", write_property("UID", [uid], old=False), b"END:VCARD"])
    return edit_card(empty, changes, None)


def edit_card(card: bytes, changes: Changes, country: str | None) -> bytes:
    """The card with these changes. A number or an address that is taken out goes with its label. `country`: see
    `country_of`.

    Raises CardError: CARD_VALUE_ABSENT (it has no such number or address to take out), CARD_EDIT_REFUSED (the card is
    so broken that something else would change with it).
    """
    lines, old = card_lines(card), keeps_folded_blanks(card)
    wanted = {name: [(line, _read(line)) for line in lines if line.name == name] for name in _EDITED}
    done: dict[int, bytes] = {}
    added: list[bytes] = []

    def put(name: str, parts: list[str], instead: Line | None = None) -> None:
        written, header = (_written(instead), instead.header) if instead else (name, b"")
        new = write_property(written, parts, header, old=old)
        if instead:
            done[instead.start] = new
            wanted[name] = [(line, parts if line is instead else value) for line, value in wanted[name]]
        else:
            added.append(new)
            wanted[name].append((_NEW, parts))

    for name, values in (("TEL", changes.remove_numbers), ("EMAIL", changes.remove_emails)):
        for value in values:
            same = {line.start for line in lines if line.name == name and _is_same(line, value, country)}
            if not same:
                raise CardError("CARD_VALUE_ABSENT", "the card has no such number or address")
            done |= dict.fromkeys(_with_labels(card, same, country), b"")
            wanted[name] = [(line, value) for line, value in wanted[name] if line.start not in same]
    if changes.name is not None:
        name = _clean(changes.name)
        shown = sorted((line for line in lines if line.name == "FN"), key=preference)
        put("FN", [name], shown[0] if shown else None)
        put("N", _parts(name), next((line for line in lines if line.name == "N"), None))
    for number in changes.add_numbers:
        put("TEL", [_clean(number)])
    for email in changes.add_emails:
        put("EMAIL", [_clean(email)])
    edited = write_lines(card, done, added)
    for name in _EDITED:
        if [_read(line) for line in card_lines(edited) if line.name == name] != [value for _, value in wanted[name]]:
            raise edit_refused()
    return edited


def replace_card(card: bytes, edited: bytes, country: str | None) -> bytes:
    """The card as a person left it in an editor; what they did not change keeps its bytes.

    Raises CardError CARD_EDIT_REFUSED: it is not one card any more.
    """
    parts = list(split_cards(edited))
    if len(parts) != 1 or not isinstance(parts[0], Card):
        raise CardError("CARD_EDIT_REFUSED", "what was saved is not one card, from BEGIN:VCARD to END:VCARD")
    merged = merge_cards(card, parts[0].data, card, country)
    return parts[0].data if merged.lost else merged.card


def with_uid(card: bytes, uid: str) -> bytes:
    """The card under another UID. Raises CardError CARD_EDIT_REFUSED."""
    lines = [line for line in card_lines(card) if line.name == "UID"]
    new = write_property("UID", [uid], old=keeps_folded_blanks(card))
    changes = {line.start: b"" if at else new for at, line in enumerate(lines)}
    return write_lines(card, changes, [] if lines else [new])


def write_property(name: str, parts: Sequence[str], header: bytes = b"", *, old: bool) -> bytes:
    """A property's line, with CR LF where it is folded, at 75 bytes and not inside a letter. `parts`: of a structured
    value, or the one of a plain one. Of the parameters in `header` those stay that say nothing of the encoding. `old`:
    as 2.1 has it.
    """
    kept = b"".join(part for part in _PARAMETER.findall(header) if not _ENCODING.match(part))
    head = name.encode("latin-1") + kept
    escaped = ";".join(re.sub(r"[\\;]" if old else r"[\\;,]", r"\\\g<0>", part) for part in parts)
    if not old:
        return _folded(head + b":", escaped.replace("\n", "\\n"))
    if escaped.isascii() and escaped.isprintable() and len(head) + len(escaped) < _WIDTH:
        return head + b":" + escaped.encode()
    return _quoted(head + b";CHARSET=UTF-8;ENCODING=QUOTED-PRINTABLE:", escaped.replace("\n", "\r\n"))


_EDITED = ("FN", "N", "TEL", "EMAIL")
_NEW = Line(-1, -1, -1, "", "", b"", b"", b"", b"")
_WIDTH = 75
_PARAMETER = re.compile(rb';(?:[^";]++|"[^"]*+"?)*+')
_ENCODING = re.compile(
    rb";\s*(?:(?:CHARSET|ENCODING)\s*=.*|(?:QUOTED-PRINTABLE|BASE64|B|8BIT|7BIT)\s*)?$", re.IGNORECASE | re.DOTALL
)


def _clean(text: str) -> str:
    """As it can be written: line ends one kind, nothing that is no letter."""
    return text.replace("\r\n", "\n").replace("\r", "\n").encode("utf-8", "replace").decode().strip()


def _written(line: Line) -> str:
    """Its group and name as they stand there."""
    return line.text.partition(b":")[0].partition(b";")[0].decode("latin-1")


def _read(line: Line) -> list[str]:
    try:
        text = value_text(line).replace("\r\n", "\n")
    except ValueError:  # base64 that is none
        return []
    return [",".join(part) for part in components(text)] if line.name == "N" else [unescape(text)]


def _parts(name: str) -> list[str]:
    """N of a name: the last word is the family's, but of an East Asian name the first."""
    first, _, rest = name.partition(" ")
    if is_east_asian(name) and rest:
        return [first, rest, "", "", ""]
    given, _, family = name.rpartition(" ")
    return [family, given, "", "", ""] if given else ["", family, "", "", ""]


def _is_same(line: Line, value: str, country: str | None) -> bool:
    try:
        text = value_text(line)
    except ValueError:
        return False
    if line.name == "TEL":
        return comparable_number(telephone(text), country) == comparable_number(telephone(value), country)
    return unescape(text).strip().casefold() == value.strip().casefold()


def _with_labels(card: bytes, starts: set[int], country: str | None) -> set[int]:
    """These lines, and the label of each group that nothing else is left of."""
    gone = set(starts)
    for unit in card_units(card, country):
        if any(line.start in starts for line in unit.lines) and all(
            line.start in starts or line.name == LABEL for line in unit.lines
        ):
            gone |= {line.start for line in unit.lines}
    return gone


def _folded(head: bytes, text: str) -> bytes:
    lines, room = [head], _WIDTH - len(head)
    for letter in text:
        data = letter.encode()
        if len(data) > room:
            lines.append(b" ")
            room = _WIDTH - 1
        lines[-1] += data
        room -= len(data)
    return b"\r\n".join(lines)


def _quoted(head: bytes, text: str) -> bytes:
    lines, room = [head], _WIDTH - 1 - len(head)
    for at, letter in enumerate(text):
        coded = "".join(f"={byte:02X}" for byte in letter.encode()).encode()
        plain = (letter.isascii() and letter.isalnum()) or letter in ";,.+-()/@" or (letter == " " and text[at + 1 :])
        data = letter.encode() if plain else coded
        if len(data) > room:
            lines.append(b"")
            room = _WIDTH - 1
            data = coded  # nobody takes the line for another property
        lines[-1] += data
        room -= len(data)
    return b"=\r\n".join(lines)
