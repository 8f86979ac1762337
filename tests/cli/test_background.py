"""`ipls client background`, and `serve-dav` that follows beside it, as a person has them at a terminal or systemd."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ipls.client.device import Device
from tests.cli.test_contacts import Run, forks  # noqa: F401  # a fixture
from tests.cli.test_serve_dav import Dav
from tests.client.addressbook.rig import card
from tests.client.deployment import Deployment, book
from tests.e2e.running import IPLS


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    folder = tmp_path_factory.mktemp("home")
    with Deployment(tmp_path_factory.mktemp("deployment"), folder / "profiles").running() as world:
        yield world


class Phone:
    """A profile with a line, and how commands name it."""

    def __init__(self, world: Deployment, forks: Run) -> None:  # noqa: F811  # the fixture
        self.folder = asyncio.run(world.stored(world.label(), book(1)))
        self.options = ("--home", self.folder.parent.parent, "--profile", self.folder.name)
        self._forks = forks

    def client(self, *words: object, status: int = 0) -> dict[str, Any]:
        ended = self._forks("client", *words, *self.options)
        assert ended["status"] == status, ended
        return ended

    @contextmanager
    def at_work(self, *words: object, ends: int = 0, by: int = signal.SIGTERM) -> Iterator[Iterator[str]]:
        """A command that goes on, and the lines that it says."""
        command = [*IPLS, "client", *map(str, words), *map(str, self.options)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ) as process:
            assert process.stdout is not None
            try:
                yield iter(process.stdout.readline, "")
            finally:
                process.send_signal(by)
                process.wait(60)
        assert process.returncode == ends


@pytest.fixture
def phone(world: Deployment, forks: Run) -> Phone:  # noqa: F811  # the fixture
    return Phone(world, forks)


def until(lines: Iterator[str], **fields: object) -> dict[str, Any]:
    """The first line that says this."""
    return next(said for line in lines if (said := json.loads(line)) | fields == said)


def test_every_other_command_goes_on_beside_it(phone: Phone, tmp_path: Path) -> None:
    (tmp_path / "cards").mkdir()
    with phone.at_work("background", "--json", by=signal.SIGINT) as lines:
        assert json.loads(next(lines)) == {"event": "following"}
        until(lines, event="synced")
        id = json.loads(phone.client("contacts", "add", "Zoe", "--json")["out"])["id"]
        until(lines, event="synced", sent=1)
        for words in (("edit", id, "--name", "Zoe Wood"), ("remove", id), ("undo",)):
            phone.client("contacts", *words)
            until(lines, event="synced", sent=1)
        phone.client("sync", tmp_path / "cards", "--yes")
        for words in (("export", tmp_path / "all.vcf"), ("list",), ("find", "Zoe")):
            phone.client("contacts", *words)
        for command in ("store", "monitor", "identity", "status", "history"):
            phone.client(command)
        phone.client("vault", "show")
        assert "[PROFILE_FOLLOWED]" in phone.client("background", status=3)["err"]
    assert json.loads(phone.client("status", "--json")["out"])["unsent"] == 0


def test_what_is_in_the_way_is_said_once_and_when_it_is_over(phone: Phone, world: Deployment) -> None:
    with phone.at_work("background") as lines:
        assert next(lines).startswith("following:")
        with world.paused("contacts"):
            phone.client("contacts", "add", "Zoe")
            assert next(lines).startswith("the contact store ")
        assert next(lines).startswith("over: the contact store ")
    assert json.loads(phone.client("status", "--json")["out"])["unsent"] == 0


def test_what_it_can_not_follow_is_said_in_a_line(phone: Phone, world: Deployment) -> None:
    home = ("--home", phone.folder.parent.parent)
    nothing = phone._forks("client", "background", *home, "--profile", "none")
    assert (nothing["status"], "[PROFILE_ABSENT]" in nothing["err"]) == (2, True)
    phone._forks(
        "client", "contacts", "add", "Zoe", *home, "--profile", "new", "--endpoints", world.folder / "endpoints.json"
    )
    new = phone._forks("client", "background", *home, "--profile", "new")
    assert (new["status"], "[NOT_REGISTERED]" in new["err"]) == (1, True)


def test_what_a_program_puts_by_carddav_is_sent(phone: Phone) -> None:
    copy = phone.folder.with_name("copy")
    shutil.copytree(phone.folder, copy)
    password = json.loads(phone.client("serve-dav", "--add-client", "laptop", "--json")["out"])["password"]
    with phone.at_work("serve-dav", "--listen", "127.0.0.1:0", "--json") as lines:
        dav = Dav(json.loads(next(lines))["url"], password)
        assert dav.ask("PUT", "/books/contacts/new.vcf", card("cy", "Cy"), **{"Content-Type": "text/vcard"})[0] == 201

        async def received() -> None:
            async with Device.open(copy) as device:
                while not (await device.store()).received:
                    pass
                assert [contact.name for contact in device.address_book.find("Cy")] == ["Cy"]

        asyncio.run(received())
