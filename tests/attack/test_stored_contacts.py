"""What was stored, against the contact store's operator, the vault, and whoever controls the number."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from ipls.client.device import Device
from ipls.client.errors import ProfileError
from ipls.client.events import Event, IdentityChange
from ipls.client.profile import KnownVersion, Profile
from ipls.client.vault import VaultSession
from ipls.contacts.errors import LineError
from ipls.errors import IplsError
from tests.client.deployment import Deployment, book, cards_of


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with Deployment(tmp_path_factory.mktemp("deployment")).running() as world:
        yield world


# The contact store's operator


def operate(world: Deployment, sql: str, *values: object) -> None:
    """In the contact store's database, under its running service."""
    with closing(sqlite3.connect(world.config.contacts.database)) as db, db:
        db.execute(sql, values)


@pytest.mark.parametrize("change", ["SET data = zeroblob(length(data))", "SET data = x''"])
async def test_one_bad_record_costs_itself_and_not_for_long(world: Deployment, change: str) -> None:
    """The phone that has it gives it back when it makes the next base, at the latest."""
    label = world.label()
    profile = await world.stored(label, book(3))
    one = "(SELECT id FROM blob WHERE label = ? AND kind = 0 LIMIT 1)"
    operate(world, f"UPDATE sealed {change} WHERE blob = {one}", label)
    async with world.device(profile) as device:
        await device.delete_keys()  # a new key is due: all records are made anew
        await device.store()
    await world.restores(label, book(3))
    operate(
        world, f"UPDATE sealed {change} WHERE blob = (SELECT max(id) FROM blob WHERE label = ? AND kind = 0)", label
    )
    async with world.device(await world.registered(label)) as device:
        restored = await device.restore()
        assert (restored.contacts, restored.unread) == (2, 1)


async def test_a_line_rolled_back_is_seen_by_a_device_that_saw_more_and_by_a_new_one(world: Deployment) -> None:
    label = world.label()
    profile = await world.stored(label, book(3))
    async with world.device(profile) as device:
        device.address_book.import_cards(book(5))
        await device.store()
        await device.delete_keys()
        await device.store()  # a base: the vault has its checkpoint
    first = "(SELECT chain FROM link WHERE link.line = line.id AND n = 1)"
    operate(world, f"UPDATE line SET n = 1, chain = {first} WHERE label = ?", label)
    await assert_noticed(world, label, profile, "STORE_ROLLED_BACK")


async def test_a_line_withheld_is_missed(world: Deployment) -> None:
    label = world.label()
    profile = await world.stored(label, book(5))
    forget(world, label)
    await assert_noticed(world, label, profile, "STORE_ROLLED_BACK")


async def test_what_the_store_lost_is_given_back_and_what_it_shows_falsely_is_begun_anew(world: Deployment) -> None:
    label = world.label()
    profile = await world.stored(label, book(5))
    for how in ("give back", "anew"):
        forget(world, label)
        async with world.device(profile) as device:
            with refused("STORE_ROLLED_BACK", LineError):
                await device.store()
            recovered = await device.recover(how)
            assert (recovered.contacts, recovered.unread) == (5, 0)
    await world.restores(label, book(5))


async def test_another_accounts_line_is_none(world: Deployment) -> None:
    label, other = world.label(), world.label()
    profile = await world.stored(label, book(5))
    await world.stored(other, book(3))
    operate(world, "UPDATE line SET label = ? || label WHERE label = ?", "was ", label)
    operate(world, "UPDATE line SET label = ? WHERE label = ?", label, other)
    await assert_noticed(world, label, profile, "STORE_FORKED")


def forget(world: Deployment, label: str) -> None:
    """All of an account's line."""
    operate(world, "DELETE FROM link WHERE line IN (SELECT id FROM line WHERE label = ?)", label)
    for table in ("line_commit", "line"):
        operate(world, f"DELETE FROM {table} WHERE label = ?", label)


