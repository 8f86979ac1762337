"""What a command opens a profile with: a real keyring (a Secret Service on a bus of its own), a passphrase from its
file or from a terminal, and where there is neither the key's own file."""

import os
import pty
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from ipls.admin import deployment
from tests.client.deployment import book
from tests.e2e.running import IPLS, ipls
from tests.environment import BARE, DIES_WITH_US


@pytest.fixture(scope="module")
def endpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return deployed(tmp_path_factory.mktemp("deployment"))


def deployed(folder: Path) -> Path:
    """The endpoints of a deployment, none of which serves."""
    deployment.create(folder / "ipls", "test.ipls", port=0)
    return folder / "ipls/endpoints.json"


@contextmanager
def session(home: Path) -> Iterator[dict[str, str]]:
    """The environment of a person who is logged in, but for a display: a bus, and no keyring that is unlocked."""
    home.mkdir(exist_ok=True)
    home.chmod(0o700)
    environment = BARE | {"HOME": str(home), "XDG_RUNTIME_DIR": str(home), "XDG_DATA_HOME": str(home / "data")}
    bus = [*DIES_WITH_US, "dbus-daemon", "--session", "--nofork", "--print-address"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(bus, env=environment, text=True, **pipes) as daemon:
        assert daemon.stdout
        try:
            yield environment | {"DBUS_SESSION_BUS_ADDRESS": daemon.stdout.readline().strip()}
        finally:
            daemon.terminate()


@contextmanager
def secret_service(home: Path) -> Iterator[dict[str, str]]:
    """That of a desktop, whose keyring the login has unlocked."""
    keyring = [*DIES_WITH_US, "gnome-keyring-daemon", "--foreground", "--components=secrets", "--unlock"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with session(home) as environment, subprocess.Popen(keyring, env=environment, text=True, **pipes) as service:
        assert service.stdin
        service.stdin.write("login")
        service.stdin.close()
        assert service.stdout
        service.stdout.readline()
        try:
            yield environment
        finally:
            service.terminate()


@pytest.fixture
def desktop(tmp_path: Path) -> Iterator[dict[str, str]]:
    with secret_service(tmp_path / "desktop") as environment:
        yield environment


class Person:
    """With one profile."""

    def __init__(self, home: Path, endpoints: Path) -> None:
        self.home, self._endpoints = home, endpoints
        self.folder = home / "profiles/default"
        (home / "book.vcf").write_bytes(book(3))

    def makes_it(self, environment: Mapping[str, str], status: int = 0) -> "subprocess.CompletedProcess[str]":
        made = self._ipls(environment, "import", self.home / "book.vcf", "--endpoints", self._endpoints)
        assert made.returncode == status
        return made

    def lists(self, environment: Mapping[str, str]) -> "subprocess.CompletedProcess[str]":
        return self._ipls(environment, "list")

    def _ipls(self, environment: Mapping[str, str], *arguments: object) -> "subprocess.CompletedProcess[str]":
        return ipls("client", "contacts", *arguments, "--home", self.home, env=environment, stdin=subprocess.DEVNULL)

    def kept(self) -> str:
        return (self.folder / "key.json").read_text()


@pytest.fixture
def person(tmp_path: Path, endpoints: Path) -> Person:
    return Person(tmp_path, endpoints)


def shows_all(ended: "subprocess.CompletedProcess[str]") -> bool:
    return ended.returncode == 0 and ended.stdout.count("Person") == 3 and warnings(ended) == []


def warnings(ended: "subprocess.CompletedProcess[str]") -> list[str]:
    """What stands on standard error besides what to do next, and where new contacts go."""
    return [line for line in ended.stderr.splitlines() if not line.startswith(("next: ", "new contacts are "))]


def is_refused(ended: "subprocess.CompletedProcess[str]", reason: str) -> bool:
    assert ended.stderr.count("\n") == 1
    assert "; next: " in ended.stderr
    return ended.returncode == 1 and f"[{reason}]" in ended.stderr and ended.stdout == ""


def test_the_keyring_of_a_desktop_keeps_the_key(person: Person, desktop: dict[str, str], tmp_path: Path) -> None:
    assert warnings(person.makes_it(desktop)) == []
    assert '"kept": "keyring"' in person.kept()
    assert shows_all(person.lists(desktop))
    assert is_refused(person.lists(BARE), "KEYRING_UNAVAILABLE")
    with secret_service(tmp_path / "another") as anothers:
        assert is_refused(person.lists(anothers), "PROFILE_LOCKED")
    assert shows_all(person.lists(desktop))


def test_a_keyring_that_nobody_unlocks_is_refused_and_no_key_is_kept_elsewhere(person: Person, tmp_path: Path) -> None:
    with session(tmp_path / "desktop") as desktop:  # which starts the keyring; its prompt finds no display
        making = person.makes_it(desktop, status=1)
    assert is_refused(making, "KEYRING_UNAVAILABLE")
    assert not (person.folder / "key.json").exists()


def test_a_passphrases_file_is_enough_and_a_wrong_one_loses_nothing(person: Person) -> None:
    file = person.home / "passphrase"
    given = BARE | {"IPLS_PASSPHRASE_FILE": str(file)}
    file.touch(mode=0o600)
    file.write_text("right one\n")
    assert warnings(person.makes_it(given)) == []
    assert '"kept": "passphrase"' in person.kept()
    assert shows_all(person.lists(given))
    file.write_text("wrong one\n")
    assert is_refused(person.lists(given), "PASSPHRASE_WRONG")
    assert is_refused(person.lists(BARE), "PROFILE_LOCKED")
    file.write_text("\n")
    assert "[PASSPHRASE_EMPTY]" in person.lists(given).stderr
    file.chmod(0o644)
    assert "[KEY_FILE_OPEN]" in person.lists(given).stderr
    file.chmod(0o600)
    file.write_text("right one")
    assert shows_all(person.lists(given))


def test_where_there_is_neither_the_key_is_in_a_file_which_is_said_once(person: Person) -> None:
    (said,) = warnings(person.makes_it(BARE))
    assert str(person.folder / "key.json") in said
    assert '"kept": "file"' in person.kept()
    assert shows_all(person.lists(BARE))
    assert person.makes_it(BARE).stderr == ""


def at_terminal(arguments: list[str], typed: str) -> tuple[int, str]:
    """What the command ends with, and what it shows."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(sys.executable, arguments, BARE)
    with os.fdopen(terminal, "r+b", buffering=0) as screen:
        shown = b""
        for line in typed.splitlines(keepends=True):
            while not shown.endswith(b": "):
                shown += screen.read(1)
            screen.write(line.encode())
            shown += b"\n"
        try:
            while more := screen.read(1000):
                shown += more
        except OSError:  # it has ended
            pass
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), shown.decode()


def test_somebody_at_a_terminal_is_asked(person: Person) -> None:
    where = ["--home", str(person.home)]
    make = [*IPLS, "client", "contacts", "import", str(person.home / "book.vcf"), *where]
    make += ["--endpoints", str(person._endpoints)]
    assert at_terminal(make, "one\nother\n")[0] == 2
    assert at_terminal(make, "right one\nright one\n")[0] == 0
    assert '"kept": "passphrase"' in person.kept()
    status, shown = at_terminal([*IPLS, "client", "contacts", "list", *where], "right one\n")
    assert (status, shown.count("Person"), "right one" in shown) == (0, 3, False)
    assert at_terminal([*IPLS, "client", "contacts", "list", *where], "wrong one\n")[0] == 1


def test_ctrl_c_at_the_passphrase_ends_the_command(person: Person) -> None:
    where = ["--home", str(person.home)]
    make = [*IPLS, "client", "contacts", "import", str(person.home / "book.vcf"), *where]
    assert at_terminal([*make, "--endpoints", str(person._endpoints)], "\x03")[0] == 130
    assert not (person.folder / "key.json").exists()
