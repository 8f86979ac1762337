"""The CardDAV server over HTTP (addressbooks.md, CardDAV)."""

from collections.abc import Iterator
from urllib.parse import quote
from xml.etree import ElementTree

import pytest

from ipls.client.addressbook.dav.book import KEPT_MS, etag
from ipls.client.addressbook.dav.server import MAX_CARD
from ipls.contacts.cards.reading import read_card
from ipls.contacts.envelope import Placement
from ipls.contacts.sealing import MAX_ENVELOPE, id_of_uid
from tests.client.addressbook.dav.rig import Answered, Server, serving
from tests.client.addressbook.rig import LABEL, NOW_MS, card, number

D, C = "{DAV:}", "{urn:ietf:params:xml:ns:carddav}"
BOOK = "/books/contacts/"


class Clock:
    def __init__(self) -> None:
        self.ms = NOW_MS


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def server(clock: Clock) -> Iterator[Server]:
    with serving(now_ms=lambda: clock.ms) as server:
        yield server


def put(server: Server, name: str, data: bytes, **headers: str) -> Answered:
    return server.ask("PUT", BOOK + quote(name), data, Content_Type="text/vcard; charset=utf-8", **headers)


def body(kind: str, content: str = "") -> bytes:
    prefix = "D" if kind == "sync-collection" else "C"
    return (
        f'<{prefix}:{kind} xmlns:D="DAV:" xmlns:C="urn:ietf:params:xml:ns:carddav">'
        f"<D:prop><D:getetag/><C:address-data/></D:prop>{content}</{prefix}:{kind}>"
    ).encode()


def report(server: Server, kind: str, content: str = "") -> dict[str, str | None]:
    """address-data by name, of a removed one None; and the token."""
    answer = server.ask("REPORT", BOOK, body(kind, content))
    assert answer.status == 207, answer
    root = ElementTree.fromstring(answer.body)
    found = {
        each.findtext(f"{D}href", "").removeprefix(BOOK): each.findtext(f".//{C}address-data")
        if "200" in (each.findtext(f".//{D}status") or "")
        else None
        for each in root.findall(f"{D}response")
    }
    return found | ({"token": token} if (token := root.findtext(f"{D}sync-token")) else {})


def large(size: int) -> bytes:
    """A card of so many bytes: of letters that take one to four of them, with a picture."""
    with_picture = card("a", "Ada", "NOTE:" + "aé€🙂" * 20_000, "PHOTO;ENCODING=b:")
    return with_picture.replace(b"ENCODING=b:", b"ENCODING=b:" + b"A" * (size - len(with_picture)))


def names(server: Server) -> list[str]:
    answer = server.ask("PROPFIND", BOOK, Depth="1")
    hrefs = [each.findtext(f"{D}href", "") for each in ElementTree.fromstring(answer.body)]
    return sorted(each.removeprefix(BOOK) for each in hrefs if each != BOOK)


def condition(answer: Answered) -> str:
    """Of an error's body, what was not so."""
    root = ElementTree.fromstring(answer.body)
    assert root.tag == f"{D}error"
    return root[0].tag


# Finding it


def test_a_client_that_knows_the_host_finds_the_book(server):
    known = server.ask("PROPFIND", "/.well-known/carddav")
    assert (known.status, known.headers["location"]) == (301, "/")
    asked = b'<propfind xmlns="DAV:"><prop><current-user-principal/></prop></propfind>'
    root = ElementTree.fromstring(server.ask("PROPFIND", "/", asked, Depth="0").body)
    principal = root.findtext(f".//{D}current-user-principal/{D}href")
    home = ElementTree.fromstring(server.ask("PROPFIND", principal, Depth="0").body)
    below = server.ask("PROPFIND", home.findtext(f".//{C}addressbook-home-set/{D}href"), Depth="1")
    books = [
        each.findtext(f"{D}href")
        for each in ElementTree.fromstring(below.body)
        if each.find(f".//{D}resourcetype/{C}addressbook") is not None
    ]
    assert books == [BOOK]
    options = server.ask("OPTIONS", BOOK)
    assert options.headers["dav"] == "1, 3, addressbook"
    assert condition(server.ask("PROPFIND", BOOK, Depth="infinity")) == f"{D}propfind-finite-depth"
    asked = b'<propfind xmlns="DAV:"><prop><getetag/><x xmlns="urn:&quot;&gt;"/></prop></propfind>'
    unknown = server.ask("PROPFIND", BOOK, asked, Depth="0")
    assert ElementTree.fromstring(unknown.body).find('.//{urn:">}x') is not None


