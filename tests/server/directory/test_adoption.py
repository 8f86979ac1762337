"""A directory whose database was put back: it adopts what the log has, signed or not, and makes no second root.

Values are not in the log: the messaging service submits again. Until then no wrong proof is given.
"""

import asyncio
import shutil
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest

from ipls._grpc import grpc
from ipls.akd import EMPTY_ROOT, Update, publish, verify_history
from ipls.client.calls import retrying
from ipls.proto.directory.v1 import directory_pb2 as pb
from ipls.rpc.channel import open_channel
from ipls.rpc.errors import remote_error
from ipls.server.directory.epochs import write_object
from ipls.server.directory.errors import LogRefused, NoQuorum, PublisherStopped
from ipls.server.directory.witnesses import Witnesses
from ipls.store.directory import open_directory_store
from ipls.store.directory.fsck import Fsck
from ipls.store.log import FileLog, object_name
from ipls.store.witness import ProposedEpoch as Signing
from ipls.trust.heads import signers, verify_head
from tests.server.directories import ALICE, BOB, NOW, PROPOSER, Client, World, record
from tests.server.sessions import Session
from tests.server.witnesses import open_store
from tests.trust.evidence import proved
from tests.trust.roots import cosign

CAROL = b"+491700000003"


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def copy(world: World, name: str) -> None:
    """A backup of the directory's database, of the file as it is."""
    with closing(sqlite3.connect(world.folder / "directory.db")) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    shutil.copy(world.folder / "directory.db", world.folder / name)


def put_back(world: World, name: str) -> None:
    for file in world.folder.glob("directory.db*"):
        file.unlink()
    if name:
        shutil.copy(world.folder / name, world.folder / "directory.db")


async def at_epoch(client: Client, epoch: int) -> Any:
    """The head of this epoch, once it is the newest."""
    watch = client.reads.WatchHeads(pb.WatchHeadsRequest(), timeout=60)
    async for answer in watch:
        if answer.head.epoch == epoch:
            watch.cancel()
            return answer.head
    raise AssertionError("the watch ended early")


async def versions(world: World, client: Client, label: bytes) -> list[tuple[int, int, bytes]]:
    """The complete history, verified: (version, epoch, value)."""
    answers = [answer async for answer in client.reads.History(pb.HistoryRequest(label=label))]
    head = verify_head(world.root, answers[0].head, now_ms=world.now_ms)
    proof = b"".join(answer.chunk for answer in answers)
    shown = verify_history(*head[::-1], world.root.vrf_public_key, label, proof, allow_missing=True)
    return [tuple(version) for version in shown]


