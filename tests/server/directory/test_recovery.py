"""The directory after crashes and forks: what was acknowledged is kept, no epoch gets a second root."""

import asyncio
import hashlib
import shutil
import signal
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from ipls.akd import EMPTY_ROOT, verify_append_only, verify_lookup
from ipls.config import ConfigError
from ipls.proto.akd.v1.akd_pb2 import SingleAppendOnlyProof
from ipls.proto.directory.v1 import directory_pb2 as pb
from ipls.proto.witness.v1.head_pb2 import SignedHead
from ipls.proto.witness.v1.witness_pb2 import ProposeRequest
from ipls.server.directory import epochs
from ipls.server.directory.epochs import recompute, write_object
from ipls.server.directory.errors import EpochDamaged, LogRefused, NoQuorum, PublisherStopped
from ipls.server.directory.witnesses import WitnessClient, Witnesses
from ipls.store.directory import EpochRow, PendingUpdate, open_directory_store
from ipls.store.directory.sqlite import SqliteDirectory
from ipls.store.errors import StoreError, StoreUnavailable
from ipls.store.log import FileLog, object_name
from ipls.trust.heads import timestamp, verify_head
from ipls.trust.identity import verify_identity
from ipls.trust.root import encode_trust_root
from tests.environment import DIES_WITH_US
from tests.logs import heard
from tests.server.directories import ALICE, BOB, NOW, Driven, World, record
from tests.server.directory import process


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

        async def later(*arguments: Any, **options: Any) -> None:
            await original(*arguments, **options)
            raise Crash

        monkeypatch.setattr(owner, method, later)
    else:

        def now(*arguments: Any) -> None:
            original(*arguments)
            raise Crash

        monkeypatch.setattr(owner, method, now)


async def lead_and_advance(publisher: Driven) -> None:
    await publisher.take_over()
    await publisher.advance()


