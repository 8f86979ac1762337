"""One account that does as much as it can: it costs that account, and nobody else."""

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from ipls.proto.directory.v1 import directory_pb2 as pb
from ipls.proto.witness.v1.witness_pb2 import GetStateRequest
from ipls.proto.witness.v1.witness_pb2_grpc import WitnessServiceStub
from ipls.rpc.channel import open_channel
from ipls.server.directory import service
from ipls.server.directory.service import MAX_READS, MAX_WATCHERS, READ_THREADS
from ipls.server.witness.service import MAX_SHOWN
from ipls.store.witness.sqlite import SqliteWitness
from tests.server.directories import ALICE, BOB, World, record
from tests.server.sessions import Session, refusal

FLOOD = MAX_READS


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def hold_look_ups(
    monkeypatch: pytest.MonkeyPatch, label: bytes | None = None
) -> tuple[threading.Event, threading.Semaphore]:
    """Those of this label, or all, wait for the event, each in its thread; the semaphore counts them."""
    release, looking = threading.Event(), threading.Semaphore(0)
    original = service.make_lookup

    def held(*arguments: Any) -> bytes:
        if label is None or label in arguments:
            looking.release()
            release.wait(60)
        return original(*arguments)

    monkeypatch.setattr(service, "make_lookup", held)
    return release, looking


async def test_epochs_go_on_while_an_accounts_look_ups_take_every_thread(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world.witness(), world.directory() as client:
        await client.publish(1, ALICE, record(1))
        await client.publish(2, BOB, record(2))
        alice, bob = await Session.open(client, ALICE, 1), await Session.open(client, BOB, 2)
        release, looking = hold_look_ups(monkeypatch)
        flood = [asyncio.create_task(alice.lookup(BOB)) for _ in range(FLOOD)]
        try:
            done, _ = await asyncio.wait(flood, return_when=asyncio.FIRST_COMPLETED, timeout=60)
            assert (await refusal(done.pop())).reason == "SERVICE_BUSY"  # at once, however long the others take
            assert looking.acquire(timeout=60)
            async with asyncio.timeout(60):
                assert await client.publish(3, b"+491700000003", record(3)) == 3
            others = asyncio.create_task(bob.lookup(ALICE))  # its turn comes with the next thread
        finally:
            release.set()
        assert (await others).head.epoch == 3
        answers = await asyncio.gather(*flood, return_exceptions=True)
        assert sum(not isinstance(answer, Exception) for answer in answers) >= READ_THREADS


async def test_strangers_who_take_every_thread_hold_up_no_read_of_the_deployments_own_parts(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world.witness(), world.directory() as client:
        await client.publish(1, ALICE, record(1))
        await client.publish(2, BOB, record(2))
        alice = await Session.open(client, ALICE, 1)
        release, looking = hold_look_ups(monkeypatch, BOB)
        flood = [asyncio.create_task(alice.lookup(BOB)) for _ in range(READ_THREADS)]
        try:
            for _ in flood:
                assert await asyncio.to_thread(looking.acquire, timeout=60)
            answer = await client.reads.Lookup(pb.LookupRequest(label=ALICE), timeout=30)
            assert answer.head.epoch == 2
        finally:
            release.set()
            await asyncio.gather(*flood)


async def test_who_watches_a_ticket_without_end_takes_the_places_of_a_few_watchers(world: World) -> None:
    async with world.directory() as client:  # no witness signs: both wait
        hostile, honest = await client.submit(1, ALICE, record(1)), await client.submit(2, BOB, record(2))
        watches = [client.updates.WatchUpdate(pb.WatchUpdateRequest(ticket=hostile)) for _ in range(MAX_WATCHERS)]
        for watch in watches:
            assert (await watch.read()).state == pb.WatchUpdateResponse.STATE_QUEUED
        one_more = client.updates.WatchUpdate(pb.WatchUpdateRequest(ticket=hostile))
        assert (await refusal(one_more.read())).reason == "SERVICE_BUSY"
        waiting = client.updates.WatchUpdate(pb.WatchUpdateRequest(ticket=honest))
        assert (await waiting.read()).state == pb.WatchUpdateResponse.STATE_QUEUED
        async with world.witness():
            for watch in (*watches, waiting):
                assert (await watch.read()).state == pb.WatchUpdateResponse.STATE_PUBLISHED


async def test_a_thiefs_updates_leave_the_owner_his(world: World) -> None:
    async with world.directory(daily_quota=3) as client:
        thiefs = [await client.submit(number, ALICE, record(number)) for number in range(1, 8)]
        ticket = await client.submit(9, ALICE, record(9))  # the number is the owner's again
        async with world.witness():
            assert await client.published(ticket) == 1
            for thief in thiefs:
                assert await client.published(thief) == 0
            owner = await Session.open(client, ALICE, 9)
            assert (await owner.lookup(ALICE)).head.epoch == 1
            assert await client.publish(10, ALICE, record(10)) == 2


async def test_a_witness_signs_while_strangers_ask_for_its_state(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    release, held = threading.Event(), 10**6
    original = SqliteWitness.signed

    def signed(store: SqliteWitness, epoch: int) -> Any:
        if epoch == held:
            release.wait(60)
        return original(store, epoch)

    monkeypatch.setattr(SqliteWitness, "signed", signed)
    async with world.witness(), world.directory() as client:
        await client.publish(1, ALICE, record(1))
        address = world.config().witnesses["w0"]
        async with open_channel(address, world.ca) as channel:
            stub = WitnessServiceStub(channel)
            request = GetStateRequest(namespace=world.root.namespace, epoch=held)
            strangers = [asyncio.create_task(refusal(stub.GetState(request))) for _ in range(MAX_SHOWN)]
            try:
                done, _ = await asyncio.wait(strangers, return_when=asyncio.FIRST_COMPLETED, timeout=60)
                assert done.pop().result().reason == "SERVICE_BUSY"
                async with asyncio.timeout(60):
                    assert await client.publish(2, BOB, record(2)) == 2
            finally:
                release.set()
            assert {error.reason for error in await asyncio.gather(*strangers)} == {"SERVICE_BUSY", "EPOCH_UNKNOWN"}
