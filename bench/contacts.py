"""What a person's contacts cost, beside vdirsyncer: `python -m bench.contacts [CONTACTS ...]` (1,000 and 10,000).

Ours: profiles as devices keep them, in files on this disk, and a contact store in this process, over gRPC with TLS on
loopback; the vault is two dictionaries. *Import*: the file becomes contacts of a profile. *First store*: they go into a
new line. *Second device*: an empty profile of a linked device follows the line, as a restore does. *The bytes alone*: a
stream of as many bytes over the same kind of channel, which nobody keeps or checks. Both once more over a line of
50 Mbit/s that takes 10 ms each way (bench/link.py). *Edit*: from when it is made here to when the other
device has it in its list. *Search*: the slowest of what stands there while three queries are typed, the first 20 found.
*MiB more*: what this process, which is both sides, took at most during the step above what it had before. *Memory*:
what a process that has just opened the profile takes more with all contacts and the search's index than without, the
cards' own bytes left out; tables of libraries that are loaded for the first number or letter of its kind are in it.

Beside it the same cards are put into a CardDAV server, and vdirsyncer 0.21 brings them from there into an empty folder
(*second device*): with xandikos, and with radicale, which is installed into an environment of its own in the user's
cache folder. They get the cards into their stores, not by PUT, which would take hours; radicale leaves out some of the
file's odder ones. For more than 10,000 contacts that is left out.
"""

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import Any

from bench.lines import bare
from ipls.admin.deployment import free_ports
from ipls.client.address_book import AddressBook
from ipls.client.events import silent
from ipls.client.line.line import Line
from ipls.client.line.parts import Author, Checkpoint, Linked, Parts
from ipls.client.line_store import LineStore
from ipls.client.profile import Account, Profile
from ipls.contacts.cards.editing import Changes, with_uid
from ipls.contacts.cards.lines import Card, split_cards
from ipls.contacts.cards.reading import read_card
from ipls.contacts.cards.search import SearchIndex
from ipls.contacts.commits import KEY_ENVELOPE_BYTES, ListedDevice
from ipls.contacts.line import Judge
from ipls.contacts.sealing import ContactKey, name_of
from ipls.crypto.keys import SeedSigner
from ipls.proto.contacts.v2.contacts_pb2_grpc import ContactsServiceStub
from ipls.rpc.channel import open_channel
from tests.interop.peers import VdirSyncer, peers
from tests.server.contact_stores import ALICE, World
from tests.server.phones import registered
from tests.trust.roots import NOW

EDITS = 20
RADICALE = "radicale==3.9.0"
MOST_FOR_PEERS = 10_000
MBIT, MS = 50, 10
QUERIES = ("nadia lovel", "+1 202 555 0137", "muller 55")


def show(what: str, value: float, unit: str = "s") -> None:
    print(f"    {what:44} {value:10,.3f} {unit}", flush=True)


def timed(what: str, work: Callable[[], object]) -> None:
    with measured(what):
        work()


async def awaited(what: str, work: Callable[[], Awaitable[object]]) -> float:
    began = time.perf_counter()
    with measured(what):
        await work()
    return time.perf_counter() - began


@contextmanager
def measured(what: str) -> Iterator[None]:
    Path("/proc/self/clear_refs").write_text("5")  # the peak is from here on
    before = memory("VmRSS")
    began = time.perf_counter()
    yield
    show(what, time.perf_counter() - began, f"s, {memory('VmHWM') - before:,.0f} MiB more")


