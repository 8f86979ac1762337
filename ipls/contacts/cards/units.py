"""What a card consists of when it is compared and merged: units, equal by their normal form.

A unit is a property, or all lines of one group (item1.TEL with item1.X-ABLabel). Its normal form is the same however a
program writes it: folded or not, in any case, order, encoding and code page, its parameters as 2.1, 3.0 or 4.0 has
them, a number in any spelling. Nothing is written from it.
"""

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from ipls.contacts.cards.lines import Line, card_lines, is_long
from ipls.contacts.cards.numbers import comparable_number
from ipls.contacts.cards.reading import telephone
from ipls.contacts.cards.values import decoded, parameters, plain_text, unescape

LABEL = "X-ABLABEL"


class Unit(NamedTuple):
    """`form`: 32 bytes, equal for equal units. `names`: of its properties, labels left out. `text`: its lines,
    unfolded, with CR LF between them; `raw`: as the card has them.
    """

    form: bytes
    names: tuple[str, ...]
    lines: tuple[Line, ...]
    text: bytes
    raw: bytes


def card_units(card: bytes, country: str | None) -> list[Unit]:
    """The units of a card, in order. `country`: see `numbers.country_of`."""
    lines = card_lines(card)
    groups: dict[str, list[Line]] = {}
    for line in lines:
        if line.group:
            groups.setdefault(line.group, []).append(line)
    together = (groups.pop(line.group, []) if line.group else [line] for line in lines)
    return [_unit(card, unit, country) for unit in together if unit]


def card_form(card: bytes, country: str | None) -> Counter[bytes]:
    """The forms of its units: equal for cards that say the same."""
    return Counter(unit.form for unit in card_units(card, country))


def unit_of(text: bytes, country: str | None) -> Unit:
    """The unit that has this text. A text of no unit, of several, or that `is_long`, is one of its own, without lines:
    equal to the same bytes alone."""
    units = [] if is_long(text) else card_units(b"BEGIN:VCARD\r\n" + text + b"\r\nEND:VCARD", country)
    return units[0] if len(units) == 1 else Unit(hashlib.sha256(text).digest(), (), (), text, text)


class Groups:
    """The names of a card's groups, for units of another card that come to it."""

    def __init__(self, units: Iterable[Unit]) -> None:
        self._used = {line.group for unit in units for line in unit.lines}
        self._last = 0

    def admit(self, unit: Unit) -> Unit:
        """The unit, under another group's name if its own is taken."""
        group = unit.lines[0].group
        if not group or group not in self._used:
            self._used.add(group)
            return unit
        while (name := f"item{self._last}").upper() in self._used or not self._last:
            self._last += 1
        self._used.add(name.upper())
        text = b"\r\n".join(name.encode() + line.text[len(group) :] for line in unit.lines)
        return unit._replace(text=text, raw=text)


def _unit(card: bytes, lines: list[Line], country: str | None) -> Unit:
    labels = {_label(line) for line in lines if line.name == LABEL}
    form = hashlib.sha256(b"\0".join(sorted(_form(line, labels, country) for line in lines))).digest()
    names = tuple(line.name for line in lines if line.name != LABEL)
    raw = b"\r\n".join(card[line.start : line.stop] for line in lines)
    return Unit(form, names, tuple(lines), b"\r\n".join(line.text for line in lines), raw)


def _label(line: Line) -> str:
    return unescape(plain_text(line.value)).strip().casefold()


def _form(line: Line, labels: set[str], country: str | None) -> bytes:
    said: set[str] = set()
    for name, content in parameters(line):
        folded = content.casefold()
        if name == "TYPE" or (name == "" and folded not in _NO_TYPES):
            said |= {f"TYPE={one}" for one in folded.split(",") if one[:2] != "x-" or one[2:] not in labels}
        elif name == "PREF" and content == "1":
            said.add("TYPE=pref")
        elif not (name in ("", "CHARSET", "ENCODING") or (name == "VALUE" and folded in ("uri", "url"))):
            said.add(f"{name}={content}")
    try:
        value, charset, is_binary = decoded(line)
    except ValueError:
        value, charset, is_binary = b"".join(line.value.split()), "", False
    if not is_binary:
        text = plain_text(value, charset)
        if line.name == "TEL":
            text = comparable_number(telephone(text), country)
        value = _encoded(unicodedata.normalize("NFC", _canonical(text)))
    return _encoded("\1".join([line.name, *sorted(said)])) + b"\2" + value + b"\2" + line.rest


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


_NO_TYPES = ("", "quoted-printable", "base64", "b", "8bit", "7bit", "uri", "url")
_BREAK = re.compile(r"\r\n|[\r\n]")
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)


def _canonical(text: str) -> str:
    """Line ends as 3.0 has them, nothing escaped that need not be."""
    escaped = _ESCAPE.sub(lambda match: {"N": "\\n", ":": ":"}.get(match[1], match[0]), text)
    return _BREAK.sub(r"\\n", escaped)
