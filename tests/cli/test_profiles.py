"""`ipls client profiles`, as a person uses it, with a real keyring where one is needed."""

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from ipls.client.device import Device
from ipls.client.profile import Account, Contact, Profile, Synced
from ipls.client.profile_key import IN_FILE, Kept, KeyAccess
from ipls.contacts.envelope import Envelope
from tests.cli.test_unlocking import at_terminal, deployed, secret_service
from tests.client.deployment import book
from tests.e2e.running import IPLS, ipls
from tests.environment import BARE, DIES_WITH_US

ROOT = Path(__file__).parents[2]
NUMBER = "+4915112345678"


@pytest.fixture(scope="module")
def endpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return deployed(tmp_path_factory.mktemp("deployment"))


@pytest.fixture(scope="module")
def desktop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with secret_service(tmp_path_factory.mktemp("desktop")) as environment:
        yield environment


class Commands:
    """Runs `ipls`: in each environment one process stands by (`tests.cli.forks`)."""

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        self._stack, self._folder = stack, folder
        self._standing: dict[str, subprocess.Popen[str]] = {}

    def run(self, arguments: list[str], environment: Mapping[str, str]) -> tuple[int, str]:
        """Exit status, and what it said on either stream."""
        name = json.dumps(environment)
        if name not in self._standing:
            command = [*DIES_WITH_US, sys.executable, "-m", "tests.cli.forks"]
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
            self._standing[name] = self._stack.enter_context(
                subprocess.Popen(command, cwd=ROOT, env=environment, text=True, **pipes)
            )
        process = self._standing[name]
        assert process.stdin
        assert process.stdout
        process.stdin.write(json.dumps(arguments) + "\n")
        process.stdin.flush()
        ended = json.loads(process.stdout.readline())
        return ended["status"], ended["out"] + ended["err"]

    def passphrase(self, text: str, environment: Mapping[str, str] = BARE) -> dict[str, str]:
        """Likewise, with a file that has it."""
        file = self._folder / text
        file.touch(mode=0o600)
        file.write_text(text)
        return {**environment, "IPLS_PASSPHRASE_FILE": str(file)}


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    with ExitStack() as stack:
        yield Commands(stack, tmp_path_factory.mktemp("passphrases"))


class Home:
    """Where a person's profiles are."""

    def __init__(self, folder: Path, endpoints: Path, commands: Commands) -> None:
        self.folder, self._endpoints, self._commands = folder, endpoints, commands
        (folder / "book.vcf").write_bytes(book(3))

    def says(self, *arguments: object, environment: Mapping[str, str] = BARE, status: int = 0) -> str:
        """What `ipls client` says, on either stream."""
        command = [*map(str, ("client", *arguments, "--home", self.folder))]
        ended, said = self._commands.run(command, environment)
        assert ended == status, said
        assert "Traceback" not in said
        return said

    def profiles(self, *arguments: object, **options: Any) -> str:
        return self.says("profiles", *arguments, **options)

    def listed(self, environment: Mapping[str, str] = BARE) -> list[dict[str, Any]]:
        lines = self.profiles("list", "--json", environment=environment).splitlines()
        return [json.loads(line) for line in lines]

    def states(self, environment: Mapping[str, str] = BARE) -> dict[str, str]:
        return {each["name"]: each["state"] for each in self.listed(environment)}

    def add(self, name: str, environment: Mapping[str, str]) -> Path:
        """As a person does."""
        self.profiles("add", name, "--endpoints", self._endpoints, environment=environment)
        self.says("contacts", "import", self.folder / "book.vcf", "--profile", name, environment=environment)
        return self.folder / "profiles" / name

    async def has(self, name: str, access: KeyAccess = IN_FILE) -> Path:
        """The same, quicker."""
        folder = self.folder / "profiles" / name
        async with Device.open(folder, self._endpoints, key=access) as device:
            device.address_book.import_cards(book(3))
        return folder

    def cards(self, name: str, environment: Mapping[str, str] = BARE) -> int:
        return self.says("contacts", "export", "-", "--profile", name, environment=environment).count("BEGIN:VCARD")


@pytest.fixture
def home(tmp_path: Path, endpoints: Path, commands: Commands) -> Home:
    return Home(tmp_path, endpoints, commands)


ONE = KeyAccess(Kept.PASSPHRASE, passphrase=lambda new: "one")


