"""A vault beside its token's own limit: `python -m bench.vault --write` (three minutes; `--memory` takes some more).

A whole vault (front, core, workers, anchor service, SoftHSM) is asked over gRPC by two client processes, in many
sessions at once; then a bare loop does the same operations on the same token, and nothing else. The clients compete
with the vault for the machine's cores.
"""

import argparse
import asyncio
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import asynccontextmanager, closing
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.keywrap import aes_key_wrap

from bench.directory import machine, write
from ipls._grpc import grpc
from ipls.clock import system_now_ms
from ipls.hsm import anchor_service, pipe
from ipls.hsm.core import app
from ipls.hsm.token.pkcs11 import HsmToken
from ipls.proto.vault.v1.vault_pb2 import Bundle
from ipls.proto.vault.v1.vault_pb2_grpc import VaultServiceStub
from ipls.proto.witness.v1.head_pb2 import SignedHead
from ipls.rpc.channel import open_channel
from ipls.trust.root import TrustRoot
from ipls.vault.errors import SessionRefused
from ipls.vault.session import profiles, transcript
from ipls.vault.session.client import ClientSession
from ipls.vault.state.journal import STATE_BYTES
from tests.hsm.rig import Owner, Rig, running
from tests.hsm.tokens import PIN
from tests.server.vault import process
from tests.server.vault.process import Vault, running_vault

MARKS = "<!-- vault measured -->\n", "<!-- end of what the vault measured -->\n"
CLIENTS = 2
SESSIONS = 96
"""At once, of each client process."""
REQUESTS = 63
"""Of a session, which may have 64: retrieves; or six stores, then a rotation finished, and so on."""
ROTATION = 7
WARM_UP_S = 2.0
MEASURED_S = 8.0
MEMORY = 10_000, 50_000, 100_000

ANCHOR_BYTES = STATE_BYTES + 32
FRONT = "import sys; from bench import vault; vault.front(sys.argv[1])"


# The vault, which counts its anchors


def front(config: str) -> None:
    start = asyncio.create_subprocess_exec

    async def start_core(python: str, *command: str, **options: Any) -> Any:
        return await start(python, "-m", "bench.vault", "--core", config, *command, **options)

    asyncio.create_subprocess_exec = start_core
    exec(process.FRONT, {})


def count_anchors(config: Path) -> None:
    """The core."""
    file = os.open(config.parent / "anchors", os.O_RDWR | os.O_CREAT)
    replace, count = anchor_service.AnchorServiceProcess.replace, 0

    def counted(self: anchor_service.AnchorServiceProcess, *arguments: Any) -> None:
        nonlocal count
        replace(self, *arguments)
        count += 1
        os.pwrite(file, count.to_bytes(8), 0)

    anchor_service.AnchorServiceProcess.replace = counted
    asyncio.run(app.serve(config, *pipe.take_stdio()))


# The clients


class Place(NamedTuple):
    """What a client process must know, picklable."""

    folder: Path
    address: str
    root: TrustRoot
    bundle: bytes
    head: bytes
    owners: Sequence[Owner]


class Load(NamedTuple):
    """What is asked for. Times of the monotonic clock; `rate` is a client process's, None for as fast as it goes."""

    kind: str  # "retrieve" or "store"
    start: float
    end: float
    rate: float | None = None


class Answered(NamedTuple):
    """What a client process had in the time measured."""

    asked: int  # retrieves or stores
    requests: int
    sessions: int
    seconds: list[float]  # that each took
    cpu: float


@asynccontextmanager
async def session(place: Place, stub: Any, owner: Owner) -> AsyncIterator[tuple[ClientSession, Callable[[Any], Any]]]:
    call = stub.Session()

    async def exchange(frame: Any) -> Any:
        await call.write(frame)
        response = await call.read()
        assert response is not grpc.aio.EOF, await call.details()
        return response

    head, bundle = SignedHead.FromString(place.head), Bundle.FromString(place.bundle)
    try:
        client = ClientSession(place.root, bundle, owner.label, owner.seed, head, 0)
        hello = await exchange(client.hello(system_now_ms()))
        client.on_confirmation(await exchange(client.on_hello(hello, system_now_ms())))
        yield client, exchange
    finally:
        call.cancel()


