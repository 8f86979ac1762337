"""What is shown of a card, and what it is found by. No card is refused for what can't be read of it."""

import re
import unicodedata
from binascii import a2b_base64
from collections.abc import Container, Iterator, Mapping
from contextlib import suppress
from typing import NamedTuple
from urllib.parse import unquote

from ipls.contacts.cards.lines import Line, card_lines
from ipls.contacts.cards.values import components, decoded, parameters, plain_text, unescape, value_text

NO_NAME = "(no name)"


class Contact(NamedTuple):
    """What is shown of a card, each one line of text without control characters, and what else it is found by.

    `name`: the preferred FN, else N, nickname, organisation, e-mail, number, else NO_NAME; never empty. `numbers` in
    the card's order. `is_group`: it is a list of others, and nobody. `others`: all of its other names, nicknames,
    organisations and notes.
    """

    name: str
    numbers: tuple[str, ...]
    emails: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    is_group: bool = False


def read_card(card: bytes) -> Contact:
    """Reads what can be read."""
    texts = _read(card, _READ_NAMES)
    numbers = tuple(dict.fromkeys(texts.get("TEL", ())))
    emails = tuple(dict.fromkeys(texts.get("EMAIL", ())))
    names = [text for name in ("FN", "N", "NICKNAME", "ORG") for text in texts.get(name, ())]
    name = next(iter((*names, *emails, *numbers)), NO_NAME)
    others = dict.fromkeys((*names, *(text for each in ("TITLE", "ROLE", "NOTE") for text in texts.get(each, ()))))
    return Contact(name, numbers, emails, tuple(text for text in others if text != name), _is_group(texts))


def is_group(card: bytes) -> bool:
    """Reads this alone."""
    return _is_group(_read(card, _KINDS))


def _is_group(texts: Mapping[str, list[str]]) -> bool:
    return "group" in {kind.casefold() for each in _KINDS for kind in texts.get(each.decode(), ())}


def _read(card: bytes, names: Container[bytes]) -> dict[str, list[str]]:
    lines: dict[str, list[Line]] = {}
    for line in card_lines(card, names):
        if line.name in _READ and len(line.value) <= _LONGEST_READ:
            lines.setdefault(line.name, []).append(line)
    return {name: list(_texts(name, found)) for name, found in lines.items()}


def _texts(name: str, lines: list[Line]) -> Iterator[str]:
    for line in sorted(lines, key=preference) if len(lines) > 1 and name != "TEL" else lines:
        try:
            text = one_line(_READ[name](value_text(line)))
        except ValueError:  # base64 that is none
            continue
        if text:
            yield text


class Person(NamedTuple):
    """Whom a card is of, for a program: its UID ("" if it has none), and all it says in FN and N."""

    uid: str
    names: tuple[str, ...]


def read_person(card: bytes) -> Person:
    """Reads these alone."""
    uid, names = "", []
    for line in card_lines(card, _PERSON_NAMES):
        if line.name in ("UID", "FN", "N"):
            with suppress(ValueError):  # base64 that is none
                text = unicodedata.normalize("NFC", unescape(value_text(line))).strip()
                if line.name != "UID":
                    names.append(f"{line.name}:{text}")
                elif not uid:
                    uid = text
    return Person(uid, tuple(names))


def read_members(card: bytes) -> list[str]:
    """The UIDs of those whom a group's card names, in its order, each once."""
    uids: dict[str, None] = {}
    for line in card_lines(card):
        if line.name in ("MEMBER", "X-ADDRESSBOOKSERVER-MEMBER"):
            with suppress(ValueError):  # base64 that is none
                text = unicodedata.normalize("NFC", unescape(value_text(line))).strip()
                uids[text[9:] if text[:9].lower() == "urn:uuid:" else text] = None
    return list(uids)


def describe_card(card: bytes) -> list[tuple[str, str]]:
    """What each line of a card says: a label (its name, types and what a person calls it) and its value on one line,
    what a terminal obeys or hides made visible; of what is no text, its size."""
    lines = card_lines(card)
    labels = {line.group: visible(unescape(plain_text(line.value))) for line in lines if line.name == "X-ABLABEL"}
    described = []
    for line in lines:
        if line.name in ("X-ABLABEL", "VERSION"):
            continue
        kinds = [part.lower() for name, value in parameters(line) if name in ("TYPE", "") for part in value.split(",")]
        label = labels.get(line.group) if line.group else None
        about = ", ".join(visible(part) for part in (label, *kinds) if part)
        described.append((line.name + (f" ({about})" if about else ""), _described(line)))
    return described