async def test_all_are_listed_whatever_state_they_are_in(home: Home, commands: Commands) -> None:
    assert home.listed() == []
    assert "next: ipls client register" in home.profiles()
    with closing(Profile(await home.has("phone"))) as profile:
        profile.put(Account(NUMBER, bytes(32), 1, 1))
        profile.remove_contacts(contact.id for contact in profile.contacts())
        profile.put(Synced(1_700_000_000_000))
    await home.has("fresh")
    await home.has("secret", ONE)
    (await home.has("broken") / "profile.db").write_bytes(b"no database" * 1000)
    (await home.has("keyless") / "key.json").unlink()
    (home.folder / "profiles/empty").mkdir()
    (home.folder / "profiles/stray").touch()
    assert home.states() == {
        "broken": "damaged",
        "empty": "damaged",
        "fresh": "new",
        "keyless": "damaged",
        "phone": "ready",
        "secret": "locked",
    }
    phone = next(each for each in home.listed() if each["name"] == "phone")
    assert phone == {
        "name": "phone",
        "state": "ready",
        "kept": "file",
        "number": NUMBER,
        "contacts": 0,
        "unsent": 0,
        "synced_ms": 1_700_000_000_000,
        "reason": "",
    }
    lines = home.profiles().splitlines()
    assert len(lines) == 6
    assert lines[5] == "secret   locked [PROFILE_LOCKED]"
    assert f"phone    {NUMBER}  0 contacts  synced 2023-11-14" in lines[4]
    assert home.states(commands.passphrase("one"))["secret"] == "new"


async def test_one_is_added_once_and_renamed_to_what_nobody_has(home: Home) -> None:
    await home.has("one")
    await home.has("two")
    assert "[PROFILE_EXISTS]" in home.profiles("add", "one", status=2)
    assert "[PROFILE_EXISTS]" in home.profiles("rename", "one", "two", status=2)
    assert "[PROFILE_ABSENT]" in home.profiles("rename", "none", "three", status=2)
    assert "no slash" in home.profiles("rename", "one", "../three", status=2)
    home.profiles("rename", "one", "three")
    assert home.states() == {"three": "new", "two": "new"}
    assert home.cards("three") == 3


async def test_a_profile_that_somebody_changes_is_read_and_not_renamed_or_removed(home: Home) -> None:
    with closing(Profile(await home.has("busy"))):
        where = ("--profile", "busy")
        (first, *others) = home.says("contacts", "list", *where).splitlines()
        assert len(others) == 2 + 1  # and where new ones go
        assert "Person 2" in home.says("contacts", "find", "Person 2", *where)
        assert "Person 0" in home.says("contacts", "show", first.split()[0], *where)
        assert "contacts    3" in home.says("status", *where)
        assert home.cards("busy") == 3
        assert home.states() == {"busy": "new"}
        for command in (("rename", "busy", "other"), ("remove", "busy", "--yes")):
            assert "[PROFILE_BUSY]" in home.profiles(*command, status=3)
    assert home.cards("busy") == 3


def test_a_locked_profile_is_out_of_the_keyring_and_takes_its_passphrase(
    home: Home, commands: Commands, desktop: dict[str, str]
) -> None:
    folder = home.add("phone", desktop)
    (profile,) = home.listed(desktop)
    assert profile["kept"] == "keyring"
    first = commands.passphrase("one", desktop)
    home.profiles("lock", "phone", environment=first)
    assert home.states(desktop) == {"phone": "locked"}
    assert "[PROFILE_LOCKED]" in home.says("contacts", "list", "--profile", "phone", environment=desktop, status=1)
    assert secrets(desktop) == 0
    wrong = commands.passphrase("two", desktop)
    assert "[PASSPHRASE_WRONG]" in home.profiles("unlock", "phone", environment=wrong, status=1)
    home.profiles("lock", "phone", environment=desktop)  # it is
    home.profiles("unlock", "phone", environment=first)
    assert home.cards("phone", desktop) == 3
    home.profiles("lock", "phone", environment=desktop)  # it has its passphrase
    assert home.states(desktop) == {"phone": "locked"}
    assert home.cards("phone", first) == 3
    home.profiles("unlock", "phone", "--in-file", environment=first)
    assert home.cards("phone") == 3
    home.profiles("lock", "phone")
    assert home.states() == {"phone": "locked"}
    assert '"key": ""' in (folder / "key.json").read_text()


def secrets(environment: Mapping[str, str]) -> int:
    """How many the keyring has."""
    script = (
        "import secretstorage; bus = secretstorage.dbus_init();"
        "print(len([*secretstorage.search_items(bus, {'service': 'ipls'})]))"
    )
    return int(subprocess.run([IPLS[0], "-c", script], env=environment, capture_output=True, check=True).stdout)


