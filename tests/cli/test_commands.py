"""The command as a person types it: exit statuses, one clear line, files for their owner alone."""

import json
import os
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest
import tomli_w

from ipls.admin.deployment import create
from ipls.akd import EMPTY_ROOT, DirectoryKey
from ipls.config import ConfigError, load, load_trust_root, read_secret
from ipls.server.directory.epochs import prepare
from ipls.store.directory import StoredHead, open_directory_store
from tests.e2e.running import IPLS, ipls

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


def test_init_makes_as_many_witnesses_as_asked_for_and_a_majority_signs(tmp_path: Path) -> None:
    made = ipls("init", tmp_path / "ipls", "--port", 0, "--witnesses", 3)
    assert made.returncode == 0, made.stderr
    root = load_trust_root(tmp_path / "ipls/trust.toml")
    assert ([w.name for w in root.witnesses], root.k) == (["witness", "witness-2", "witness-3"], 2)
    services = json.loads((tmp_path / "ipls/endpoints.json").read_text())["services"]
    assert [w.url for w in root.witnesses] == [services[f"auditor{n}"]["address"] for n in ("", "-2", "-3")]
    assert len({service["address"] for service in services.values()}) == 12
    config = ("--config", tmp_path / "ipls/ipls.toml")
    for wrong in ((), ("--name", "witness-4")):
        served = ipls("serve", "witness", *config, *wrong)
        assert served.returncode == 2
        assert "--name: witness, witness-2, witness-3" in served.stderr
    assert ipls("serve", "log", *config, "--name", "witness").returncode == 2


def test_a_witness_needs_its_own_table_and_the_trust_root_alone(folder: Path, tmp_path: Path) -> None:
    """It gets as far as its key, which others can read."""
    (config,) = load(folder / "ipls.toml").witnesses
    own = tmp_path / "witness.toml"
    (tmp_path / "open.key").write_text("00" * 32)
    table = config.model_copy(update={"key": "open.key"}).model_dump(mode="json", exclude_none=True)
    own.write_text(tomli_w.dumps({"trust_root": str(folder / "trust.toml"), "witnesses": [table]}))
    assert ipls("serve", "witness", "--config", own).stderr.endswith("[KEY_FILE_OPEN]\n")


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


@pytest.mark.parametrize("step", ["init_witness_state", "first_bundle", "write_endpoints"])
def test_a_killed_init_is_no_deployment_and_nothing_is_written_over_it(tmp_path: Path, step: str) -> None:
    code = f"""
import os, signal, sys
from pathlib import Path
from typing import IO
import ipls.admin.deployment as deployment
deployment.{step} = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
deployment.create(Path(sys.argv[1]), "test.ipls", port=0)
"""
    folder = tmp_path / "ipls"
    child = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, timeout=60)
    assert child.returncode == -signal.SIGKILL, child.stderr
    left = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert folder / "keys/vrf.key" in left
    with pytest.raises(ConfigError, match="ipls init"):
        load(folder / "ipls.toml")
    with pytest.raises(ConfigError, check=lambda e: e.reason == "FOLDER_IN_USE"):
        create(folder, "test.ipls", port=0)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == left


@pytest.mark.parametrize(
    ("service", "key"),
    [
        ("witness", "keys/witness.key"),
        ("witness", "tls/witness.key"),
        ("directory", "keys/vrf.key"),
        ("directory", "keys/proposal.key"),
        ("directory", "tls/directory.key"),
        ("vault", "tls/vault.key"),
        ("vault", "tls/vault-reader.key"),
        ("contacts", "tls/contacts.key"),
        ("contacts", "tls/contacts-reader.key"),
        ("registration", "tls/registration.key"),
        ("registration", "tls/messaging-service.key"),
    ],
)
def test_a_key_that_others_can_read_is_refused(folder: Path, service: str, key: str) -> None:
    (folder / key).chmod(0o644)
    served = ipls("serve", service, "--config", folder / "ipls.toml")
    (folder / key).chmod(0o600)
    assert served.returncode == 2
    assert served.stderr.count("\n") == 1
    assert key in served.stderr
    assert served.stderr.endswith("[KEY_FILE_OPEN]\n")


def test_a_pin_that_others_can_read_is_refused_by_the_vault_and_by_what_opens_its_token(folder: Path) -> None:
    (folder / "keys/token.pin").chmod(0o644)
    config = ("--config", folder / "ipls.toml")
    ended = [ipls("serve", "vault", *config), ipls("hsm", "check", *config), ipls("vault", "check", *config)]
    (folder / "keys/token.pin").chmod(0o600)
    assert [each.returncode for each in ended] == [1, 2, 2]
    assert all(each.stderr.endswith("[KEY_FILE_OPEN]\n") for each in ended)


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
    assert json.loads(imported.stdout)["new"] == 2
    assert [bad["line"] for bad in json.loads(imported.stdout)["bad"]] == [11]
    assert f"{book}:11: bad" in imported.stderr
    listed = ipls("client", "contacts", "list", *where, "--json").stdout.splitlines()
    assert [json.loads(line)["name"] for line in listed] == ["Ana Muñoz", "Bo"]
    found = json.loads(ipls("client", "contacts", "find", "600 111", *where, "--json").stdout)
    assert found["numbers"] == ["+34 600 111 222"]
    assert "FN:Ana" in ipls("client", "contacts", "show", found["id"][:8], "--raw", *where).stdout
    out = tmp_path / "out.vcf"
    exported = ipls("client", "contacts", "export", out, *where)
    assert (exported.returncode, exported.stderr) == (0, "")
    assert exported.stdout == f"exported: 2 contacts to {out}\n"
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert out.read_bytes().startswith(b"BEGIN:VCARD\r\nVERSION:3.0\r\nFN:Ana Mu\xc3\xb1oz\r\n")
    profile = tmp_path / "home/profiles/default"
    assert [path for path in profile.rglob("*") if stat.S_IMODE(path.stat().st_mode) & 0o077] == []