def pictures(card: bytes) -> list[bytes]:
    """The pictures that a card brings along, as they are; one that can't be read is left out."""
    found = []
    for line in card_lines(card):
        if line.name == "PHOTO":
            with suppress(ValueError):
                value, _, is_binary = decoded(line)
                embedded = _EMBEDDED.match(value)
                found += [value] if is_binary else [a2b_base64(value[embedded.end() :])] if embedded else []
    return found


_EMBEDDED = re.compile(rb"data:[^,]*;base64,", re.IGNORECASE)


def describe_unit(text: bytes) -> tuple[str, str]:
    """Likewise of one property, or a group of them: the label, and what it says."""
    lines = describe_card(b"BEGIN:VCARD\r\n" + text + b"\r\nEND:VCARD")
    label = " and ".join(label for label, _ in lines)
    return label or "VERSION", "; ".join(value for _, value in lines) or visible(text.decode("utf-8", "replace"))


def visible(text: str) -> str:
    """Text on one line, with a code in the place of each character that a terminal obeys or does not show."""
    return "".join(
        c if c.isprintable() or c in _JOINERS else f"\\u{{{ord(c):x}}}"
        for c in text.replace("\r\n", "\n").replace("\n", " / ")
    )


def _described(line: Line) -> str:
    try:
        value, charset, is_binary = decoded(line)
    except ValueError:
        return f"({len(line.value)} bytes that can't be read)"
    if is_binary and line.name in ("PHOTO", "LOGO", "SOUND", "KEY", "X-MS-CARDPICTURE"):
        return f"({len(value)} bytes)"
    if len(value) > _LONGEST_READ or value[:5].lower() == b"data:":
        return f"({len(value)} bytes of text)"
    text = plain_text(value, charset)
    if line.name in ("N", "ADR", "ORG"):
        parts = (", ".join(filter(None, part)) for part in components(text))
        return visible("; ".join(filter(None, parts)))
    return visible(unescape(text))


def one_line(text: str) -> str:
    """Text without what commands a terminal or turns the direction of text around; blanks and line ends one blank."""
    if text.isascii() and text.isprintable():  # nothing of the sort
        return " ".join(text.split())
    shown = " ".join(text.translate(_INVISIBLE).split())
    return shown if shown.translate(_MARKS).strip() else ""


_LONGEST_READ = 64 * 1024  # bytes of a property; a longer one is kept but not read for showing
_INVISIBLE = dict.fromkeys((*range(32), *range(127, 160), 0x2028, 0x2029), " ") | dict.fromkeys(
    (0x61C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
)
# They join or part letters; alone they show nothing.
_MARKS = dict.fromkeys((0xAD, 0x200B, 0x200C, 0x200D, 0x2060, 0x2061, 0x2062, 0x2063, 0x2064, 0xFEFF))
_JOINERS = "\u200c\u200d"  # of emoji, and of letters
_EAST_ASIAN = re.compile(
    "[\u3005-\u3007\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff\\s・]+"
)


def is_east_asian(name: str) -> bool:
    """Whether a name is one whose family name comes first: in no letters but Chinese, Japanese or Korean ones."""
    return _EAST_ASIAN.fullmatch(name) is not None


def preference(line: Line) -> int:
    """1 to 100, as 4.0 has it; 101 where there is none."""
    for name, value in parameters(line):
        if name == "PREF" and value.isdecimal() and len(value) < 4:
            return int(value)
        if name in ("TYPE", "") and "PREF" in value.upper().split(","):
            return 1
    return 101


def _name(text: str) -> str:
    """The parts of N as people write them: an East Asian family name first."""
    parts = [" ".join(filter(None, part)) for part in components(text)]
    family, given, *rest = (*parts, "", "")
    if is_east_asian(family + given):
        given, family = family, given
    additional, prefix, suffix, *_ = (*rest, "", "", "")
    return " ".join((prefix, given, additional, family, suffix))


def _organisation(text: str) -> str:
    return ", ".join(part for part in map(", ".join, components(text, ";")) if part)


def telephone(text: str) -> str:
    """A number as it is shown: of a tel: URI what comes after it."""
    text = unescape(text)
    if text[:4].lower() == "tel:":
        text = unquote(text[4:])
    return text.translate(_MARKS)


_READ = {
    "FN": unescape,
    "N": _name,
    "NICKNAME": unescape,
    "ORG": _organisation,
    "EMAIL": unescape,
    "TEL": telephone,
    "TITLE": unescape,
    "ROLE": unescape,
    "NOTE": unescape,
    "KIND": unescape,
    "X-ADDRESSBOOKSERVER-KIND": unescape,
}
_READ_NAMES = frozenset(map(str.encode, _READ))
_PERSON_NAMES = frozenset({b"UID", b"FN", b"N"})
_KINDS = frozenset({b"KIND", b"X-ADDRESSBOOKSERVER-KIND"})