async def test_a_new_passphrase_takes_the_old_ones_place(home: Home, commands: Commands) -> None:
    old, new = commands.passphrase("one"), commands.passphrase("two")
    await home.has("phone", ONE)
    change = ("passphrase", "phone", "--new-passphrase-file", new["IPLS_PASSPHRASE_FILE"])
    assert "[PROFILE_LOCKED]" in home.profiles(*change, status=1)
    assert "[PASSPHRASE_WRONG]" in home.profiles(*change, environment=new, status=1)
    home.profiles(*change, environment=old)
    assert home.cards("phone", new) == 3
    assert "[PASSPHRASE_WRONG]" in home.says("status", "--profile", "phone", environment=old, status=1)


async def test_a_passphrase_is_asked_for_at_the_terminal(home: Home, commands: Commands) -> None:
    await home.has("phone")
    command = [*IPLS, "client", "profiles", "lock", "phone", "--home", str(home.folder)]
    assert at_terminal(command, "\n\n")[0] == 2
    assert home.states() == {"phone": "new"}
    assert at_terminal(command, "one\none\n")[0] == 0
    assert home.cards("phone", commands.passphrase("one")) == 3


async def test_what_is_damaged_costs_itself_and_says_what_to_do(home: Home) -> None:
    folder = await home.has("phone")
    with closing(Profile(folder)) as profile:
        profile.put(Account(NUMBER, bytes(32), 1, 1))
    with closing(sqlite3.connect(folder / "profile.db")) as db, db:
        (account,) = db.execute("SELECT max(number) FROM single").fetchone()
        db.execute("UPDATE single SET sealed = zeroblob(length(sealed)) WHERE number = ?", (account,))
        db.execute("UPDATE edit SET sealed = substr(sealed, 2) WHERE number = 2")
    said = home.says("store", "--profile", "phone", status=1)
    assert "[PROFILE_DAMAGED]" in said
    assert "contacts export" in said
    assert said.count("\n") == 1
    assert home.cards("phone") == 2
    listed = home.says("contacts", "list", "--profile", "phone").splitlines()
    assert [("damaged" in line) for line in listed].count(True) == 1
    assert len(listed) == 3 + 1  # and where new ones go
    assert home.states() == {"phone": "damaged"}


def typing(home: Home, command: str, name: str, typed: str, *, status: int = 0) -> str:
    ended = ipls("client", "profiles", command, name, "--home", home.folder, input=typed)
    assert ended.returncode == status
    return ended.stdout + ended.stderr


async def test_removing_says_what_goes_and_what_stays_and_asks(home: Home) -> None:
    folder = await home.has("phone")
    with closing(Profile(folder)) as profile:
        profile.put(Account(NUMBER, bytes(32), 1, 1))
        profile.put_contacts([Contact(bytes(16), Envelope(b"card"))])
    said = typing(home, "remove", "phone", "\n", status=1)
    assert str(folder) in said
    assert f"identity key of {NUMBER}" in said
    assert "4 contacts, 4 of which are only here" in said
    assert folder.exists()
    assert "deleted: phone" in typing(home, "remove", "phone", "y\n")
    assert not folder.exists()
    assert "[PROFILE_ABSENT]" in home.profiles("remove", "phone", "--yes", status=2)


async def test_one_that_can_not_be_opened_is_not_removed_but_wiped(home: Home, desktop: dict[str, str]) -> None:
    await home.has("locked", ONE)
    (await home.has("broken") / "profile.db").write_bytes(b"no database" * 1000)
    (await home.has("keyless") / "key.json").write_text("nothing")
    reasons = {"locked": "PROFILE_LOCKED", "broken": "PROFILE_STORAGE", "keyless": "PROFILE_KEY_LOST"}
    for name, reason in reasons.items():
        assert f"[{reason}]" in home.profiles("remove", name, "--yes", status=1)
        assert "unread" in home.profiles("wipe", name, status=1)  # nobody says yes
        assert (home.folder / "profiles" / name).exists()
        home.profiles("wipe", name, "--yes")
        assert not (home.folder / "profiles" / name).exists()
    home.add("phone", desktop)
    home.add("second", desktop)
    assert secrets(desktop) == 2
    home.profiles("wipe", "phone", "--yes", environment=desktop)
    assert secrets(desktop) == 1
    assert "keyring that has its key is not here" in home.profiles("wipe", "second", "--yes")
    assert home.listed() == []


async def test_a_key_that_is_wiped_is_overwritten(home: Home) -> None:
    folder = await home.has("phone")
    kept = folder.with_name("kept")
    os.link(folder / "key.json", kept)
    home.profiles("wipe", "phone", "--yes")
    assert not kept.read_bytes().strip(b"\0")
