"""Disks that are really full: nothing acknowledged is lost, what only reads goes on, and all goes on once there is
room, by itself."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from ipls._grpc import grpc
from ipls.akd import verify_lookup
from ipls.client.device import Device
from ipls.client.errors import ClientError, ProfileError, TryLaterError
from ipls.client.profile import Contact, Profile, StorageError
from ipls.contacts.envelope import Envelope
from ipls.contacts.sealing import name_of
from ipls.proto.directory.v1 import directory_pb2 as pb
from ipls.store.log import FileLog
from ipls.trust.heads import verify_head
from tests.client.deployment import Deployment, book
from tests.faults.disks import disk, fill, nothing_is_written
from tests.hsm.rig import Owner
from tests.server import contact_stores
from tests.server.directories import ALICE, BOB, NOW, Client, World, record
from tests.server.phones import Phone, registered
from tests.server.registration.test_service import failure

SIZE = 3 << 20
OTHERS = [b"+4930%d" % n for n in range(20)]
FULL = ("DATABASE_UNAVAILABLE", "LOG_UNAVAILABLE")


@pytest.fixture
def full(tmp_path: Path) -> Iterator[Path]:
    with disk(tmp_path / "disk", SIZE) as folder:
        yield folder


async def stands(world: World, client: Client, label: bytes, value: bytes) -> bool:
    found = await client.reads.Lookup(pb.LookupRequest(label=label))
    head = verify_head(world.root, found.head, now_ms=NOW)
    proved = verify_lookup(head.root_hash, head.epoch, world.root.vrf_public_key, label, found.proof)
    return proved.value == value


async def test_a_full_disk_loses_nothing_and_its_end_needs_no_hand(tmp_path: Path, full: Path) -> None:
    world, places = World(tmp_path), {"database": full / "directory.db", "log": full / "log"}
    world.log = FileLog(places["log"])
    async with world.directory(**places) as client:
        async with world.witness():
            assert await client.publish(1, ALICE, record(1)) == 1
        waiting = {label: await client.submit(2 + n, label, record(2)) for n, label in enumerate(OTHERS)}
        fill(full / "filler")
        with capture_logs() as logs:
            async with world.witness():
                while not any(line["event"] == "no epoch" and line["reason"] in FULL for line in logs):
                    assert await stands(world, client, ALICE, record(1))  # reads go on
                error = await failure(client.submit(99, BOB, record(3)))
                assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "DATABASE_UNAVAILABLE")
                assert error.retry_after_s
                assert (await client.first_head()).head.epoch == 1
                (full / "filler").unlink()
                for label, ticket in waiting.items():
                    assert await client.published(ticket) in (2, 3)
                    assert await stands(world, client, label, record(2))
                assert await client.publish(99, BOB, record(3)) in (3, 4)


def refused(reason: str, kind: type[ClientError] = TryLaterError) -> object:
    return pytest.raises(kind, check=lambda error: error.reason == reason)


@pytest.fixture
def deployed(tmp_path: Path) -> Iterator[tuple[Deployment, Path]]:
    """A deployment on a disk of its own, its phones elsewhere; and a file that is to take the rest of it."""
    with disk(tmp_path / "disk", 24 << 20) as folder, Deployment(folder / "d", phones=tmp_path).running() as world:
        yield world, folder / "filler"


async def test_a_deployment_on_a_full_disk_reads_on_and_comes_back_by_itself(deployed: tuple[Deployment, Path]) -> None:
    world, filler = deployed
    label, another = world.label(), world.label()
    phone = await world.stored(label, book(5))
    fill(filler)
    async with world.device(phone, retry_for_s=0) as device:
        assert len(await device.monitor()) == 1
        assert (await device.lookup(label))[0].version == 1
        device.address_book.import_cards(book(3, "More"))
        with refused("DATABASE_UNAVAILABLE"):  # its cards are the first that must be written
            await device.store()
        with refused("VAULT_STORAGE_FAILED"):  # a use of the account is written down before anything
            await device.uses()
    async with world.device(world.profile(), retry_for_s=0) as device:
        with refused("DATABASE_UNAVAILABLE"):
            await device.register(another, world.code)
    filler.unlink()
    async with world.device(phone) as device:
        assert (await device.store()).contacts == 8
        await device.uses()
    await world.registered(another)
    async with world.device(await world.registered(label)) as device:
        assert (await device.restore()).contacts == 8
    assert world.ended() == []


async def test_a_profile_is_read_where_its_disk_takes_nothing(tmp_path: Path) -> None:
    world = Deployment(tmp_path / "d")
    profile = world.profile()
    async with world.device(profile) as device:
        device.address_book.import_cards(book(2))
    with nothing_is_written():
        async with Device.open(profile) as device:
            assert len(device.address_book.contacts()) == device.status().contacts == 2
            assert device.address_book.export().count(b"BEGIN:VCARD") == 2
        with refused("PROFILE_STORAGE", ProfileError):
            async with Device.open(profile) as device:
                device.address_book.import_cards(book(4))
    async with Device.open(profile) as device:
        assert len(device.address_book.contacts()) == 2
        assert device.address_book.import_cards(book(4))[0].new == 2


async def test_a_profile_on_a_full_disk_is_read_loses_nothing_and_goes_on(tmp_path: Path, full: Path) -> None:
    world, folder = Deployment(tmp_path / "d"), full / "phone"
    async with world.device(folder) as device:
        device.address_book.import_cards(book(2))
    fill(full / "filler")
    async with Device.open(folder, reading=True) as device:
        assert len(device.address_book.contacts()) == device.status().contacts == 2
    with refused("PROFILE_STORAGE", ProfileError):
        async with Device.open(folder) as device:
            device.address_book.import_cards(book(600))
    (full / "filler").unlink()
    async with Device.open(folder) as device:
        assert device.address_book.import_cards(book(600))[0].new == 598


def test_a_profile_is_read_beside_a_command_that_came_to_the_end_of_the_disk(full: Path) -> None:
    folder, more = full / "phone", [Contact(b"%d" % n, Envelope(bytes(400))) for n in range(600)]
    with closing(Profile(folder)) as writer:
        writer.put_contacts(more[:2])
        fill(full / "filler")
        with pytest.raises(StorageError):
            writer.put_contacts(more)
        with closing(Profile(folder, reading=True)) as reader:
            assert reader.contacts() == more[:2]
            (full / "filler").unlink()
            writer.put_contacts(more)
            assert reader.contacts() == more


async def test_the_contact_store_shows_what_it_has_of_before_where_its_disk_takes_nothing(tmp_path: Path) -> None:
    world, alice = contact_stores.World(tmp_path), Owner(contact_stores.ALICE)
    async with world.running() as stub:
        await world.publish(alice)
        device, record = world.device(stub, alice), contact_stores.record(1)
        world.stored_before(alice.label, record)
        with capture_logs(), nothing_is_written():
            assert await device.list() == {record[0]}
            assert await device.get([record[0]]) == [record[1]]


async def test_a_line_is_read_where_its_disk_takes_nothing_and_goes_on_after(tmp_path: Path) -> None:
    world = contact_stores.World(tmp_path)
    async with world.running():
        phone = await registered(world)
        impatient = Phone(world, phone.writer, retry_for_s=0)
        good, damaged = phone.writer.record("good"), phone.writer.record("damaged")
        made = await phone.begin(good, damaged)
        which = "blob = (SELECT id FROM blob WHERE name = ?)"
        world.change(f"UPDATE sealed SET data = x'00' WHERE {which}", name_of(damaged))
        later = phone.writer.edit(2, phone.chain, phone.writer.record("later"))
        with capture_logs(), nothing_is_written():
            read = await impatient.store.read(0)
            assert read is not None
            assert read.head == made.chain
            assert await impatient.get(good, damaged) == [True, False]
            with refused("DATABASE_UNAVAILABLE"):
                await impatient.at(phone).commit(later)
        await phone.commit(later)
        assert await phone.have(*later.records) == [True]
