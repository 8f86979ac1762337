"""`ipls client sync` as a person types it, without a server."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cli.test_contacts import BOOK, endpoints, forks  # noqa: F401  # fixtures
from tests.client.addressbook.rig import card

Run = Callable[..., dict[str, Any]]


@pytest.fixture
def client(forks: Run, endpoints: Path, tmp_path: Path) -> Run:  # noqa: F811  # the fixture
    """Runs a command of `ipls client` on a profile with a book; `status` is what it must end with."""

    def run(*arguments: object, status: int = 0) -> dict[str, Any]:
        ended = forks("client", *arguments, "--home", tmp_path / "home")
        assert ended["status"] == status, ended
        return ended

    (tmp_path / "book.vcf").write_bytes(BOOK)
    (tmp_path / "book").mkdir()
    run("contacts", "import", tmp_path / "book.vcf", "--endpoints", endpoints)
    return run


def test_a_first_sync_only_shows_and_then_both_have_all(client: Run, tmp_path: Path) -> None:
    book = tmp_path / "book"
    (book / "cy.vcf").write_bytes(card("cy", "Cy"))
    shown = client("sync", book)  # of ours one has no UID, and is given one
    assert shown["out"].startswith(f"would sync: here 1 new, 1 changed, 0 removed; in {book} 2 new,")
    assert f"next: ipls client sync {book} --yes" in shown["err"]
    assert [each.name for each in book.iterdir()] == ["cy.vcf"]
    done = client("sync", book, "--yes")
    assert done["out"].startswith("synced: here 1 new")
    assert len(list(book.glob("*.vcf"))) == 3
    assert json.loads(client("sync", book, "--json")["out"])["here"] == {"added": 0, "changed": 0, "removed": 0}
    assert (book / "a.vcf").read_bytes() == BOOK[: BOOK.index(b"BEGIN", 5)]
    (book / "cy.vcf").write_bytes(card("cy", "Cyrus"))
    client("sync", book, "--dry-run")
    assert "Cyrus" not in client("contacts", "list")["out"]
    client("sync", book)
    assert "Cyrus" in client("contacts", "list")["out"]
    assert "undone: the sync of" in client("contacts", "undo")["out"]
    assert "Cyrus" not in client("contacts", "list")["out"]


def test_a_folder_that_is_away_or_shrank_is_said_in_a_line_and_costs_nothing(client: Run, tmp_path: Path) -> None:
    book = tmp_path / "book"
    client("sync", book, "--yes")
    for file in book.glob("*.vcf"):
        file.unlink()
    refused = client("sync", book, status=1)
    assert "[SIDE_SHRUNK]" in refused["err"]
    assert "--allow-removals" in refused["err"]
    book.rename(tmp_path / "elsewhere")
    book.mkdir()
    assert "[SIDE_AWAY]" in client("sync", book, status=3)["err"]
    assert len(client("contacts", "list")["out"].splitlines()) == 2
    book.rmdir()
    (tmp_path / "elsewhere").rename(book)
    assert "2 removed" in client("sync", book, "--allow-removals")["out"]
    assert client("contacts", "list")["out"] == ""


def test_a_bad_card_and_a_folder_that_is_only_read(client: Run, tmp_path: Path) -> None:
    book = tmp_path / "book"
    (book / "bad.vcf").write_bytes(b"BEGIN:VCARD\r\nFN:cut")
    ended = client("sync", book, "--yes", "--read-only", status=1)
    assert f"{book / 'bad.vcf'}:1: passed over, no END:VCARD" in ended["err"]
    assert "not written, as it is only read: 2 new" in ended["err"]
    assert [each.name for each in book.iterdir()] == ["bad.vcf"]


def test_what_gave_way_is_said_and_settled_or_comes_back_by_undo(client: Run, tmp_path: Path) -> None:
    book = tmp_path / "book"
    (book / "cy.vcf").write_bytes(card("cy", "Cy"))
    client("sync", book, "--yes")
    (id,) = (line.split()[0] for line in client("contacts", "list")["out"].splitlines() if "Cy" in line)
    client("contacts", "edit", id, "--name", "Here")
    (book / "cy.vcf").write_bytes(card("cy", "There"))
    assert "1 contacts had changes here that gave way" in client("sync", book)["err"]
    assert f"{id}  There  (2 to settle: contacts conflicts)" in client("contacts", "list")["out"]
    listed = client("contacts", "conflicts")
    assert listed["out"].startswith(
        f"{id}  There  (2 to settle: contacts conflicts)\n  1  FN: There\n     gave way: Here"
    )
    assert "contacts settle ID" in listed["err"]
    first, second = map(json.loads, client("contacts", "conflicts", id, "--json")["out"].splitlines())
    assert (first["property"], first["here"], first["other"], first["both_fit"]) == ("FN", ["There"], "Here", True)
    assert (second["number"], second["property"], second["wrote"]) == (2, "N", "this device")
    shown = client("contacts", "show", id)["out"]
    assert "\nconflict 1: Here (from this device, " in shown
    assert len(json.loads(client("contacts", "show", id, "--json")["out"])["conflicts"]) == 2
    client("contacts", "settle", id, status=2)
    client("contacts", "settle", id, "--keep", "--take", status=2)
    assert "[CONFLICT_ALONE]" in client("contacts", "settle", id, "--both", status=1)["err"]
    assert json.loads(client("contacts", "settle", id, "1", "2", "--take", "--json")["out"])["name"] == "Here"
    assert client("contacts", "conflicts")["out"] == ""
    client("contacts", "undo")
    client("contacts", "settle", id, "--keep")
    assert f"{id}  There\n" in client("contacts", "list")["out"]
    client("contacts", "undo")
    client("contacts", "undo")
    assert "Here" in client("contacts", "list")["out"]
