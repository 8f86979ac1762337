"""A directory below its log, as one whose database was lost or put back: it is not read until it has caught up, and
nobody keeps it from being read for long."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from ipls._grpc import grpc
from ipls.admin.deployment import free_ports
from ipls.akd import EMPTY_ROOT, Update, publish
from ipls.client.calls import retrying
from ipls.proto.directory.v1 import directory_pb2 as pb
from ipls.rpc.health import why_not_serving
from ipls.runtime.service import Service
from ipls.server.directory import witnesses
from ipls.server.directory.errors import NoQuorum
from ipls.server.directory.witnesses import Witnesses
from ipls.store.log import FileLog, object_name
from ipls.store.witness import ProposedEpoch
from tests.server.directories import ALICE, BOB, NOW, Client, World, record
from tests.server.directory.test_processes import Stuck
from tests.server.sessions import Session, refusal
from tests.server.witnesses import open_store
from tests.trust.roots import cosign

FOR_EVER_S = (3600.0, 3600.0)
"""Patience that no test outlasts."""


class Held:
    """Calls of a method of the log that don't come back until `release`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, method: str, prefix: str) -> None:
        self.reached, self._release = threading.Event(), threading.Event()
        original = getattr(FileLog, method)

        def held(log: FileLog, *name: str, **options: Any) -> Any:
            if (name[0] if name else options["prefix"]).startswith(prefix):
                self.reached.set()
                self._release.wait()
            return original(log, *name, **options)

        monkeypatch.setattr(FileLog, method, held)

    def release(self) -> None:
        self._release.set()


@contextmanager
def hold(monkeypatch: pytest.MonkeyPatch, method: str, prefix: str) -> Iterator[Held]:
    held = Held(monkeypatch, method, prefix)
    try:
        yield held
    finally:
        held.release()


@asynccontextmanager
async def starting(world: World) -> AsyncIterator[tuple[Client, "asyncio.Task[list[int]]"]]:
    """A directory process that takes calls, and what ends when it is read."""
    ports = free_ports(2)
    listen, internal = (f"127.0.0.1:{port}" for port in ports)
    async with Service("directory") as service:
        start = service.start(
            "start", world.run(service, patience_s=FOR_EVER_S, listen=listen, internal_listen=internal)
        )
        async with world.client(ports) as client:
            await client.public.TrustRoots(pb.TrustRootsRequest(), wait_for_ready=True)
            yield client, start


def lose(world: World) -> None:
    for file in world.folder.glob("directory.db*"):
        file.unlink()


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """Alice registered at epochs 1 and 3, Bob at 2; its witness runs, the directory does not."""
    world = World(tmp_path)
    async with world.witness():
        async with world.directory() as client:
            for epoch, label in ((1, ALICE), (2, BOB), (3, ALICE)):
                assert await client.publish(epoch, label, record(epoch)) == epoch
        yield world


async def newest(client: Client) -> int:
    return (await client.reads.GetHead(pb.GetHeadRequest())).head.epoch


async def test_no_process_shows_less_than_phones_have_seen_while_one_adopts(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    lose(world)
    with hold(monkeypatch, "get", "2/") as held:
        async with starting(world) as (first, first_start), starting(world) as (second, second_start):
            await asyncio.to_thread(held.reached.wait)
            seen = [client.reads.WatchHeads(pb.WatchHeadsRequest()) for client in (first, second)]
            for client in (first, second):
                for call in (
                    Session.open(client, ALICE, 3),  # the key that is her newest
                    newest(client),
                    client.reads.Lookup(pb.LookupRequest(label=ALICE)),
                    client.reads.Lookup(pb.LookupRequest(label=ALICE, epoch=1)),
                    client.reads.Absence(pb.AbsenceRequest(label=BOB)),
                ):
                    error = await refusal(call)
                    assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "DIRECTORY_NOT_READY")
                    assert error.retry_after_s
                assert await why_not_serving(client.public_address, world.ca) == "it says that it does not serve"
            ticket = await first.submit(4, BOB, record(4))  # waits in the queue, as ever
            held.release()
            assert await first_start
            assert await second_start
            for watch in seen:
                assert (await watch.read()).head.epoch >= 3
            for client in (first, second):
                assert await client.published(ticket) == 4
                assert await newest(client) == 4
                assert await why_not_serving(client.public_address, world.ca) == ""
                session = await retrying(lambda client=client: Session.open(client, ALICE, 3))
                await session.history(ALICE)


