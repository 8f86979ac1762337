"""Who else is on this machine, and the pages in its browsers, against the CardDAV server of a profile."""

import base64
import select
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from ipls.client.addressbook.dav import access
from ipls.client.addressbook.dav.access import TRIES, WAIT_S, is_local
from ipls.client.addressbook.dav.book import Book, Resource
from ipls.client.addressbook.dav.server import MAX_CARD
from ipls.contacts.cards.lines import MOST_LINES
from ipls.contacts.sealing import id_of_uid
from ipls.http.handled import AT_ONCE, MAX_WAITING
from tests.client.addressbook.dav.rig import CLIENT, OTHER, Server, serving
from tests.client.addressbook.rig import LABEL, card

BOOK = "/books/contacts/"


class Clock:
    s = 0.0


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def server(clock: Clock) -> Iterator[Server]:
    with serving(clock_s=lambda: clock.s) as server:
        assert server.ask("PUT", BOOK + "a.vcf", card("a", "Ada"), Content_Type="text/vcard").status == 201
        yield server


def basic(name: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "10.0.0.1", "", "[::2]"])
def test_a_page_whose_name_was_turned_to_this_machine_reads_nothing(server, host):
    """DNS rebinding: the browser believes that it still talks to the page's own host, with the password it knows."""
    for method, path in (("GET", BOOK + "a.vcf"), ("PROPFIND", BOOK), ("DELETE", BOOK + "a.vcf"), ("OPTIONS", "/")):
        answer = server.ask(method, path, Host=host)
        assert (answer.status, answer.body) == (421, b"")
    assert server.ask("GET", BOOK + "a.vcf").status == 200


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:5232", "127.0.0.1:1", "127.3.2.1", "[::1]:80", "[::1]"])
def test_this_machine_s_own_names_are_served(host):
    assert is_local(host)


def test_a_page_is_given_no_leave_to_read(server):
    preflight = {"Origin": "https://evil.example", "Access_Control_Request_Method": "PROPFIND"}
    for method, path in (("OPTIONS", BOOK), ("GET", BOOK + "a.vcf")):
        answer = server.ask(method, path, **preflight)
        assert not [name for name in answer.headers if name.startswith("access-control")]


@pytest.mark.parametrize(
    "authorization",
    [
        "",
        "Basic",
        "Basic !!!",
        "Bearer x",
        basic(CLIENT, ""),
        basic("", ""),
        basic("other", "x"),
        "Basic " + "A" * 9999,
    ],
)
def test_without_the_password_nothing_is_served(server, authorization):
    for method, path in (("GET", BOOK + "a.vcf"), ("PROPFIND", BOOK), ("PUT", BOOK + "b.vcf"), ("OPTIONS", "/")):
        answer = server.ask(method, path, card("b", "Bo"), Authorization=authorization)
        assert answer.status == 401
        assert answer.headers["www-authenticate"].startswith("Basic ")


def test_after_ten_wrong_passwords_none_is_looked_at_for_a_minute_and_other_clients_go_on(server, clock):
    other = basic(OTHER, server.other_password)
    for n in range(TRIES):
        assert server.ask("GET", BOOK + "a.vcf", Authorization=basic(CLIENT, f"guess {n}")).status == 401
    waiting = server.ask("GET", BOOK + "a.vcf")  # by the right one
    assert (waiting.status, waiting.headers["retry-after"]) == (429, str(WAIT_S))
    assert server.ask("GET", BOOK + "a.vcf", Authorization=other).status == 200
    clock.s += WAIT_S
    assert server.ask("GET", BOOK + "a.vcf").status == 200


def test_guesses_are_counted_again_after_the_wait(server, clock):
    for _ in range(2):
        for n in range(TRIES):
            assert server.ask("GET", BOOK + "a.vcf", Authorization=basic(CLIENT, f"guess {n}")).status == 401
        assert server.ask("GET", BOOK + "a.vcf").status == 429
        clock.s += WAIT_S


