"""What an honest client notices of hostile streams: `python -m bench.streams [STREAMS]` (10,000: two minutes).

Against each public port of a deployment, one after the other, a process holds so many calls open (at the log, which
speaks HTTP, connections) from 20 addresses, 127.0.0.2 to 127.0.0.21. A quarter says nothing, one sends half a message,
one a byte a second, one opens and leaves. They are opened within five seconds; what the service ends is opened again,
by each address 10 times a second. Meanwhile a device at 127.0.0.1 works as always. Both medians are of one run on the
same machine, whatever else it does.

`python -m bench.streams connections` measures what connections cost that bring no call, and `python -m bench.streams
decoding` what the worst messages take when they are decoded.
"""

import asyncio
import json
import os
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, closing, suppress
from functools import partial
from http.client import HTTPConnection
from importlib import import_module
from pathlib import Path
from typing import Any

from google.protobuf.message_factory import GetMessageClass

from ipls._grpc import grpc
from ipls.admin.certificates import Authority
from ipls.client.device import Device
from ipls.client.outbox import code_from
from ipls.proto.registration.v1.registration_pb2 import WatchRegistrationRequest
from ipls.proto.registration.v1.registration_pb2_grpc import RegistrationServiceStub
from ipls.rpc.channel import open_channel
from ipls.rpc.limits import Limits
from ipls.rpc.server import GrpcServer, Listener
from tests.rpc.strangers import Stranger, message, stranger

STREAMS = 10_000
SOURCES = [f"127.0.0.{last}" for last in range(2, 22)]
READER = "127.0.0.22"
REOPENED = 10
"""By an address in a second, of what the service ended."""
BEGUN = 100
"""By an address in a second, before the measurement."""
SETTLED = 3
"""Seconds after all were opened once: what stands is measured, not the rush."""
QUIET, CALLS = 40, 60
LABEL = "+15550000001"
METHODS = {
    "directory": "ipls.directory.v1.DirectoryService/Lookup",
    "contacts": "ipls.contacts.v2.ContactsService/PutRecords",
    "vault": "ipls.vault.v1.VaultService/Session",
    "registration": "ipls.registration.v1.RegistrationService/Register",
    "log": "",
}

CONNECTIONS = 2000
DECODED = 60

Work = Callable[[], Awaitable[object]]


class Attacker:
    """One address's calls of a method, over one connection."""

    def __init__(self, method: str, calls: int) -> None:
        self._method = method
        self._calls = calls
        self._number = 0
        self._dripping = set[int]()

    def open_one(self, connection: Stranger) -> None:
        self._number += 1
        match self._number % 4:
            case 0:
                connection.call(self._method)
            case 1:
                connection.call(self._method, message(bytes(2000))[:1000])
            case 2:
                self._dripping.add(connection.call(self._method, message(bytes(2000))[:6]))
            case 3:
                connection.leave(connection.call(self._method))

    def step(self, connection: Stranger) -> None:
        """A second's work."""
        for _ in range(min(REOPENED, self._calls - len(connection.open))):
            self.open_one(connection)
        self._dripping &= connection.open
        for call in self._dripping:
            connection.send(call, b"\0")


