"""Several directory processes over one database: all serve, one publishes, another takes over when it dies or sleeps.

Their lease time is short for a test and long for a busy machine: a leader that lives must not lose it here.
"""

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ipls.akd import EMPTY_ROOT
from ipls.config import DirectoryConfig
from ipls.proto.directory.v1 import directory_pb2 as pb
from ipls.proto.witness.v1.witness_pb2 import GetStateRequest, GetStateResponse, ProposeRequest, ProposeResponse
from ipls.proto.witness.v1.witness_pb2_grpc import WitnessServiceServicer
from ipls.server.directory import lease
from ipls.server.directory.lease import LeaseKeeper
from ipls.server.directory.witnesses import STATE_TIMEOUT_S, Witnesses
from ipls.store.directory import DirectoryStore, open_directory_store
from ipls.store.directory.sqlite import SqliteDirectory
from ipls.store.errors import StoreError
from ipls.store.log import FileLog
from ipls.trust.heads import verify_head
from ipls.trust.root import encode_trust_root
from tests.environment import DIES_WITH_US
from tests.server.directories import ALICE, BOB, NOW, World, record
from tests.server.directory import process

STEPS = {
    "term taken": (SqliteDirectory, "take_lease"),
    "row written": (SqliteDirectory, "insert_step"),
    "signed": (Witnesses, "sign"),
    "logged": (FileLog, "put"),
    "committed": (SqliteDirectory, "commit"),
}


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture
def store(world: World) -> Iterator[DirectoryStore]:
    """Looked into from outside."""
    store = open_directory_store(world.folder / "directory.db", world.root.namespace, world.key.public_key)
    yield store
    store.close()


async def until(condition: Any) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)  # the process is another one, and says it to nobody


def is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


