"""What CardDAV has in XML: read without entities or document types, written with CR as a reference, which else no
reader would see.

Tested by tests/client/addressbook/dav/test_server.py and tests/attack/test_carddav.py.
"""

import re
from codecs import getincrementaldecoder
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import NamedTuple
from urllib.parse import quote
from xml.etree.ElementTree import Element, ParseError, TreeBuilder
from xml.sax.saxutils import escape, quoteattr

from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import XMLParser

from ipls.client.errors import SideError

DAV = "{DAV:}"
CARD = "{urn:ietf:params:xml:ns:carddav}"
CS = "{http://calendarserver.org/ns/}"
_PREFIXES = {DAV[1:-1]: "D", CARD[1:-1]: "C", CS[1:-1]: "S"}
_NAMESPACES = " ".join(f'xmlns:{prefix}="{name}"' for name, prefix in _PREFIXES.items())
MAX_NAME = 255
"""Letters of a name, and of its namespace. The shortest prefix stands for a whole namespace in each of its names."""
MAX_NAMES = 100
"""Different ones in a request: it is answered for each of them and each card."""
PIECE = 1 << 16
"""Characters of an answer that are made at once, or somewhat more."""
_HOLE = "\0"  # where a card goes; it can't stand in XML
_ILLEGAL = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class XmlRefused(SideError):
    """It is no XML, or has in it what could cost more than it is long."""

    def __init__(self) -> None:
        super().__init__(
            "DAV_XML_REFUSED", "the program's request is no XML, has a document type, or too many or long names"
        )


class Answer(NamedTuple):
    """About one href: a status line's number, or its properties (those that it does not have: None), and its card, if
    it is to be among them."""

    href: str
    status: int | None
    properties: Mapping[str, str | None] = {}
    error: str = ""
    card: bytes | None = None


class _Bounded(TreeBuilder):
    """Refuses names while they are read, before they take memory."""

    def __init__(self) -> None:
        super().__init__()
        self._names: set[str] = set()

    def start_ns(self, prefix: str, uri: str) -> None:
        if len(uri) > MAX_NAME:
            raise XmlRefused

    def start(self, tag: str, attrs: dict[str, str], /) -> Element:
        self._names.update((tag, *attrs))
        if len(self._names) > MAX_NAMES or len(tag.rpartition("}")[2]) > MAX_NAME:
            raise XmlRefused
        return super().start(tag, attrs)


def parse(body: bytes) -> Element:
    """Raises XmlRefused."""
    parser = XMLParser(target=_Bounded(), forbid_dtd=True)
    try:
        parser.feed(body)
        root: Element = parser.close()
    except (ParseError, DefusedXmlException, ValueError, LookupError) as error:
        raise XmlRefused from error
    return root


def text(value: str) -> str:
    """As it can stand in an element."""
    return escape(_ILLEGAL.sub("\ufffd", value)).replace("\r", "&#13;")


def element(name: str, content: str = "") -> str:
    """`name`: {namespace}name. `content`: XML."""
    namespace, _, plain = name[1:].rpartition("}") if name[0] == "{" else ("", "", name)
    prefix = _PREFIXES.get(namespace)
    if prefix:
        tag = opened = f"{prefix}:{plain}"
    else:
        tag, opened = f"x:{plain}", f"x:{plain} xmlns:x={quoteattr(namespace)}"
        if not namespace:
            tag = opened = plain
    return f"<{opened}>{content}</{tag}>" if content else f"<{opened}/>"


def href(path: str) -> str:
    """A path, as an element."""
    return element(f"{DAV}href", text(quote(path)))


def document(name: str, content: str) -> bytes:
    """A whole one."""
    body = element(name, content)
    end = body.index("/>") if not content else body.index(">")
    return f'<?xml version="1.0" encoding="utf-8"?>\n{body[:end]} {_NAMESPACES}{body[end:]}\n'.encode()


def multistatus(answers: Iterable[Answer], token: str = "") -> Iterator[bytes]:
    """RFC 4918, 13; `token`: RFC 6578. The answers are asked for one by one, and no card is in memory twice."""
    begin, end = document(f"{DAV}multistatus", _HOLE).decode().split(_HOLE)
    last = element(f"{DAV}sync-token", text(token)) if token else ""
    there: list[str] = []
    size = 0
    for piece in chain([begin], chain.from_iterable(map(_response, answers)), [last, end]):
        there.append(piece)
        size += len(piece)
        if size >= PIECE:
            yield "".join(there).encode()
            there, size = [], 0
    yield "".join(there).encode()


def _response(answer: Answer) -> Iterator[str]:
    if answer.status is not None:
        error = element(f"{DAV}error", element(answer.error)) if answer.error else ""
        yield element(f"{DAV}response", href(answer.href) + _status(answer.status) + error)
        return
    properties = dict(answer.properties)
    if answer.card is not None:
        properties[f"{CARD}address-data"] = _HOLE
    stats = ""
    for status, has in ((200, True), (404, False)):
        of_this = [element(name, value or "") for name, value in properties.items() if (value is not None) == has]
        if of_this:
            stats += element(f"{DAV}propstat", element(f"{DAV}prop", "".join(of_this)) + _status(status))
    if not stats:
        stats = element(f"{DAV}propstat", element(f"{DAV}prop") + _status(200))
    before, hole, after = element(f"{DAV}response", href(answer.href) + stats).partition(_HOLE)
    yield before
    if hole:
        yield from _texts(answer.card or b"")
        yield after


def _texts(card: bytes) -> Iterator[str]:
    decoder = getincrementaldecoder("utf-8")("replace")
    for at in range(0, len(card), PIECE):
        yield text(decoder.decode(card[at : at + PIECE]))
    yield text(decoder.decode(b"", True))


def _status(code: int) -> str:
    reason = {200: "OK", 404: "Not Found", 507: "Insufficient Storage"}[code]
    return element(f"{DAV}status", f"HTTP/1.1 {code} {reason}")
