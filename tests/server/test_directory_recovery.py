"""The directory after crashes and forks: what was acknowledged is kept, no epoch gets a second root."""

import asyncio
import shutil
import signal
import sqlite3
import sys
from pathlib import Path
from typing import Any

import pytest

from ipls.akd import EMPTY_ROOT, verify_append_only, verify_lookup
from ipls.proto.akd.v1.akd_pb2 import SingleAppendOnlyProof
from ipls.proto.directory.v1 import directory_pb2 as pb
from ipls.server.directory.epochs import prepare
from ipls.server.directory.errors import NoQuorum, PublisherStopped
from ipls.server.directory.publisher import Publisher
from ipls.server.directory.witnesses import Witnesses
from ipls.store.directory import DirectoryStore, Queued, Step
from ipls.store.errors import StoreError
from ipls.store.log import FileLog, object_name
from ipls.trust.heads import verify_head
from ipls.trust.identity import verify_identity
from ipls.trust.root import encode
from tests.server import directory_process
from tests.server.directories import ALICE, BOB, NOW, World, record


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


# Crashes: after each durable step the process ends, and another takes over.


class Crash(Exception):
    pass


def crash_after(monkeypatch: pytest.MonkeyPatch, owner: type, method: str) -> None:
    """The process ends as soon as the method has done its work."""
    original = getattr(owner, method)

    if asyncio.iscoroutinefunction(original):

        async def later(*arguments: Any) -> None:
            await original(*arguments)
            raise Crash

        monkeypatch.setattr(owner, method, later)
    else:

        def now(*arguments: Any) -> None:
            original(*arguments)
            raise Crash

        monkeypatch.setattr(owner, method, now)


async def lead_and_advance(publisher: Publisher) -> None:
    await publisher.lead()
    await publisher.advance()


STEPS = {
    "term taken": (DirectoryStore, "take_term"),
    "row written": (DirectoryStore, "insert_step"),
    "signed": (Witnesses, "sign"),
    "logged": (FileLog, "put"),
    "committed": (DirectoryStore, "commit"),
}


@pytest.mark.parametrize("step", STEPS)
async def test_a_crash_after_any_step_loses_and_forks_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    async with world.witness():
        async with world.directory() as client:
            await client.publish(1, ALICE, record(1))
        with monkeypatch.context() as patch:
            async with world.publisher() as (publisher, store, _):
                store.submit(b"2" * 16, ALICE, record(2), NOW, daily_quota=9, queue_max=9)
                ticket = store.submit(b"3" * 16, BOB, record(3), NOW, daily_quota=9, queue_max=9)
                crash_after(patch, *STEPS[step])
                with pytest.raises(Crash):
                    await lead_and_advance(publisher)
                row = store.unfinished_step()
                assert (row is None) == (step in ("term taken", "committed"))
        async with world.directory() as client:
            later = await client.submit(4, BOB, record(4))  # must not join the row that was written
            assert await client.published(ticket) == 2
            assert await client.published(later) == 3
            assert await client.publish(5, ALICE, record(5)) == 4
            history = await client.reads.History(pb.HistoryRequest(label=BOB, most_recent=1))
            head = verify_head(world.root, history.head, now_ms=NOW)
            assert verify_identity(world.root, head, BOB.decode(), history.proof).version == 2
        names = sorted(entry.name for entry in world.log.list())
        assert [name[:2] for name in names] == ["1/", "2/", "3/", "4/"]
        if row is not None:
            assert world.log.get(object_name(row.epoch, row.old_root, row.new_root)) == row.blob


@pytest.mark.parametrize("step", STEPS)
async def test_a_killed_directory_goes_on_after_a_restart(world: World, step: str) -> None:
    (world.folder / "config.json").write_text(world.config().model_dump_json())
    (world.folder / "trust.toml").write_bytes(encode(world.root))
    async with world.witness():
        async with world.directory() as client:
            await client.publish(1, ALICE, record(1))
        store = DirectoryStore(world.folder / "directory.db", world.root.namespace, world.key.public_key)
        ticket = store.submit(bytes(16), ALICE, record(2), NOW, daily_quota=9, queue_max=9)
        store.close()
        owner, method = STEPS[step]
        name = f"{owner.__module__}:{owner.__qualname__}.{method}"
        child = await asyncio.create_subprocess_exec(
            sys.executable, directory_process.__file__, str(world.folder), str(NOW), name
        )
        assert await asyncio.wait_for(child.wait(), 120) == -signal.SIGKILL
        async with world.directory() as client:
            assert await client.published(ticket) == 2
            assert await client.publish(3, ALICE, record(3)) == 3
        assert sorted(entry.name[:2] for entry in world.log.list()) == ["1/", "2/", "3/"]


