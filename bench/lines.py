"""What an account's line costs at the contact store: `python -m bench.lines [CONTACTS ...]` (1,000 and 10,000).

Store and device are in this process, over gRPC with TLS on loopback: seconds are of both. Records are of the smallest
size. "The bytes alone" is a stream of as many bytes in messages of 1 MiB over the same kind of channel, which
nobody keeps or checks.
"""

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractContextManager, aclosing, nullcontext
from pathlib import Path
from typing import Any

from ipls._grpc import grpc
from ipls.contacts.sealing import name_of
from ipls.proto.contacts.v2 import contacts_pb2 as pb
from ipls.proto.contacts.v2.contacts_pb2_grpc import (
    ContactsServiceServicer,
    ContactsServiceStub,
    add_ContactsServiceServicer_to_server,
)
from ipls.rpc.channel import open_channel
from tests.server.contact_stores import World
from tests.server.loopback import listening
from tests.server.phones import Phone, registered

EDITS = 50


async def timed(what: str, work: Callable[[], Awaitable[Any]]) -> float:
    began = time.perf_counter()
    await work()
    took = time.perf_counter() - began
    print(f"    {what:34} {took:8.3f} s", flush=True)
    return took


async def main(contacts: int) -> None:
    print(f"{contacts:,} contacts")
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder))
        async with world.running():
            phone = await registered(world)
            laptop = Phone(world, phone.writer.device())
            records = [phone.writer.record(str(n)) for n in range(contacts)]
            names = [name_of(record) for record in records]
            await timed("first store", lambda: phone.begin(*records, devices=[laptop.writer]))
            await timed("which are there", lambda: phone.store.have(names))
            size = sum(map(len, records))
            alone = await bare(Path(folder), size)

            async def get() -> None:
                async for _ in laptop.store.get(names):
                    pass

            took = await timed("all of them, read", get)
            print(f"    {size / 1e6:.1f} MB; the bytes alone {alone:.3f} s; {took / alone:.1f} times as long")
            await timed(f"{EDITS} edits", lambda: edits(phone))
            await told(phone, laptop)
            await timed("rotation, its records staged", lambda: rotation(phone, laptop, len(records)))


async def edits(phone: Phone) -> None:
    for _ in range(EDITS):
        await phone.edit(phone.writer.record(os.urandom(8).hex()))


async def told(phone: Phone, laptop: Phone) -> None:
    """From before an edit is sent to when another device knows of it."""
    async with aclosing(laptop.store.follow()) as heads:
        await anext(heads)
        took = []
        for _ in range(EDITS):
            began = time.perf_counter()
            sent = asyncio.create_task(phone.edit(phone.writer.record(os.urandom(8).hex())))
            await anext(heads)
            took.append(time.perf_counter() - began)
            await sent
    median, longest = (1000 * seconds for seconds in (sorted(took)[EDITS // 2], max(took)))
    print(f"    an edit to another device: median {median:.1f} ms, longest {longest:.1f} ms")


async def rotation(phone: Phone, laptop: Phone, contacts: int) -> None:
    rotated = Phone(phone.world, phone.writer.rotated()).at(phone)
    records = [rotated.writer.record(str(n)) for n in range(contacts)]
    await phone.store.put_records(records)
    base = rotated.writer.base(phone.n + 1, phone.chain, records, [laptop.writer], write_by=phone.writer.key)
    await timed("  of it the base", lambda: rotated.commit(base))


class Bytes(ContactsServiceServicer):
    def __init__(self, size: int) -> None:
        self._size = size

    async def GetRecords(self, request: Any, context: Any) -> AsyncIterator[pb.GetRecordsResponse]:
        for at in range(0, self._size, 1 << 20):
            yield pb.GetRecordsResponse(chunk=bytes(min(1 << 20, self._size - at)))


async def bare(folder: Path, size: int, link: Callable[[str], AbstractContextManager[str]] = nullcontext) -> float:
    """Seconds for so many bytes, through `link`: from a server's address to where it is reached."""

    def add(server: grpc.aio.Server) -> None:
        add_ContactsServiceServicer_to_server(Bytes(size), server)

    async with listening(folder, add) as server:
        with link(server.address) as address:
            async with open_channel(address, server.ca) as channel:
                stub: Any = ContactsServiceStub(channel)
                began = 0.0
                for _ in range(2):  # the connection is not counted
                    began = time.perf_counter()
                    async for _ in stub.GetRecords(pb.GetRecordsRequest()):
                        pass
                return time.perf_counter() - began


if __name__ == "__main__":
    for count in map(int, sys.argv[1:] or ("1000", "10000")):
        asyncio.run(main(count))
