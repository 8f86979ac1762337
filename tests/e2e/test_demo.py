"""`ipls demo` as a person and as a program run it."""

import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.client.deployment import book
from tests.e2e.running import IPLS, command_line, ipls, naming

LAST = {"contacts", "skipped", "restored", "identical", "thefts_refused", "seconds"}


def start(tmp_path: Path, *arguments: object) -> "subprocess.Popen[str]":
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    command = [*IPLS, "demo", "--json", *map(str, arguments)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    )


def test_the_bundled_address_book_comes_back(tmp_path: Path) -> None:
    demo = start(tmp_path)
    output, errors = demo.communicate()
    assert demo.returncode == 0, errors
    lines = [json.loads(line) for line in output.splitlines()]
    assert set(lines[-1]) == LAST
    assert lines[-1] | {"seconds": 0} == {
        "contacts": 1000,
        "skipped": 0,
        "restored": 1000,
        "identical": True,
        "thefts_refused": 3,
        "seconds": 0,
    }
    assert {line["proof"] for line in lines[:-1] if line["event"] == "checked"} == {"head", "history", "vault"}
    thefts = [(line["theft"], line["by"], line["reason"]) for line in lines[:-1] if line["event"] == "theft"]
    assert thefts == [
        ("unpublished key", "the vault", "VAULT_IDENTITY_MISMATCH"),
        ("fork", "the witnesses", "WITNESS_FORK"),
        ("fork", "the vault", "HEAD_OTHER_ROOT"),
        ("replay", "the vault", "VAULT_TAG_INVALID"),
    ]
    told = " ".join(line["text"] for line in lines[:-1] if "text" in line)
    assert "signatures of 2 of the 3 witnesses" in told
    assert "operator who publishes a key of its own" in told
    assert "is not refused" in told
    assert "It is seen" in told
    assert list(tmp_path.iterdir()) == []
    assert naming(tmp_path) == []


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small address book."""
    file = tmp_path_factory.mktemp("own") / "few.vcf"
    file.write_bytes(book(3))
    return file


@pytest.mark.parametrize("moment", ["eight servers", "registration sent", "base stands", "a fork"])
def test_ctrl_c_leaves_nothing(tmp_path: Path, few: Path, moment: str) -> None:
    demo = start(tmp_path, "--contacts", few)
    assert demo.stdout is not None
    assert any(moment in line for line in demo.stdout)
    for impatient in (signal.SIGINT, signal.SIGTERM, signal.SIGINT):
        demo.send_signal(impatient)
    _, errors = demo.communicate()
    assert demo.returncode == 130, errors
    assert "Traceback" not in errors
    assert list(tmp_path.iterdir()) == []
    assert naming(tmp_path) == []


LIES = {
    "a theft succeeds": (
        "from ipls.demo.attacks import OperatorAttack\nasync def replay(*_): return None\n"
        "OperatorAttack.replay = replay",
        {"identical": True, "thefts_refused": 2},
    ),
    "a card is lost": (
        "from ipls.client.address_book import AddressBook\nfrom itertools import count\n"
        "lost, cards = count(), AddressBook.cards\n"
        "AddressBook.cards = lambda book: cards(book)[next(lost):]",  # none on the first phone, one on the second
        {"identical": False, "thefts_refused": 3},
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_it_fails_if_anything_did_not_come_out_as_told(few: Path, lie: str) -> None:
    patch, expected = LIES[lie]
    program = f"import sys\nfrom ipls.cli.main import main\n{patch}\nsys.argv[0] = 'ipls'\nmain()"
    command = [sys.executable, "-c", program, "demo", "--json", "--contacts", str(few)]
    demo = subprocess.run(command, capture_output=True, text=True)
    assert demo.returncode == 1, demo.stderr
    last = json.loads(demo.stdout.splitlines()[-1])
    assert last | expected == last


def test_servers_do_not_outlive_a_killed_demonstration(tmp_path: Path) -> None:
    demo = start(tmp_path)
    assert demo.stdout is not None
    handles = []
    for line in demo.stdout:
        told = json.loads(line)
        if "process" in told.get("text", ""):
            handles.append(os.pidfd_open(int(told["text"].split()[-1])))
        elif handles:
            break
    demo.kill()
    demo.communicate()
    for handle in handles:
        select.select([handle], [], [])  # readable once the process has ended
        os.close(handle)


def test_keep_leaves_the_servers_to_the_other_commands_of_a_person_whose_file_has_a_broken_card(tmp_path: Path) -> None:
    kept, file = tmp_path / "kept", tmp_path / "mine.vcf"
    file.write_bytes(book(3) + b"BEGIN:VCARD\r\nVERSION:3.0\r\nFN:No end\r\n" + book(2, "Other"))
    demo = ipls("demo", "--json", "--keep", kept, "--contacts", file)
    assert demo.returncode == 0, demo.stderr
    try:
        last = json.loads(demo.stdout.splitlines()[-1])
        assert (last["contacts"], last["skipped"], last["restored"], last["identical"]) == (5, 1, 5, True)
        endpoints = json.loads((kept / "endpoints.json").read_text())
        assert set(endpoints) == {"namespace", "trust_root", "ca_file", "services"}
        assert {"directory", "witness", "witness-3", "log", "vault", "contacts", "registration"} <= set(
            endpoints["services"]
        )
        assert endpoints["services"]["log"]["address"].startswith("http://127.0.0.1:")
        assert all("ipls" in command_line(service["pid"]) for service in endpoints["services"].values())
        home = ("--home", kept)
        listed = ipls("client", "contacts", "list", "--profile", "new-phone", *home)
        assert len(listed.stdout.splitlines()) == 5
        monitored = ipls("client", "monitor", "--profile", "new-phone", *home)
        assert monitored.returncode == 0, monitored.stderr
    finally:
        stopped = ipls("demo", "--stop", kept)
    assert stopped.returncode == 0
    assert naming(kept) == []
    assert ipls("demo", "--stop", kept).returncode == 2