async def assert_noticed(world: Deployment, label: str, profile: Path, reason: str, new_reason: str = "") -> None:
    async with world.device(profile) as device:
        for journey in (device.store, device.restore):
            with refused(reason, LineError):
                await journey()
        assert len(device.address_book.cards()) == 5
    async with world.device(await world.registered(label)) as device:
        with refused(new_reason or reason, LineError):
            await device.restore()


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
    await world.restores(label, book(3))


# Whoever controls the number


async def test_a_key_that_a_thief_planted_is_not_used(world: Deployment) -> None:
    """A thief has the number for a while and stores a key; the contact store's operator helps."""
    label, cards = world.label(), book(3)
    await world.stored(label, cards)
    async with world.device(await world.registered(label)) as thief:
        await thief._vault.run(lambda session: session.store(1, os.urandom(16), os.urandom(32)))
    operate(world, "UPDATE line SET generation = 2 WHERE label = ?", label)
    await world.restores(label, cards)  # by what the commits say: the owner's key is still there


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


async def test_what_a_thief_wrote_is_shown_and_undone_on_a_phone_that_has_nothing_yet(world: Deployment) -> None:
    """The owner has lost her phone; the thief took her number, was let in, and has gone again."""
    label = world.label()
    await world.stored(label, book(3))
    thief = await world.registered(label)
    async with world.device(thief) as device:
        await device.restore()
        device.address_book.remove([contact.id for contact in device.address_book.contacts()])
        device.address_book.import_cards(book(1, "Thief"))
        await device.store()
    async with world.device(await world.registered(label)) as device:
        assert device.disown_version(2) == "store"
        with refused("LINE_FOREIGN"):
            await device.restore()
        assert [each.there for each in await device.differences()] == cards_of(book(1, "Thief"))
        recovered = await device.recover("anew")
        assert (recovered.contacts, recovered.unread) == (3, 0)
        assert device.address_book.cards() == cards_of(book(3))
    await undone(world, thief, label, recovered.generation)


async def test_it_is_undone_too_on_a_phone_that_has_taken_it_over(world: Deployment) -> None:
    label = world.label()
    await world.stored(label, book(3))
    thief = await world.registered(label)
    async with world.device(thief) as device:
        await device.restore()
        device.address_book.import_cards(book(1, "Thief"))
        await device.store()
    async with world.device(await world.registered(label)) as device:
        assert (await device.restore()).contacts == 4
        with refused("VERSION_UNKNOWN", ProfileError):
            await device.recover("anew", before=2)
        device.disown_version(2)
        taken_over = device.address_book.cards()
        recovered = await device.recover("anew", before=2)
        assert device.address_book.cards() == cards_of(book(3))
        assert device.address_book.undo()[0] == "recovery"  # after all, it was right
        assert device.address_book.cards() == taken_over
        await device.recover("anew", before=2)
        recovered = await device.recover("anew", before=2)
        assert device.address_book.cards() == cards_of(book(3))
    await undone(world, thief, label, recovered.generation)


@pytest.mark.parametrize("step", ["key stored", "key read back", "base made"])
async def test_a_key_that_a_thief_could_have_is_not_the_next_one(world: Deployment, step: str) -> None:
    """A rotation was under way when the number was taken over."""
    label = world.label()
    profile = await world.stored(label, book(3))

    async def rotation(device: Device) -> None:
        device._profile.line.note(rotate=True)
        await device.store()

    assert await world.cut_off(profile, rotation, step)
    async with world.device(await world.registered(label)) as thief:
        await thief._vault.run(lambda session: session.retrieve(2))
    async with world.device(profile) as device:
        await device.register(label, world.code)
        device.disown_version(2)
        assert (await device.store()).generation == 3
    await world.restores(label, book(3))


async def undone(world: Deployment, thief: Path, label: str, generation: int) -> None:
    """Under a key that the thief never had."""
    with closing(Profile(thief)) as profile:
        assert generation not in profile.line.keys
    async with world.device(await world.registered(label)) as device:
        assert device.disown_version(2) == "store"
        assert (await device.restore()).contacts == 3
        assert device.address_book.cards() == cards_of(book(3))


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
