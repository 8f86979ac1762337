"""`ipls client contacts` as a person types it, without a server. Each command forks from a process that has it all."""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len

from ipls.contacts.contact_code import ContactCode
from tests.e2e.running import IPLS, ipls, shown

ROOT = Path(__file__).parents[2]
Run = Callable[..., dict[str, Any]]

BOOK = (
    b"BEGIN:VCARD\r\nVERSION:3.0\r\nUID:a\r\nFN:Ada\r\nitem1.TEL:+1 202 555 0100\r\nitem1.X-ABLabel:Boat\r\n"
    b"NOTE:two\\nlines \xe2\x80\xaeturned\r\nPHOTO;ENCODING=b;TYPE=JPEG:AAAA\r\nEND:VCARD\r\n"
    b"BEGIN:VCARD\r\nVERSION:3.0\r\nFN:Bo\r\nEND:VCARD\r\n"
)


@pytest.fixture(scope="module")
def endpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("deployment") / "ipls"
    assert ipls("init", folder, "--port", 0).returncode == 0
    return folder / "endpoints.json"


@pytest.fixture(scope="module")
def forks() -> Iterator[Run]:
    command = [sys.executable, "-m", "tests.cli.forks"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def run(*arguments: object) -> dict[str, Any]:
            assert process.stdin is not None
            assert process.stdout is not None
            print(json.dumps(list(map(str, arguments))), file=process.stdin, flush=True)
            answer: dict[str, Any] = json.loads(process.stdout.readline())
            return answer

        yield run
        process.stdin.close()


@pytest.fixture
def contacts(forks: Run, endpoints: Path, tmp_path: Path) -> Run:
    """Runs a command on a profile with a book; `status` is what it must end with."""

    def run(*arguments: object, status: int = 0) -> dict[str, Any]:
        ended = forks("client", "contacts", *arguments, "--home", tmp_path)
        assert ended["status"] == status, ended
        return ended

    (tmp_path / "book.vcf").write_bytes(BOOK)
    run("import", tmp_path / "book.vcf", "--endpoints", endpoints)
    return run


def rows(ended: dict[str, Any]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in ended["out"].splitlines()]


def test_an_import_says_what_became_of_each_card(contacts: Run, tmp_path: Path):
    more = tmp_path / "more.vcf"
    more.write_bytes(BOOK.replace(b"FN:Ada", b"FN:Ada King") + b"BEGIN:VCARD\r\nFN:cut")
    file = tmp_path / "page.vcf"
    file.write_text("<html>")
    dry = contacts("import", more, "--dry-run")
    assert dry["out"] == "would import: 0 new, 1 changed, 1 the same, 0 removed here before, 1 bad\n"
    both = contacts("import", more, file, "--json", status=1)
    assert rows(both) == [
        {
            **{"new": 0, "changed": 1, "same": 1, "removed": 0, "conflicts": 0, "dry_run": False},
            "bad": [{"file": str(more), "line": 14, "reason": "no END:VCARD"}],
        }
    ]
    assert f"{more}:14: bad, no END:VCARD\n" in both["err"]
    assert f"{file}: no card found" in both["err"]
    assert contacts("import", more)["out"].startswith("imported: 0 new, 0 changed, 2 the same")
    assert contacts("undo")["out"].startswith("undone: the import of ")
    assert [row["name"] for row in rows(contacts("list", "--json"))] == ["Ada", "Bo"]


def test_an_import_is_taken_back_and_what_was_done_since_stays(contacts: Run, tmp_path: Path):
    contacts("add", "Carl")
    (bo,) = rows(contacts("find", "bo", "--json"))
    contacts("edit", bo["id"], "--name", "Bo King")
    assert contacts("import", "--undo")["out"].endswith(", 1 contacts; 1 were changed since and stay\n")
    assert [row["name"] for row in rows(contacts("list", "--json"))] == ["Bo King", "Carl"]
    assert "NOTHING_TO_UNDO" in contacts("import", "--undo", status=1)["err"]
    for mistaken in ([], ["--undo", tmp_path / "book.vcf"], ["--undo", "--dry-run"]):
        assert "say one or more FILE, or --undo alone" in contacts("import", *mistaken, status=2)["err"]


def test_what_is_removed_stays_removed_until_it_is_asked_for(contacts: Run, tmp_path: Path):
    (bo,) = rows(contacts("find", "bo", "--json"))
    assert contacts("remove", bo["id"])["out"] == f"removed: {bo['id'][:8]}  Bo\n"
    assert rows(contacts("import", tmp_path / "book.vcf", "--json"))[0]["removed"] == 1
    assert rows(contacts("import", tmp_path / "book.vcf", "--again", "--json"))[0]["new"] == 1


def test_a_contact_is_added_edited_and_merged(contacts: Run):
    (made,) = rows(contacts("add", "Carl Gauß", "--number", "+49 30 23125 001", "--email", "c@example.org", "--json"))
    assert (made["name"], made["numbers"], made["emails"]) == ("Carl Gauß", ["+49 30 23125 001"], ["c@example.org"])
    changes = (
        "--name",
        "Karl",
        "--add-number",
        "2",
        "--remove-number",
        "+493023125001",
        "--remove-email",
        "c@example.org",
    )
    (edited,) = rows(contacts("edit", made["id"][:6], *changes, "--json"))
    assert (edited["name"], edited["numbers"], edited["emails"]) == ("Karl", ["2"], [])
    assert "CARD_VALUE_ABSENT" in contacts("edit", made["id"], "--remove-number", "9", status=1)["err"]
    contacts("add", "", status=2)
    contacts("edit", made["id"], "--name", " ", status=2)
    (other,) = rows(contacts("add", "Charles", "--number", "2", "--json"))
    (pair,) = rows(contacts("duplicates", "--json"))
    assert ({pair["first"]["id"], pair["second"]["id"]}, pair["why"]) == ({made["id"], other["id"]}, "number")
    assert contacts("duplicates")["out"].endswith("  the same number\n")
    (merged,) = rows(contacts("merge", made["id"], other["id"], "--json"))
    assert merged["name"] == "Karl"
    assert [row["name"] for row in rows(contacts("list", "--json"))] == ["Ada", "Bo", "Karl"]
    contacts("undo")
    (told,) = rows(contacts("apart", made["id"], other["id"], "--json"))
    assert told == {"first": made["id"], "second": other["id"]}
    assert contacts("duplicates")["out"] == ""


def test_a_card_opens_in_the_editor(contacts: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, endpoints: Path):
    (ada,) = rows(contacts("find", "ada", "--json"))

    def edit(program: str) -> "subprocess.CompletedProcess[str]":
        script = tmp_path / "editor.py"
        script.write_text(
            f"import os, sys\nfile = sys.argv[1]\nassert not os.stat(os.path.dirname(file)).st_mode & 0o77\n{program}"
        )
        environment = os.environ | {"EDITOR": f"{sys.executable} {shlex.quote(str(script))}"}
        environment.pop("VISUAL", None)
        return ipls("client", "contacts", "edit", ada["id"], "--home", tmp_path, env=environment)

    assert (
        edit("d = open(file, 'rb').read(); open(file, 'wb').write(d.replace(b'FN:Ada', b'FN:Ada King'))").returncode
        == 0
    )
    raw = contacts("show", ada["id"], "--raw")["out"]
    assert raw == BOOK.decode().partition("\r\nBEGIN")[0].replace("FN:Ada", "FN:Ada King") + "\n"
    for program, reason in (("sys.exit(1)", "EDITOR_FAILED"), ("open(file, 'w').write('')", "CARD_EDIT_REFUSED")):
        ended = edit(program)
        assert (ended.returncode, reason in ended.stderr) == (1, True)
    assert contacts("show", ada["id"], "--raw")["out"] == raw


def test_a_contact_is_shown_with_nothing_that_a_terminal_obeys(contacts: Run):
    (ada,) = rows(contacts("find", "ada", "--json"))
    assert contacts("show", ada["id"])["out"].splitlines() == [
        "UID           a",
        "FN            Ada",
        "TEL (Boat)    +1 202 555 0100",
        "NOTE          two / lines \\u{202e}turned",
        "PHOTO (jpeg)  (3 bytes)",
    ]
    assert rows(contacts("show", ada["id"], "--json"))[0]["lines"][1] == {"label": "FN", "value": "Ada"}


def test_a_name_of_10000_characters_that_turns_the_line_is_one_line_of_a_terminal(contacts: Run, tmp_path: Path):
    long = f"Zo\u00eb \u202e{'x' * 5000} {'y' * 5000}"
    book = f"BEGIN:VCARD\r\nVERSION:4.0\r\nFN:{long}\r\nTEL:+1 202 555 0123\r\nEND:VCARD\r\n".encode()
    wide = f"BEGIN:VCARD\r\nVERSION:4.0\r\nFN:{'山田' * 50}\r\nEND:VCARD\r\n".encode()
    (tmp_path / "long.vcf").write_bytes(book + wide)
    contacts("import", tmp_path / "long.vcf")
    (found,) = rows(contacts("find", "y" * 5000 + " zoe", "--json"))
    assert rows(contacts("find", "2025550123", "--json")) == [found]
    command = [*map(str, [*IPLS, "client", "contacts", "list", "--home", tmp_path])]
    lines = shown(command, os.environ | {"COLUMNS": "80"}).decode().splitlines()
    assert len(lines) == 4
    assert max(map(cell_len, lines)) == 80
    (line,) = [line for line in lines if found["id"][:8] in line]
    assert len(line) == 80
    assert line.startswith(f"{found['id'][:8]}  Zo\u00eb xxx")
    card = contacts("show", found["id"])["out"]
    assert "\\u{202e}xxx" in card
    assert "\u202e" not in line + card
    assert book.decode() in contacts("export", "-")["out"]


def test_an_export_replaces_no_file_that_is_no_address_book(contacts: Run, tmp_path: Path):
    file = tmp_path / "letter.txt"
    file.write_text("Dear Ada")
    refused = contacts("export", file, status=1)
    assert "[FILE_EXISTS]" in refused["err"]
    assert file.read_text() == "Dear Ada"
    assert contacts("export", file, "--force")["out"] == f"exported: 2 contacts to {file}\n"
    (told,) = rows(contacts("export", file, "--json"))
    assert told == {"contacts": 2, "file": str(file)}
    contacts("export", "-", "--json", status=2)
    assert contacts("export", file)["out"] == f"exported: 2 contacts to {file}\n"
    assert file.read_bytes() == BOOK
    (tmp_path / "empty").touch()
    contacts("export", tmp_path / "empty")


@pytest.mark.parametrize("layout", ["google", "outlook"])
def test_a_table_goes_out_and_comes_in(contacts: Run, endpoints: Path, tmp_path: Path, layout: str):
    contacts("export", tmp_path / "book.csv", "--format", layout)
    other = ("--profile", "other", "--endpoints", endpoints)
    assert rows(contacts("import", tmp_path / "book.csv", *other, "--json"))[0]["new"] == 2
    listed = [(row["name"], row["numbers"]) for row in rows(contacts("list", "--profile", "other", "--json"))]
    assert listed == [("Ada", ["+1 202 555 0100"]), ("Bo", [])]


def test_an_address_book_may_come_through_a_pipe(contacts: Run, tmp_path: Path):
    command = [*IPLS, "client", "contacts", "import", "-", "--home", str(tmp_path), "--json"]
    ended = subprocess.run(command, input=BOOK.replace(b"FN:Bo", b"FN:New"), capture_output=True)
    assert json.loads(ended.stdout)["new"] == 1


def test_groups_are_shown_with_who_is_in_them(contacts: Run, tmp_path: Path) -> None:
    (tmp_path / "group.vcf").write_bytes(
        b"BEGIN:VCARD\r\nVERSION:4.0\r\nKIND:group\r\nFN:Crew\r\nMEMBER:a\r\nMEMBER:b\r\nEND:VCARD\r\n"
    )
    contacts("import", tmp_path / "group.vcf")
    head, member = contacts("groups")["out"].splitlines()
    assert (head[10:], member[12:]) == ("Crew (1 more are not in the list)", "Ada  +1 202 555 0100")
    (group,) = rows(contacts("groups", "--json"))
    assert (group["name"], [each["name"] for each in group["members"]], group["absent"]) == ("Crew", ["Ada"], 1)
    assert "Crew" in contacts("show", group["id"])["out"]
    assert [row["name"] for row in rows(contacts("list", "--json"))] == ["Ada", "Bo"]


def test_a_contact_is_only_in_ipls_or_also_elsewhere(contacts: Run) -> None:
    also, only = "also in the phone's address book", "only in IPLS"
    assert f"new contacts are {also}" in contacts("list")["err"]
    assert contacts("place")["out"] == f"new contacts are {also}\n"
    made = contacts("add", "Cy", "--only-ipls")
    assert (made["out"][10:], made["err"]) == (f"Cy  ({only})\n", f"it is {only}\n")
    id = made["out"].split()[0]
    assert rows(contacts("find", "cy", "--json"))[0]["only_ipls"] is True
    assert only in contacts("show", id)["out"]
    assert contacts("place", id, "--address-book")["out"] == f"{id}  Cy\n"
    assert contacts("show", id, "--json")["out"].count('"only_ipls": false') == 1
    assert rows(contacts("place", "--only-ipls", "--json")) == [{"only_ipls": True}]
    assert contacts("add", "Di")["err"] == f"it is {only}\n"
    assert f"new contacts are {only}" in contacts("list")["err"]
    contacts("place", id, status=2)
    assert "[CONTACT_UNKNOWN]" in contacts("place", id, "zz", "--only-ipls", status=1)["err"]


def test_a_contact_is_copied_to_another_profile_and_moved_only_where_it_is_stored(
    contacts: Run, endpoints: Path
) -> None:
    (bo,) = rows(contacts("find", "bo", "--json"))
    assert "[PROFILE_ABSENT]" in contacts("copy", bo["id"], "--to", "work", status=2)["err"]
    contacts("add", "Cy", "--profile", "work", "--endpoints", endpoints)
    assert contacts("copy", bo["id"], "--to", "work")["out"] == f"copied to work: {contacts_id(contacts)}  Bo\n"
    assert rows(contacts("copy", bo["id"][:6], "--to", "work", "--json"))[0]["to"] == "work"
    assert [row["name"] for row in rows(contacts("list", "--profile", "work", "--json"))] == ["Bo", "Cy"]
    assert "[NOT_REGISTERED]" in contacts("move", bo["id"], "--to", "work", status=1)["err"]
    assert [row["name"] for row in rows(contacts("list", "--json"))] == ["Ada", "Bo"]
    for to in ("default", "a/b"):
        contacts("move", bo["id"], "--to", to, status=2)
    contacts("copy", bo["id"], status=2)


def contacts_id(contacts: Run) -> str:
    """Bo's in the other profile."""
    return str(rows(contacts("find", "bo", "--profile", "work", "--json"))[0]["id"])[:8]


def test_a_contact_code_adds_a_contact(contacts: Run) -> None:
    code = ContactCode("+4930123456", "Bo Bö").text
    (added,) = rows(contacts("add", "--code", f" {code[:30]}\n{code[30:]}", "--json"))
    assert (added["name"], added["numbers"]) == ("Bo Bö", ["+4930123456"])
    (added,) = rows(contacts("add", "Bo at work", "--code", code, "--number", "+49 30 5", "--json"))
    assert (added["name"], added["numbers"]) == ("Bo at work", ["+4930123456", "+49 30 5"])
    assert "[CONTACT_CODE_INVALID]" in contacts("add", "--code", code[:-1] + "1", status=1)["err"]
    contacts("add", status=2)


def test_without_an_account_there_is_no_code_and_nobody_to_compare_with(contacts: Run) -> None:
    for command in (("code", "Ada"), ("verify", "Ada")):
        assert "[NOT_REGISTERED]" in contacts(*command, status=1)["err"]
    assert "[SAFETY_NUMBER_INVALID]" in contacts("verify", "+4930", "--scanned", "nonsense", status=1)["err"]
    assert contacts("forget", "+4930")["out"] == "of +4930 no key was known\n"
    assert contacts("keys")["out"] == ""
