"""One deployment and its phones, all by the command: the shapes of what it prints, and what it leaves."""

import json
import re
import stat
import time
import tomllib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.surface.running import Ended, apart, done, init, ipls, reason, serving, told
from tests.surface.snapshot import recorded, shape, shapes
from tests.surface.witness import two_signatures

VECTORS = Path(__file__).parent.parent / "vectors/whatsapp_v1.jsonl"
NUMBER = "+4930777000001"
BROKEN_CARD = b"BEGIN:VCARD\r\nVERSION:3.0\r\nFN:No end\r\n"


def book(count: int) -> bytes:
    """An address book of simple cards."""
    card = "BEGIN:VCARD\r\nVERSION:3.0\r\nFN:Person {0}\r\nTEL:+1 555 {0:04}\r\nEND:VCARD\r\n"
    return "".join(card.format(number) for number in range(count)).encode()


def tell(home: Path) -> dict[str, dict[str, Any]]:
    """By the name of the snapshot: `answers` has the lines of each command with --json, `later` those of commands that
    came after the first snapshot, `files` what lies where, `refusals` what the services, and commands beside them,
    refuse."""
    folder = home / "ipls"
    init(folder)
    files: dict[str, Any] = {
        "ipls.toml": shape(tomllib.loads((folder / "ipls.toml").read_text())),
        "trust.toml": shape(tomllib.loads((folder / "trust.toml").read_text())),
        "after init": modes(folder),
    }
    (home / "book.vcf").write_bytes(book(3) + BROKEN_CARD)
    answers: dict[str, list[Any]] = {}
    refusals: dict[str, Any] = {}

    def refused(name: str, *arguments: object) -> None:
        ended = ipls(*arguments)
        refusals[name] = {"status": ended.returncode, "reason": reason(ended.stderr)}

    def note(*arguments: object, of: int, status: int = 0, run: Callable[..., Ended] = ipls) -> list[Any]:
        """Keep the lines of the command, whose words are the first `of` arguments."""
        name = " ".join(["ipls", *map(str, arguments[:of])])
        lines = told(*arguments, status=status, run=run)
        answers.setdefault(name, []).extend(lines)
        return lines

    with ThreadPoolExecutor(1) as beside:
        slow = [
            beside.submit(note, "hsm", "check", "--config", folder / "ipls.toml", of=2, run=apart),
            beside.submit(note, "demo", "--contacts", home / "book.vcf", of=1, run=apart),
        ]
        with serving(folder):
            files["endpoints.json, running"] = shape(_endpoints(folder))
            _online(folder, home, note, refused)
        for each in slow:
            each.result()
    _offline(folder, home, note)
    files["endpoints.json, stopped"] = shape(_endpoints(folder))
    files["after the story"] = modes(folder)
    files["a profile"] = modes(home / "profiles/old")
    files["audit.json"] = shape(json.loads((home / "audit.json").read_text()))
    _later(home, note)
    saved = [home / f"{name}.proof" for name in ("history", "lookup")] + [home / "out.vcf"]
    files["saved by the client"] = {file.name: _mode(file) for file in saved}
    first, shaped = recorded("commands"), {name: shapes(lines) for name, lines in answers.items()}
    later = {name: lines for name, lines in shaped.items() if f"{name} --json" not in first}
    kept = {name: lines for name, lines in shaped.items() if name not in later}
    return {"answers": kept, "later": later, "files": files, "refusals": refusals}


def _online(folder: Path, home: Path, note: Any, refused: Any) -> None:
    endpoints = ("--endpoints", folder / "endpoints.json")
    outbox = ("--outbox", folder / "data/registration.outbox")
    trust = ("--trust", folder / "trust.toml")

    def phone(name: str) -> tuple[object, ...]:
        return "--profile", name, "--home", home

    note("client", "contacts", "import", home / "book.vcf", *endpoints, *phone("old"), of=3)
    note("client", "status", *phone("old"), of=2)
    refused("a number that is none", "client", "register", "12", *outbox, *phone("old"))
    note("client", "register", NUMBER, *outbox, *phone("old"), of=2)
    refused("another number", "client", "register", f"{NUMBER}2", *outbox, *phone("old"))
    refused("nothing stored yet", "client", "restore", *phone("old"))
    note("client", "store", *phone("old"), of=2)
    note("client", "contacts", "list", *phone("old"), of=3)
    note("client", "contacts", "find", "Person 1", *phone("old"), of=3)
    note("client", "vault", "show", *phone("old"), of=3)
    note("client", "vault", "delay", "1", *phone("old"), of=3)
    key = done("client", "vault", "key", *endpoints, *phone("tablet")).strip()
    done("client", "vault", "trust", key, *phone("old"))
    note("client", "register", NUMBER, *endpoints, *outbox, *phone("new"), of=2)
    note("client", "vault", "show", *phone("new"), of=3)
    refused("the change delay", "client", "restore", *phone("new"))
    request = done("client", "vault", "request", *phone("new")).strip()
    approval = done("client", "vault", "sign", request, *phone("tablet")).strip()
    done("client", "vault", "approve", approval, *phone("new"))
    note("client", "restore", *phone("new"), of=2)
    note("client", "monitor", *phone("new"), of=2)
    note("client", "history", "--save", home / "history.proof", *phone("new"), of=2)
    note("client", "lookup", NUMBER, "--save", home / "lookup.proof", *phone("new"), of=2)
    note("client", "status", *phone("new"), of=2)
    done("client", "contacts", "export", home / "out.vcf", *phone("new"))
    refused("another phone has the number", "client", "store", *phone("old"))
    # The old phone takes its number back, and sees what was done meanwhile.
    note("client", "register", NUMBER, *outbox, *phone("old"), of=2)
    note("client", "monitor", *phone("old"), status=1, of=2)
    note("client", "status", *phone("old"), of=2)
    done("directory", "pin", 1, "--config", folder / "ipls.toml")
    note("audit", *trust, "--state", home / "audit.json", of=1)
    refused("an epoch that is not there yet", "audit", *trust, "--from", 100_000)
    refused("a vault that runs", "vault", "check", "--config", folder / "ipls.toml")
    refused("a deployment that runs", "serve", "all", "--config", folder / "ipls.toml")


