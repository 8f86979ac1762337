"""What a service needs is away, or hangs: what can be read without it is read for as long as that takes, and all comes
back by itself. Databases: tests/faults/test_full_disk.py, tests/server/vault/test_postgres.py and
tests/store/registration/test_postgres.py; Redis: tests/attack/test_cache.py."""

import asyncio
import socket
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from ipls._grpc import grpc
from ipls.akd import verify_lookup
from ipls.proto.directory.v1 import directory_pb2 as pb
from ipls.rpc.errors import RemoteError
from ipls.server.contacts import identities
from ipls.server.directory.errors import EpochDamaged
from ipls.store.directory.fsck import Fsck
from ipls.trust.errors import HeadRefused
from ipls.trust.heads import verify_head
from tests.hsm.rig import Owner, Rig
from tests.logs import heard
from tests.server import contact_stores
from tests.server.contact_stores import answered, refused
from tests.server.directories import ALICE, BOB, Client, World, record
from tests.server.vault import process


@contextmanager
def no_log(world: World) -> Iterator[None]:
    """Nobody reads or writes it."""
    folder = world.folder / "log"
    folder.rename(world.folder / "elsewhere")
    folder.touch()
    yield
    folder.unlink()
    (world.folder / "elsewhere").rename(folder)


@contextmanager
def no_public_log(world: World) -> Iterator[None]:
    """The directory writes it, and no witness reads it."""

    class Away:
        def get(self, name: str) -> bytes:
            raise OSError("away")

    log, world.log = world.log, Away()  # type: ignore[assignment]  # it is only read
    yield
    world.log = log


async def fresh(world: World, client: Client) -> None:
    """Return once the newest head is one that readers take, and so is what is proved against it."""
    async for answer in client.reads.WatchHeads(pb.WatchHeadsRequest(), timeout=60):
        with suppress(HeadRefused):
            verify_head(world.root, answer.head, now_ms=world.now_ms)
            break
    found = await client.reads.Lookup(pb.LookupRequest(label=ALICE))
    head = verify_head(world.root, found.head, now_ms=world.now_ms)
    assert verify_lookup(head.root_hash, head.epoch, world.root.vrf_public_key, ALICE, found.proof).version == 1


@pytest.mark.parametrize("away", [no_log, no_public_log])
async def test_reads_outlive_the_log(tmp_path: Path, away: Callable[[World], AbstractContextManager[None]]) -> None:
    """Away for twice as long as a head is good, with an update that waits for it."""
    world = World(tmp_path)
    async with world.witness(), world.directory() as client:
        await client.publish(1, ALICE, record(1))
        with away(world), heard(event="no epoch") as failed:
            ticket = await client.submit(2, BOB, record(2))
            await failed.wait()
            for _ in range(2):
                world.now_ms += world.root.max_head_age_ms + 1
                await fresh(world, client)
        assert await client.published(ticket) == 2


async def test_reads_outlive_a_damaged_tree(tmp_path: Path) -> None:
    """Damaged under an epoch whose row is there: no other can be made."""
    world = World(tmp_path)
    async with world.witness(), world.publisher() as (publisher, store, _):
        await publisher.take_over()
        for label in (ALICE, BOB):
            store.submit(label + b"..", label, record(1), world.now_ms, daily_quota=9, queue_max=9)
            publisher.prepare() if label == BOB else await publisher.advance()
        with closing(sqlite3.connect(tmp_path / "directory.db")) as db, db:
            db.execute("UPDATE tile SET body = substr(body, 2)")
        for _ in range(2):
            world.now_ms += world.root.max_head_age_ms + 1
            with pytest.raises(EpochDamaged, check=lambda e: e.reason == "TREE_CORRUPT"):
                await publisher.advance()
            world.fresh_head(store)
        Fsck(tmp_path / "directory.db", world.root.namespace, world.key).run(lambda *_: None, store.mend_tiles)
        await publisher.advance()
        head = store.head()
        assert head is not None
        assert head.epoch == 2


async def test_a_witness_that_hangs_holds_up_neither_epochs_nor_reads(tmp_path: Path) -> None:
    """It takes connections and says nothing, while two of three are enough."""
    world = World(tmp_path, witnesses=3, k=2)
    with socket.create_server(("127.0.0.1", world.witness_ports[2])):
        async with world.witness(0), world.witness(1), world.directory() as client:
            await client.publish(1, ALICE, record(1))
            for number in range(2, 4):
                world.now_ms += world.root.max_head_age_ms + 1
                await fresh(world, client)
                assert await client.publish(number, BOB, record(number)) == number


def hanging(directory: type[Any]) -> type[Any]:
    """One that takes the question for a history and, while `hangs`, answers nothing."""

    class Hanging(directory):
        hangs = False

        async def History(self, request: Any, context: Any) -> AsyncIterator[Any]:
            if self.hangs:
                await asyncio.Event().wait()
            async for response in super().History(request, context):
                yield response

    return Hanging


async def test_a_directory_that_hangs_keeps_from_the_contact_store_only_whom_it_does_not_know(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contact_stores, "Directory", hanging(contact_stores.Directory))
    world, alice, bob = contact_stores.World(tmp_path), Owner(contact_stores.ALICE), Owner(contact_stores.BOB)
    async with world.running() as stub:
        for owner in (alice, bob):
            await world.publish(owner)
        await world.device(stub, alice).list()
        world.directory.hangs = True
        call = world.call(bob, "ListRecords", contact_stores.pb.ListRecordsBody())
        with monkeypatch.context() as short, refused(grpc.StatusCode.UNAVAILABLE, "DIRECTORY_UNAVAILABLE"):
            short.setattr(identities, "DIRECTORY_DEADLINE_S", 0.5)
            await answered(stub.ListRecords(contact_stores.pb.ListRecordsRequest(call=call)))
        await world.device(stub, alice).list()
        world.directory.hangs = False
        await world.device(stub, bob).list()


async def test_a_directory_that_hangs_keeps_new_sessions_from_the_vault_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "DirectoryServicer", hanging(process.DirectoryServicer))
    rig, alice, bob = Rig(tmp_path), Owner(), Owner()
    for owner in (alice, bob):
        rig.directory.publish(owner)
    head = rig.directory.head()
    async with process.running_vault(rig) as vault, vault.stream() as exchange:
        client = await rig.open(alice, exchange, known_head=head)
        vault.directory.hangs = True
        async with vault.stream() as other:
            with pytest.raises(RemoteError, check=lambda e: e.reason == "VAULT_DIRECTORY_UNAVAILABLE"):
                await rig.open(bob, other, known_head=head)
        client.on_answer(await exchange(client.list_request()))
        vault.directory.hangs = False
        await vault.patiently(bob, lambda client, exchange: exchange(client.list_request()))
