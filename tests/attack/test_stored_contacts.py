"""What was stored, against the contact store's operator, the vault, and whoever controls the number."""

import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing

import pytest

from ipls.client.errors import ProfileError
from ipls.client.events import Event, IdentityChange
from ipls.client.profile import KnownVersion, Profile
from ipls.client.vault import VaultSession
from ipls.errors import IplsError
from ipls.store.contacts import Manifest
from tests.client.deployment import Deployment, book


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with Deployment(tmp_path_factory.mktemp("deployment")).running() as world:
        yield world


# The contact store's operator


async def test_a_record_swapped_for_another_is_refused(world: Deployment) -> None:
    label = world.label()
    await world.stored(label, book(3))
    with sqlite3.connect(world.config.contacts.database) as db:
        first, second = db.execute("SELECT rowid, ciphertext FROM record WHERE label = ? LIMIT 2", (label,))
        db.execute("UPDATE record SET ciphertext = ? WHERE rowid = ?", (second[1], first[0]))
    await restore_refused(world, label, "RECORD_DAMAGED")  # by our own store; another's: test_hostile_store.py


async def test_a_record_dropped_is_missed(world: Deployment) -> None:
    label = world.label()
    await world.stored(label, book(3))
    with world.contacts_database() as store:
        store.drop(label, [store.page(label, after=None, limit=1)[0][0]])
    await restore_refused(world, label, "RECORD_ABSENT")


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("ciphertext", os.urandom(1052), "RECORD_INVALID"),
        ("version", 9, "RECORD_INVALID"),
        ("generation", 2, "VAULT_GENERATION_UNKNOWN"),
        ("check_value", bytes(32), "KEY_CHECK_FAILED"),
    ],
)
async def test_an_edited_manifest_is_refused(world: Deployment, column: str, value: object, reason: str) -> None:
    label = world.label()
    await world.stored(label, book(3))
    with sqlite3.connect(world.config.contacts.database) as db:
        db.execute(f"UPDATE manifest SET {column} = ? WHERE label = ?", (value, label))
    await restore_refused(world, label, reason)


async def test_another_accounts_manifest_is_refused(world: Deployment) -> None:
    label, other = world.label(), world.label()
    for each in (label, other):
        await world.stored(each, book(3))
    with world.contacts_database() as store:
        manifest = store.manifest(other)
    assert manifest is not None
    replace_manifest(world, label, manifest)
    await restore_refused(world, label, "KEY_CHECK_FAILED")


async def test_a_manifest_rolled_back_is_seen_by_a_device_that_saw_a_later_one(world: Deployment) -> None:
    label = world.label()
    profile = await world.stored(label, book(3))
    with world.contacts_database() as store:
        old = store.manifest(label)
        old_records = [(key, store.read(label, [key])) for key, _ in store.page(label, after=None, limit=10)]
    async with world.device(profile) as device:
        device.address_book.import_cards(book(5))
        await device.store()
    assert old is not None
    replace_manifest(world, label, old)
    with world.contacts_database() as store:
        store.put(label, old_records, max_records=100, max_bytes=1 << 20)
    async with world.device(profile) as device:
        for journey in (device.store, device.restore):
            with refused("MANIFEST_ROLLED_BACK"):
                await journey()
        assert len(device.address_book.cards()) == 5
    # A new phone has seen no manifest: it can't tell, and gets the old list.
    new = await world.registered(label)
    async with world.device(new) as device:
        assert (await device.restore()).contacts == 3


async def test_two_manifests_of_one_version_are_seen_by_a_device_that_saw_one_of_them(world: Deployment) -> None:
    """The store shows each of two copies of a phone its own list."""
    label = world.label()
    profile, copy = await world.stored(label, book(3)), world.profile()
    with world.contacts_database() as store:
        first = store.manifest(label)
    assert first is not None
    shutil.copytree(profile, copy)
    for phone, cards in ((profile, book(4)), (copy, book(5))):
        replace_manifest(world, label, first)
        async with world.device(phone) as device:
            device.address_book.import_cards(cards)
            assert (await device.store()).version == 2
    async with world.device(profile) as device:
        for journey in (device.store, device.restore):
            with refused("MANIFEST_FORK"):
                await journey()
        assert len(device.address_book.cards()) == 4


