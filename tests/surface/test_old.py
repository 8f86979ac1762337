"""Databases, tokens, profiles and state files that 0.1.0 left: this version reads them and goes on with them."""

import shutil
from pathlib import Path
from typing import Any

from tests.surface.old import GUARDED, NUMBER, opened, renew_bundle
from tests.surface.running import done, ipls, reason, serving, told


def test_what_was_stored_is_there_and_goes_on(tmp_path: Path) -> None:
    with opened(tmp_path) as folder:
        shutil.copy(folder / "bundle.pb", tmp_path / "before.pb")
        config, trust = ("--config", folder / "ipls.toml"), ("--trust", folder / "trust.toml")
        renew_bundle(folder)
        (bundle,) = told("verify", "bundle", folder / "bundle.pb", *trust, "--previous", tmp_path / "before.pb")
        assert bundle["number"] == 3
        with serving(folder):
            _go_on(folder, tmp_path)
            (audit,) = told("audit", *trust, "--state", tmp_path / "audit.json")
        assert (audit["ok"], audit["first"], audit["last"]) == (True, 4, 5)
        assert told("directory", "fsck", *config)[0]["differences"] == []
        done("vault", "check", *config)


def _go_on(folder: Path, home: Path) -> None:
    endpoints = ("--endpoints", folder / "endpoints.json")
    outbox = ("--outbox", folder / "data/registration.outbox")

    def client(name: str, *arguments: object) -> list[Any]:
        return told("client", *arguments, "--profile", name, "--home", home)

    def vault(name: str, *arguments: object) -> str:
        return done("client", "vault", *arguments, "--profile", name, "--home", home).strip()

    # The phone that restored last stores one card more, which a phone of this version restores.
    (home / "more.vcf").write_bytes(b"BEGIN:VCARD\r\nVERSION:3.0\r\nFN:One more\r\nEND:VCARD\r\n")
    client("old", "contacts", "import", home / "more.vcf", *endpoints)
    begun = {"contacts": 4, "received": 0, "sent": 4, "unread": 0, "generation": 3, "n": 1, "rotated": False}
    assert client("old", "store")[0] == begun
    uses = client("old", "history")
    assert client("new", "register", NUMBER, *endpoints, *outbox)[0]["version"] == 3
    assert client("new", "restore")[0]["contacts"] == 4
    assert client("new", "history")[: len(uses)] == [use | {"origin": "earlier"} for use in uses]
    assert [version["origin"] for version in client("new", "monitor")] == ["earlier", "earlier", "own"]
    done("client", "contacts", "import", home / "more.vcf", *endpoints, "--profile", "first", "--home", home)
    refused = ipls("client", "store", "--profile", "first", "--home", home)
    assert (refused.returncode, reason(refused.stderr)) == (1, "IDENTITY_SUPERSEDED")

    # The vault has kept the delay and the device that may approve, and the device its key.
    assert client("tall", "register", GUARDED, *endpoints, *outbox)[0]["version"] == 2
    waiting = ipls("client", "restore", "--profile", "tall", "--home", home)
    assert (waiting.returncode, reason(waiting.stderr)) == (1, "VAULT_CHANGE_DELAYED")
    vault("tall", "approve", vault("tablet", "sign", vault("tall", "request")))
    assert client("tall", "restore")[0]["contacts"] == 3


def test_what_was_kept_is_read_without_a_service(tmp_path: Path) -> None:
    with opened(tmp_path) as folder:
        config, trust = ("--config", folder / "ipls.toml"), ("--trust", folder / "trust.toml")
        done("vault", "check", *config)
        assert done("vault", "roots", *config).endswith("  3 keys\n")
        (fsck,) = told("directory", "fsck", *config)
        assert (fsck["head"], fsck["versions"], fsck["pins"], fsck["differences"]) == (3, 3, [1], [])
        for profile, label in (("old", NUMBER), ("guarded", GUARDED)):
            where = ("--profile", profile, "--home", tmp_path)
            listed = told("client", "contacts", "list", *where)
            assert sorted(contact["name"] for contact in listed) == ["Person 0", "Person 1", "Person 2"]
            (status,) = told("client", "status", *where)
            assert (status["label"], status["trust_root"]) == (label, 2 if profile == "old" else 1)
        for kind in ("history", "lookup"):
            (proof,) = told("verify", kind, tmp_path / f"{kind}.proof", *trust)
            assert (proof["label"], proof["versions"][0]["version"]) == (NUMBER, 2)
        assert told("verify", "evidence", tmp_path / "evidence", *trust)[0]["witnesses"] == ["witness"]
        for file in (folder / "data/log").glob("[0-9]*/*/*"):
            done("verify", "append-only", file, *trust)