@pytest.fixture(scope="module")
def home(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """The option for a profile with two contacts."""
    home = tmp_path_factory.mktemp("home")
    (home / "book.vcf").write_bytes(BOOK)
    endpoints = ("--endpoints", folder / "endpoints.json")
    imported = ipls("client", "contacts", "import", home / "book.vcf", *endpoints, "--home", home)
    assert imported.returncode == 0, imported.stderr
    return "--home", home


def test_an_export_over_a_file_that_others_read_is_read_by_them_no_more(home: tuple[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "out.vcf"
    out.write_bytes(b"begin:vcard, an older book")
    out.chmod(0o644)
    (tmp_path / "link.vcf").symlink_to(out)
    with out.open("rb") as reader:
        assert ipls("client", "contacts", "export", tmp_path / "link.vcf", *home).returncode == 0
        assert reader.read() == b"begin:vcard, an older book"  # who had it open sees nothing of the new one
    assert (tmp_path / "link.vcf").is_symlink()
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert out.read_bytes().startswith(b"BEGIN:VCARD")


def test_an_export_into_a_pipe_or_an_open_file_goes_there(home: tuple[str, Path], tmp_path: Path) -> None:
    def export(to: object, output: int | IO[bytes]) -> "subprocess.Popen[bytes]":
        return subprocess.Popen([*IPLS, "client", "contacts", "export", str(to), *home], stdout=output)

    book, _ = export("-", subprocess.PIPE).communicate()
    assert book.startswith(b"BEGIN:VCARD")
    assert export("/dev/stdout", subprocess.PIPE).communicate() == (book, None)
    with (tmp_path / "out").open("w+b") as out:
        assert export("/dev/stdout", out).wait() == 0
        assert out.read() == book
    os.mkfifo(tmp_path / "pipe")
    with export(tmp_path / "pipe", subprocess.DEVNULL) as child:
        assert (tmp_path / "pipe").read_bytes() == book
    assert child.returncode == 0
    assert (tmp_path / "pipe").is_fifo()


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


@pytest.fixture
def database(folder: Path) -> Iterator[Path]:
    """A directory with two epochs of a deployment that does not run."""
    key = DirectoryKey.from_seed(read_secret(folder / "keys/vrf.key"))
    path = folder / "data/directory.db"
    store = open_directory_store(path, "test.ipls", key.public_key)
    term = store.take_lease(store.lease())
    store.commit_start(term, StoredHead(0, EMPTY_ROOT, 0, b"signed"))
    for n in range(2):
        store.submit(bytes([n]) * 16, b"+4917%d" % n, b"value", NOW_MS, daily_quota=9, queue_max=9)
        made = prepare(store, key, term, 9)
        assert made
        store.commit(term, *made, b"signed")
    store.close()
    yield path
    for file in path.parent.glob("directory.db*"):
        file.unlink()


def test_fsck_says_what_differs_and_exits_1(folder: Path, database: Path) -> None:
    command = ("directory", "fsck", "--config", folder / "ipls.toml")
    good = ipls(*command)
    assert (good.returncode, good.stderr) == (0, "")
    assert good.stdout == "epochs 0 to 2: 2 user versions, 2 tiles, no differences\n"
    with sqlite3.connect(database) as db:
        db.execute("UPDATE tile SET body = x'00' WHERE epoch = 2")
    db.close()
    bad = ipls(*command)
    assert bad.returncode == 1
    assert bad.stdout.startswith("tile differs: prefix 00, epoch 2\n")
    as_json = ipls(*command, "--json")
    assert as_json.returncode == 1
    assert json.loads(as_json.stdout) == {
        "head": 2,
        "floor": 0,
        "pins": [],
        "versions": 2,
        "tiles": 2,
        "differences": [{"what": "tile differs", "prefix": "00", "epoch": 2}],
    }
    assert not database.with_name("directory.db.fsck").exists()


def test_fsck_of_no_database_and_of_a_broken_one(folder: Path, database: Path) -> None:
    database.write_bytes(b"not a database" * 1000)
    broken = ipls("directory", "fsck", "--config", folder / "ipls.toml")
    assert broken.returncode == 1
    assert broken.stderr.endswith("[DATABASE_UNREADABLE]\n")
    database.rename(database.with_name("directory.db.away"))
    for command in ("fsck", "pins"):
        absent = ipls("directory", command, "--config", folder / "ipls.toml")
        assert absent.returncode == 1
        assert absent.stderr.endswith("[DATABASE_MISSING]\n")
    assert not database.exists()


def test_epochs_are_pinned_and_unpinned(folder: Path, database: Path) -> None:
    config = ("--config", folder / "ipls.toml")
    assert ipls("directory", "pin", 1, *config).returncode == 0
    assert ipls("directory", "pins", *config).stdout == "kept from epoch 0 on; pinned: 1\n"
    assert ipls("directory", "pin", 3, *config).stderr.endswith("[EPOCH_UNKNOWN]\n")
    assert ipls("directory", "unpin", 1, *config).returncode == 0
    assert ipls("directory", "unpin", 1, *config).stderr.endswith("[PIN_UNKNOWN]\n")
    assert json.loads(ipls("directory", "pins", *config, "--json").stdout) == {"floor": 0, "pins": []}
