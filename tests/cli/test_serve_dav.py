"""`ipls client serve-dav` as a person types it, and a program that uses it."""

import base64
import http.client
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cli.test_contacts import BOOK, Run, endpoints, forks  # noqa: F401  # fixtures
from tests.client.addressbook.rig import card
from tests.e2e.running import IPLS


class Dav:
    def __init__(self, url: str, password: str) -> None:
        self._host = url.removeprefix("http://").rstrip("/")
        self._authorization = "Basic " + base64.b64encode(f"laptop:{password}".encode()).decode()

    def ask(self, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, bytes]:
        with self.answer(method, path, body, **headers) as answer:
            return answer.status, answer.read()

    @contextmanager
    def answer(self, method: str, path: str, body: bytes = b"", **headers: str) -> Iterator[http.client.HTTPResponse]:
        """Its body is not read yet."""
        connection = http.client.HTTPConnection(self._host, timeout=60)
        try:
            connection.request(method, path, body, {"Authorization": self._authorization} | headers)
            yield connection.getresponse()
        finally:
            connection.close()


@pytest.fixture
def client(forks: Run, endpoints: Path, tmp_path: Path) -> Run:  # noqa: F811  # the fixture
    def run(*arguments: object, status: int = 0) -> dict[str, str]:
        ended = forks("client", *arguments, "--home", tmp_path / "home")
        assert ended["status"] == status, ended
        return ended

    (tmp_path / "book.vcf").write_bytes(BOOK)
    run("contacts", "import", tmp_path / "book.vcf", "--endpoints", endpoints)
    return run


@contextmanager
def served(client: Run, tmp_path: Path) -> Iterator[Dav]:
    password = json.loads(client("serve-dav", "--add-client", "laptop", "--json")["out"])["password"]
    command = [*IPLS, "client", "serve-dav", "--listen", "127.0.0.1:0", "--json", "--home", tmp_path / "home"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ) as process:
        assert process.stdout is not None
        try:
            yield Dav(json.loads(process.stdout.readline())["url"], password)
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(60)
    assert process.returncode == 0


def test_a_program_s_contacts_are_the_person_s_when_the_server_has_ended(client: Run, tmp_path: Path) -> None:
    with served(client, tmp_path) as dav:
        status, listing = dav.ask("PROPFIND", "/books/contacts/", Depth="1")
        assert (status, listing.count(b"<D:response>")) == (207, 3)
        assert dav.ask("GET", "/books/contacts/a.vcf") == (200, BOOK[: BOOK.index(b"BEGIN", 5)])
        new = card("cy", "Cy")
        assert dav.ask("PUT", "/books/contacts/new.vcf", new, **{"Content-Type": "text/vcard"})[0] == 201
        assert dav.ask("DELETE", "/books/contacts/a.vcf")[0] == 204
    names = client("contacts", "list")["out"]
    assert ("Cy" in names, "Ada" in names) == (True, False)
    assert "undone: the sync of" in client("contacts", "undo")["out"]
    assert "Ada" in client("contacts", "list")["out"]


def test_other_commands_have_their_turn_while_it_serves(client: Run, forks: Run, tmp_path: Path) -> None:  # noqa: F811  # the fixture
    with served(client, tmp_path) as dav:
        assert dav.ask("PROPFIND", "/books/contacts/", Depth="1")[0] == 207
        for _ in range(20):  # each waits for two seconds
            if forks("client", "contacts", "add", "Zoe", "--home", tmp_path / "home")["status"] == 0:
                break
        status, listing = dav.ask("PROPFIND", "/books/contacts/", Depth="1")
        assert (status, listing.count(b"<D:response>")) == (207, 4)


def test_who_reads_slowly_keeps_nobody_from_the_profile_and_gets_the_rest(
    client: Run,
    forks: Run,  # noqa: F811  # the fixture
    tmp_path: Path,
) -> None:
    large = card("large", "Large", "PHOTO;ENCODING=b:" + "A" * (8 << 20))
    asked = b"""<addressbook-query xmlns="urn:ietf:params:xml:ns:carddav">
        <x:prop xmlns:x="DAV:"><address-data/></x:prop></addressbook-query>"""
    (tmp_path / "large.vcf").write_bytes(large + card("last", "Last of all"))
    client("contacts", "import", tmp_path / "large.vcf")
    with served(client, tmp_path) as dav, dav.answer("REPORT", "/books/contacts/", asked) as answer:
        assert answer.status == 207
        for _ in range(20):  # each waits for two seconds
            if forks("client", "contacts", "add", "Zoe", "--home", tmp_path / "home")["status"] == 0:
                break
        else:
            raise AssertionError
        read = answer.read()
    assert large.replace(b"\r", b"&#13;") in read
    assert b"Last of all" in read
    assert read.endswith(b"</D:multistatus>\n")


def test_what_can_not_be_served_is_said_in_a_line(client: Run) -> None:
    assert "loopback" in client("serve-dav", "--listen", "0.0.0.0:8008", status=2)["err"]
    assert "host:port" in client("serve-dav", "--listen", "127.0.0.1", status=2)["err"]
    assert "no colon" in client("serve-dav", "--add-client", "a:b", status=2)["err"]
    for options in ((), ("--add-client", "a")):
        assert "[PROFILE_ABSENT]" in client("serve-dav", *options, "--profile", "none", status=2)["err"]
    assert "none" not in client("profiles", "list")["out"]