# Cards


def test_get_returns_what_was_put_byte_for_byte_until_the_contact_changes(server):
    data = (
        card("a", "Ada", "X-ODD;P=1:  kept ", "PHOTO;ENCODING=b:iVBO\r\n RwAA", "item1.TEL:1").replace(b"FN", b"fn")
        + b"\r\n"
    )
    answer = put(server, "client's own name", data, If_None_Match="*")
    assert (answer.status, answer.headers["etag"]) == (201, etag(data))
    got = server.ask("GET", "/books/contacts/client%27s%20own%20name")
    assert (got.body, got.headers["etag"]) == (data, etag(data))
    assert names(server) == ["client%27s%20own%20name"]  # the list takes it
    assert server.run(server.profile.cards) == [data[:-2]]
    assert server.ask("GET", "/books/contacts/client%27s%20own%20name").body == data
    edited = data[:-2].replace(b"fn:Ada", b"FN:Augusta").replace(b"\r\n", b"\n")
    server.run(server.profile.put, id_of_uid(LABEL, "a"), edited)
    names(server)
    ours = server.ask("GET", "/books/contacts/client%27s%20own%20name")
    assert ours.body == data.replace(b"fn:Ada", b"FN:Augusta")
    assert ours.headers["etag"] != etag(data)
    assert (
        server.ask("GET", "/books/contacts/client%27s%20own%20name", If_None_Match=ours.headers["etag"]).status == 304
    )


def test_what_the_list_has_comes_to_a_client_and_what_a_client_removes_goes_from_the_list(server):
    for n in (1, 2):
        server.run(server.profile.put, number(n), card(f"u{n}", f"Person {n}"))
    assert names(server) == ["u1.vcf", "u2.vcf"]
    assert server.ask("DELETE", BOOK + "u1.vcf").status == 204
    assert server.ask("GET", BOOK + "u1.vcf").status == 404
    assert names(server) == ["u2.vcf"]
    assert server.run(server.profile.cards) == [card("u2", "Person 2")]


def test_a_write_by_an_old_etag_is_refused_and_changes_nothing(server):
    first = put(server, "a.vcf", card("a", "First")).headers["etag"]
    assert put(server, "a.vcf", card("a", "Again"), If_None_Match="*").status == 412
    second = put(server, "a.vcf", card("a", "Second"), If_Match=first).headers["etag"]
    assert put(server, "a.vcf", card("a", "Lost update"), If_Match=first).status == 412
    assert server.ask("DELETE", BOOK + "a.vcf", If_Match=first).status == 412
    assert put(server, "new.vcf", card("n", "New"), If_Match=first).status == 412
    assert server.ask("GET", BOOK + "a.vcf").headers["etag"] == second
    assert server.ask("DELETE", BOOK + "a.vcf", If_Match=second).status == 204


@pytest.mark.parametrize(
    ("data", "kind", "why"),
    [
        (b"hello", "text/vcard", "valid-address-data"),
        (card("a", "Ada") + card("b", "Bo"), "text/vcard", "valid-address-data"),
        (card(None, "No UID"), "text/vcard", "valid-address-data"),
        (card("a", "Ada")[:-3], "text/vcard", "valid-address-data"),
        (card("a", "Ada"), "application/json", "supported-address-data"),
    ],
)
def test_what_is_no_card_is_refused_and_why(server, data, kind, why):
    answer = server.ask("PUT", BOOK + "a.vcf", data, Content_Type=kind)
    assert (answer.status, condition(answer)) == (403, C + why)
    assert server.ask("GET", BOOK + "a.vcf").status == 404


@pytest.mark.parametrize("size", [MAX_ENVELOPE + 1, MAX_CARD])
def test_a_large_card_comes_and_goes_byte_for_byte(server, size):
    """From what fits in one record up to what the list takes."""
    data = large(size)
    answer = put(server, "a.vcf", data)
    assert (answer.status, answer.headers["etag"]) == (201, etag(data))
    assert names(server) == ["a.vcf"]  # the list takes it
    assert server.run(server.profile.cards) == [data]
    got = server.ask("GET", BOOK + "a.vcf")
    assert (got.body, got.headers["content-length"]) == (data, str(size))
    head = server.ask("HEAD", BOOK + "a.vcf")
    assert (head.body, head.headers["content-length"]) == (b"", str(size))
    assert report(server, "addressbook-multiget", f"<D:href>{BOOK}a.vcf</D:href>")["a.vcf"] == data.decode()


