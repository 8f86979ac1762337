"""Which cards an addressbook-query means (RFC 6352, 10.5).

Tested by tests/client/addressbook/dav/test_server.py.
"""

import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable
from functools import cache
from itertools import chain
from xml.etree.ElementTree import Element

from ipls.client.addressbook.dav.xml import CARD
from ipls.contacts.cards.lines import Line, card_lines
from ipls.contacts.cards.values import parameters, unescape, value_text

MAX_TESTS = 100
"""Elements of a filter: each is held against each card."""
ASCII, UNICODE = "i;ascii-casemap", "i;unicode-casemap"
_TESTS: dict[str, Callable[[str, str], bool]] = {
    "equals": str.__eq__,
    "starts-with": str.startswith,
    "ends-with": str.endswith,
    "contains": str.__contains__,
}


def broken_condition(filter: Element | None) -> str | None:
    """What a filter has that is not offered, as CardDAV's condition for it; None: nothing."""
    nodes = [] if filter is None else list(filter.iter())
    if len(nodes) > MAX_TESTS:
        return f"{CARD}supported-filter"
    if any(node.get("collation", UNICODE) not in _FOLDS for node in nodes):
        return f"{CARD}supported-collation"
    return None


def matches(filter: Element | None, card: bytes) -> bool:
    """Whether a card is meant; all are where there is no filter. It breaks no condition."""
    if filter is None or len(filter) == 0:
        return True
    return _tested(filter, map(_Card(card).has, filter.findall(f"{CARD}prop-filter")))


def _tested(node: Element, outcomes: Iterable[bool]) -> bool:
    return all(outcomes) if node.get("test", "anyof") == "allof" else any(outcomes)


class _Card:
    """A card's properties by name. What is compared of them is made once, however many tests there are."""

    def __init__(self, card: bytes) -> None:
        self._lines = defaultdict[str, list[Line]](list)
        for line in card_lines(card):
            self._lines[line.name].append(line)
        self._value, self._parameters = cache(_value), cache(_parameters)
        self._folds = {collation: cache(fold) for collation, fold in _FOLDS.items()}

    def has(self, node: Element) -> bool:
        """Whether it is as a prop-filter says."""
        group, _, name = node.get("name", "").upper().rpartition(".")
        named = [line for line in self._lines[name] if group in ("", line.group)]
        if node.find(f"{CARD}is-not-defined") is not None:
            return not named
        texts, params = node.findall(f"{CARD}text-match"), node.findall(f"{CARD}param-filter")
        if not texts and not params:
            return bool(named)
        by_text = (any(self._text(each, [self._value(line)]) for line in named) for each in texts)
        return _tested(node, chain(by_text, (any(self._parameter(each, line) for line in named) for each in params)))

    def _parameter(self, node: Element, line: Line) -> bool:
        wanted = node.get("name", "").upper()
        values = [value for name, value in self._parameters(line) if name in (wanted, "")]
        if node.find(f"{CARD}is-not-defined") is not None:
            return not values
        match = node.find(f"{CARD}text-match")
        return bool(values) if match is None else self._text(match, values)

    def _text(self, node: Element, values: list[str]) -> bool:
        fold = self._folds[node.get("collation", UNICODE)]
        wanted = fold(node.text or "")
        test = _TESTS.get(node.get("match-type", "contains"), _TESTS["contains"])
        found = any(test(fold(value), wanted) for value in values)
        return found != (node.get("negate-condition") == "yes")


def _parameters(line: Line) -> list[tuple[str, str]]:
    return [(name, each) for name, value in parameters(line) for each in value.split(",")]


def _value(line: Line) -> str:
    try:
        return unescape(value_text(line))
    except ValueError:  # base64 that is none
        return ""


def _ascii(text: str) -> str:
    return "".join(c.lower() if c.isascii() else c for c in text)


def _unicode(text: str) -> str:
    """RFC 5051, by what Python has of it."""
    return unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold())


_FOLDS: dict[str, Callable[[str], str]] = {ASCII: _ascii, UNICODE: _unicode, "default": _unicode}