async def test_with_the_log_away_what_is_there_is_served_at_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(log: FileLog, **options: Any) -> Any:
        raise OSError("its host is away")

    lose(world)
    monkeypatch.setattr(FileLog, "list", away)
    async with world.directory(patience_s=FOR_EVER_S) as client:
        assert (await client.first_head()).head.epoch == 0


@pytest.mark.parametrize("patience_s", [(0.2, FOR_EVER_S[1]), (FOR_EVER_S[0], 0.2)], ids=["no step", "in all"])
async def test_a_log_that_holds_an_object_back_does_not_hold_reads_back_for_ever(
    world: World, monkeypatch: pytest.MonkeyPatch, patience_s: tuple[float, float]
) -> None:
    lose(world)
    with hold(monkeypatch, "get", "1/"):
        async with world.directory(patience_s=patience_s) as client:
            assert (await client.first_head()).head.epoch == 0


async def test_a_log_to_which_somebody_adds_does_not_hold_back_who_is_level_with_the_witnesses(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    [last] = world.log.list(prefix="3/")
    world.log.put(object_name(4, bytes.fromhex(last.name.split("/")[2]), bytes(32)), b"planted")
    with hold(monkeypatch, "get", "4/"):
        async with world.directory(patience_s=FOR_EVER_S) as client:
            assert await newest(client) == 3


async def test_a_log_that_hangs_does_not_hold_back_who_is_level_with_the_witnesses(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    with hold(monkeypatch, "list", ""):
        async with world.directory(patience_s=FOR_EVER_S) as client:
            assert await newest(client) == 3


async def test_a_log_that_hangs_does_not_hold_back_who_starts_before_its_witnesses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(tmp_path)
    async with world.witness(), world.directory() as client:
        await client.publish(1, ALICE, record(1))
    states, refused = Witnesses.states, asyncio.Queue[None]()

    async def asked(own: Witnesses) -> Any:
        try:
            return await states(own)
        except NoQuorum:
            refused.put_nowait(None)
            raise

    monkeypatch.setattr(Witnesses, "states", asked)
    with hold(monkeypatch, "list", ""):
        async with starting(world) as (client, start):
            for _ in range(3):  # both the publisher and who waits to serve have asked
                await refused.get()
            async with world.witness():
                assert await start
                assert await newest(client) == 1


async def test_witnesses_that_hang_do_not_hold_back_who_is_level_with_the_log(tmp_path: Path) -> None:
    world = World(tmp_path)
    async with world.witness(), world.directory() as client:
        await client.publish(1, ALICE, record(1))
    async with world.witness(0, Stuck()), world.directory(patience_s=FOR_EVER_S) as client:
        assert await newest(client) == 1


async def test_a_witness_that_hangs_does_not_slow_down_the_adoption_of_epochs_signed_long_ago(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(witnesses, "OLD_GRACE_S", FOR_EVER_S[0])
    world = World(tmp_path, witnesses=3, k=2)
    async with world.witness(0), world.witness(1):
        async with world.witness(2), world.directory() as client:
            for epoch in (1, 2, 3):
                await client.publish(epoch, ALICE, record(epoch))
        lose(world)
        world.now_ms += world.root.max_head_age_ms // 2
        async with world.witness(2, Stuck()), world.directory(patience_s=FOR_EVER_S) as client:
            assert await newest(client) == 3


async def test_a_witness_that_claims_more_does_not_hold_back_who_is_level_with_the_log(tmp_path: Path) -> None:
    world = World(tmp_path, witnesses=3, k=2)
    claimed = publish(Nothing(), world.key, 0, EMPTY_ROOT, 0, [Update(ALICE, record(66), None)])
    assert claimed is not None
    store = open_store(world.folder / "witness2.db", world.root.namespace)
    own = ProposedEpoch(1, 1, EMPTY_ROOT, claimed.new_root)
    store.sign(own, NOW, lambda at: cosign(world.seeds[2], "test.ipls", 1, claimed.new_root, at).SerializeToString())
    store.close()
    async with world.witness(0), world.witness(1), world.witness(2), world.directory(patience_s=FOR_EVER_S) as client:
        assert (await client.first_head()).head.epoch == 0


class Nothing:
    def read(self, prefixes: Any, epoch: int) -> dict[bytes, Any]:
        return {}