def test_a_card_beyond_what_the_list_takes_is_refused_and_the_one_before_stays(server):
    put(server, "a.vcf", card("a", "Ada"))
    answer = put(server, "a.vcf", large(MAX_CARD + 1))
    assert (answer.status, condition(answer)) == (403, C + "max-resource-size")
    assert server.ask("GET", BOOK + "a.vcf").body == card("a", "Ada")
    asked = (
        b'<propfind xmlns="DAV:"><prop><max-resource-size xmlns="urn:ietf:params:xml:ns:carddav"/></prop></propfind>'
    )
    said = ElementTree.fromstring(server.ask("PROPFIND", BOOK, asked, Depth="0").body)
    assert said.findtext(f".//{C}max-resource-size") == str(MAX_CARD)


def test_one_uid_is_at_one_place(server):
    put(server, "a b.vcf", card("a", "Ada"))
    answer = put(server, "other.vcf", card("a", "Copy"))
    assert (answer.status, condition(answer)) == (409, C + "no-uid-conflict")
    assert b"/books/contacts/a%20b.vcf" in answer.body
    server.ask("DELETE", BOOK + "a%20b.vcf")
    assert put(server, "other.vcf", card("a", "Moved")).status == 201


# Reports


def test_a_report_keeps_the_carriage_returns_and_what_xml_can_not_say_is_replaced(server):
    put(server, "a.vcf", card("a", "A & <b> ]]>", "NOTE:\x01"))
    found = report(server, "addressbook-multiget", f"<D:href>{BOOK}a.vcf</D:href><D:href>{BOOK}none.vcf</D:href>")
    assert found == {"a.vcf": card("a", "A & <b> ]]>", "NOTE:\ufffd").decode(), "none.vcf": None}


@pytest.mark.parametrize(
    ("filter", "found"),
    [
        ('<C:prop-filter name="FN"><C:text-match>lovelace</C:text-match></C:prop-filter>', ["a"]),
        ('<C:prop-filter name="FN"><C:text-match match-type="starts-with">ÁDA</C:text-match></C:prop-filter>', ["a"]),
        (
            '<C:prop-filter name="FN"><C:text-match collation="i;ascii-casemap" match-type="starts-with">ÁDA'
            "</C:text-match></C:prop-filter>",
            ["a"],
        ),
        (
            '<C:prop-filter name="FN"><C:text-match collation="i;ascii-casemap" match-type="starts-with">áda'
            "</C:text-match></C:prop-filter>",
            [],
        ),
        ('<C:prop-filter name="EMAIL"><C:is-not-defined/></C:prop-filter>', ["a"]),
        ('<C:prop-filter name="email"/>', ["b"]),
        (
            '<C:prop-filter name="FN"><C:text-match negate-condition="yes">lovelace</C:text-match></C:prop-filter>',
            ["b"],
        ),
        (
            '<C:prop-filter name="EMAIL"><C:param-filter name="TYPE"><C:text-match match-type="equals">work'
            "</C:text-match></C:param-filter></C:prop-filter>",
            ["b"],
        ),
        ("", ["a", "b"]),
    ],
)
def test_a_query_finds_who_is_meant(server, filter, found):
    put(server, "a", card("a", "Áda Lovelace"))
    put(server, "b", card("b", "Bo", "EMAIL;TYPE=WORK:bo@example.org"))
    assert sorted(report(server, "addressbook-query", f"<C:filter>{filter}</C:filter>")) == found


def test_a_query_by_parameters_and_groups_holds_all_tests_that_are_asked_for(server):
    put(server, "a", card("a", "Ada", "item1.TEL;TYPE=HOME,CELL:1", "TEL;TYPE=WORK:2"))

    def found(test: str, *inner: str, name: str = "TEL") -> bool:
        filter = f'<C:prop-filter name="{name}" test="{test}">{"".join(inner)}</C:prop-filter>'
        return bool(report(server, "addressbook-query", f"<C:filter>{filter}</C:filter>"))

    cell = '<C:param-filter name="TYPE"><C:text-match match-type="equals">cell</C:text-match></C:param-filter>'
    two, none = "<C:text-match>2</C:text-match>", "<C:text-match>9</C:text-match>"
    assert [found("anyof", cell, none), found("allof", cell, none), found("allof", cell, two)] == [True, False, True]
    assert [found("allof", cell, name="item1.TEL"), found("allof", two, name="item1.TEL")] == [True, False]