@asynccontextmanager
async def leader(world: World, step: str, name: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A directory process that gets the signal after the step."""
    (world.folder / "config.json").write_text(world.config(lease_s=2).model_dump_json())
    (world.folder / "trust.toml").write_bytes(encode_trust_root(world.root))
    owner, method = STEPS[step]
    child = await asyncio.create_subprocess_exec(
        *DIES_WITH_US,
        sys.executable,
        process.__file__,
        str(world.folder),
        str(NOW),
        f"{owner.__module__}:{owner.__qualname__}.{method}",
        name,
        stdout=asyncio.subprocess.DEVNULL,
    )
    try:
        yield child
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()


async def test_all_serve_and_queue_and_one_publishes(world: World, store: DirectoryStore) -> None:
    async with world.witness(), world.directory() as first:
        await first.first_head()
        term = store.lease().term
        async with world.directory() as second:
            watch = second.reads.WatchHeads(pb.WatchHeadsRequest(), timeout=60)
            assert (await watch.read()).head.epoch == 0
            for epoch, client in enumerate((first, second, first, second), 1):
                assert await client.publish(epoch, ALICE, record(epoch)) == epoch
                assert (await watch.read()).head.epoch == epoch
            for client in (first, second):
                answer = await client.reads.Lookup(pb.LookupRequest(label=ALICE))
                assert verify_head(world.root, answer.head, now_ms=NOW).epoch == 4
            # A ticket that another process settles is told here, without an epoch.
            ticket = await second.submit(5, ALICE, record(4))
            assert await second.published(ticket) == 4
            assert store.lease().term == term
    assert len(world.log.list()) == 4


async def test_a_leader_that_ends_in_order_hands_over_at_once(world: World, store: DirectoryStore) -> None:
    async with world.witness():
        async with world.directory(lease_s=60) as first:
            await first.first_head()
            term = store.lease().term
        started = time.monotonic()
        async with world.directory(lease_s=60) as second:
            assert await second.publish(1, ALICE, record(1)) == 1
            assert time.monotonic() < started + 30
            assert store.lease().term > term


@pytest.mark.parametrize("step", STEPS)
async def test_a_standby_goes_on_where_a_killed_leader_was(world: World, store: DirectoryStore, step: str) -> None:
    async with world.witness():
        async with world.directory() as client:
            await client.publish(1, ALICE, record(1))
        term = store.lease().term
        async with leader(world, step, "SIGKILL") as child:
            await until(lambda: store.lease().term > term)
            async with world.directory(lease_s=2) as standby:
                ticket = await standby.submit(2, ALICE, record(2))  # the leader hears of it, and dies over it
                assert await asyncio.wait_for(child.wait(), 60) == -signal.SIGKILL
                died = time.monotonic()
                assert await standby.published(ticket) == 2
                assert time.monotonic() < died + 20  # ten times the lease's, for a busy machine
                assert await standby.publish(3, BOB, record(3)) == 3
    assert sorted(entry.name[:2] for entry in world.log.list()) == ["1/", "2/", "3/"]


@pytest.mark.parametrize("step", STEPS)
async def test_a_leader_that_slept_writes_nothing_and_stands_by(world: World, store: DirectoryStore, step: str) -> None:
    async with world.witness():
        async with world.directory() as client:
            await client.publish(1, ALICE, record(1))
        term = store.lease().term
        async with leader(world, step, "SIGSTOP") as sleeper:
            await until(lambda: store.lease().term > term)
            async with world.directory(lease_s=2) as standby:
                ticket = await standby.submit(2, ALICE, record(2))
                await until(lambda: is_stopped(sleeper.pid))
                assert await standby.published(ticket) == 2
                assert await standby.publish(3, BOB, record(3)) == 3
                taken = store.lease().term
                os.kill(sleeper.pid, signal.SIGCONT)
                assert await standby.publish(4, BOB, record(4)) == 4
                assert store.lease().term == taken
            # It lives, and publishes once the lease is free again.
            ticket = store.submit(bytes([5]) * 16, ALICE, record(5), NOW, daily_quota=9, queue_max=9)
            await until(lambda: store.published_at(ticket) is not None)
            assert store.published_at(ticket) == 5
            assert sleeper.returncode is None
    assert sorted(entry.name[:2] for entry in world.log.list()) == ["1/", "2/", "3/", "4/", "5/"]


async def test_who_cannot_publish_gives_the_lease_to_who_can(world: World, store: DirectoryStore) -> None:
    class Broken(FileLog):
        def put(self, name: str, blob: bytes) -> None:
            raise OSError("its network is down")

    async with world.witness(), world.publisher(log=Broken(world.folder / "log")) as (publisher, *_):
        keeper = LeaseKeeper(store, 60)
        failing = asyncio.create_task(publisher.run(keeper))
        async with world.directory(lease_s=60) as other:
            assert await other.publish(1, ALICE, record(1)) == 1
        failing.cancel()
        await asyncio.wait([failing])
        keeper.close()


# The lease, by itself.


async def test_a_silent_holder_loses_the_lease_and_a_beating_one_keeps_it(store: DirectoryStore) -> None:
    first, second = LeaseKeeper(store, 2), LeaseKeeper(store, 2)
    holding, stopped = asyncio.Event(), list[str]()

    async def publish(term: int) -> None:
        holding.set()
        await asyncio.Event().wait()

    async def lead(keeper: LeaseKeeper) -> None:
        try:
            await keeper.hold(await keeper.until_free(), 7, publish)
        except StoreError as e:
            stopped.append(e.reason)

    leading = asyncio.create_task(lead(first))
    await holding.wait()
    waiting = asyncio.create_task(second.until_free())
    done, _ = await asyncio.wait([waiting], timeout=4.5)  # more than two lease times
    assert not done
    term = 0
    while not term:  # as who finds it silent does; a beat may come between
        with suppress(StoreError):
            term = store.take_lease(store.lease())
    await asyncio.wait_for(leading, 60)
    assert stopped == ["LEASE_LOST"]
    assert store.lease().held
    assert store.lease().term == term > 8
    seen = await asyncio.wait_for(waiting, 60)
    assert seen.term == term
    first.close()
    second.close()


async def test_a_holder_that_falls_silent_is_succeeded_within_seconds(
    store: DirectoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the clock of who waits, and with the lease time that is the default."""
    lease_s, term = DirectoryConfig.model_fields["lease_s"].default, store.take_lease(store.lease())
    now = died = 0.0

    async def sleep(seconds: float) -> None:
        nonlocal now, died
        now += seconds
        if now < 60:
            store.beat(term)
            died = now

    monkeypatch.setattr(lease, "time", SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr(asyncio, "sleep", sleep)
    keeper = LeaseKeeper(store, lease_s)
    assert await keeper.until_free() == store.lease()
    keeper.close()
    assert died + lease_s <= now < died + 5


# Slow and dead witnesses.


class Stuck(WitnessServiceServicer):
    """Takes what it is sent, and answers nothing, as a stopped process does."""

    def __init__(self) -> None:
        self.proposals = 0
        self.go = asyncio.Event()

    async def GetState(self, request: GetStateRequest, context: Any) -> GetStateResponse:
        await self.go.wait()
        return GetStateResponse()

    async def Propose(self, request: ProposeRequest, context: Any) -> ProposeResponse:
        self.proposals += 1
        await self.go.wait()
        return ProposeResponse()


async def test_a_stuck_witness_delays_nothing_and_piles_nothing_up(tmp_path: Path) -> None:
    world, stuck = World(tmp_path, witnesses=3, k=2), Stuck()
    async with world.witness(0, stuck), world.witness(1), world.witness(2), world.publisher() as driven:
        publisher, store, witnesses = driven
        started = time.monotonic()
        await publisher.take_over()
        for epoch in range(6):
            await publisher.advance()
            store.submit(bytes([epoch]) * 16, ALICE, record(epoch), NOW, daily_quota=99, queue_max=9)
            assert len(witnesses._scope) <= 2 + 2  # one is sent, one waits; the others' last may yet end
        assert time.monotonic() < started + STATE_TIMEOUT_S
        head = store.head()
        assert head is not None
        assert head.epoch == 5
        assert stuck.proposals == 1
        await witnesses.close()
        assert len(witnesses._scope) == 0


async def test_a_dead_witness_delays_nothing(tmp_path: Path) -> None:
    world = World(tmp_path, witnesses=3, k=2)
    async with world.witness(0), world.witness(1), world.directory() as client:
        for epoch in (1, 2, 3):
            assert await client.publish(epoch, ALICE, record(epoch)) == epoch
            signed = (await client.first_head()).head
            assert len(signed.cosignatures) == 2
            assert signed.root_hash != EMPTY_ROOT
