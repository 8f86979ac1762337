"""A new version of the trust root under a directory that has published under the old one: nothing gets stuck."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from ipls.crypto.keys import public_key
from ipls.proto.directory.v1.directory_pb2 import WatchHeadsRequest
from ipls.proto.witness.v1.head_pb2 import SignedHead
from ipls.trust.errors import HeadRefused
from ipls.trust.heads import verify_head
from ipls.trust.root import WitnessKey
from tests.server.directories import ALICE, NOW, YEAR, Client, World, record, seed

HOUR = 3_600_000
NEW_KEY = seed(20)


@asynccontextmanager
async def running(world: World, *witnesses: int) -> AsyncIterator[Client]:
    async with AsyncExitStack() as stack:
        for number in witnesses:
            await stack.enter_async_context(world.witness(number))
        yield await stack.enter_async_context(world.directory())


async def first_counted(client: Client, world: World) -> SignedHead:
    """The first head that holds under the world's trust root; others are told before it, from the time before."""
    watch = client.reads.WatchHeads(WatchHeadsRequest(), timeout=60)
    async for response in watch:
        try:
            verify_head(world.root, response.head, now_ms=world.now_ms)
        except HeadRefused:
            continue
        watch.cancel()
        return response.head
    raise AssertionError("the watch ended early")


async def test_a_head_that_a_witness_taken_out_signed_is_signed_anew_at_once(tmp_path: Path) -> None:
    world = World(tmp_path, witnesses=3, k=2)
    async with running(world, 0, 1, 2) as client:
        assert await client.publish(1, ALICE, record(1)) == 1
        old = (await client.first_head()).head
    keys = [cosignature.public_key for cosignature in old.cosignatures]
    gone = next(witness for witness in world.root.witnesses if witness.keys[0].public_key in keys)
    stay = tuple(witness for witness in world.root.witnesses if witness != gone)
    world.root = replace(world.root, number=2, previous=bytes(32), witnesses=stay)
    with pytest.raises(HeadRefused, check=lambda e: e.reason == "HEAD_KEY_UNPINNED"):
        verify_head(world.root, old, now_ms=NOW)
    async with running(world, *(int(witness.name[1:]) for witness in stay)) as client:
        head = await first_counted(client, world)
        assert (head.epoch, head.root_hash) == (old.epoch, old.root_hash)
        assert await client.publish(2, ALICE, record(2)) == 2


async def test_a_key_rotated_with_an_overlap_is_no_break(tmp_path: Path) -> None:
    world = World(tmp_path)
    async with running(world, 0) as client:
        await client.publish(1, ALICE, record(1))
    (witness,) = world.root.witnesses
    old_key = replace(witness.keys[0], not_after_ms=NOW + HOUR)
    keys = (old_key, WitnessKey(public_key(NEW_KEY), NOW, NOW + YEAR))
    world.root = replace(world.root, number=2, previous=bytes(32), witnesses=(replace(witness, keys=keys),))
    async with running(world, 0) as client:  # the witness still has its old key
        assert await client.publish(2, ALICE, record(2)) == 2
    world.seeds[0] = NEW_KEY
    world.now_ms += 2 * HOUR
    async with running(world, 0) as client:
        assert await client.publish(3, ALICE, record(3)) == 3
        head = await first_counted(client, world)
    assert [cosignature.public_key for cosignature in head.cosignatures] == [public_key(NEW_KEY)]
