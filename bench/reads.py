"""What a read costs: `python bench/reads.py [LABELS]` (10,000 labels: a minute; needs redis-server).

Two directory processes over one SQLite database and one Redis, asked over gRPC on a Unix socket, without TLS, by this
process. *Cold*: the proof is made. *Memory*: the process has it. *Redis*: the other process made it. Each label is
asked for under a session; how much a signed call for each would cost stands beside it.
"""

import asyncio
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing
from pathlib import Path
from typing import Any

from ipls import akd
from ipls._grpc import grpc
from ipls.clock import system_now_ms
from ipls.crypto.keys import public_key, sign
from ipls.proto.directory.v1 import directory_pb2 as pb
from ipls.proto.directory.v1.directory_pb2_grpc import DirectoryServiceStub, add_DirectoryServiceServicer_to_server
from ipls.rpc.reads import SESSION_METADATA, read_history
from ipls.server.directory.authorizer import ReadAuthorizer
from ipls.server.directory.cache import ProofCache, RedisProofCache
from ipls.server.directory.publisher import HeadNotifier
from ipls.server.directory.service import DirectoryService
from ipls.store.directory import DirectoryStore, EpochRow, PreparedEpoch, StoredHead, open_directory_store
from ipls.store.readers import open_readers_store
from ipls.trust.calls import session_digest
from ipls.trust.identity import encode_record

NAMESPACE = "bench.ipls"
SEED = bytes(range(32))
READER = b"+15550000000"
ASKED = 500
AT_ONCE = 16
OPENED = 50
VERSIONS = 2500


def publish(store: DirectoryStore, key: akd.DirectoryKey, updates: Sequence[akd.Update]) -> None:
    """The next epoch, without witnesses."""
    head = store.head()
    assert head is not None
    made = akd.publish(store, key, head.epoch, head.root_hash, head.depth, updates)
    assert made is not None
    step, term = EpochRow(made.epoch, made.old_root, made.new_root, (), made.blob), store.lease().term
    store.insert_step(term, step)
    store.commit(term, step, PreparedEpoch(made), b"")


def fill(store: DirectoryStore, key: akd.DirectoryKey, labels: Sequence[bytes]) -> None:
    """One epoch with all the labels; then the reader's versions, one an epoch, the last with the key of SEED."""
    store.commit_start(store.take_lease(store.lease()), StoredHead(0, akd.EMPTY_ROOT, 0, b""))
    publish(store, key, [akd.Update(label, os.urandom(33), None) for label in labels])
    values = [os.urandom(33) for _ in range(VERSIONS - 1)] + [encode_record(public_key(SEED))]
    for epoch, value in enumerate(values, 2):
        current = next(iter(store.versions(READER, epoch, 1)), None)
        publish(store, key, [akd.Update(READER, value, current)])


async def serve(folder: Path, name: str) -> None:
    """One directory process; ends with its standard input."""
    key = akd.DirectoryKey.from_seed(SEED)
    store, states = (
        open_directory_store(folder / "directory.db", NAMESPACE, key.public_key),
        open_readers_store(folder / "readers"),
    )
    readers = ReadAuthorizer(store, states, NAMESPACE, daily_labels=10**6, anonymous=False, now_ms=system_now_ms)
    shared = RedisProofCache(f"unix://{folder}/redis", states.derived_key) if name != "alone" else None
    server = grpc.aio.server()
    service = DirectoryService(store, key, HeadNotifier(), readers, ProofCache(shared))
    service.level.set()
    add_DirectoryServiceServicer_to_server(service, server)
    server.add_insecure_port(f"unix:{folder}/{name}")
    await server.start()
    await asyncio.to_thread(sys.stdin.read)
    await server.stop(0)
    if shared:
        await shared.close()


def opening(nonce: int) -> pb.OpenSessionRequest:
    now_ms, key, data = system_now_ms(), public_key(SEED), nonce.to_bytes(16, "big")
    signature = sign(SEED, session_digest(NAMESPACE, READER.decode(), key, now_ms, data))
    return pb.OpenSessionRequest(
        label=READER.decode(), public_key=key, timestamp_ms=now_ms, nonce=data, signature=signature
    )


@asynccontextmanager
async def process(folder: Path, name: str) -> AsyncIterator[Any]:
    """A stub for a directory process of its own."""
    command = [sys.executable, __file__, "--serve", str(folder), name]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as child:
        async with grpc.aio.insecure_channel(f"unix:{folder}/{name}") as channel:
            await channel.channel_ready()
            yield DirectoryServiceStub(channel)
        assert child.stdin
        child.stdin.close()


async def measure(what: str, call: Callable[[int], Awaitable[object]], count: int) -> None:
    """One after the other for the latency; half of them so, half AT_ONCE at a time for the rate."""
    half, taken = count // 2, []
    for number in range(half):
        started = time.perf_counter()
        await call(number)
        taken.append(time.perf_counter() - started)
    numbers = iter(range(half, count))

    async def worker() -> None:
        for number in numbers:
            await call(number)

    started = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(AT_ONCE)))
    rate = (count - half) / (time.perf_counter() - started)
    print(f"{what:36}{statistics.median(taken) * 1000:10.2f}{max(taken) * 1000:10.2f}{rate:12,.0f}")


async def compare(folder: Path, labels: Sequence[bytes]) -> None:
    nonces = itertools.count(1)
    async with AsyncExitStack() as stack:
        alone, first, second = [
            await stack.enter_async_context(process(folder, name)) for name in ("alone", "first", "second")
        ]
        metadata = ((SESSION_METADATA, (await alone.OpenSession(opening(0))).token),)

        def lookups(stub: Any, some: Sequence[bytes]) -> Callable[[int], Awaitable[object]]:
            return lambda number: stub.Lookup(pb.LookupRequest(label=some[number]), metadata=metadata)

        print(f"{'':36}{'median ms':>10}{'max ms':>10}{'a second':>12}")
        await measure("lookup, cold, no Redis", lookups(alone, labels[ASKED:]), ASKED)
        await measure("lookup, cold, with Redis", lookups(first, labels), ASKED)
        await measure("lookup, memory", lookups(first, labels), ASKED)
        await measure("lookup, Redis", lookups(second, labels), ASKED)
        await measure("signed call (opens a session)", lambda _: first.OpenSession(opening(next(nonces))), OPENED)
        for what in ("first time", "again"):
            started = time.perf_counter()
            _, proof = await read_history(first, pb.HistoryRequest(label=READER), timeout=600, metadata=metadata)
            taken = time.perf_counter() - started
            print(f"complete history of {VERSIONS:,} versions, {what}: {taken:.2f} s, {len(proof):,} bytes")


def main(count: int) -> None:
    labels = [b"+1666%07d" % number for number in range(count)]
    key = akd.DirectoryKey.from_seed(SEED)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with closing(open_directory_store(folder / "directory.db", NAMESPACE, key.public_key)) as store:
            fill(store, key, labels)
        command = ["redis-server", "--port", "0", "--unixsocket", f"{name}/redis", "--save", "", "--dir", name]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as redis:
            while not (folder / "redis").exists():
                time.sleep(0.01)  # it says to nobody that it is up
            print(f"{ASKED} lookups among {count:,} labels; the rate with {AT_ONCE} calls at once")
            try:
                asyncio.run(compare(folder, labels))
            finally:
                redis.terminate()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        asyncio.run(serve(Path(sys.argv[2]), sys.argv[3]))
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000)
