"""The command as a person types it: exit statuses, one clear line, files for their owner alone."""

import hashlib
import json
import os
import stat
from pathlib import Path

import pytest

from ipls.cli.keys import renew_bundle
from ipls.config import ConfigError, load, load_trust_root
from ipls.proto.vault.v1.vault_pb2 import Bundle, SignedBundle
from ipls.trust.bundle import verify_bundle
from tests.e2e.running import ipls

NOW_MS = 1_800_000_000_000
BOOK = (
    b"BEGIN:VCARD\r\nVERSION:3.0\r\nFN:Ana Mu\xc3\xb1oz\r\nTEL:+34 600 111 222\r\nEND:VCARD\r\n"
    b"BEGIN:VCARD\r\nVERSION:4.0\r\nFN:Bo\r\nX-ODD;=:\x07\r\nEND:VCARD\r\n"
    b"BEGIN:VCARD\r\nVERSION:2.1\r\nFN:No end\r\n"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("deployment") / "ipls"
    made = ipls("init", folder, "--port", 0, "--namespace", "test.ipls")
    assert made.returncode == 0, made.stderr
    assert "ipls serve all" in made.stdout
    return folder


def test_init_makes_every_secret_for_its_owner_alone(folder: Path) -> None:
    secret = [*folder.glob("keys/*"), *folder.glob("tls/*.key"), *folder.glob("data/*.db")]
    secret += [path for path in folder.glob("token/**/*") if path.is_file()]
    assert len(secret) > 12
    assert [path for path in secret if stat.S_IMODE(path.stat().st_mode) & 0o077] == []


def test_init_refuses_a_folder_in_use_and_touches_nothing(folder: Path) -> None:
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    again = ipls("init", folder)
    assert again.returncode == 2
    assert again.stderr.endswith("[FOLDER_IN_USE]\n")
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_init_that_fails_leaves_nothing(tmp_path: Path) -> None:
    failed = ipls("init", tmp_path / "new", "--namespace", "with/slash")
    assert failed.returncode == 1
    assert failed.stderr.endswith("[TRUST_ROOT_INVALID]\n")
    assert list(tmp_path.iterdir()) == []


def test_a_renewed_bundle_continues_the_old_one(folder: Path) -> None:
    old = SignedBundle.FromString((folder / "bundle.pb").read_bytes())
    renewed = ipls("keys", "bundle", "--config", folder / "ipls.toml")
    assert renewed.returncode == 0, renewed.stderr
    new = SignedBundle.FromString((folder / "bundle.pb").read_bytes())
    now_ms = Bundle.FromString(new.bundle).expires_ms - 1000
    bundle = verify_bundle(load_trust_root(folder / "trust.toml"), new, now_ms=now_ms)
    assert bundle.number == Bundle.FromString(old.bundle).number + 1
    assert bundle.previous == hashlib.sha256(old.bundle).digest()


def test_only_the_operators_key_renews_the_bundle(folder: Path) -> None:
    before = (folder / "bundle.pb").read_bytes()
    with pytest.raises(ConfigError, match="not the operator key"):
        renew_bundle(load(folder / "ipls.toml"), folder / "keys/witness.key", now_ms=NOW_MS)
    assert (folder / "bundle.pb").read_bytes() == before


def test_a_key_that_others_can_read_is_refused(folder: Path) -> None:
    key = folder / "keys/witness.key"
    key.chmod(0o644)
    served = ipls("serve", "witness", "--config", folder / "ipls.toml")
    key.chmod(0o600)
    assert served.returncode == 2
    assert served.stderr.count("\n") == 1
    assert served.stderr.endswith("[KEY_FILE_OPEN]\n")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("[directory]\nspeed = 1\n", "directory.speed"),
        ("[directory]\nepoch_max_updates = 0\n", "directory.epoch_max_updates"),
        ("[directory\n", "ipls.toml"),
    ],
)
def test_a_wrong_configuration_names_the_key_at_fault(folder: Path, tmp_path: Path, change: str, message: str) -> None:
    config = tmp_path / "ipls.toml"
    config.write_text((folder / "ipls.toml").read_text().replace("[directory]\n", change))
    served = ipls("serve", "directory", "--config", config)
    assert served.returncode == 2
    assert served.stderr.count("\n") == 1
    assert message in served.stderr
    assert "Traceback" not in served.stderr


