"""Which cards an addressbook-query means (RFC 6352, 10.5).

Tested by tests/client/addressbook/dav/test_server.py.
"""

import unicodedata
from collections.abc import Callable, Iterable
from xml.etree.ElementTree import Element

from ipls.client.addressbook.dav.xml import CARD
from ipls.client.errors import SideError
from ipls.contacts.cards.lines import Line, card_lines
from ipls.contacts.cards.values import parameters, unescape, value_text

ASCII, UNICODE = "i;ascii-casemap", "i;unicode-casemap"
_TESTS: dict[str, Callable[[str, str], bool]] = {
    "equals": str.__eq__,
    "starts-with": str.startswith,
    "ends-with": str.endswith,
    "contains": str.__contains__,
}


class UnknownCollation(SideError):
    """The client asks for a comparison that is none of ours."""

    def __init__(self) -> None:
        super().__init__("DAV_COLLATION_UNKNOWN", "the program asks for a comparison of text that is not offered")


def matches(filter: Element | None, card: bytes) -> bool:
    """Whether a card is meant; all are where there is no filter. Raises UnknownCollation."""
    if filter is None or len(filter) == 0:
        return True
    lines = card_lines(card)
    return _tested(filter, (_property(each, lines) for each in filter.findall(f"{CARD}prop-filter")))


def _tested(node: Element, outcomes: Iterable[bool]) -> bool:
    found = list(outcomes)  # all of them: an unknown collation is one wherever it stands
    return all(found) if node.get("test", "anyof") == "allof" else any(found)


def _property(node: Element, lines: list[Line]) -> bool:
    group, _, name = node.get("name", "").upper().rpartition(".")
    named = [line for line in lines if line.name == name and group in ("", line.group)]
    if node.find(f"{CARD}is-not-defined") is not None:
        return not named
    texts, params = node.findall(f"{CARD}text-match"), node.findall(f"{CARD}param-filter")
    if not texts and not params:
        return bool(named)
    outcomes = [any(_text(each, [_value(line)]) for line in named) for each in texts]
    outcomes += [any(_parameter(each, line) for line in named) for each in params]
    return _tested(node, outcomes)


def _parameter(node: Element, line: Line) -> bool:
    wanted = node.get("name", "").upper()
    values = [each for name, value in parameters(line) if name in (wanted, "") for each in value.split(",")]
    if node.find(f"{CARD}is-not-defined") is not None:
        return not values
    match = node.find(f"{CARD}text-match")
    return bool(values) if match is None else _text(match, values)


def _value(line: Line) -> str:
    try:
        return unescape(value_text(line))
    except ValueError:  # base64 that is none
        return ""


def _text(node: Element, values: list[str]) -> bool:
    collation = node.get("collation", UNICODE)
    if collation not in (ASCII, UNICODE, "default"):
        raise UnknownCollation
    fold = _ascii if collation == ASCII else _unicode
    wanted = fold(node.text or "")
    test = _TESTS.get(node.get("match-type", "contains"), _TESTS["contains"])
    found = any(test(fold(value), wanted) for value in values)
    return found != (node.get("negate-condition") == "yes")


def _ascii(text: str) -> str:
    return "".join(c.lower() if c.isascii() else c for c in text)


def _unicode(text: str) -> str:
    """RFC 5051, by what Python has of it."""
    return unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold())