async def test_a_namespaces_start_survives_a_crash(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async with world.witness():
        for owner, method in ((Witnesses, "sign"), (DirectoryStore, "commit_start")):
            with monkeypatch.context() as patch:
                async with world.publisher() as (publisher, store, _):
                    crash_after(patch, owner, method)
                    await publisher.lead()
                    with pytest.raises(Crash):
                        await publisher.advance()
                    assert (store.head() is None) == (method == "sign")
        async with world.directory() as client:
            assert await client.publish(1, ALICE, record(1)) == 1


async def test_a_log_that_cannot_be_written_holds_the_epoch_back(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async with world.witness(), world.directory() as client:
        await client.first_head()
        tried, put, full = asyncio.Event(), FileLog.put, True
        loop = asyncio.get_running_loop()

        def fail(self: FileLog, name: str, blob: bytes) -> None:
            loop.call_soon_threadsafe(tried.set)
            if full:
                raise OSError("no space left")
            put(self, name, blob)

        monkeypatch.setattr(FileLog, "put", fail)
        ticket = await client.submit(1, ALICE, record(1))
        await asyncio.wait_for(tried.wait(), 60)
        assert (await client.reads.GetHead(pb.GetHeadRequest())).head.epoch == 0
        full = False
        assert await client.published(ticket) == 1


@pytest.mark.parametrize("step", ["insert_step", "commit", "settle", "renew"])
async def test_a_full_disk_holds_the_epoch_back(world: World, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    async with world.witness(), world.directory() as client:
        await client.publish(1, ALICE, record(1))
    world.now_ms += world.root.max_head_age_ms // 4  # so that the head is renewed too
    tried, write, full = asyncio.Event(), getattr(DirectoryStore, step), True
    loop = asyncio.get_running_loop()

    def fail(*arguments: Any) -> Any:
        loop.call_soon_threadsafe(tried.set)
        if full:
            raise sqlite3.OperationalError("database or disk is full")
        return write(*arguments)

    monkeypatch.setattr(DirectoryStore, step, fail)
    async with world.witness(), world.directory() as client:
        same = await client.submit(2, ALICE, record(1))
        other = await client.submit(3, BOB, record(2))
        await asyncio.wait_for(tried.wait(), 60)
        assert (await client.reads.GetHead(pb.GetHeadRequest())).head.epoch == 1
        full = False
        assert (await client.published(same), await client.published(other)) == (1, 2)


async def test_an_object_in_the_log_will_do_if_it_proves_the_step(world: World) -> None:
    async with world.witness(), world.publisher() as (publisher, store, _):
        await publisher.lead()
        await publisher.advance()
        for n, label in enumerate((ALICE, BOB)):
            store.submit(bytes([n]) * 16, label, record(n), NOW, daily_quota=9, queue_max=9)
        prepared = prepare(store, world.key, 10)
        assert prepared is not None
        row = prepared[0]
        blob = SingleAppendOnlyProof.FromString(row.blob)
        turned = SingleAppendOnlyProof(inserted=blob.inserted[::-1], unchanged_nodes=blob.unchanged_nodes[::-1])
        there = turned.SerializeToString()
        assert there != row.blob
        world.log.put(object_name(row.epoch, row.old_root, row.new_root), there)
        await publisher.advance()
        head = store.head()
        assert head is not None
        assert head.epoch == 1
        verify_append_only(row.old_root, row.new_root, 1, there)


@pytest.mark.parametrize("reason", ["LOG_OBJECT_EXISTS", "LOG_EPOCH_TAKEN"])
async def test_another_object_in_the_log_stops_the_publisher(world: World, reason: str) -> None:
    async with world.witness(), world.publisher() as (publisher, store, _):
        await publisher.lead()
        await publisher.advance()
        store.submit(bytes(16), ALICE, record(1), NOW, daily_quota=9, queue_max=9)
        prepared = prepare(store, world.key, 10)
        assert prepared is not None
        row = prepared[0]
        root = row.new_root if reason == "LOG_OBJECT_EXISTS" else bytes(32)
        world.log.put(object_name(1, row.old_root, root), b"another")
        with pytest.raises(PublisherStopped) as caught:
            await publisher.advance()
        assert caught.value.reason == reason
        head = store.head()
        assert head is not None
        assert head.epoch == 0


# Forks.


async def test_a_row_that_cannot_be_made_again_is_not_proposed(world: World) -> None:
    async with world.witness(), world.publisher() as (publisher, store, witnesses):
        await publisher.lead()
        await publisher.advance()
        store.insert_step(Step(1, EMPTY_ROOT, b"n" * 32, (Queued(1, ALICE, record(1)),), b"blob"))
        with pytest.raises(PublisherStopped) as caught:
            await publisher.advance()
        assert caught.value.reason == "STEP_DIFFERS"
        assert [state.epoch for state in await witnesses.states()] == [0]


async def test_a_copy_of_the_database_cannot_fork_the_directory(world: World) -> None:
    copy = world.folder / "thief.db"
    async with world.witness():
        async with world.directory() as client:
            await client.publish(1, ALICE, record(1))
        shutil.copy(world.folder / "directory.db", copy)
        async with world.directory() as client:
            await client.publish(2, ALICE, record(2))
            honest = (await client.first_head()).head
        # The thief has the VRF and the proposal key, and puts a key of their own into the same epoch.
        log = FileLog(world.folder / "thief.log")
        async with world.publisher(copy, log) as (thief, store, _):
            before = store.head()
            with pytest.raises(PublisherStopped) as stopped:
                await thief.lead()  # an honest operator's stale copy stops here
            assert stopped.value.reason == "DIRECTORY_BEHIND_WITNESS"
            store.submit(b"t" * 16, ALICE, record(66), NOW, daily_quota=9, queue_max=9)
            prepared = prepare(store, world.key, 10)
            assert prepared is not None
            assert prepared[0].new_root != honest.root_hash
            await thief.lead()
            with pytest.raises(NoQuorum) as refused:
                await thief.advance()
            assert refused.value.reason == "WITNESS_FORK"
            assert store.head() == before
            assert log.list() == []
        async with world.directory(database=copy, log=world.folder / "thief.log") as fork:
            lookup = await fork.reads.Lookup(pb.LookupRequest(label=ALICE))
            epoch, root = verify_head(world.root, lookup.head, now_ms=NOW)
            found = verify_lookup(root, epoch, world.root.vrf_public_key, ALICE, lookup.proof)
            assert found == (1, 1, record(1))
        # The thief's higher term does not lock the honest directory out.
        async with world.directory() as client:
            assert await client.publish(3, ALICE, record(3)) == 3


async def test_an_older_leader_is_refused(world: World) -> None:
    async with world.witness(), world.publisher() as (old, store, _):
        await old.lead()
        await old.advance()
        async with world.publisher() as (new, *_):
            await new.lead()
            store.submit(bytes(16), ALICE, record(1), NOW, daily_quota=9, queue_max=9)
            await new.advance()
        store.submit(b"2" * 16, ALICE, record(2), NOW, daily_quota=9, queue_max=9)
        with pytest.raises(NoQuorum) as caught:
            await old.advance()
        assert caught.value.reason == "WITNESS_TERM"
        await old.lead()
        await old.advance()
        head = store.head()
        assert head is not None
        assert head.epoch == 2


async def test_two_processes_do_not_publish_from_one_database(world: World) -> None:
    async with world.witness(), world.directory() as client:
        await client.publish(1, ALICE, record(1))
        async with world.directory() as second:
            with pytest.raises(StoreError) as caught:
                await asyncio.wait_for(second.running.publishing, 60)
            assert caught.value.reason == "LEASE_HELD"
        assert await client.publish(2, ALICE, record(2)) == 2


async def test_a_lost_database_does_not_start_the_directory_again(world: World) -> None:
    async with world.witness():
        async with world.directory() as client:
            await client.publish(1, ALICE, record(1))
        async with world.publisher(world.folder / "empty.db") as (publisher, *_):
            with pytest.raises(PublisherStopped) as caught:
                await publisher.lead()
            assert caught.value.reason == "DIRECTORY_BEHIND_WITNESS"