async def ask(place: Place, load: Load, owners: Sequence[Owner]) -> Answered:
    seconds, requests, sessions = list[float](), 0, 0

    async def one(stub: Any, owner: Owner, number: int) -> None:
        nonlocal requests, sessions
        interval = 0.0 if load.rate is None else len(owners) / load.rate
        due = load.start - WARM_UP_S + interval * number / len(owners)
        # Sessions end one after the other, as people's do: the first ones begin anywhere, with a rotation finished.
        first = 1 + number * REQUESTS // len(owners) // ROTATION * ROTATION
        while time.monotonic() < load.end:
            async with session(place, stub, owner) as (client, exchange):
                generation = client.on_answer(await exchange(client.list_request())).last_generation
                sessions += load.start <= time.monotonic() < load.end
                for step in range(first, REQUESTS):
                    if load.rate is not None:
                        due += interval
                        await asyncio.sleep(due - time.monotonic())
                    begun = time.monotonic() if load.rate is None else due
                    finish = load.kind == "store" and step % ROTATION == 1
                    if finish:
                        request = client.finish_rotation_request(generation)
                    elif load.kind == "store":
                        request = client.store_request(generation, os.urandom(16), os.urandom(32))
                        generation += 1
                    else:
                        request = client.retrieve_request()
                    client.on_answer(await exchange(request))
                    now = time.monotonic()
                    if now >= load.end:
                        return
                    if now >= load.start:
                        requests += 1
                        if not finish:
                            seconds.append(now - begun)
                first = 1

    async with open_channel(place.address, place.folder / "ca.pem") as channel:
        stub = VaultServiceStub(channel)
        tasks = [asyncio.create_task(one(stub, owner, number)) for number, owner in enumerate(owners)]
        await asyncio.sleep(load.start - time.monotonic())
        before = time.process_time()
        await asyncio.gather(*tasks)
        return Answered(len(seconds), requests, sessions, seconds, time.process_time() - before)


def client(place: Place, load: Load, number: int) -> Answered:
    try:
        return asyncio.run(ask(place, load, place.owners[number::CLIENTS]))
    except SessionRefused as refused:
        raise SystemExit(f"{refused.reason}: {refused}") from None  # the other does not unpickle


# The bare loop


def bare(token: Path, kind: str, batch: float, shard: int, begin: float) -> tuple[int, float]:
    """The token's part in sessions, one operation after the other, for MEASURED_S: how many retrieves or stores, and
    the seconds of a core that they took.

    A session: an ephemeral pair, a signature, an agreement with four keys derived, an HMAC each to check and to answer.
    A request: these two HMACs; a retrieve or store: a record's key derived, an unwrap, a wrap. An entry of the log for
    the session and each request but the first: an HMAC; and for every `batch` of them an anchor: an HMAC, what is there
    read, the new one made and read, the old one destroyed.
    """
    done, entries, digest, record = 0, 0.0, os.urandom(32), os.urandom(32)
    private = ec.generate_private_key(ec.SECP256R1())
    point = transcript.encode_point(private.public_key())
    with closing(HsmToken.open(token, PIN)) as opened:
        anchors = opened.anchors(shard)

        def entry() -> None:
            nonlocal entries, anchors
            opened.log_macs([digest])
            entries += 1
            if entries >= batch:
                entries -= batch
                opened.log_macs([digest])
                new = os.urandom(ANCHOR_BYTES)
                opened.replace_anchor(shard, anchors, new)
                anchors = [new]

        time.sleep(max(0, begin - time.monotonic()))
        cpu = time.process_time()
        while True:
            ephemeral, h2 = opened.ephemeral(), os.urandom(32)
            opened.sign(digest)
            with closing(ephemeral.agree(point, h2)) as channel:
                secret = private.exchange(ec.ECDH(), transcript.check_point(ephemeral.point))
                key = profiles.derive(opened.profile, secret, transcript.session_key_input("c2v wrap", h2))
                blob = aes_key_wrap(key, digest)
                wrapped = channel.store(blob, opened.storage_key_id, record)
                channel.mac_c2v(digest)
                entry()
                channel.mac_v2c(digest)
                for step in range(REQUESTS):
                    channel.mac_c2v(digest)
                    if step and kind == "retrieve":
                        channel.retrieve(wrapped, opened.storage_key_id, record)
                    elif step % ROTATION != 1:
                        channel.store(blob, opened.storage_key_id, record)
                    if step:
                        entry()
                    channel.mac_v2c(digest)
                    done += step > 0 and (kind == "retrieve" or step % ROTATION != 1)
                    if time.monotonic() >= begin + MEASURED_S:
                        return done, time.process_time() - cpu