def memory(name: str) -> float:
    """A line of this process's, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name))


class Counted:
    """The store's stub, and how many calls went by it, of how many bytes."""

    def __init__(self, stub: Any) -> None:
        self._stub = stub
        self.calls = self.sent = self.received = 0

    def through(self, stub: Any) -> None:
        """From now on."""
        self._stub = stub

    def __getattr__(self, method: str) -> Callable[..., Any]:
        def call(request: Any, **settings: Any) -> Any:
            self.calls += 1
            if hasattr(request, "SerializeToString"):
                self.sent += request.ByteSize()
            else:
                request = self._counting_sent(request)
            answer = getattr(self._stub, method)(request, **settings)
            return self._counting(answer) if hasattr(answer, "__aiter__") else answer

        return call

    async def _counting_sent(self, requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async for request in requests:
            self.sent += request.ByteSize()
            yield request

    def _counting(self, call: Any) -> Any:
        counted = self

        class Call:
            cancel = call.cancel

            async def __aiter__(self) -> AsyncIterator[Any]:
                async for response in call:
                    counted.received += response.ByteSize()
                    yield response

        return Call()


class Keys:
    """The vault: keys and the checkpoint."""

    def __init__(self) -> None:
        self.secrets: dict[int, bytes] = {}
        self.kept: dict[int, Checkpoint] = {}

    async def make(self, above: int) -> ContactKey:
        self.secrets[above + 1] = os.urandom(32)
        return await self.fetch(above + 1)

    async def fetch(self, generation: int) -> ContactKey:
        return ContactKey(self.secrets[generation], ALICE, generation)

    async def finish(self, generation: int) -> None:
        pass

    async def set_checkpoint(self, checkpoint: Checkpoint) -> None:
        self.kept[1] = checkpoint

    async def checkpoints(self) -> dict[int, Checkpoint]:
        return self.kept


class Person:
    """A device of the account: its profile, address book and line."""

    def __init__(self, world: World, folder: Path, seed: bytes, identity: bytes, keys: Keys | None) -> None:
        self.signer = SeedSigner(seed)
        self.profile = Profile(folder)
        self.profile.put(Account(ALICE, seed, 1, 1))
        self.book = AddressBook(self.profile, lambda: NOW)
        self.calls = Counted(world.lines)
        stub: Any = self.calls
        self.store = LineStore(stub, world.root.namespace, ALICE, self.signer, now_ms=lambda: NOW, retry_for_s=600)
        author = Author(world.root.namespace, ALICE, self.signer, keys, lambda sealed, info: sealed[:32])
        judge = Judge(world.root.namespace, ALICE, {1: identity}, {1})
        self.line = Line(
            Parts(
                self.profile.line,
                self.store,
                author,
                lambda: judge,
                self._linked,
                lambda *sides: sides[1],
                time_ms,
                silent,
            )
        )

    def linked(self) -> Linked:
        key = self.signer.public_key
        return Linked(ListedDevice(key, name_of(key)), lambda secret, info: secret.ljust(KEY_ENVELOPE_BYTES, b"\0"))

    def _linked(self, listed: Any) -> list[Linked]:
        return []


def time_ms() -> int:
    return NOW


async def ours(file: Path, folder: Path, contacts: int) -> None:
    world = World(folder)
    async with world.running():
        seed = (await registered(world)).writer.seed
        identity, laptop_seed = SeedSigner(seed).public_key, os.urandom(32)
        phone = Person(world, folder / "phone", seed, identity, Keys())
        laptop = Person(world, folder / "laptop", laptop_seed, identity, None)
        tablet = Person(world, folder / "tablet", os.urandom(32), identity, None)
        timed("import", lambda: phone.book.import_cards(file.read_bytes()))
        await awaited("first store", lambda: phone.line.begin([laptop.linked(), tablet.linked()]))
        told(phone)
        took = await awaited("second device, or a restore", laptop.line.pull)
        assert laptop.book.cards() == phone.book.cards()
        size = laptop.calls.received
        told(laptop)
        compared(took, await bare(folder, size))
        with link(world.listening.address) as address:
            async with open_channel(address, world.listening.ca) as channel:
                tablet.calls.through(ContactsServiceStub(channel))
                await tablet.store.have([bytes(32)])  # the connection is not counted
                took = await awaited(f"the same by {MBIT} Mbit/s and {2 * MS} ms", tablet.line.pull)
            compared(took, await bare(folder, size, link))
        await edits(phone, laptop)
        searches(laptop)
    size = sum(map(len, laptop.book.cards()))
    phone.profile.close()
    laptop.profile.close()
    memory = int(
        subprocess.run([sys.executable, "-c", MEMORY, folder / "laptop"], capture_output=True, check=True).stdout
    )
    show("memory a contact, beside its card", (memory - size) / contacts, "bytes")


def told(person: Person) -> None:
    calls = person.calls
    print(f"      {calls.calls} calls, {calls.sent:,} bytes sent, {calls.received:,} received", flush=True)
    calls.calls = calls.sent = calls.received = 0


def compared(took: float, alone: float) -> None:
    print(f"    the bytes alone {alone:.3f} s; {took / alone:.1f} times as long", flush=True)


@contextmanager
def link(address: str) -> Iterator[str]:
    """Where a server is reached by a slow line."""
    command = [sys.executable, "-m", "bench.link", address, str(MBIT), str(MS)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            yield f"127.0.0.1:{process.stdout.readline().strip()}"
        finally:
            process.kill()


async def edits(phone: Person, laptop: Person) -> None:
    chosen = phone.book.contacts()[0].id
    async with aclosing(laptop.store.follow()) as heads:
        await anext(heads)
        took, most = [], 0
        for n in range(EDITS):
            calls = phone.calls.calls
            sent = phone.calls.sent
            began = time.perf_counter()
            phone.book.edit(chosen, Changes(f"Edited {n}"))
            await phone.line.send()
            await anext(heads)
            await laptop.line.pull()
            assert read_card(laptop.book.card(chosen)).name == f"Edited {n}"
            took.append(time.perf_counter() - began)
            assert phone.calls.calls == calls + 1
            most = max(most, phone.calls.sent - sent)
    show("an edit to the other's list, median", 1000 * sorted(took)[EDITS // 2], "ms")
    print(f"      1 call, {most:,} bytes sent", flush=True)


def searches(person: Person) -> None:
    index = SearchIndex(((each, read_card(each)) for each in person.book.cards()), person.book.country)
    index.find("0")  # makes the numbers' part
    slowest = 0.0
    for query in QUERIES:
        for end in range(1, len(query) + 1):
            began = time.perf_counter()
            index.find(query[:end], 20)
            slowest = max(slowest, time.perf_counter() - began)
    show("search as one types, slowest", 1000 * slowest, "ms")


MEMORY = """
import gc, sys
from pathlib import Path
from ipls.client.profile import Profile
from ipls.contacts.cards.reading import read_card
from ipls.contacts.cards.search import SearchIndex

def now():
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

profile = Profile(Path(sys.argv[1]), reading=True)
# What is loaded once:
SearchIndex([(b"", read_card(b"BEGIN:VCARD\\nFN:Ada\\nTEL:+12025550100\\nEND:VCARD"))], "US").find("ada")
before = now()
contacts = profile.contacts()
index = SearchIndex(((each.id, read_card(each.envelope.card)) for each in contacts), "US")
print(now() - before)
"""


@contextmanager
def server(name: str, folder: Path) -> Iterator[str]:
    """Where it serves an address book."""
    (port,) = free_ports(1)
    if name == "xandikos":
        command = [peers() / "xandikos", "serve", "--defaults", "-d", folder, "-l", "127.0.0.1", "-p", str(port)]
        path = "user/contacts/addressbook/"
    else:
        options = ["--auth-type=none", f"--storage-filesystem-folder={folder}", f"--server-hosts=127.0.0.1:{port}"]
        command, path = [radicale(), "-m", "radicale", *options], "user/book/"
    with subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            url = f"http://127.0.0.1:{port}/"
            curl = ["curl", "--silent", "--user", "user:x", "--output", os.devnull]
            subprocess.run([*curl, "--retry", "30", "--retry-connrefused", "--retry-delay", "1", url], check=True)
            if name == "radicale":
                subprocess.run([*curl, "--request", "MKCOL", "--data", MKCOL, url + path], check=True)
            yield url + path
        finally:
            process.terminate()


MKCOL = """<mkcol xmlns="DAV:" xmlns:C="urn:ietf:params:xml:ns:carddav"><set><prop>
<resourcetype><collection/><C:addressbook/></resourcetype></prop></set></mkcol>"""


def radicale() -> Path:
    """The Python that has it."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "ipls" / RADICALE
    python = cache / "bin/python"
    if not (cache / "bin/radicale").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", cache], check=True)
        subprocess.run([python, "-m", "pip", "--quiet", "install", RADICALE], check=True)
    return python


def theirs(name: str, file: Path, folder: Path) -> None:
    device = folder / "device"
    device.mkdir(parents=True)
    read = (part for part in split_cards(file.read_bytes()) if isinstance(part, Card))
    cards = [with_uid(card.data, f"u{n}") for n, card in enumerate(read)]
    with server(name, folder / "served") as url:
        timed(f"{name}: filled", lambda: fill(name, folder / "served", cards))
        local = {"type": "filesystem", "path": str(device), "fileext": ".vcf"}
        there = {"type": "carddav", "url": url, "username": "user", "password": "x"}
        timed(f"vdirsyncer with {name}: second device", VdirSyncer(folder / "home", local, there).sync)
        print(f"      {len(list(device.iterdir()))} of the cards came", flush=True)


def fill(name: str, folder: Path, cards: Iterable[bytes]) -> None:
    """All at once: by PUT each would be a commit of all of them, or a file made durable."""
    if name == "xandikos":
        commit(folder / "user/contacts/addressbook", cards)
        return
    for n, card in enumerate(cards):
        (folder / f"collection-root/user/book/u{n}.vcf").write_bytes(card)


def commit(repository: Path, cards: Iterable[bytes]) -> None:
    git = ["git", "-C", repository]
    branch = subprocess.run([*git, "symbolic-ref", "HEAD"], check=True, capture_output=True).stdout
    stream = b"commit %scommitter A <a@b.example> now\ndata 0\nfrom %s^0\n" % (branch, branch.strip())
    stream += b"".join(b"M 100644 inline u%d.vcf\ndata %d\n%s\n" % (n, len(c), c) for n, c in enumerate(cards))
    subprocess.run([*git, "fast-import", "--quiet", "--date-format=now"], input=stream, check=True)
    subprocess.run([*git, "reset", "--quiet", "--hard"], check=True)


def main(contacts: int) -> None:
    print(f"{contacts:,} contacts")
    with tempfile.TemporaryDirectory() as made:
        folder, file = Path(made), Path(made) / "book.vcf"
        subprocess.run(["scripts/addressbook", "--count", str(contacts), "--out", file], check=True)
        asyncio.run(ours(file, folder, contacts))
        if contacts <= MOST_FOR_PEERS:
            for name in ("xandikos", "radicale"):
                theirs(name, file, folder / name)


if __name__ == "__main__":
    for count in map(int, sys.argv[1:] or ("1000", "10000")):
        main(count)