async def refusal(call: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await (call.read() if hasattr(call, "read") else call)
    error = remote_error(caught.value)
    return error.code, error.reason


def fsck(world: World) -> list[Any]:
    return Fsck(world.folder / "directory.db", world.root.namespace, world.key).run(lambda *_: None).differences


@asynccontextmanager
async def restored(world: World, behind: int) -> AsyncIterator[Client]:
    """A directory that goes on from a backup `behind` epochs old (1 to 3); epoch 3 is the newest that was signed.

    Alice has versions at epochs 1 and 3, Bob at 2, Carol at none.
    """
    async with world.witness():
        for epoch, label in ((1, ALICE), (2, BOB), (3, ALICE)):
            copy(world, f"backup{4 - epoch}") if epoch > 1 else None
            async with world.directory() as client:
                assert await client.publish(epoch, label, record(epoch)) == epoch
        put_back(world, f"backup{behind}" if behind < 3 else "")
        async with world.directory() as client:
            yield client


@pytest.mark.parametrize("behind", [1, 2, 3])
async def test_lost_epochs_are_adopted_and_their_values_come_again(world: World, behind: int) -> None:
    async with restored(world, behind) as client:
        await at_epoch(client, 3)
        unavailable = (grpc.StatusCode.UNAVAILABLE, "VALUE_AWAITED")
        reads = client.reads
        for call in (
            reads.Lookup(pb.LookupRequest(label=ALICE)),
            reads.History(pb.HistoryRequest(label=ALICE)),
            reads.BatchLookup(pb.BatchLookupRequest(labels=[CAROL, ALICE])),
            reads.Absence(pb.AbsenceRequest(label=ALICE)),
        ):
            assert await refusal(call) == unavailable
        await reads.Absence(pb.AbsenceRequest(label=CAROL))
        if behind == 1:  # what is known of the others, and of the epochs before, is proved
            assert await versions(world, client, BOB) == [(1, 2, record(2))]
            await reads.Lookup(pb.LookupRequest(label=ALICE, epoch=2))
        assert fsck(world) == []
        # The very updates again, in their order, by their ids: each ticket holds where its update was published.
        for epoch, label in ((1, ALICE), (2, BOB), (3, ALICE)):
            assert await client.publish(epoch, label, record(epoch)) == epoch
        assert await versions(world, client, ALICE) == [(2, 3, record(3)), (1, 1, record(1))]
        assert await versions(world, client, BOB) == [(1, 2, record(2))]
        assert fsck(world) == []
        assert await client.publish(20, BOB, record(20)) == 4
        assert await versions(world, client, BOB) == [(2, 4, record(20)), (1, 2, record(2))]
    assert sorted(entry.name[:2] for entry in world.log.list()) == ["1/", "2/", "3/", "4/"]


async def test_a_device_brings_its_lost_key_back_by_reading(world: World) -> None:
    async with restored(world, 3) as client:
        await at_epoch(client, 3)
        unknown = (grpc.StatusCode.UNAUTHENTICATED, "READER_UNKNOWN")
        assert await refusal(Session.open(client, BOB, 3)) == unknown  # somebody's key, not Bob's
        session = await retrying(lambda: Session.open(client, ALICE, 3))  # pending, until the publisher has seen it
        head, proof = await session.history(ALICE, most_recent=0)
        root_hash, vrf = head.root_hash, world.root.vrf_public_key
        shown = verify_history(root_hash, head.epoch, vrf, ALICE, proof, allow_missing=True)
        assert [tuple(version) for version in shown] == [(2, 3, record(3)), (1, 1, b"")]
        assert head.epoch == 3  # nothing was published: it was there
        assert fsck(world) == []


async def test_a_device_whose_lost_key_finds_the_queue_full_is_told_to_come_again(world: World) -> None:
    async with restored(world, 3) as client:
        await at_epoch(client, 3)
    async with world.directory(queue_max=1) as client:  # without a witness, what waits goes on waiting
        ticket = await client.submit(20, BOB, record(20))
        full = (grpc.StatusCode.UNAVAILABLE, "QUEUE_FULL")
        assert await refusal(Session.open(client, ALICE, 3)) == full
        async with world.witness():
            await client.published(ticket)
            await retrying(lambda: Session.open(client, ALICE, 3))


async def test_another_value_leaves_the_lost_one_erased_and_follows_it(world: World) -> None:
    async with restored(world, 3) as client:
        await at_epoch(client, 3)
        # Alice has lost two versions, and comes with a third key: both count as erased.
        assert await client.publish(11, ALICE, record(9)) == 4
        assert await versions(world, client, ALICE) == [(3, 4, record(9)), (2, 3, b""), (1, 1, b"")]
        # Of Bob's value nothing was lost but that it was known.
        assert await client.publish(12, BOB, record(2)) == 2
        # A value that was skipped is a new change when it comes late.
        assert await client.publish(13, ALICE, record(1)) == 5
        assert fsck(world) == []


async def test_the_newest_lost_value_alone_is_enough(world: World) -> None:
    async with restored(world, 3) as client:
        await at_epoch(client, 3)
        assert await client.publish(11, ALICE, record(3)) == 3
        assert await versions(world, client, ALICE) == [(2, 3, record(3)), (1, 1, b"")]
        assert fsck(world) == []


async def test_an_update_that_still_waits_in_the_backup_needs_no_hand(world: World) -> None:
    async with world.witness():
        async with world.directory() as client:
            await client.publish(1, BOB, record(1))
        with closing(open_directory_store(world.folder / "directory.db", "test.ipls", world.key.public_key)) as store:
            ticket = store.submit(b"w" * 16, ALICE, record(2), NOW, daily_quota=9, queue_max=9)
        copy(world, "backup")
        async with world.directory() as client:
            assert await client.published(ticket) == 2
        put_back(world, "backup")
        async with world.directory() as client:
            assert await client.published(ticket) == 2
            assert await versions(world, client, ALICE) == [(1, 2, record(2))]
    assert len(world.log.list()) == 2


@asynccontextmanager
async def alone(world: World, number: int) -> AsyncIterator[Witnesses]:
    """What a directory has that reaches one witness."""
    async with open_channel(f"127.0.0.1:{world.witness_ports[number]}", world.ca) as channel:
        yield Witnesses(world.root, {f"w{number}": channel}, PROPOSER, world.clock)


@pytest.mark.parametrize("step", ["row written", "logged", "signed", "published"])
async def test_an_epoch_that_only_the_log_has_is_adopted_signed_or_not(tmp_path: Path, step: str) -> None:
    """The database was lost at this step; of three witnesses the one that may have signed is away then."""
    world = World(tmp_path, witnesses=3, k=2)
    async with world.witness(0):
        async with world.witness(1), world.publisher() as (publisher, store, _):
            await publisher.take_over()
            await publisher.advance()
            copy(world, "backup")
            store.submit(bytes(16), ALICE, record(1), NOW, daily_quota=9, queue_max=9)
            row = publisher.prepare()
            assert row is not None
            if step != "row written":
                write_object(world.log, row)
            if step == "signed":
                async with alone(world, 0) as one:
                    with pytest.raises(NoQuorum):
                        await one.sign(store.lease().term, *row[:3], row.blob)
            elif step == "published":
                await publisher.advance()
        put_back(world, "backup")
    async with world.witness(1), world.witness(2), world.directory(lease_s=0.5) as client:
        if step == "row written":  # nobody has seen it: it never was
            assert await client.publish(2, BOB, record(2)) == 1
            return
        head = await at_epoch(client, 1)
        assert head.root_hash == row.new_root
        assert await client.publish(2, BOB, record(2)) == 2
        assert await client.publish(3, ALICE, record(1)) == 1
    assert sorted(entry.name[:2] for entry in world.log.list()) == ["1/", "2/"]


async def test_no_second_row_is_made_while_the_log_does_not_show_what_a_quorum_signed(world: World) -> None:
    """A log that comes back by and by, or lies: the epoch is adopted once it shows it."""
    async with world.witness():
        async with world.directory() as client:
            await client.publish(1, ALICE, record(1))
        put_back(world, "")
        shown, world.log = world.log, FileLog(world.folder / "empty")
        async with world.publisher() as (publisher, store, _):
            store.submit(bytes(16), BOB, record(2), NOW, daily_quota=9, queue_max=9)
            await publisher.take_over()
            with pytest.raises(LogRefused) as caught:
                await publisher.advance()
            assert caught.value.reason == "STEP_UNAVAILABLE"
            assert store.unfinished_step() is None
            store.release(store.lease().term)
        world.log = shown
        async with world.directory(lease_s=0.5) as client:
            assert await client.publish(2, BOB, record(2)) == 2


async def test_a_witness_cannot_make_the_directory_adopt_what_it_never_proposed(tmp_path: Path) -> None:
    """A valid successor, made from public blobs and signed by a dishonest witness, as large as life."""
    world = World(tmp_path, witnesses=4, k=3)
    forged = publish(_Empty(), world.key, 0, EMPTY_ROOT, 0, [Update(ALICE, record(66), None)])
    assert forged is not None
    store = open_store(world.folder / "witness0.db", world.root.namespace)
    own = Signing(1, 1, EMPTY_ROOT, forged.new_root)
    store.sign(
        own,
        NOW,
        lambda at: cosign(bytes([10]) * 32, "test.ipls", 1, forged.new_root, at).SerializeToString(),
    )
    store.close()
    async with world.witness(0), world.witness(1), world.witness(2), world.witness(3), world.directory() as client:
        assert await client.publish(1, ALICE, record(1)) == 1
        head = (await client.first_head()).head
        assert head.root_hash != forged.new_root


async def test_a_witness_that_signed_the_losing_root_makes_up_a_quorum_for_the_next_epoch(tmp_path: Path) -> None:
    """The directory is started anew while one of those that signed the winning root is dead."""
    world = World(tmp_path, witnesses=3, k=2)
    async with world.witness(0), world.witness(1), world.directory() as client:
        await client.publish(1, ALICE, record(1))
        won = (await client.first_head()).head
    lost = publish(_Empty(), world.key, 0, EMPTY_ROOT, 0, [Update(BOB, record(2), None)])
    assert lost is not None

    def sign(epoch: int, root_hash: bytes, at: int) -> bytes:
        return cosign(world.seeds[2], "test.ipls", epoch, root_hash, at).SerializeToString()

    with closing(open_store(world.folder / "witness2.db", world.root.namespace)) as store:
        losing = Signing(1, 1, EMPTY_ROOT, lost.new_root)
        store.sign(losing, NOW, lambda at: sign(1, lost.new_root, at))
        store.keep_fetched(1, EMPTY_ROOT, won.root_hash)
        assert not store.sign_pulled(won.SerializeToString(), lambda *row: (row[2], sign(*row)))
    async with world.witness(1), world.witness(2), world.directory() as client:
        assert await client.publish(2, BOB, record(2)) == 2
        head = (await client.first_head()).head
    names = signers(world.root, head, now_ms=NOW)
    assert set(names) == {"w1", "w2"}


class _Empty:
    def read(self, prefixes: Any, epoch: int) -> dict[bytes, Any]:
        return {}


async def test_a_log_object_that_does_not_prove_the_step_is_not_adopted(world: World) -> None:
    async with world.witness():
        for epoch in (1, 2):
            async with world.directory() as client:
                await client.publish(epoch, ALICE, record(epoch))
        put_back(world, "")
        for entry in world.log.list(prefix="1/"):
            (world.folder / "log" / entry.name).write_bytes(b"another")
        async with world.publisher() as (publisher, store, _):
            await publisher.take_over()
            with pytest.raises(LogRefused) as caught:
                await publisher.advance()
            assert caught.value.reason == "LOG_EPOCH_TAKEN"
            assert store.unfinished_step() is None


async def test_a_row_of_a_restored_database_that_others_overtook_is_finished_with_their_signatures(
    world: World,
) -> None:
    async with world.witness():
        async with world.publisher() as (publisher, store, _):
            await publisher.take_over()
            await publisher.advance()
            store.submit(bytes(16), ALICE, record(1), NOW, daily_quota=9, queue_max=9)
            assert publisher.prepare() is not None
            copy(world, "backup")
            await publisher.advance()
            store.release(store.lease().term)
        async with world.directory() as client:
            assert await client.publish(2, BOB, record(2)) == 2
        put_back(world, "backup")
        async with world.directory(lease_s=0.5) as client:
            await at_epoch(client, 2)
            assert await versions(world, client, ALICE) == [(1, 1, record(1))]
            assert await client.publish(2, BOB, record(2)) == 2


async def test_witnesses_that_no_root_can_satisfy_stop_the_publisher(tmp_path: Path) -> None:
    """A log that shows two witnesses two epochs, of one proposal key: what only an operator's mistake, or a thief,
    makes."""
    world = World(tmp_path, witnesses=2, k=2)
    async with world.witness(0), world.witness(1), world.publisher() as (publisher, store, _):
        await publisher.take_over()
        await publisher.advance()
        own = world.log
        for number, label in enumerate((ALICE, BOB)):
            made = publish(_Empty(), world.key, 0, EMPTY_ROOT, 0, [Update(label, record(1), None)])
            assert made is not None
            world.log = FileLog(tmp_path / f"log of {number}") if number else own
            world.log.put(object_name(*made[:3]), made.blob)
            async with alone(world, number) as one:
                with pytest.raises(NoQuorum):
                    await one.sign(store.lease().term, *made[:3], made.blob)
        await publisher.take_over()
        with pytest.raises(PublisherStopped) as caught:
            await asyncio.wait_for(publisher.advance(), 60)
        assert caught.value.reason == "ROOT_UNREACHABLE"
    assert proved(world.root, world.folder / "evidence") == [("two_proposals", (), 1)]