BOMB = (
    b'<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa">'
    + b"".join(b'<!ENTITY %c "%s">' % (c + 1, b"&%c;" % c * 10) for c in b"abcdefgh")
    + b']><propfind xmlns="DAV:"><prop>&i;</prop></propfind>'
)
EXTERNAL = b'<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]><propfind xmlns="DAV:"><prop>&e;</prop></propfind>'
DEEP = b'<propfind xmlns="DAV:">' + b"<a>" * 100_000


def asked_for(*names: str, namespace: str = "urn:x") -> bytes:
    wanted = "".join(f"<x:{name}/>" for name in names)
    return f'<propfind xmlns="DAV:" xmlns:x="{namespace}"><prop>{wanted}</prop></propfind>'.encode()


@pytest.mark.parametrize(
    "xml",
    [
        asked_for("a", namespace="u" * 256),
        asked_for("a" * 256),
        asked_for(*(f"a{n}" for n in range(100))),
        b'<propfind xmlns="DAV:" ' + b" ".join(b'a%d=""' % n for n in range(100)) + b"/>",
    ],
)
def test_xml_whose_names_cost_more_than_they_are_long_is_refused(server, xml):
    """A prefix of one letter stands for all of its namespace in each name, and each name is answered for each card."""
    for method in ("PROPFIND", "REPORT"):
        assert server.ask(method, BOOK, xml, Depth="1").status == 400


def test_names_as_long_and_as_many_as_may_be_are_answered(server):
    most = asked_for("a" * 255, *(f"a{n}" for n in range(95)), *["b"] * 1000, namespace="u" * 255)
    answer = server.ask("PROPFIND", BOOK, most, Depth="0")
    assert (answer.status, answer.body.count(b"<x:b ")) == (207, 1)


@pytest.mark.parametrize(
    "xml", [BOMB, EXTERNAL, DEEP, b"<", b"\xff\xfe\x00", b'<?xml version="1.0" encoding="no"?><a/>']
)
def test_xml_that_would_grow_or_reach_out_is_refused(server, xml):
    for method in ("PROPFIND", "REPORT"):
        answer = server.ask(method, BOOK, xml, Depth="0")
        assert answer.status == 400
        assert b"root:" not in answer.body
    assert server.ask("GET", BOOK + "a.vcf").status == 200


def test_a_body_over_the_limit_is_refused_before_it_is_there(server):
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        head = f"PUT {BOOK}b.vcf HTTP/1.1\r\nHost: localhost\r\nAuthorization: {server.authorization}\r\n"
        connection.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
        sent = 0
        try:
            while sent < 64 << 20:
                connection.sendall(b"10000\r\n" + b"x" * 0x10000 + b"\r\n")
                sent += 0x10000
        except OSError:
            pass
        assert sent < 48 << 20
    assert server.ask("PROPFIND", BOOK, b"<a>" + b" " * (1 << 20) + b"</a>", Depth="0").status == 413
    assert server.ask("GET", BOOK + "a.vcf").status == 200