async def attack_grpc(port: int, ca: Path, method: str, streams: int) -> None:
    async with AsyncExitStack() as stack:
        attackers = [Attacker(method, streams // len(SOURCES)) for _ in SOURCES]
        connections = [await stack.enter_async_context(stranger(port, ca, source)) for source in SOURCES]
        for _ in range(streams // len(SOURCES) // BEGUN):
            for attacker, connection in zip(attackers, connections, strict=True):
                for _ in range(BEGUN):
                    attacker.open_one(connection)
            await asyncio.sleep(1)
        while True:
            print(sum(len(connection.open) for connection in connections), flush=True)
            await asyncio.sleep(1)
            for attacker, connection in zip(attackers, connections, strict=True):
                attacker.step(connection)


async def attack_http(port: int, streams: int) -> None:
    """Connections in place of streams: without a request, with half of one, by a byte a second, and gone at once."""

    async def begin(source: str, number: int) -> asyncio.StreamWriter | None:
        with suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(source, 0))
            writer.write(b"GET / HT" if number % 4 in (1, 2) else b"")
            if number % 4 == 3:
                writer.close()
            return writer
        return None

    held: dict[str, list[asyncio.StreamWriter | None]] = {source: [] for source in SOURCES}
    for number in range(streams // len(SOURCES)):
        for source in SOURCES:
            held[source].append(await begin(source, number))
    while True:
        for writers in held.values():
            writers[:] = [writer for writer in writers if writer and not writer.transport.is_closing()]
        print(sum(map(len, held.values())), flush=True)
        await asyncio.sleep(1)
        for source, writers in held.items():
            for writer in writers[::4]:
                writer.write(b"x")  # type: ignore[union-attr]  # those that are left
            for number in range(min(REOPENED, streams // len(SOURCES) - len(writers))):
                writers.append(await begin(source, number))


async def median_of(work: Work, times: int) -> float:
    taken = []
    for _ in range(times):
        started = time.perf_counter()
        await work()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)


def resident(pid: int) -> float:
    """MiB, of a process and its children."""
    status = Path(f"/proc/{pid}/status").read_text()
    own = next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmRSS:"))
    return own + sum(map(resident, map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())))


async def measure(port: str, work: Work, service: dict[str, Any], ca: Path, streams: int) -> None:
    quiet, before = await median_of(work, QUIET), resident(service["pid"])
    number = service["address"].rpartition(":")[2]
    command = [sys.executable, "-m", "bench.streams", "attack", number, str(ca), METHODS[port], str(streams)]
    attack = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
    assert attack.stdout is not None
    try:
        for _ in range(SETTLED):
            await attack.stdout.readline()
        hostile = await median_of(work, CALLS)
        held, after = int((await attack.stdout.readline()) or 0), resident(service["pid"])
    finally:
        attack.kill()
        await attack.wait()
    print(
        f"| {port} | {quiet * 1000:.1f} | {hostile * 1000:.1f} | {hostile / quiet:.2f} | {held:,} |"
        f" {before:.0f} | {after:.0f} |",
        flush=True,
    )


def read_log(address: str) -> None:
    """From an address that has no places of its own there, as 127.0.0.1 has."""
    with closing(HTTPConnection(address, source_address=(READER, 0))) as connection:
        connection.request("GET", "/?list-type=2")
        connection.getresponse().read()


async def run(folder: Path, streams: int) -> None:
    endpoints = json.loads((folder / "endpoints.json").read_text())
    services, ca = endpoints["services"], Path(endpoints["ca_file"])

    async def ticket() -> None:
        """One that is not known: with a new connection, through to the directory."""
        async with open_channel(services["registration"]["address"], ca) as channel:
            with suppress(grpc.aio.AioRpcError):
                await RegistrationServiceStub(channel).WatchRegistration(WatchRegistrationRequest(ticket=b"x")).read()

    async def listing() -> None:
        await asyncio.to_thread(read_log, services["log"]["address"].removeprefix("http://"))

    async with Device.open(folder / "profiles/honest", folder / "endpoints.json") as phone:
        await phone.register(LABEL, code_from(folder / "data/registration.outbox"))
        phone.address_book.import_cards(b"BEGIN:VCARD\r\nVERSION:4.0\r\nFN:A\r\nEND:VCARD\r\n")
        await phone.store()
        works: dict[str, Work] = {
            "directory": partial(phone.lookup, LABEL),
            "contacts": phone.store,
            "vault": phone.vault_settings,
            "registration": ticket,
            "log": listing,
        }
        print("| port | quiet, ms | hostile, ms | ratio | held open | MiB before | MiB then |")
        print("| --- | --: | --: | --: | --: | --: | --: |")
        for port, work in works.items():
            await measure(port, work, services[port], ca, streams)


def decoding() -> None:
    """The worst of all our messages: a field of one repeated, empty each time, which takes two bytes."""
    kept, found = [], []
    for name in ("akd", "contacts", "directory", "registration", "trust", "vault", "witness"):
        for module in Path("ipls/proto", name, "v1").glob("*_pb2.py"):
            messages = import_module(f"ipls.proto.{name}.v1.{module.stem}").DESCRIPTOR.message_types_by_name
            for message_type in messages.values():
                for field in message_type.fields:
                    if field.is_repeated and field.type in (field.TYPE_MESSAGE, field.TYPE_BYTES, field.TYPE_STRING):
                        data, kind = bytes((field.number << 3 | 2, 0)) * 2**15, GetMessageClass(message_type)
                        started = resident(os.getpid())
                        kept.append([kind.FromString(data) for _ in range(DECODED)])  # freed memory would be used again
                        taken = (resident(os.getpid()) - started) * 2**20 / DECODED
                        found.append((round(taken / len(data)), f"{message_type.full_name}.{field.name}"))
    print("| repeated, empty | resident, times its bytes |")
    print("| --- | --: |")
    for factor, name in sorted(found, reverse=True):
        print(f"| {name} | {factor} |")


def idle_server() -> None:
    """A server without a service, whose limits don't close what the measurement opens."""

    async def serve() -> None:
        with tempfile.TemporaryDirectory(prefix="ipls-bench-") as folder:
            Authority(Path(folder), "bench").issue_server("server")
            listener = Listener("127.0.0.1:0", Path(folder) / "server.pem", Path(folder) / "server.key")
            server = GrpcServer([listener], {}, Limits(handshake_s=600, idle_s=600))
            [port] = await server.start()
            print(f"{port} {folder}/ca.pem", flush=True)
            await asyncio.to_thread(sys.stdin.read)
            await server.stop(0)

    asyncio.run(serve())


async def connections() -> None:
    """Resident KiB of a server for each: TCP alone, TLS without HTTP/2, HTTP/2 without a call."""
    print("| connection | KiB each |")
    print("| --- | --: |")
    for what in ("TCP", "TLS", "HTTP/2"):
        command = [sys.executable, "-m", "bench.streams", "idle-server"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            port, ca = server.stdout.readline().split()
            context = ssl.create_default_context(cafile=ca)
            context.set_alpn_protocols(["h2"])
            tls: dict[str, Any] = {} if what == "TCP" else {"ssl": context, "server_hostname": "localhost"}
            before = resident(server.pid)
            async with AsyncExitStack() as stack:
                for number in range(CONNECTIONS):
                    source = SOURCES[number % len(SOURCES)]
                    if what == "HTTP/2":
                        await stack.enter_async_context(stranger(int(port), Path(ca), source))
                        continue
                    _, writer = await asyncio.open_connection("127.0.0.1", int(port), local_addr=(source, 0), **tls)
                    stack.callback(writer.transport.abort)
                await asyncio.sleep(1)
                print(f"| {what} | {(resident(server.pid) - before) * 1024 / CONNECTIONS:.0f} |", flush=True)
            server.communicate("")


def main() -> None:
    match sys.argv[1:]:
        case ["decoding"]:
            decoding()
        case ["connections"]:
            asyncio.run(connections())
        case ["idle-server"]:
            idle_server()
        case ["attack", port, ca, method, streams]:
            with suppress(KeyboardInterrupt):
                work = attack_grpc(int(port), Path(ca), method, int(streams)) if method else None
                asyncio.run(work or attack_http(int(port), int(streams)))
        case arguments:
            serve_and_run(int(arguments[0]) if arguments else STREAMS)


def serve_and_run(streams: int) -> None:
    ipls = [sys.executable, "-m", "ipls.cli.main"]
    with tempfile.TemporaryDirectory(prefix="ipls-bench-") as temporary:
        folder = Path(temporary) / "deployment"
        subprocess.run([*ipls, "init", str(folder), "--port", "0"], check=True, stdout=subprocess.DEVNULL)
        command = [*ipls, "serve", "all", "--config", str(folder / "ipls.toml"), "--stop-at-eof"]
        with (folder / "logs/all.log").open("wb") as log:
            server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log)
        assert server.stdout is not None
        assert server.stdin is not None
        server.stdout.readline()
        try:
            asyncio.run(run(folder, streams))
        finally:
            server.stdin.close()
            server.wait()


if __name__ == "__main__":
    main()
