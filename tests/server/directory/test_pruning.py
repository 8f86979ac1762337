"""The pruning policy: what it keeps, that the publisher carries it out, what a reader of a pruned epoch is told."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from ipls._grpc import grpc
from ipls.akd import EMPTY_ROOT, verify_history
from ipls.proto.directory.v1 import directory_pb2 as pb
from ipls.proto.witness.v1.head_pb2 import SignedHead
from ipls.rpc.errors import RemoteError, remote_error
from ipls.server.directory.pruning import Pruner
from ipls.store.directory.fsck import Fsck
from ipls.units import DAY_MS, HOUR_MS
from tests.server.directories import ALICE, NOW, World, record, seed
from tests.store.directory.published import NAMESPACE, Published
from tests.trust.roots import cosign


async def refusal(call: Callable[[], Awaitable[object]]) -> RemoteError:
    """What a call is refused with as soon as the publisher has come to pruning."""
    async with asyncio.timeout(60):
        while True:
            try:
                await call()
            except grpc.aio.AioRpcError as error:
                return remote_error(error)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture
def published(tmp_path: Path) -> Published:
    """Ten epochs, the head of epoch n last signed at n hours."""
    published = Published(tmp_path / "published.db")
    for epoch in range(1, 11):
        published.publish(epoch)
        head = published.store.head()
        assert head
        signature = cosign(seed(10), NAMESPACE, epoch, head.root_hash, NOW + epoch * HOUR_MS)
        signed = SignedHead(epoch=epoch, root_hash=head.root_hash, cosignatures=[signature])
        published.store.renew(published.term, head._replace(signed=signed.SerializeToString()))
    return published


@pytest.mark.parametrize(
    ("policy", "floor"),
    [
        ({}, 0),
        ({"keep_epochs": 3}, 8),
        ({"keep_epochs": 99}, 0),
        ({"keep_epochs": 1}, 9),  # of 9 a head may still be judged by
        ({"keep_age_s": 1}, 9),
        ({"keep_age_s": 4 * 3600}, 6),
        ({"keep_age_s": 999 * 3600}, 0),
        ({"keep_age_s": 4 * 3600, "keep_epochs": 3}, 6),
        ({"keep_age_s": 4 * 3600, "keep_epochs": 7}, 4),
        ({"keep_epochs": 3, "prune_every": 8}, 8),
        ({"keep_epochs": 3, "prune_every": 9}, 0),
    ],
)
def test_the_policy(world: World, published: Published, policy: dict[str, int], floor: int) -> None:
    now_ms = NOW + 10 * HOUR_MS
    start = SignedHead(epoch=0, cosignatures=[cosign(seed(10), NAMESPACE, 0, EMPTY_ROOT, NOW)]).SerializeToString()
    published.change("UPDATE head SET signed = ? WHERE epoch = 0", start)
    pruner = Pruner(published.store, world.config(**{"prune_every": 1, **policy}), HOUR_MS, lambda: now_ms)
    while pruner.some(published.term):
        pass
    assert published.store.floor() == floor
    assert published.rows() == published.needed()


def test_what_a_pin_held_goes_once_it_is_unpinned(world: World, published: Published) -> None:
    pruner = Pruner(published.store, world.config(keep_epochs=1, prune_every=1), HOUR_MS, lambda: NOW + 99 * HOUR_MS)
    published.change("DELETE FROM head WHERE epoch = 0")  # it is not signed here
    published.store.raise_floor(published.term, 1)
    published.store.pin(2)
    while pruner.some(published.term):
        pass
    held = published.rows()
    assert held == published.needed()
    published.store.unpin(2)
    while pruner.some(published.term):
        pass
    assert published.rows() == published.needed()
    assert len(published.rows()) < len(held)


async def test_the_publisher_prunes_and_readers_are_told(world: World) -> None:
    database = world.folder / "directory.db"
    async with world.witness(), world.directory(keep_epochs=2, prune_every=1) as client:
        for epoch in range(1, 5):
            assert await client.publish(epoch, ALICE, record(epoch)) == epoch
        world.now_ms += 2 * world.root.max_head_age_ms
        for epoch in range(5, 7):
            assert await client.publish(epoch, ALICE, record(epoch)) == epoch
        # 4 was the newest when the clock jumped, so its head has been signed again since
        for call in (
            lambda: client.reads.Lookup(pb.LookupRequest(label=ALICE, epoch=3)),
            lambda: client.history(ALICE, 3),
        ):
            error = await refusal(call)
            assert (error.code, error.reason) == (grpc.StatusCode.OUT_OF_RANGE, "EPOCH_PRUNED")
        assert (await client.reads.GetHead(pb.GetHeadRequest(epoch=3))).head.epoch == 3
        for epoch in (0, 4, 5, 6):
            head, proof = await client.history(ALICE, epoch)
            newest = epoch or 6
            versions = verify_history(head.root_hash, newest, world.root.vrf_public_key, ALICE, proof)
            assert [v.version for v in versions] == list(range(newest, 0, -1))
    report = Fsck(database, world.root.namespace, world.key).run(lambda *_: None)
    assert (report.head, report.floor, report.differences) == (6, 4, [])


async def test_tickets_are_forgotten_after_their_days(world: World) -> None:
    async with world.witness(), world.directory(keep_tickets_days=2) as client:
        ticket = await client.submit(1, ALICE, record(1))
        assert await client.published(ticket) == 1
        world.now_ms += 3 * DAY_MS
        await client.publish(2, ALICE, record(2))
        assert (await refusal(lambda: client.published(ticket))).reason == "TICKET_UNKNOWN"
