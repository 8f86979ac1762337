"""What epochs and other accounts notice of one account's look-ups: `python -m bench.one_account` (two minutes at most).

A directory with one witness in this process. Another process has batches of 64 look-ups made as one account, 100 at a
time, whatever it is answered. Meanwhile updates are published one after the other, and another account looks up one
label at a time. Quiet and flooded are of one run on the same machine, whatever else it does.
"""

import asyncio
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from ipls._grpc import grpc
from ipls.proto.directory.v1 import directory_pb2 as pb
from ipls.proto.directory.v1.directory_pb2_grpc import DirectoryServiceStub
from ipls.rpc.channel import open_channel
from ipls.rpc.reads import SESSION_METADATA
from tests.server.directories import ALICE, BOB, World, record
from tests.server.sessions import Session

AT_ONCE = 100
BATCH = 64
EPOCHS = 10
LONGEST_S = 60


async def flood(address: str, ca: Path, token: bytes) -> None:
    """Until the process is ended; prints a line once it is under way."""
    number = 0
    async with open_channel(address, ca) as channel:
        reads = DirectoryServiceStub(channel)

        async def ask() -> None:
            nonlocal number
            while True:
                labels = [b"+1555%d" % (number + each) for each in range(BATCH)]
                number += BATCH
                try:
                    await reads.BatchLookup(pb.BatchLookupRequest(labels=labels), metadata=((SESSION_METADATA, token),))
                except grpc.aio.AioRpcError:
                    await asyncio.sleep(0.01)  # refused: not at once again
                if number >= AT_ONCE * BATCH:
                    print("under way", flush=True)

        await asyncio.gather(*(ask() for _ in range(AT_ONCE)))


async def median_ms(times: int, call: Callable[[int], Awaitable[object]]) -> str:
    taken, end = list[float](), time.monotonic() + LONGEST_S
    for number in range(times):
        begun = time.monotonic()
        if begun > end:
            break
        await call(number)
        taken.append(1000 * (time.monotonic() - begun))
    return f"{statistics.median(taken):8.0f} ms (longest {max(taken):.0f}, of {len(taken)})"


async def measure(folder: Path) -> None:
    world = World(folder)
    async with world.witness(), world.directory(daily_labels=10**9, daily_quota=10**6) as client:
        await client.publish(1, ALICE, record(1))
        await client.publish(2, BOB, record(2))
        alice, bob = await Session.open(client, ALICE, 1), await Session.open(client, BOB, 2)
        assert alice.token
        requests = iter(range(10, 10**6))

        async def epoch(_: int) -> None:
            request = next(requests)
            await client.publish(request, b"+4930%d" % request, record(3))

        async def report(how: str) -> None:
            print(f"{how:8} epoch {await median_ms(EPOCHS, epoch)}", flush=True)
            print(f"{how:8} another's look-up {await median_ms(5 * EPOCHS, lambda _: bob.lookup(ALICE))}", flush=True)

        await report("quiet")
        arguments = [sys.executable, "-m", "bench.one_account", client.public_address, str(world.ca), alice.token.hex()]
        flooding = await asyncio.create_subprocess_exec(*arguments, stdout=subprocess.PIPE)
        try:
            assert flooding.stdout
            await flooding.stdout.readline()
            await report("flooded")
        finally:
            flooding.kill()
            await flooding.wait()


if __name__ == "__main__":
    if len(sys.argv) > 1:
        asyncio.run(flood(sys.argv[1], Path(sys.argv[2]), bytes.fromhex(sys.argv[3])))
    else:
        with tempfile.TemporaryDirectory() as place:
            asyncio.run(measure(Path(place)))
