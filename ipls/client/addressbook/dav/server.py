"""What a CardDAV request is answered with (RFC 4918, 6352, 6578): one principal, one home, one book."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from itertools import chain
from typing import NamedTuple
from urllib.parse import unquote_to_bytes
from xml.etree.ElementTree import Element

from ipls.client.addressbook.dav.book import Book, Resource, Summary, etag
from ipls.client.addressbook.dav.query import broken_condition, matches
from ipls.client.addressbook.dav.xml import (
    CARD,
    CS,
    DAV,
    PIECE,
    Answer,
    XmlRefused,
    document,
    element,
    href,
    multistatus,
    parse,
)
from ipls.client.addressbook.dav.xml import text as xml_text
from ipls.contacts.cards.lines import Card, is_endless, split_cards
from ipls.contacts.cards.reading import read_person
from ipls.contacts.whole import MAX_WHOLE

MAX_CARD = MAX_WHOLE - (1 << 16)
"""Bytes: it goes whole into the list, with what an envelope has beside its card."""
MAX_BODY = MAX_WHOLE + (1 << 20)
MAX_XML = 1024 * 1024
MAX_NAME = 255
ROOT, PRINCIPAL, HOME, BOOK = "/", "/principal/", "/books/", "/books/contacts/"
WELL_KNOWN = "/.well-known/carddav"
ALLOW = "OPTIONS, GET, HEAD, PUT, DELETE, PROPFIND, REPORT"
_CLASSES = "1, 3, addressbook"
_TYPES = ("text/vcard", "text/x-vcard", "text/directory")
_XML = {"Content-Type": 'application/xml; charset="utf-8"'}
_DATA = f"{CARD}address-data"
_TOKEN = "urn:ipls:sync:"  # noqa: S105


class Request(NamedTuple):
    """`path`: as it came, percent-encoded, without a query. `headers`: names in lower case."""

    method: str
    path: str
    headers: Mapping[str, str] = {}
    body: bytes = b""


class Response(NamedTuple):
    """What goes back; each piece of the body is made when the one before is on its way."""

    status: int
    headers: Mapping[str, str] = {}
    body: Iterable[bytes] = ()


def max_body(method: str) -> int:
    """Bytes that a request may have beside its head."""
    return MAX_BODY if method == "PUT" else MAX_XML


def answer(request: Request, book: Book) -> Response:
    """Of a request whose sender is known. What it changes is durable."""
    path = _decoded(request.path)
    if path is None:
        return Response(400)
    if path.rstrip("/") == WELL_KNOWN:
        return Response(301, {"Location": ROOT})
    if request.method == "OPTIONS":
        return Response(200, {"DAV": _CLASSES, "Allow": ALLOW})
    name = path.removeprefix(BOOK) if path.startswith(BOOK) and path != BOOK else None
    if name is not None and not _is_name(name):
        return Response(404)
    by_method: dict[str, Callable[[Request, Book, str], Response]] = (
        {"GET": _get, "HEAD": _get, "PUT": _put, "DELETE": _delete, "PROPFIND": _propfind_card}
        if name is not None
        else {"PROPFIND": _propfind, "REPORT": _report}
    )
    if request.method not in by_method:
        return Response(405, {"Allow": ALLOW})
    try:
        return by_method[request.method](request, book, path if name is None else name)
    except XmlRefused:
        return Response(400)


def _decoded(path: str) -> str | None:
    """Once, and no more."""
    try:
        decoded = unquote_to_bytes(path).decode()
    except UnicodeDecodeError:
        return None
    return decoded if "\0" not in decoded else None


def _is_name(name: str) -> bool:
    return "/" not in name and name not in (".", "..") and len(name.encode()) <= MAX_NAME


def _refused(status: int, condition: str, content: str = "") -> Response:
    return Response(status, _XML, [document(f"{DAV}error", element(condition, content))])


# One card


def _get(request: Request, book: Book, name: str) -> Response:
    resource = book.resource(name)
    if resource is None:
        return Response(404)
    headers = {"ETag": resource.etag, "Content-Type": "text/vcard; charset=utf-8"}
    if request.headers.get("if-none-match") in (resource.etag, "*"):
        return Response(304, headers)
    data = resource.data
    headers["Content-Length"] = str(len(data))
    pieces = (data[at : at + PIECE] for at in range(0, len(data), PIECE))
    return Response(200, headers, pieces if request.method == "GET" else ())


def _put(request: Request, book: Book, name: str) -> Response:
    kind = request.headers.get("content-type", "text/vcard").partition(";")[0].strip().lower()
    if kind not in _TYPES:
        return _refused(403, f"{CARD}supported-address-data")
    if len(request.body) > MAX_CARD:
        return _refused(403, f"{CARD}max-resource-size")
    if is_endless(request.body):
        return _refused(403, f"{CARD}valid-address-data")
    part = next(split_cards(request.body), None)
    card = part.data if isinstance(part, Card) else b""
    end = request.body.removeprefix(card)
    uid = read_person(card).uid
    if not card or not request.body.startswith(card) or end.strip(b"\r\n") or not uid:
        return _refused(403, f"{CARD}valid-address-data")
    with book.transaction():
        there = book.resource(name)
        if not _is_allowed(request, there):
            return Response(412)
        other = book.with_uid(uid)
        if other not in (None, name):
            return _refused(409, f"{CARD}no-uid-conflict", href(f"{BOOK}{other}"))
        if there is None or there.data != request.body:
            book.put(name, card, end)
    return Response(204 if there else 201, {"ETag": etag(request.body)})


def _delete(request: Request, book: Book, name: str) -> Response:
    with book.transaction():
        there = book.resource(name)
        if there is None:
            return Response(404)
        if not _is_allowed(request, there):
            return Response(412)
        book.put(name, None)
    return Response(204)


def _is_allowed(request: Request, there: Resource | None) -> bool:
    """By If-Match and If-None-Match (RFC 9110, 13)."""
    match, none_match = (
        [each.strip() for each in request.headers.get(name, "").split(",") if each.strip()]
        for name in ("if-match", "if-none-match")
    )
    if match and (there is None or not {"*", there.etag} & set(match)):
        return False
    return not (none_match and there is not None and {"*", there.etag} & set(none_match))


# Properties


def _propfind_card(request: Request, book: Book, name: str) -> Response:
    wanted = _wanted(request.body)
    if book.resource(name) is None:
        return Response(404)
    return Response(207, _XML, multistatus([_read(book, name, wanted)]))


def _propfind(request: Request, book: Book, path: str) -> Response:
    path = path if path.endswith("/") else f"{path}/"
    depth = request.headers.get("depth", "infinity")
    if path not in (ROOT, PRINCIPAL, HOME, BOOK):
        return Response(404)
    if depth not in ("0", "1"):
        return _refused(403, f"{DAV}propfind-finite-depth")
    wanted = _wanted(request.body)
    below = {ROOT: (PRINCIPAL, HOME), HOME: (BOOK,)}.get(path, ()) if depth == "1" else ()
    answers = [Answer(each, None, _of_collection(each, book, wanted)) for each in (path, *below)]
    cards = [each.summary for each in book.resources()] if depth == "1" and path == BOOK else []
    return Response(207, _XML, multistatus(chain(answers, _cards(book, cards, wanted))))


def _wanted(body: bytes) -> list[str] | None:
    """The names of properties; None: all of them."""
    if not body.strip():
        return None
    return _names(parse(body).find(f"{DAV}prop"))


def _names(prop: Element | None) -> list[str] | None:
    """Each once: who repeats one asks for no more."""
    return None if prop is None else list(dict.fromkeys(each.tag for each in prop if isinstance(each.tag, str)))


def _chosen(properties: Mapping[str, str], wanted: list[str] | None) -> Mapping[str, str | None]:
    return properties if wanted is None else {name: properties.get(name) for name in wanted}


def _of_collection(path: str, book: Book, wanted: list[str] | None) -> Mapping[str, str | None]:
    kinds = [f"{DAV}collection", *{PRINCIPAL: [f"{DAV}principal"], BOOK: [f"{CARD}addressbook"]}.get(path, [])]
    properties = {
        f"{DAV}resourcetype": "".join(map(element, kinds)),
        f"{DAV}displayname": "IPLS",
        f"{DAV}current-user-principal": href(PRINCIPAL),
        f"{DAV}principal-URL": href(PRINCIPAL),
        f"{CARD}addressbook-home-set": href(HOME),
    }
    if path == BOOK:
        token = sync_token(book)
        reports = (f"{CARD}addressbook-multiget", f"{CARD}addressbook-query", f"{DAV}sync-collection")
        properties |= {
            f"{DAV}sync-token": xml_text(token),
            f"{CS}getctag": xml_text(token),
            f"{CARD}max-resource-size": str(MAX_CARD),
            f"{CARD}supported-address-data": "".join(
                f'<C:address-data-type content-type="text/vcard" version="{version}"/>' for version in ("3.0", "4.0")
            ),
            f"{DAV}supported-report-set": "".join(
                element(f"{DAV}supported-report", element(f"{DAV}report", element(report))) for report in reports
            ),
            f"{DAV}current-user-privilege-set": "".join(
                element(f"{DAV}privilege", element(f"{DAV}{right}")) for right in ("read", "write")
            ),
        }
    return _chosen(properties, wanted)


def _cards(book: Book, found: Iterable[Summary], wanted: list[str] | None) -> Iterator[Answer]:
    """What is said of these; one whose bytes are wanted is read when it is its turn."""
    for each in found:
        if each.removed:
            yield Answer(BOOK + each.href, 404)
        elif wanted is not None and _DATA in wanted:
            yield _read(book, each.href, wanted)
        else:
            yield Answer(BOOK + each.href, None, _of_card(each, wanted))


def _read(book: Book, name: str, wanted: list[str] | None) -> Answer:
    """What is said of the card that is there now."""
    resource = book.reread(name)
    if resource is None:
        return Answer(BOOK + name, 404)
    data = resource.data if wanted is not None and _DATA in wanted else None
    return Answer(BOOK + name, None, _of_card(resource.summary, wanted), card=data)


def _of_card(card: Summary, wanted: list[str] | None) -> Mapping[str, str | None]:
    properties = {
        f"{DAV}resourcetype": "",
        f"{DAV}getetag": xml_text(card.etag),
        f"{DAV}getcontenttype": "text/vcard; charset=utf-8",
        f"{DAV}getcontentlength": str(card.size),
        f"{DAV}current-user-principal": href(PRINCIPAL),
    }
    return _chosen(properties, wanted)


def sync_token(book: Book) -> str:
    """Of what is there now."""
    state = book.state
    return f"{_TOKEN}{state.id}:{state.number}"


# Reports


def _report(request: Request, book: Book, path: str) -> Response:
    if not f"{path}/".startswith(BOOK):
        return Response(404)
    root = parse(request.body)
    reports = {
        f"{CARD}addressbook-multiget": _multiget,
        f"{CARD}addressbook-query": _query,
        f"{DAV}sync-collection": _sync_collection,
    }
    if root.tag not in reports:
        return _refused(403, f"{DAV}supported-report")
    data = root.find(f"{DAV}prop/{CARD}address-data")
    if data is not None and data.get("content-type", _TYPES[0]).lower() not in _TYPES:
        return _refused(403, f"{CARD}supported-address-data")
    return reports[root.tag](root, book, _names(root.find(f"{DAV}prop")))


def _multiget(root: Element, book: Book, wanted: list[str] | None) -> Response:
    # Each once: who repeats one asks for no more.
    paths = dict.fromkeys(_decoded((each.text or "").strip()) or "" for each in root.findall(f"{DAV}href"))
    answers = (
        _read(book, path.removeprefix(BOOK), wanted) if path.startswith(BOOK) else Answer(path, 404) for path in paths
    )
    return Response(207, _XML, multistatus(answers))


def _query(root: Element, book: Book, wanted: list[str] | None) -> Response:
    filter = root.find(f"{CARD}filter")
    if condition := broken_condition(filter):
        return _refused(403, condition)
    found = [each.summary for each in book.resources() if matches(filter, each.card)]
    limit = _limit(root.find(f"{CARD}limit/{CARD}nresults"))
    shown = found[:limit]
    return Response(207, _XML, multistatus(chain(_cards(book, shown, wanted), _rest(shown, found))))


def _sync_collection(root: Element, book: Book, wanted: list[str] | None) -> Response:
    state = book.state
    since = _since(root.findtext(f"{DAV}sync-token") or "", book)
    if since is None or root.findtext(f"{DAV}sync-level", "1").strip() != "1":
        return _refused(403, f"{DAV}valid-sync-token")
    changed = [each for each in book.changed_since(since) if since or not each.removed]
    limit = _limit(root.find(f"{DAV}limit/{DAV}nresults"))
    shown = changed[:limit]
    number = state.number
    if len(shown) < len(changed):
        number = shown[-1].number if shown else since
    answers = chain(_cards(book, shown, wanted), _rest(shown, changed))
    return Response(207, _XML, multistatus(answers, f"{_TOKEN}{state.id}:{number}"))


def _rest(shown: Sized, found: Sized) -> list[Answer]:
    """That there is more, if there is."""
    more = len(shown) < len(found)
    return [Answer(BOOK, 507, error=f"{DAV}number-of-matches-within-limits")] if more else []


def _since(token: str, book: Book) -> int | None:
    """The change that a token is of; 0 without one, None for one that is another's or can't be answered."""
    state, token = book.state, token.strip()
    if not token:
        return 0
    profile, _, number = token.removeprefix(_TOKEN).partition(":")
    if not token.startswith(_TOKEN) or profile != state.id or not (number.isascii() and number.isdecimal()):
        return None
    if len(number) > 18 or not state.forgotten <= int(number) <= state.number:
        return None
    return int(number)


def _limit(node: Element | None) -> int | None:
    digits = (node.text or "").strip() if node is not None else ""
    return int(digits) if digits.isascii() and digits.isdecimal() and len(digits) < 10 else None