def _offline(folder: Path, home: Path, note: Any) -> None:
    config, trust = ("--config", folder / "ipls.toml"), ("--trust", folder / "trust.toml")
    note("audit", *trust, "--state", home / "audit.json", of=1, status=3)
    note("directory", "fsck", *config, of=2)
    note("directory", "pins", *config, of=2)
    note("verify", "history", home / "history.proof", *trust, of=2)
    note("verify", "lookup", home / "lookup.proof", *trust, of=2)
    note("verify", "bundle", folder / "bundle.pb", *trust, of=2)
    note("verify", "append-only", next((folder / "data/log/1").glob("*/*")), *trust, of=2)
    (home / "evidence").write_bytes(two_signatures(folder, "ipls.local", int(time.time() * 1000)))
    note("verify", "evidence", home / "evidence", *trust, of=2)
    with VECTORS.open() as vectors:
        lines = [next(vectors) for _ in range(8)]
    (home / "vectors.jsonl").write_text("".join(lines))
    note("verify", "vectors", home / "vectors.jsonl", of=2)
    note("verify", "proofs", home / "vectors.jsonl", of=2)
    head, value = lines[3].split('"value":"')
    (home / "bent.jsonl").write_text("".join([*lines[:3], f'{head}"value":"00{value[2:]}']))
    note("verify", "proofs", home / "bent.jsonl", of=2, status=1)


def _later(home: Path, note: Any) -> None:
    """Commands that came later, with nobody to ask."""
    old = ("--profile", "old", "--home", home)
    folder = home / "cards"
    folder.mkdir()

    def contacts(command: str, *arguments: object) -> list[Any]:
        found: list[Any] = note("client", "contacts", command, *arguments, *old, of=3)
        return found

    first, second = (contacts("add", name, "--number", "+1 555 0999")[0]["id"] for name in ("Ada", "Ada K"))
    contacts("edit", first, "--name", "Ada King")
    contacts("show", first)
    contacts("duplicates")
    contacts("apart", first, second)
    contacts("merge", first, second)
    contacts("undo")
    contacts("remove", second)
    contacts("place", "--address-book")
    contacts("place", first, "--address-book")
    contacts("code", "Ada")
    contacts("forget", "+15555550101")
    contacts("export", home / "again.vcf")
    note("client", "sync", folder, "--yes", *old, of=2)
    (card,) = (path for path in folder.glob("*.vcf") if b"FN:Ada King" in path.read_bytes())
    card.write_bytes(card.read_bytes().replace(b"FN:Ada King", b"FN:There"))
    contacts("edit", first, "--name", "Here")
    note("client", "sync", folder, *old, of=2)
    contacts("conflicts")
    contacts("settle", first, "--keep")
    done("client", "profiles", "add", "work", "--endpoints", home / "ipls/endpoints.json", "--home", home)
    contacts("copy", first, "--to", "work")
    note("client", "devices", *old, of=2)
    note("client", "devices", "list", *old, of=3)
    note("client", "identity", *old, of=2)
    note("client", "number", *old, of=2)
    note("client", "export-all", home / "all.zip", *old, of=2)
    note("client", "profiles", "--home", home, of=2)
    note("client", "profiles", "list", "--home", home, of=3)
    note("client", *old, of=1)


def modes(folder: Path) -> dict[str, str]:
    """The modes of all that lies in a folder, by its name; what is counted or drawn there is N or HEX in it."""
    found = {}
    for path in folder.rglob("*"):
        if not path.name.endswith(("-wal", "-shm")):  # SQLite's, while a database is open
            name = re.sub(r"(?<![0-9a-f])[0-9a-f]{8}[0-9a-f-]{24,}", "HEX", str(path.relative_to(folder)))
            found[re.sub(r"(?<=/)[0-9]+(?=/|$)", "N", name)] = _mode(path)
    return found


def _mode(path: Path) -> str:
    return stat.filemode(path.stat().st_mode)


def _endpoints(folder: Path) -> Any:
    return json.loads((folder / "endpoints.json").read_text())
