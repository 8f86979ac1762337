"""Who can write to the log puts an epoch of its own there, with leaves where a label's next ones would stand: the
directory adopts it, as it must, and it costs that label."""

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from ipls._grpc import grpc
from ipls.akd import EMPTY_ROOT, DirectoryKey, Version, verify_history
from ipls.akd.hashing import STALE_COMMITMENT
from ipls.akd.keys import Place
from ipls.akd.labels import Node
from ipls.akd.messages import AppendOnly, encode_append_only
from ipls.akd.tiles import Subtree
from ipls.akd.tree import insert
from ipls.proto.directory.v1 import directory_pb2 as pb
from ipls.rpc.errors import RemoteError
from ipls.server.directory.errors import LogRefused
from ipls.store.directory import open_directory_store
from ipls.store.log import object_name
from tests.server.contact_stores import answered
from tests.server.directories import ALICE, BOB, VRF, Client, World, record
from tests.server.directory.test_adoption import copy, put_back

CAROL = b"+491700000003"
FRESH, STALE = Place(ALICE, True, 2), Place(ALICE, False, 1)


def plant(world: World, *places: Place) -> None:
    """The next epoch into the log, as anyone makes it who knows the public proofs and where the places are."""
    store = open_directory_store(world.folder / "directory.db", world.root.namespace, world.key.public_key)
    head = store.head()
    assert head is not None
    labels = DirectoryKey.from_seed(VRF).locate(places)
    commitments = [b"x" * 32 if place.fresh else STALE_COMMITMENT for place in places]
    leaves = [Subtree(label, head.epoch + 1, each) for label, each in zip(labels, commitments, strict=True)]
    made = insert(store, head.epoch, leaves)
    inserted = [Node(leaf.label, leaf.stored) for leaf in leaves]
    store.close()
    name = object_name(head.epoch + 1, head.root_hash, made.new_root)
    world.log.put(name, encode_append_only(AppendOnly(inserted, made.unchanged)))


async def shown(world: World, client: Client, label: bytes) -> list[Version]:
    signed, proof = await client.history(label)
    vrf = world.root.vrf_public_key
    return list(verify_history(signed.root_hash, signed.epoch, vrf, label, proof, allow_missing=True))


@pytest.mark.parametrize("places", [(STALE,), (FRESH,)])
async def test_leaves_where_a_labels_next_would_stand_cost_that_label(tmp_path: Path, places: tuple[Place]) -> None:
    """While the directory runs. That label can have no version any more: the tree only appends."""
    world = World(tmp_path)
    async with world.witness(), world.directory() as client:
        await client.publish(1, ALICE, record(1))
        await client.publish(2, BOB, record(2))
        plant(world, *places)
        with capture_logs() as lines:
            ticket = await client.submit(3, ALICE, record(3))
            others = [await client.submit(4, BOB, record(4)), await client.submit(5, CAROL, record(5))]
            for other in others:
                assert await client.published(other) in (4, 5)
            with pytest.raises(RemoteError) as refused:
                await answered(client.updates.WatchUpdate(pb.WatchUpdateRequest(ticket=ticket), timeout=60))
        assert (refused.value.code, refused.value.reason) == (grpc.StatusCode.DATA_LOSS, "LEAF_EXISTS")
        assert [line["reason"] for line in lines if line["event"] == "updates refused"] == ["LEAF_EXISTS"]
        assert not any(ALICE.decode() in str(line) for line in lines)
        assert [version[::2] for version in await shown(world, client, BOB)] == [(2, record(4)), (1, record(2))]
        assert await client.publish(6, BOB, record(6)) == (await client.first_head()).head.epoch


@pytest.mark.parametrize("places", [(STALE, FRESH), (Place(CAROL, True, 1),)])
async def test_leaves_as_a_version_has_them_are_one_that_is_lost(tmp_path: Path, places: tuple[Place]) -> None:
    """Of an account that is there, and of one that is not: it goes on after it, and its owner sees it."""
    world, label = World(tmp_path), places[0].label
    async with world.witness(), world.directory() as client:
        await client.publish(1, ALICE, record(1))
        plant(world, *places)
        assert await client.publish(2, label, record(2)) == 3
        newest, lost, *_ = await shown(world, client, label)
        assert (newest.value, lost.value, lost.epoch) == (record(2), b"", 2)


async def test_an_epoch_that_came_to_the_log_while_the_directory_was_idle_is_adopted(tmp_path: Path) -> None:
    """Else its own would be refused there for ever."""
    world = World(tmp_path)
    async with world.witness(), world.directory() as client:
        assert (await client.first_head()).head.root_hash == EMPTY_ROOT
        plant(world, Place(BOB, True, 7))
        assert await client.publish(1, ALICE, record(1)) == 2


async def test_an_epoch_that_is_taken_when_its_row_is_there_costs_no_reads_and_needs_an_operator(
    tmp_path: Path,
) -> None:
    """Its row is final, and so is the log: the database from before the row adopts what is there."""
    world = World(tmp_path)
    async with world.witness():
        async with world.publisher() as (publisher, store, _):
            await publisher.take_over()
            await publisher.advance()
            copy(world, "backup")
            store.submit(bytes(16), ALICE, record(1), world.now_ms, daily_quota=1, queue_max=1)
            assert publisher.prepare() is not None
            plant(world, Place(BOB, True, 7))
            world.now_ms += world.root.max_head_age_ms + 1
            with pytest.raises(LogRefused, check=lambda e: e.reason == "LOG_EPOCH_TAKEN"):
                await publisher.advance()
            world.fresh_head(store)
        put_back(world, "backup")
        async with world.directory(lease_s=0.5) as client:
            assert await client.publish(1, ALICE, record(1)) == 2
