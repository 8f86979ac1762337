"""A profile that is followed: what other processes do to it is sent, what other devices do is taken in, by itself.

What is in the way of that: tests/faults/test_following.py; a store that lies: tests/attack/test_followed_line.py.
"""

import asyncio
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing
from pathlib import Path

import pytest

from ipls.client import profile_key
from ipls.client.device import Device
from ipls.client.events import CaughtUp, FollowBegun, IdentityChange
from ipls.client.profile import Profile, locked
from ipls.client.profile_key import IN_FILE, KeyAccess
from ipls.client.profiles import lock_profile, remove_profile, rename_profile
from ipls.clock import system_now_ms
from ipls.errors import IplsError
from ipls.units import DAY_MS
from tests.client.changes import Quick
from tests.client.deployment import Deployment, book
from tests.client.followed import edit, followed, followed_at_once, label_of, names, phone_and_copy
from tests.client.test_linked_devices import link


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with Deployment(tmp_path_factory.mktemp("deployment")).running() as world:
        yield world


def refused(reason: str) -> AbstractContextManager[object]:
    return pytest.raises(IplsError, check=lambda error: error.reason == reason)


async def test_what_is_done_to_the_profile_is_sent_and_what_others_do_comes(world: Deployment) -> None:
    phone, copy = await phone_and_copy(world)
    async with followed(phone) as heard:
        for number in range(3):
            await edit(phone, f"Phone{number}")
            assert (await heard.sent()).sent == 1
            async with world.device(copy) as device:
                device.address_book.import_cards(book(2, f"Copy{number}"))
                assert (await device.store()).received == 1
            assert (await heard.received()).received == 2
            assert names(phone) == names(copy)


async def test_the_first_line_begins_by_itself(world: Deployment) -> None:
    phone = await world.registered(world.label())
    await edit(phone, "First")
    async with followed(phone):
        pass
    async with world.device(phone) as device:
        assert device.status().commit == 1
        assert not device.status().unsent


async def test_nothing_is_done_while_nothing_happens(world: Deployment) -> None:
    """Its own writing is no news to it, nor are heads that it has; and the profile is nobody's meanwhile."""
    phone, _ = await phone_and_copy(world)
    async with followed(phone) as heard:
        for number in range(5):
            with closing(Profile(phone, wait_s=0)):
                pass
            await edit(phone, f"Phone{number}")
            await heard.sent()
        # One for each edit, besides the first one and the check's; the own commits' heads came between them.
        assert sum(isinstance(event, CaughtUp) for event in heard.all) == 7


async def until_busy(phone: Path) -> None:
    """Nothing tells of it."""
    while True:
        with locked(phone / "lock") as mine:
            if not mine():
                return
        await asyncio.sleep(0)


async def test_who_wants_to_write_has_his_turn_though_a_sync_waits_for_the_store(world: Deployment) -> None:
    phone, copy = await phone_and_copy(world)
    async with followed(phone) as heard:
        with world.paused("contacts"):
            await edit(phone, "One")
            await until_busy(phone)
            await edit(phone, "Two")
        sent = 0
        while sent < 2:
            sent += (await heard.sent()).sent
    async with world.device(copy) as device:
        await device.store()
    assert names(phone) == names(copy) >= {"One 0", "Two 0"}


async def test_one_process_follows_a_profile(world: Deployment) -> None:
    phone, _ = await phone_and_copy(world)
    async with followed(phone) as heard:
        async with followed_at_once(phone) as second:
            with refused("PROFILE_FOLLOWED"):
                await second.until(CaughtUp)
        await edit(phone, "Still")
        await heard.sent()
    async with followed(phone):
        pass


async def test_a_copy_that_is_followed_too_ends_the_one_before(world: Deployment) -> None:
    phone, copy = await phone_and_copy(world)
    async with followed(phone) as heard, followed(copy):
        with refused("FOLLOW_REPLACED"):
            await heard.until(IdentityChange)


async def test_it_ends_with_the_profile_that_it_follows(world: Deployment) -> None:
    phone, copy = await phone_and_copy(world)
    async with followed(phone) as heard:
        await asyncio.to_thread(rename_profile, phone, "renamed")
        with refused("PROFILE_ABSENT"):
            await heard.until(IdentityChange)
    assert not phone.exists()
    async with followed(copy) as heard:
        await asyncio.to_thread(remove_profile, copy, IN_FILE)
        with refused("PROFILE_ABSENT"):
            await heard.until(IdentityChange)
    assert not copy.exists()