STEPS = {
    "term taken": (SqliteDirectory, "take_lease"),
    "row written": (SqliteDirectory, "insert_step"),
    "logged": (FileLog, "put"),
    "proposed": (WitnessClient, "propose"),
    "answered": (WitnessClient, "cosign"),
    "signed": (Witnesses, "sign"),
    "committed": (SqliteDirectory, "commit"),
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
        async with world.directory(lease_s=1) as client:  # nobody has given the lease back
            later = await client.submit(4, BOB, record(4))  # must not join the row that was written
            assert await client.published(ticket) == 2
            assert await client.published(later) == 3
            assert await client.publish(5, ALICE, record(5)) == 4
            signed, proof = await client.history(BOB, most_recent=1)
            head = verify_head(world.root, signed, now_ms=NOW)
            assert verify_identity(world.root, head, BOB.decode(), proof).version == 2
        names = sorted(entry.name for entry in world.log.list())
        assert [name[:2] for name in names] == ["1/", "2/", "3/", "4/"]
        if row is not None:
            assert world.log.get(object_name(row.epoch, row.old_root, row.new_root)) == row.blob


async def test_nothing_is_proposed_before_it_is_in_the_log(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def propose(self: WitnessClient, request: ProposeRequest) -> Any:
        p = request.proposal.proposal
        if p.epoch:
            blob = world.log.get(object_name(p.epoch, p.old_root, p.new_root))
            assert blob is not None
            assert (hashlib.sha256(blob).digest(), len(blob), p.time_ms) == (p.blob_sha256, p.blob_size, NOW)
        return original(self, request)

    original = WitnessClient.propose
    monkeypatch.setattr(WitnessClient, "propose", propose)
    async with world.witness(), world.directory() as client:
        for number in (1, 2):
            assert await client.publish(number, ALICE, record(number)) == number


@pytest.mark.parametrize("step", STEPS)
async def test_a_killed_directory_goes_on_after_a_restart(world: World, step: str) -> None:
    (world.folder / "config.json").write_text(world.config(lease_s=1).model_dump_json())
    (world.folder / "trust.toml").write_bytes(encode_trust_root(world.root))
    async with world.witness():
        async with world.directory() as client:
            await client.publish(1, ALICE, record(1))
        store = open_directory_store(world.folder / "directory.db", world.root.namespace, world.key.public_key)
        ticket = store.submit(bytes(16), ALICE, record(2), NOW, daily_quota=9, queue_max=9)
        store.close()
        owner, method = STEPS[step]
        name = f"{owner.__module__}:{owner.__qualname__}.{method}"
        child = await asyncio.create_subprocess_exec(
            *DIES_WITH_US, sys.executable, process.__file__, str(world.folder), str(NOW), name
        )
        assert await asyncio.wait_for(child.wait(), 120) == -signal.SIGKILL
        async with world.directory(lease_s=1) as client:  # nobody has given the lease back
            assert await client.published(ticket) == 2
            assert await client.publish(3, ALICE, record(3)) == 3
        assert sorted(entry.name[:2] for entry in world.log.list()) == ["1/", "2/", "3/"]


async def test_a_namespaces_start_survives_a_crash(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async with world.witness():
        for owner, method in ((Witnesses, "sign"), (SqliteDirectory, "commit_start")):
            with monkeypatch.context() as patch:
                async with world.publisher() as (publisher, store, _):
                    crash_after(patch, owner, method)
                    await publisher.take_over()
                    with pytest.raises(Crash):
                        await publisher.advance()
                    assert (store.head() is None) == (method == "sign")
        async with world.directory(lease_s=1) as client:
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
        with heard(event="epochs again") as again:
            full = False
            assert await client.published(ticket) == 1
            await again.wait()


@pytest.mark.parametrize("step", ["insert_step", "commit", "settle", "renew"])
async def test_a_full_disk_holds_the_epoch_back(world: World, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    async with world.witness(), world.directory() as client:
        await client.publish(1, ALICE, record(1))
    world.now_ms += world.root.max_head_age_ms // 4  # so that the head is renewed too
    tried, write, full = asyncio.Event(), getattr(SqliteDirectory, step), True
    loop = asyncio.get_running_loop()

    def fail(*arguments: Any) -> Any:
        loop.call_soon_threadsafe(tried.set)
        if full:
            raise StoreUnavailable("database or disk is full")
        return write(*arguments)

    monkeypatch.setattr(SqliteDirectory, step, fail)
    async with world.witness(), world.directory() as client:
        same = await client.submit(2, ALICE, record(1))
        other = await client.submit(3, BOB, record(2))
        await asyncio.wait_for(tried.wait(), 60)
        assert (await client.reads.GetHead(pb.GetHeadRequest())).head.epoch == 1
        full = False
        assert (await client.published(same), await client.published(other)) == (1, 2)


async def test_an_object_in_the_log_will_do_if_it_proves_the_step(world: World) -> None:
    async with world.witness(), world.publisher() as (publisher, store, _):
        await publisher.take_over()
        await publisher.advance()
        for n, label in enumerate((ALICE, BOB)):
            store.submit(bytes([n]) * 16, label, record(n), NOW, daily_quota=9, queue_max=9)
        row = publisher.prepare()
        assert row is not None
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
async def test_another_object_in_the_log_holds_the_epoch_back_as_long_as_it_is_there(world: World, reason: str) -> None:
    async with world.witness(), world.publisher() as (publisher, store, _):
        await publisher.take_over()
        await publisher.advance()
        store.submit(bytes(16), ALICE, record(1), NOW, daily_quota=9, queue_max=9)
        row = publisher.prepare()
        assert row is not None
        root = row.new_root if reason == "LOG_OBJECT_EXISTS" else bytes(32)
        world.log.put(object_name(1, row.old_root, root), b"another")
        with pytest.raises(LogRefused) as caught:
            await publisher.advance()
        assert caught.value.reason == reason
        head = store.head()
        assert head is not None
        assert head.epoch == 0
        shutil.rmtree(world.folder / "log/1")  # the log has lied, or was mended
        await publisher.advance()
        head = store.head()
        assert head is not None
        assert head.root_hash == row.new_root


async def test_a_log_that_shows_two_objects_for_the_next_epoch_holds_it_back(world: World) -> None:
    async with world.witness(), world.publisher() as (publisher, store, _):
        await publisher.take_over()
        await publisher.advance()
        names = [object_name(1, EMPTY_ROOT, bytes([n]) * 32) for n in (1, 2)]
        for name in names:
            (world.folder / "log" / name).parent.mkdir(parents=True, exist_ok=True)
            (world.folder / "log" / name).write_bytes(b"blob")
        assert [entry.name for entry in world.log.list()] == names
        store.submit(bytes(16), ALICE, record(1), NOW, daily_quota=9, queue_max=9)
        await publisher.take_over()
        with pytest.raises(LogRefused) as caught:
            await publisher.advance()
        assert caught.value.reason == "LOG_EPOCH_TAKEN"
        assert store.unfinished_step() is None


# Forks.


async def test_a_row_that_cannot_be_made_again_is_not_proposed(world: World) -> None:
    async with world.witness(), world.publisher() as (publisher, store, witnesses):
        await publisher.take_over()
        await publisher.advance()
        row = EpochRow(1, EMPTY_ROOT, b"n" * 32, (PendingUpdate(1, ALICE, record(1)),), b"blob")
        store.insert_step(store.lease().term, row)
        with pytest.raises(EpochDamaged) as caught:
            await publisher.advance()
        assert caught.value.reason == "STEP_DIFFERS"
        assert [state.epoch for state in (await witnesses.states()).values()] == [0]


async def test_an_epoch_that_an_outsider_would_refuse_is_no_row_and_is_proposed_to_nobody(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the code that makes epochs does wrong: another one checks."""

    def publish(*arguments: Any) -> Any:
        made = original(*arguments)
        return made._replace(blob=SingleAppendOnlyProof().SerializeToString())

    original = epochs.publish
    async with world.witness(), world.publisher() as (publisher, store, witnesses):
        await publisher.take_over()
        await publisher.advance()
        store.submit(bytes(16), ALICE, record(1), NOW, daily_quota=9, queue_max=9)
        with monkeypatch.context() as patch:
            patch.setattr(epochs, "publish", publish)
            with pytest.raises(EpochDamaged) as caught:
                await publisher.advance()
        assert caught.value.reason == "STEP_UNPROVEN"
        assert store.unfinished_step() is None
        assert world.log.list() == []
        assert [state.epoch for state in (await witnesses.states()).values()] == [0]
        await publisher.advance()


async def test_a_row_over_a_damaged_tree_is_not_made_again(world: World) -> None:
    """Whether it comes from the queue or was adopted."""
    async with world.witness():
        async with world.directory() as client:
            await client.publish(1, ALICE, record(1))
        with closing(sqlite3.connect(world.folder / "directory.db")) as database, database:
            database.execute("UPDATE tile SET body = x'ff'")
        async with world.publisher() as (_, store, _):
            head = store.head()
            assert head is not None
            for batch in ((PendingUpdate(1, ALICE, record(2)),), ()):
                with pytest.raises(EpochDamaged) as caught:
                    recompute(store, world.key, EpochRow(2, head.root_hash, b"n" * 32, batch, b"blob"))
                assert caught.value.reason == "TREE_CORRUPT"


async def test_a_directory_does_not_start_where_its_trust_root_does_not(tmp_path: Path) -> None:
    world = World(tmp_path, start_root=b"r" * 32)
    async with world.publisher() as (publisher, store, _):
        publisher.lead(1)
        with pytest.raises(PublisherStopped) as caught:
            await publisher.advance()
        assert caught.value.reason == "START_NOT_EMPTY"
        assert store.head() is None


@pytest.mark.parametrize(("key", "file"), [("vrf_key", "proposal.seed"), ("proposal_key", "vrf.seed")])
async def test_a_directory_does_not_start_with_another_key(world: World, key: str, file: str) -> None:
    with pytest.raises(ConfigError) as caught:
        async with world.directory(**{key: world.folder / file}):
            pass
    assert caught.value.reason == f"{key.upper()}_FOREIGN"


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
            await thief.take_over()
            store.submit(b"t" * 16, ALICE, record(66), NOW, daily_quota=9, queue_max=9)
            row = thief.prepare()
            assert row is not None
            assert row.new_root != honest.root_hash
            with pytest.raises(PublisherStopped) as refused:
                await thief.advance()
            assert refused.value.reason == "ROOT_UNREACHABLE"
            assert store.head() == before
            store.release(store.lease().term)
        with pytest.raises(PublisherStopped):
            await _serves_until_it_stops(world, copy)
        # The thief's higher term does not lock the honest directory out.
        async with world.directory() as client:
            assert await client.publish(3, ALICE, record(3)) == 3


async def test_an_older_leader_writes_nothing_and_leads_again_only_by_a_new_term(world: World) -> None:
    async with world.witness(), world.publisher() as (old, store, _), world.publisher() as (new, *_):
        await old.take_over()
        await old.advance()
        await new.take_over()
        store.submit(bytes(16), ALICE, record(1), NOW, daily_quota=9, queue_max=9)
        with pytest.raises(StoreError) as caught:
            await old.advance()
        assert caught.value.reason == "LEASE_LOST"
        assert store.unfinished_step() is None
        await new.advance()
        store.submit(b"2" * 16, ALICE, record(2), NOW, daily_quota=9, queue_max=9)
        await old.take_over()
        await old.advance()
        head = store.head()
        assert head is not None
        assert head.epoch == 2


async def test_a_late_proposal_of_an_older_leader_is_refused_by_the_witness(world: World) -> None:
    async with world.witness(), world.publisher() as (publisher, store, witnesses):
        await publisher.take_over()
        await publisher.advance()
        old_term = store.lease().term
        for number in (1, 2):
            store.submit(bytes([number]) * 16, ALICE, record(number), NOW, daily_quota=9, queue_max=9)
            await publisher.take_over()
            row = publisher.prepare()
            assert row is not None
            if number == 2:  # a message of the old leader was on its way all the time
                with pytest.raises(NoQuorum) as caught:
                    await witnesses.sign(old_term, *row[:3], row.blob)
                assert caught.value.reason == "WITNESS_TERM"
            await publisher.advance()


async def test_a_late_proposal_again_gives_a_fresh_head_and_no_second_root(world: World) -> None:
    async with world.witness(), world.publisher() as (publisher, store, witnesses):
        await publisher.take_over()
        await publisher.advance()
        store.submit(bytes(16), ALICE, record(1), NOW, daily_quota=9, queue_max=9)
        row = publisher.prepare()
        assert row is not None
        write_object(world.log, row)
        first = await witnesses.sign(store.lease().term, *row[:3], row.blob)
        world.now_ms += 2 * world.root.max_head_age_ms  # the leader was away for long: its signatures have aged
        async with world.publisher() as (later, *_):
            await later.take_over()
            await later.advance()
        head = store.head()
        assert head is not None
        signed = SignedHead.FromString(head.signed)
        assert verify_head(world.root, signed, now_ms=world.now_ms) == (1, row.new_root)
        assert (signed.epoch, signed.root_hash) == (first.epoch, first.root_hash)
        assert signed.cosignatures != first.cosignatures
        assert [entry.name for entry in world.log.list()] == [object_name(1, row.old_root, row.new_root)]


async def test_a_clock_set_back_makes_no_older_head_and_no_stuck_directory(world: World) -> None:
    async with world.witness(), world.publisher() as (publisher, store, _):
        await publisher.take_over()
        for epoch, back_ms in ((1, 60_000), (2, 0)):  # so far an honest signature may lie ahead
            world.now_ms, world.witnesses_ahead_ms = NOW - back_ms, back_ms
            store.submit(bytes([epoch]) * 16, ALICE, record(epoch), world.now_ms, daily_quota=9, queue_max=9)
            await publisher.advance()
            head = store.head()
            assert head is not None
            assert head.epoch == epoch
            assert timestamp(SignedHead.FromString(head.signed).cosignatures[0]) == NOW
        world.now_ms, world.witnesses_ahead_ms = NOW - 3_600_000, 3_600_000
        store.submit(bytes([3]) * 16, ALICE, record(3), world.now_ms, daily_quota=9, queue_max=9)
        with pytest.raises(NoQuorum) as caught:
            await publisher.advance()
        assert caught.value.reason == "CLOCK_APART"
        assert store.head() == head
        assert len(world.log.list()) == 2
        world.now_ms, world.witnesses_ahead_ms = NOW, 0
        await publisher.advance()
        assert len(world.log.list()) == 3


async def _serves_until_it_stops(world: World, database: Path) -> None:
    async with world.directory(database=database, log=world.folder / "thief.log") as fork:
        lookup = await fork.reads.Lookup(pb.LookupRequest(label=ALICE))
        epoch, root = verify_head(world.root, lookup.head, now_ms=NOW)
        found = verify_lookup(root, epoch, world.root.vrf_public_key, ALICE, lookup.proof)
        assert found == (1, 1, record(1))
        await asyncio.Event().wait()