# What is measured


class Measured(NamedTuple):
    """Of one kind of request, at one vault."""

    rate: float  # retrieves or stores a second
    batch: float  # entries an anchor
    cpu_ms: dict[str, float]  # of a retrieve or store, by process
    cores: float  # that were busy with it
    half: Sequence[float]  # seconds that each took at half of that rate


class Bench:
    """A vault that runs, and the clients' processes."""

    def __init__(self, vault: Vault, place: Place, pool: ProcessPoolExecutor) -> None:
        self._vault = vault
        self._place = place
        self._pool = pool

    def processes(self) -> dict[str, list[int]]:
        core = self._vault.core()
        names = ("worker", "anchor service")
        return {"front": [self._vault.front.pid], "core": [core]} | {
            name: running(core, f"ipls.hsm.{name}") for name in names
        }

    def _anchors(self) -> int:
        return int.from_bytes((self._place.folder / "anchors").read_bytes())

    def _cpu(self) -> dict[str, float]:
        return {name: sum(map(_cpu, pids)) for name, pids in self.processes().items()}

    async def _ask(self, kind: str, rate: float | None = None) -> tuple[list[Answered], float, dict[str, float]]:
        start = time.monotonic() + 2 * WARM_UP_S
        load = Load(kind, start, start + MEASURED_S, rate and rate / CLIENTS)
        loop = asyncio.get_running_loop()
        asked = [loop.run_in_executor(self._pool, client, self._place, load, number) for number in range(CLIENTS)]
        await asyncio.sleep(load.start - time.monotonic())
        cpu, anchors = self._cpu(), self._anchors()
        await asyncio.sleep(load.end - time.monotonic())
        used = {name: after - cpu[name] for name, after in self._cpu().items()}
        anchors = self._anchors() - anchors
        answered = await asyncio.gather(*asked)
        entries = sum(each.requests + each.sessions for each in answered)
        return answered, entries / max(anchors, 1), used

    async def measure(self, kind: str) -> Measured:
        answered, batch, used = await self._ask(kind)
        asked = sum(each.asked for each in answered)
        used["clients"] = sum(each.cpu for each in answered)
        half, _, _ = await self._ask(kind, asked / MEASURED_S / 2)
        return Measured(
            asked / MEASURED_S,
            batch,
            {name: seconds / asked * 1000 for name, seconds in used.items()},
            sum(used.values()) / MEASURED_S,
            sorted(second for each in half for second in each.seconds),
        )

    async def memory(self) -> None:
        """Prints what each process holds, by the number of retrieves."""
        done = 0
        for count in MEMORY:
            while done < count:
                answered, _, _ = await self._ask("retrieve")
                done += sum(each.asked for each in answered)
            held = {name: sum(map(_rss_mib, pids)) for name, pids in self.processes().items()}
            print(
                f"{done:8,} retrieves: " + ", ".join(f"{name} {mib:.0f} MiB" for name, mib in held.items()), flush=True
            )


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _rss_mib(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


@asynccontextmanager
async def running_bench(rig: Rig, workers: int, pool: ProcessPoolExecutor) -> AsyncIterator[Bench]:
    owners = [Owner() for _ in range(CLIENTS * SESSIONS)]
    for owner in owners:
        rig.directory.publish(owner)
    head = rig.directory.head()
    rig.directory.prove = cache(rig.directory.prove)  # a directory's cost is none of ours
    rig.directory.head = lambda **_: head
    process.FRONT = FRONT
    config = {"workers": workers, "daily_uses": 10**9, "max_half_open": 1024}
    async with running_vault(rig, config=config) as vault:
        place = Place(
            rig.folder,
            rig.address,
            rig.root,
            rig.bundle.SerializeToString(),
            head.SerializeToString(),
            owners,
        )
        for owner in owners:

            async def store(client: ClientSession, exchange: Any) -> None:
                client.on_answer(await exchange(client.store_request(0, bytes(16), bytes(32))))

            await vault.patiently(owner, store)
        yield Bench(vault, place, pool)


class Result(NamedTuple):
    """One kind of request, by so many workers, and the bare loop beside it."""

    kind: str
    workers: int
    vault: Measured
    limit: float  # of as many bare loops, a second
    limit_ms: float  # of a core, that one of them takes for each

    def cells(self) -> list[str]:
        quantiles = statistics.quantiles(self.vault.half, n=100)
        return [
            f"{self.kind}s, {self.workers} worker{'s' * (self.workers > 1)}",
            f"{self.vault.rate:,.0f}",
            f"{self.limit:,.0f}",
            f"{self.vault.rate / self.limit:.0%}",
            f"{quantiles[49] * 1000:.0f} ms",
            f"{quantiles[98] * 1000:.0f} ms",
            f"{self.vault.batch:.0f}",
            f"{self.vault.cores:.1f}",
        ]

    def cpu_cells(self) -> list[str]:
        return [
            self.cells()[0],
            *(f"{ms:.2f}" for ms in self.vault.cpu_ms.values()),
            f"{sum(self.vault.cpu_ms.values()):.2f}",
            f"{self.limit_ms:.2f}",
        ]


async def measure(folder: Path, pool: ProcessPoolExecutor) -> list[Result]:
    loop, context = asyncio.get_running_loop(), multiprocessing.get_context("spawn")
    results = []
    for workers in (1, 2):
        (folder / str(workers)).mkdir()
        rig = Rig(folder / str(workers))
        async with running_bench(rig, workers, pool) as bench:
            measured = {kind: await bench.measure(kind) for kind in ("retrieve", "store")}
        for kind, found in measured.items():
            with ProcessPoolExecutor(workers, mp_context=context) as tokens:
                begin = time.monotonic() + 2 * WARM_UP_S
                shards = range(90, 90 + workers)
                loops = [loop.run_in_executor(tokens, bare, rig.token, kind, found.batch, n, begin) for n in shards]
                done = await asyncio.gather(*loops)
            count = sum(each for each, _ in done)
            limit_ms = sum(cpu for _, cpu in done) / count * 1000
            results.append(Result(kind, workers, found, count / MEASURED_S, limit_ms))
            print(*results[-1].cells(), *results[-1].cpu_cells(), file=sys.stderr, flush=True)
    return results


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [["", *heads], ["---", *["--:"] * len(heads)], *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines) + "\n"


def report(results: Sequence[Result]) -> str:
    """As Markdown."""
    rates = {(each.kind, each.workers): each.vault.rate for each in results}
    limits = {(each.kind, each.workers): each.limit for each in results}
    times = [
        f"{kind}s {rates[kind, 2] / rates[kind, 1]:.2f} (bare loops: {limits[kind, 2] / limits[kind, 1]:.2f})"
        for kind in ("retrieve", "store")
    ]
    heads = "a second", "bare loop", "of it", "p50 at half", "p99 at half", "entries an anchor", "cores busy"
    cpu_heads = "front", "core", "workers", "anchor service", "clients", "together", "bare loop"
    return (
        f"Measured on {machine()}.\n\n"
        + table(heads, [each.cells() for each in results])
        + f"Two workers to one: {', '.join(times)}.\n\nMilliseconds of a core for each retrieve or store:\n\n"
        + table(cpu_heads, [each.cpu_cells() for each in results])
    )


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write the tables into docs/benchmarks.md too")
    parser.add_argument("--memory", action="store_true", help="memory after many retrieves instead")
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    with (
        tempfile.TemporaryDirectory() as name,
        ProcessPoolExecutor(CLIENTS, mp_context=context, max_tasks_per_child=1) as pool,
    ):
        if options.memory:
            rig = Rig(Path(name))
            async with running_bench(rig, 1, pool) as bench:
                await bench.memory()
            return
        text = report(await measure(Path(name), pool))
    print(text, end="")
    if options.write:
        write(text, MARKS)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--core"]:
        count_anchors(Path(sys.argv[2]))
    else:
        asyncio.run(main())