async def test_a_profile_that_is_locked_meanwhile_is_not_followed_on(
    world: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(profile_key, "Scrypt", Quick)
    phone, _ = await phone_and_copy(world)
    async with followed(phone) as heard:
        await asyncio.to_thread(lock_profile, phone, KeyAccess(passphrase=lambda new: "one"))
        with refused("PROFILE_LOCKED"):
            await heard.until(IdentityChange)
    async with followed(phone, key=KeyAccess(passphrase=lambda new: "one")) as heard:
        async with await asyncio.to_thread(Device.open, phone, key=KeyAccess(passphrase=lambda new: "one")) as device:
            device.address_book.import_cards(book(1, "Locked"))
        await heard.sent()


async def test_there_must_be_an_account(world: Deployment, tmp_path: Path) -> None:
    async with followed_at_once(tmp_path / "none") as heard:
        with refused("PROFILE_ABSENT"):
            await heard.until(CaughtUp)
    async with world.device(world.profile()) as device:
        folder = device._profile._folder
    async with followed_at_once(folder) as heard:
        with refused("NOT_REGISTERED"):
            await heard.until(CaughtUp)


async def test_a_number_that_somebody_else_registered_is_told_and_proved(world: Deployment) -> None:
    phone, _ = await phone_and_copy(world)
    async with followed(phone) as heard:
        thief = await world.registered(label_of(phone))
        await edit(phone, "Mine")
        with refused("IDENTITY_SUPERSEDED"):
            await heard.until(IdentityChange, lambda told: told.version == 3)
    assert [told.origin for told in heard.all if isinstance(told, IdentityChange) and told.version == 2] == [
        "foreign"
    ] * 2
    assert thief != phone


async def test_what_a_foreign_identity_wrote_waits_for_the_person(world: Deployment) -> None:
    """Told once; as soon as she says that it was her, what it wrote is taken in."""
    phone, _ = await phone_and_copy(world)
    label = label_of(phone)
    other = await world.registered(label)
    async with world.device(other) as device:
        await device.restore()
        device.address_book.import_cards(book(1, "Other"))
        await device.store()
    async with world.device(phone) as device:
        await device.register(label, world.code)
    async with followed_at_once(phone) as heard:
        await heard.trouble("LINE_FOREIGN")
        async with await asyncio.to_thread(Device.open, phone) as device:
            device.acknowledge_version(2)
        assert (await heard.mended()).reason == "LINE_FOREIGN"
    assert "Other 0" in names(phone)


async def test_a_linked_device_goes_along_to_another_number(world: Deployment) -> None:
    phone, laptop = await world.stored(world.label(), book(1)), world.profile()
    async with world.device(phone) as device:
        await link(world, device, laptop)
    number = world.label()
    async with followed(laptop) as heard:
        async with world.device(phone) as device:
            await device.change_number(number, world.code)
        await heard.until(FollowBegun)
        await edit(phone, "After")
        async with world.device(phone) as device:
            await device.store()
        await heard.received()
    assert label_of(laptop) == number
    assert names(laptop) == names(phone)


async def test_the_own_history_is_proved_again_by_the_clock_even_one_that_jumps(world: Deployment) -> None:
    """Where it is years off that is told; edits go and come meanwhile, signed by the store's time."""
    phone, copy = await phone_and_copy(world)
    off_ms = 0

    async with followed(phone, now_ms=lambda: system_now_ms() + off_ms, retry_for_s=0) as heard:
        for years in (5, -5):
            off_ms = 365 * years * DAY_MS
            await heard.trouble("CALL_STALE")
            await edit(phone, f"Off{years}")
            await heard.sent()
            async with world.device(copy) as device:
                device.address_book.import_cards(book(1, f"Copy{years}"))
                await device.store()
            await heard.received()
            off_ms = 0
            assert (await heard.mended()).reason == "CALL_STALE"
    assert names(phone) == names(copy) >= {"Off5 0", "Copy-5 0"}