def test_contacts_in_and_out_without_a_server(folder: Path, tmp_path: Path) -> None:
    book = tmp_path / "book.vcf"
    book.write_bytes(BOOK)
    where = ("--home", tmp_path / "home")
    endpoints = ("--endpoints", folder / "endpoints.json")
    imported = ipls("client", "contacts", "import", book, *endpoints, *where, "--json")
    assert imported.returncode == 0, imported.stderr
    assert json.loads(imported.stdout)["added"] == 2
    assert [skipped["line"] for skipped in json.loads(imported.stdout)["skipped"]] == [11]
    assert f"{book}:11: skipped" in imported.stderr
    listed = ipls("client", "contacts", "list", *where, "--json").stdout.splitlines()
    assert [json.loads(line)["name"] for line in listed] == ["Ana Muñoz", "Bo"]
    found = json.loads(ipls("client", "contacts", "find", "600 111", *where, "--json").stdout)
    assert found["numbers"] == ["+34 600 111 222"]
    assert "FN:Ana" in ipls("client", "contacts", "show", found["id"][:8], *where).stdout
    out = tmp_path / "out.vcf"
    assert ipls("client", "contacts", "export", out, *where).returncode == 0
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert out.read_bytes().startswith(b"BEGIN:VCARD\r\nVERSION:3.0\r\nFN:Ana Mu\xc3\xb1oz\r\n")
    profile = tmp_path / "home/profiles/default"
    assert [path for path in profile.rglob("*") if stat.S_IMODE(path.stat().st_mode) & 0o077] == []


@pytest.mark.parametrize(
    ("arguments", "status", "reason"),
    [
        (("client", "status"), 2, "PROFILE_ABSENT"),
        (("client", "status", "--profile", "../up"), 2, None),
        (("client", "store", "--profile", "none"), 2, "PROFILE_ABSENT"),
        (("client", "contacts", "import", "no-such-file.vcf"), 2, "IO"),
        (("verify", "vectors", "no-such-file"), 2, "IO"),
        (("serve", "all", "--config", "no-such-file"), 2, "CONFIG_INVALID"),
        (("serve", "everything", "--config", "x"), 2, None),
        (("demo", "--stop", "no-such-folder"), 2, "NOT_KEPT"),
    ],
)
def test_failures_are_one_line_and_a_status(
    tmp_path: Path, arguments: tuple[str, ...], status: int, reason: str | None
) -> None:
    home = ("--home", str(tmp_path)) if arguments[0] == "client" else ()
    ended = ipls(*arguments, *home, cwd=tmp_path)
    assert ended.returncode == status, ended.stderr
    assert "Traceback" not in ended.stderr
    if reason:
        assert ended.stderr.startswith("ipls: ")
        assert ended.stderr.endswith(f"[{reason}]\n")
        assert ended.stderr.count("\n") == 1


def test_a_service_that_is_away_is_status_3(folder: Path, tmp_path: Path) -> None:
    endpoints = ("--endpoints", folder / "endpoints.json")
    where = ("--home", tmp_path, "--patience", 0)
    ended = ipls("client", "register", "+15550001111", "--code", "123456", *endpoints, *where)
    assert ended.returncode == 3, ended.stderr
    assert ended.stderr.endswith("[UNREACHABLE]\n")


def test_names_are_printed_whatever_the_terminal_can_show(folder: Path, tmp_path: Path) -> None:
    book = tmp_path / "book.vcf"
    book.write_bytes(BOOK)
    where = ("--home", tmp_path / "home")
    ipls("client", "contacts", "import", book, "--endpoints", folder / "endpoints.json", *where)
    listed = ipls("client", "contacts", "list", *where, env=os.environ | {"PYTHONIOENCODING": "ascii"})
    assert listed.returncode == 0, listed.stderr
    assert "Ana Mu\\xf1oz" in listed.stdout