def test_a_query_by_another_collation_is_refused_and_one_with_a_limit_says_that_there_are_more(server):
    for name in "abc":
        put(server, name, card(name, "Person"))
    other = (
        '<C:filter><C:prop-filter name="FN"><C:text-match collation="i;x">a</C:text-match></C:prop-filter></C:filter>'
    )
    answer = server.ask("REPORT", BOOK, body("addressbook-query", other))
    assert (answer.status, condition(answer)) == (403, C + "supported-collation")
    answer = server.ask("REPORT", BOOK, body("addressbook-query", "<C:limit><C:nresults>2</C:nresults></C:limit>"))
    statuses = [each.findtext(f".//{D}status") for each in ElementTree.fromstring(answer.body)]
    assert statuses == ["HTTP/1.1 200 OK", "HTTP/1.1 200 OK", "HTTP/1.1 507 Insufficient Storage"]


def test_a_client_is_told_what_changed_since_its_token_removals_too(server):
    for name in "abc":
        put(server, name, card(name, "Person"))
    first = report(server, "sync-collection", "<D:sync-token/>")
    assert sorted(first) == ["a", "b", "c", "token"]
    again = report(server, "sync-collection", f"<D:sync-token>{first['token']}</D:sync-token>")
    assert again == {"token": first["token"]}
    server.ask("DELETE", BOOK + "a")
    put(server, "b", card("b", "Changed"))
    server.run(server.profile.put, number(4), card("d", "From elsewhere"))
    changed = report(server, "sync-collection", f"<D:sync-token>{first['token']}</D:sync-token>")
    assert (changed["a"], changed["b"]) == (None, card("b", "Changed").decode())
    assert sorted(changed) == ["a", "b", "d.vcf", "token"]


def test_a_client_that_asks_for_few_gets_all_in_several_answers(server):
    for name in "abcde":
        put(server, name, card(name, "Person"))
    seen: set[str] = set()
    token = ""
    for _ in range(3):
        limit = "<D:limit><D:nresults>2</D:nresults></D:limit>"
        found = report(server, "sync-collection", f"<D:sync-token>{token}</D:sync-token>{limit}")
        token = found.pop("token")
        seen |= found.keys()
    assert seen == {*"abcde", ""}  # "": that there is more


@pytest.mark.parametrize("bad", ["another profile's", "of the future", "none", "too old", "huge"])
def test_a_token_that_can_not_be_answered_is_refused(server, clock, bad):
    for name in "ab":
        put(server, name, card(name, "Person"))
    token = report(server, "sync-collection", "<D:sync-token/>")["token"]
    profile, _, count = token.rpartition(":")
    if bad == "too old":
        server.ask("DELETE", BOOK + "a")
        clock.ms += KEPT_MS + 1
    wrong = {
        "another profile's": f"urn:ipls:sync:{'0' * 32}:{count}",
        "of the future": f"{profile}:{int(count) + 1}",
        "none": "http://example.org/sync/1",
        "huge": f"{profile}:{'9' * 5000}",
    }.get(bad, token)
    answer = server.ask("REPORT", BOOK, body("sync-collection", f"<D:sync-token>{wrong}</D:sync-token>"))
    assert (answer.status, condition(answer)) == (403, f"{D}valid-sync-token")


def test_many_removals_by_a_client_go_from_the_list_only_when_a_person_says_so(server):
    for n in range(12):
        put(server, f"{n}.vcf", card(f"u{n}", "Person"))
    names(server)
    for n in range(12):
        server.ask("DELETE", f"{BOOK}{n}.vcf")
    assert names(server) == []
    assert len(server.run(server.profile.cards)) == 12


def test_a_card_that_is_for_ipls_only_is_not_served(server):
    server.run(server.profile.put, number(1), card("a", "Secret"))
    assert names(server) == ["a.vcf"]
    entry = server.run(server.profile.list.entries)[number(1)]
    server.run(lambda: server.profile.put(number(1), entry.card, placement=Placement.IPLS_ONLY))
    assert names(server) == []
    assert read_card(server.run(server.profile.cards)[0]).name == "Secret"