def test_without_the_password_no_body_is_read(server):
    """Else who can guess none fills memory all the same."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        head = f"PUT {BOOK}b.vcf HTTP/1.1\r\nHost: localhost\r\nContent-Length: {MAX_CARD}\r\n\r\n"
        connection.sendall(head.encode())
        assert connection.recv(100).startswith(b"HTTP/1.1 401 ")


def test_without_the_password_nobody_slows_another_s_answer(server, monkeypatch):
    """Looking at a wrong password takes as long as hundreds of pieces of an answer: it comes between none of them."""
    looking, end, derive = threading.Event(), threading.Event(), access._derive

    def long(password: bytes, salt: bytes) -> bytes:
        looking.set()
        assert end.wait(60)
        return derive(password, salt)

    large = card("b", "Bo", "PHOTO;ENCODING=b:" + "A" * (16 << 20))
    assert server.ask("PUT", BOOK + "b.vcf", large, Content_Type="text/vcard").status == 201
    head = f"GET {BOOK}b.vcf HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    with ThreadPoolExecutor(1) as stranger, socket.create_connection(("127.0.0.1", server.port), timeout=10) as reader:
        reader.sendall(f"{head}Authorization: {server.authorization}\r\n\r\n".encode())
        assert reader.recv(12) == b"HTTP/1.1 200"
        monkeypatch.setattr(access, "_derive", long)
        wrong = stranger.submit(server.ask, "GET", BOOK, Authorization=basic("nobody", "x"))
        try:
            assert looking.wait(30)
            with reader.makefile("rb") as answer:
                assert answer.read().endswith(large)
        finally:
            end.set()
        assert wrong.result().status == 401


def test_a_body_that_never_comes_is_waited_for_no_longer(server, monkeypatch):
    """It would keep one of the few places of its client, and of all."""
    monkeypatch.setattr("ipls.http.handled.BODY_S", 0.1)  # for a minute
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        head = f"PUT {BOOK}b.vcf HTTP/1.1\r\nHost: localhost\r\nAuthorization: {server.authorization}\r\n"
        connection.sendall(f"{head}Content-Length: {MAX_CARD}\r\n\r\nBEGIN".encode())
        assert connection.recv(100).startswith(b"HTTP/1.1 408 ")
    assert server.ask("GET", BOOK + "b.vcf").status == 404


def test_a_card_that_is_asked_for_a_thousand_times_in_one_request_comes_once(server):
    hrefs = f"<D:href>{BOOK}a.vcf</D:href>" * 1000
    asked = (
        '<C:addressbook-multiget xmlns:D="DAV:" xmlns:C="urn:ietf:params:xml:ns:carddav"><D:prop><C:address-data/>'
        f"</D:prop>{hrefs}</C:addressbook-multiget>"
    )
    answer = server.ask("REPORT", BOOK, asked.encode())
    assert (answer.status, answer.body.count(b"FN:Ada")) == (207, 1)


@pytest.mark.parametrize(
    "filter",
    [
        '<C:prop-filter name="X"/>' * 100,
        '<C:prop-filter name="X">' + "<C:text-match>x</C:text-match>" * 99 + "</C:prop-filter>",
    ],
)
def test_a_filter_of_a_hundred_tests_is_refused(server, filter):
    """Each would be held against each line of each card, while nobody else is served."""
    asked = (
        '<C:addressbook-query xmlns:D="DAV:" xmlns:C="urn:ietf:params:xml:ns:carddav"><D:prop><D:getetag/></D:prop>'
        f"<C:filter>{filter}</C:filter></C:addressbook-query>"
    )
    answer = server.ask("REPORT", BOOK, asked.encode())
    assert (answer.status, b"supported-filter" in answer.body) == (403, True)


@pytest.mark.parametrize("line", ["b", "b:", " b"])
def test_a_card_of_tiny_lines_is_refused(server, line):
    """It would take minutes and gigabytes, at each look at it again."""
    endless = card("b", "Bo", *[line] * MOST_LINES)
    answer = server.ask("PUT", BOOK + "b.vcf", endless, Content_Type="text/vcard")
    assert (answer.status, b"valid-address-data" in answer.body) == (403, True)


def test_a_client_that_leaves_large_answers_unread_has_memory_for_few_and_others_go_on(server):
    large = card("b", "Bo", "PHOTO;ENCODING=b:" + "A" * (8 << 20))
    assert server.ask("PUT", BOOK + "b.vcf", large, Content_Type="text/vcard").status == 201
    get = f"GET {BOOK}b.vcf HTTP/1.1\r\nHost: localhost\r\nAuthorization: {server.authorization}\r\n\r\n"
    with ExitStack() as closing:

        def ask(count: int) -> list[socket.socket]:
            there = [
                closing.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=30))
                for _ in range(count)
            ]
            for each in there:
                each.sendall(get.encode())
            return there

        def heard(connections: list[socket.socket], wait_s: float) -> list[socket.socket]:
            return select.select(connections, [], [], wait_s)[0]

        unread = ask(AT_ONCE)
        assert all(each.recv(12) == b"HTTP/1.1 200" for each in unread)
        waiting = ask(MAX_WAITING - AT_ONCE + 1)
        (refused,) = heard(waiting, 30)  # whichever came last
        assert refused.recv(12) == b"HTTP/1.1 503"
        waiting.remove(refused)
        other = server.ask("GET", BOOK + "a.vcf", Authorization=basic(OTHER, server.other_password))
        assert (other.status, other.body) == (200, card("a", "Ada"))
        assert not heard(waiting, 0)
        unread[0].close()
        (next_one,) = heard(waiting, 30)
        assert next_one.recv(12) == b"HTTP/1.1 200"


def test_a_card_that_the_list_can_not_take_ends_the_sync_of_no_other(server, monkeypatch):
    """Made by who gave the person the card: both sides fit, their merge does not, and nothing of it can be left out."""
    monkeypatch.setattr("ipls.contacts.whole.MAX_WHOLE", 100_000)
    broken = "NOTE;QUOTED-PRINTABLE:open="

    def put(name: str, data: bytes) -> int:
        return server.ask("PUT", f"{BOOK}{name}.vcf", data, Content_Type="text/vcard").status

    put("x", card("x", "X", broken, "PHOTO:", "FOO:"))
    assert server.ask("PROPFIND", BOOK, Depth="1").status == 207  # the list has it
    listed = card("x", "X", broken, "PHOTO:" + "A" * 60_000, "FOO:")
    server.run(server.profile.put, id_of_uid(LABEL, "x"), listed)
    assert put("x", card("x", "X", broken, "PHOTO:", "FOO:" + "B" * 60_000)) == 204
    assert put("b", card("b", "Bo")) == 201
    for _ in range(2):
        assert server.ask("PROPFIND", BOOK, Depth="1").status == 207
    assert card("b", "Bo") in server.run(server.profile.cards)


@pytest.mark.parametrize(
    "path",
    [
        BOOK + "..%2f..%2fetc%2fpasswd",
        BOOK + "..",
        BOOK + "%2e%2e",
        BOOK + "../../principal",
        BOOK + "a%00.vcf",
        BOOK + "%ff",
        BOOK + "x" * 256,
        "/books/contacts/b/c.vcf",
        "/books/other/a.vcf",
        "//evil.example/a.vcf",
    ],
)
def test_a_path_leads_nowhere_else(server, path):
    for method in ("GET", "PUT", "DELETE"):
        answer = server.ask(method, path, card("b", "Bo"), Content_Type="text/vcard")
        assert answer.status in (400, 404, 405)
    assert [each.href for each in server.run(_resources, server)] == ["a.vcf"]


def test_a_name_is_decoded_once(server):
    """Decoded twice, %2561 would be the a of another client's card."""
    assert server.ask("GET", BOOK + "%2561.vcf").status == 404
    assert server.ask("PUT", BOOK + "%2561.vcf", card("b", "Bo"), Content_Type="text/vcard").status == 201
    assert server.ask("GET", BOOK + "a.vcf").body == card("a", "Ada")
    assert server.ask("GET", BOOK + "%2561.vcf").body == card("b", "Bo")
    assert sorted(each.href for each in server.run(_resources, server)) == ["%61.vcf", "a.vcf"]


def test_of_two_who_write_at_once_one_is_refused(server):
    etag = server.ask("GET", BOOK + "a.vcf").headers["etag"]

    def write(n: int) -> int:
        return server.ask(
            "PUT", BOOK + "a.vcf", card("a", f"Writer {n}"), Content_Type="text/vcard", If_Match=etag
        ).status

    def make(n: int) -> int:
        data = card("new", f"Maker {n}")
        return server.ask("PUT", BOOK + "new.vcf", data, Content_Type="text/vcard", If_None_Match="*").status

    with ThreadPoolExecutor(8) as many:
        assert sorted(many.map(write, range(8))) == [204] + [412] * 7
        assert sorted(many.map(make, range(8))) == [201] + [412] * 7


def _resources(server: Server) -> list[Resource]:
    return list(Book(server.profile.rows, 0).resources())
