"""A whole deployment on loopback, each service in a process of its own, and devices for it."""

import asyncio
import itertools
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from pathlib import Path

from ipls.admin import deployment
from ipls.client.device import Device
from ipls.client.events import Event, JourneyStep
from ipls.config import load
from ipls.rpc.health import until_serving
from ipls.store.contacts import ContactsStore, open_contacts_store
from ipls.store.vault import open_vault_store

PROCESSES = ("witness", "directory", "vault", "contacts", "registration")


class Crash(Exception):
    """The device dies here."""


class Deployment:
    """Each `label()` is a number that nobody has yet, each `profile()` a new phone."""

    def __init__(self, folder: Path, phones: Path | None = None) -> None:
        self.folder = folder
        self._phones = phones or folder
        deployment.create(folder, "test.ipls", port=0)
        file = folder / "ipls.toml"
        file.write_text(file.read_text().replace("[directory]\n", "[directory]\nepoch_max_age_s = 0.05\n"))
        self.config = load(file)
        self._numbers = itertools.count(1)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def label(self) -> str:
        return f"+49170{next(self._numbers):07}"

    def profile(self) -> Path:
        return self._phones / f"phone{next(self._numbers)}"

    @contextmanager
    def running(self) -> Iterator["Deployment"]:
        for name in ("log", *PROCESSES):
            self._launch(name)
        try:
            asyncio.run(self._until_serving())
            yield self
        finally:
            for process in self._processes.values():
                assert process.stdin
                process.stdin.close()
            for process in self._processes.values():
                process.wait()

    def _launch(self, name: str) -> None:
        config = str(self.folder / "ipls.toml")
        command = [sys.executable, "-m", "ipls.cli.main", "serve", name, "--config", config, "--stop-at-eof"]
        with (self.folder / f"logs/{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log)

    def kill(self, name: str) -> None:
        """kill -9, and what a supervisor does then."""
        with self._processes[name] as process:
            process.kill()
        self._launch(name)

    @contextmanager
    def paused(self, name: str) -> Iterator[None]:
        """It takes connections, and does nothing more."""
        self._processes[name].send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._processes[name].send_signal(signal.SIGCONT)

    def lose(self, name: str, database: Path) -> None:
        """kill -9, its database goes, and a supervisor starts it."""
        with self._processes[name] as process:
            process.kill()
        for file in database.parent.glob(f"{database.name}*"):
            file.unlink()
        self._launch(name)

    def ended(self) -> list[str]:
        """Services whose process has ended, unasked."""
        return [name for name, process in self._processes.items() if process.poll() is not None]

    @contextmanager
    def vault_of_now_put_back(self) -> Iterator[None]:
        """Puts the vault's token and database back at the end, as they are now, and starts it on them."""
        vault, copy = self.config.vault, self.folder / "vault of now"
        shutil.copytree(vault.token, copy / "token")
        with closing(sqlite3.connect(vault.database)) as live, closing(sqlite3.connect(copy / "vault.db")) as saved:
            live.backup(saved)
        yield
        with self._processes["vault"] as process:
            process.kill()
        open_vault_store(vault.database).close()  # its core is gone
        shutil.rmtree(vault.token)
        shutil.move(copy / "token", vault.token)
        shutil.move(copy / "vault.db", vault.database)
        self._launch("vault")

    async def _until_serving(self) -> None:
        addresses = deployment.addresses_of(self.config)
        for name in PROCESSES:
            await until_serving(addresses[name], self.folder / "tls/ca.pem")

    @contextmanager
    def contacts_database(self) -> Iterator[ContactsStore]:
        """The store's own file, under its running service: what its operator can do."""
        store = open_contacts_store(self.config.contacts.database)
        try:
            yield store
        finally:
            store.close()

    @asynccontextmanager
    async def device(
        self, profile: Path, report: Callable[[Event], None] = lambda event: None, **options: float
    ) -> AsyncIterator[Device]:
        endpoints = self.folder / "endpoints.json"
        async with Device.open(profile, endpoints, report=report, **options) as device:
            yield device

    async def code(self, request_id: bytes) -> str:
        """What the development registration service would have sent."""
        lines = self.config.registration.outbox.read_text().splitlines()
        return next(line.split()[1] for line in reversed(lines) if line.startswith(request_id.hex()))

    async def registered(self, label: str) -> Path:
        """A new phone that holds the number."""
        profile = self.profile()
        async with self.device(profile) as device:
            await device.register(label, self.code)
        return profile

    async def stored(self, label: str, cards: bytes) -> Path:
        """A new phone that holds the number and has stored these cards."""
        profile = await self.registered(label)
        async with self.device(profile) as device:
            device.address_book.import_cards(cards)
            await device.store()
        return profile

    async def restores(self, label: str, cards: bytes) -> None:
        """On yet another phone everything comes back."""
        profile = await self.registered(label)
        async with self.device(profile) as device:
            await device.restore()
            assert device.address_book.cards() == cards_of(cards)

    async def cut_off(self, profile: Path, journey: Callable[[Device], object], step: str) -> bool:
        """Run the journey and crash right after the step; whether it came to it."""

        def report(event: Event) -> None:
            if isinstance(event, JourneyStep) and event.name == step:
                raise Crash

        with suppress(Crash):
            async with self.device(profile, report) as device:
                await journey(device)
            return False
        return True


def book(count: int, prefix: str = "Person") -> bytes:
    """An address book of simple cards."""
    return b"".join(
        f"BEGIN:VCARD\r\nVERSION:3.0\r\nFN:{prefix} {n}\r\nTEL:+1 555 {n:04}\r\nEND:VCARD\r\n".encode()
        for n in range(count)
    )


def cards_of(data: bytes) -> list[bytes]:
    """Of an address book."""
    return [card + b"END:VCARD" for card in data.split(b"END:VCARD\r\n")[:-1]]