async def test_a_manifest_withheld_is_missed_by_the_device_that_wrote_it(world: Deployment) -> None:
    label = world.label()
    profile = await world.stored(label, book(3))
    with sqlite3.connect(world.config.contacts.database) as db:
        db.execute("DELETE FROM manifest WHERE label = ?", (label,))
    async with world.device(profile) as device:
        with refused("MANIFEST_ROLLED_BACK"):
            await device.store()
    await restore_refused(world, label, "NOTHING_STORED")


# The vault


async def test_a_use_that_was_taken_out_of_the_history_is_missed(world: Deployment) -> None:
    """Yesterday's database, put back after a theft that the owner has seen: with yesterday's token, which SoftHSM lets
    be copied, the vault takes it."""
    owner = await world.stored(world.label(), book(3))
    with world.vault_of_now_put_back():
        async with world.device(owner) as device:
            await device.uses()
    async with world.device(owner) as device:
        with refused("VAULT_HISTORY_REWRITTEN"):
            await device.uses()
            await device.uses()


async def test_a_key_that_the_vault_does_not_give_back_seals_nothing(
    world: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    label = world.label()
    await world.stored(label, book(3))
    profile = await world.registered(label)
    honest = VaultSession.retrieve

    async def lie(session: VaultSession, generation: int) -> bytes:
        return await honest(session, generation) if generation == 1 else bytes(32)

    with monkeypatch.context() as patch:
        patch.setattr(VaultSession, "retrieve", lie)
        async with world.device(profile) as device:
            with refused("KEY_READ_BACK"):
                await device.restore()  # what was there comes back; the rotation after it does not go on
            assert (len(device.address_book.cards()), device.status().unfinished) == (3, True)
    with world.contacts_database() as store:
        assert {key.generation for key, _ in store.page(label, after=None, limit=100)} == {1}
    await world.restores(label, book(3))


# Whoever controls the number


async def test_a_key_that_a_thief_planted_is_not_used(world: Deployment) -> None:
    """A thief has the number for a while and stores a key; the contact store's operator points the owner to it."""
    label, cards = world.label(), book(3)
    await world.stored(label, cards)
    async with world.device(await world.registered(label)) as thief:
        await thief._vault.run(lambda session: session.store(1, os.urandom(16), os.urandom(32)))
    with world.contacts_database() as store:
        honest = store.manifest(label)
    assert honest is not None
    replace_manifest(world, label, honest._replace(generation=2))
    await restore_refused(world, label, "KEY_CHECK_FAILED")
    replace_manifest(world, label, honest)
    await world.restores(label, cards)  # the owner's key is still there


async def test_a_stolen_number_shows_and_shuts_the_old_device_out(world: Deployment) -> None:
    label = world.label()
    profile = await world.stored(label, book(3))
    await world.registered(label)  # the thief
    events: list[Event] = []
    async with world.device(profile, events.append) as device:
        with refused("IDENTITY_SUPERSEDED", ProfileError):
            await device.store()
        assert next((e.version, e.origin) for e in events if isinstance(e, IdentityChange)) == (2, "foreign")
        assert [version.version for version in device.status().foreign] == [2]
        # The owner takes it back, and with it comes a new contact key.
        assert (await device.register(label, world.code)).version == 3
        assert [version.origin for version in await device.monitor()] == ["own", "foreign", "own"]
        assert (await device.store()).generation == 2


# The directory


async def test_a_history_that_changed_is_refused(world: Deployment) -> None:
    profile = await world.registered(world.label())
    with closing(Profile(profile)) as phone:
        phone.add_versions([KnownVersion(2, 3, bytes(32), "own")])  # proved once, now not there
    async with world.device(profile) as device:
        with refused("HISTORY_REWRITTEN"):
            await device.monitor()


def refused(reason: str, kind: type[IplsError] = IplsError) -> "pytest.RaisesExc[IplsError]":
    return pytest.raises(kind, check=lambda error: error.reason == reason)


def replace_manifest(world: Deployment, label: str, manifest: Manifest) -> None:
    """What only the store's operator can do."""
    with sqlite3.connect(world.config.contacts.database) as db:
        db.execute("INSERT OR REPLACE INTO manifest VALUES (?, ?, ?, ?, ?)", (label, *manifest))


async def restore_refused(world: Deployment, label: str, reason: str) -> None:
    profile = await world.registered(label)
    async with world.device(profile) as device:
        with refused(reason):
            await device.restore()
        assert device.address_book.cards() == []
