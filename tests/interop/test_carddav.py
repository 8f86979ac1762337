"""CardDAV with programs of others: vdirsyncer against ours, and between ours and xandikos; go-webdav against ours."""

import http.client
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ipls.admin.deployment import free_ports
from ipls.contacts.cards.reading import read_card
from ipls.contacts.envelope import Envelope
from ipls.contacts.sealing import id_of_uid
from tests.client.addressbook.dav.rig import CLIENT, Server, serving
from tests.client.addressbook.rig import LABEL, card
from tests.interop.peers import MANY, GoDav, VdirSyncer, peers
from tests.interop.test_folder import ADA, book, files

START_S = 60


def ours(server: Server) -> dict[str, str]:
    url = f"{server.url}/books/contacts/"
    return {"type": "carddav", "url": url, "username": CLIENT, "password": server.password}


def listed(server: Server) -> list[bytes]:
    """The list, when it has taken what clients did."""
    assert server.ask("PROPFIND", "/books/contacts/", Depth="1").status == 207
    return sorted(server.run(server.profile.cards))


@contextmanager
def xandikos(folder: Path) -> Iterator[str]:
    """Where it serves an address book."""
    (port,) = free_ports(1)
    command = [peers() / "xandikos", "serve", "--defaults", "-d", folder, "-l", "127.0.0.1", "-p", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            until = time.monotonic() + START_S
            while not _answers(port):
                assert process.poll() is None
                assert time.monotonic() < until
            yield f"http://127.0.0.1:{port}/user/contacts/addressbook/"
        finally:
            process.terminate()


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=START_S)
    try:
        connection.request("OPTIONS", "/")
        return connection.getresponse().status < 500
    except ConnectionError:
        time.sleep(0.05)
        return False
    finally:
        connection.close()


@pytest.mark.parametrize("count", [5, MANY])
def test_vdirsyncer_between_ours_and_a_folder_in_both_directions(tmp_path: Path, count: int) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    cards = book(count, tmp_path)
    with serving() as server:
        server.run(
            server.profile.list.edit, {id_of_uid(LABEL, f"u{n}"): Envelope(card=each) for n, each in enumerate(cards)}
        )
        vdirsyncer = VdirSyncer(
            tmp_path / "vdirsyncer", ours(server), {"type": "filesystem", "path": str(folder), "fileext": ".vcf"}
        )
        vdirsyncer.sync()
        assert sorted(files(folder).values()) == sorted(each + b"\r\n" for each in cards)
        (folder / "u3.vcf").write_bytes(cards[3].replace(b"END:VCARD", b"NICKNAME:There\r\nEND:VCARD"))
        (folder / "u4.vcf").unlink()
        (folder / "new.vcf").write_bytes(ADA)
        vdirsyncer.sync()
        expected = {*cards, ADA, cards[3].replace(b"END:VCARD", b"NICKNAME:There\r\nEND:VCARD")} - {cards[3], cards[4]}
        assert listed(server) == sorted(expected)
        vdirsyncer.sync()
        assert len(files(folder)) == count


def test_vdirsyncer_keeps_ours_and_xandikos_equal(tmp_path: Path) -> None:
    with serving() as server, xandikos(tmp_path / "xandikos") as url:
        server.run(server.profile.put, id_of_uid(LABEL, "ada"), ADA)
        server.run(server.profile.put, id_of_uid(LABEL, "bo"), card("bo", "Bo", "X-ODD;P=1: kept"))
        between = VdirSyncer(tmp_path / "between", ours(server), {"type": "carddav", "url": url})
        between.sync()
        # Another person's program, on xandikos alone.
        folder = tmp_path / "folder"
        folder.mkdir()
        elsewhere = VdirSyncer(
            tmp_path / "elsewhere",
            {"type": "carddav", "url": url},
            {"type": "filesystem", "path": str(folder), "fileext": ".vcf"},
        )
        elsewhere.sync()
        # xandikos sends CR LF in XML as it stands: its readers get LF.
        assert sorted(each.replace(b"\r", b"").strip() for each in files(folder).values()) == sorted(
            each.replace(b"\r", b"") for each in server.run(server.profile.cards)
        )
        (bo,) = (path for path in folder.iterdir() if b"FN:Bo" in path.read_bytes())
        bo.write_bytes(bo.read_bytes().replace(b"FN:Bo", b"FN:Boris"))
        (folder / "new.vcf").write_bytes(card("new", "New there"))
        elsewhere.sync()
        between.sync()
        assert sorted(read_card(each).name for each in listed(server)) == ["Ada", "Boris", "New there"]
        ours_of_bo = card("bo", "Bo", "X-ODD;P=1: kept").replace(b"FN:Bo", b"FN:Boris")
        assert server.run(server.profile.list.entries)[id_of_uid(LABEL, "bo")].card == ours_of_bo


def test_a_client_over_go_webdav_is_told_what_changed_since_its_token_and_puts(tmp_path: Path) -> None:
    path = "/books/contacts"
    (tmp_path / "cy.vcf").write_bytes(card("cy", "Cy Ø"))
    with serving() as server:
        for n, name in enumerate(("Ada", "Bo", "Di")):
            server.run(server.profile.put, id_of_uid(LABEL, f"u{n}"), card(f"u{n}", name))
        client = GoDav(server.url, CLIENT, server.password)
        first = client.sync()
        assert first["names"] == {f"{path}/u0.vcf": "Ada", f"{path}/u1.vcf": "Bo", f"{path}/u2.vcf": "Di"}
        client.put("cy.vcf", tmp_path / "cy.vcf")
        server.run(server.profile.put, id_of_uid(LABEL, "u1"), card("u1", "Boris"))
        server.run(server.profile.put, id_of_uid(LABEL, "u2"), None)
        then = client.sync(first["token"])
        assert then["names"] == {f"{path}/u1.vcf": "Boris", f"{path}/cy.vcf": "Cy Ø"}
        assert then["removed"] == [f"{path}/u2.vcf"]
        again = client.sync(then["token"])
        assert (again["names"], again["removed"]) == ({}, None)
        assert sorted(read_card(each).name for each in listed(server)) == ["Ada", "Boris", "Cy Ø"]
