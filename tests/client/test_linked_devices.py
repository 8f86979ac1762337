"""Devices that are linked to an account, over the real services: who is let in, what they may, and who is put out."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, suppress
from pathlib import Path

import pytest

from ipls.client import sync
from ipls.client.device import Device
from ipls.client.errors import ProfileError
from ipls.client.line.kept import START
from ipls.client.linking import CODE_MS
from ipls.client.profile import DeviceKeys
from ipls.client.vault import VaultSession
from ipls.clock import system_now_ms
from ipls.contacts.commits import Commit, key_info
from ipls.contacts.device_record import DeviceRecord
from ipls.contacts.kem import KemKey
from ipls.errors import IplsError
from ipls.units import DAY_MS
from tests.client.deployment import Deployment, book, cards_of


def refused(reason: str) -> AbstractContextManager[object]:
    return pytest.raises(IplsError, check=lambda error: error.reason == reason)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with Deployment(tmp_path_factory.mktemp("deployment")).running() as world:
        yield world


class Screen:
    """What the new device shows."""

    def __init__(self) -> None:
        self.digits: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def show(self, digits: str) -> None:
        self.digits.set_result(digits)


@asynccontextmanager
async def joining(
    world: Deployment, laptop: Path, code: str, name: str = "Laptop"
) -> AsyncIterator[tuple[Screen, "asyncio.Task[object]"]]:
    """The new device, at work beside the phone."""
    screen = Screen()
    async with world.device(laptop) as device:
        task = asyncio.create_task(device.join(code, name, "Linux", screen.show))
        try:
            yield screen, task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def devices(device: Device) -> list[tuple[str, str]]:
    return [(each.name, each.state) for each in device.linked_devices.all()]


async def link(world: Deployment, phone: Device, laptop: Path, name: str = "Laptop") -> None:
    linking = await phone.link()
    async with joining(world, laptop, linking.code, name) as (screen, task):
        new = await linking.arrived()
        assert (new.name, new.platform) == (name, "Linux")
        await linking.confirm(await screen.digits)
        await task


async def test_two_devices_come_to_the_same_list_whoever_edits_and_without_the_phone(world: Deployment) -> None:
    label, laptop = world.label(), world.profile()
    phone_profile = await world.stored(label, book(3))
    async with world.device(phone_profile) as phone:
        await link(world, phone, laptop)
    async with world.device(laptop) as device:  # the phone is off
        assert device.address_book.cards() == cards_of(book(3))
        assert device.status().contacts == 3
        device.address_book.import_cards(book(2, "Laptop's"))
        assert (await device.store()).contacts == 5
        assert devices(device) == [("", "phone"), ("Laptop", "linked")]
        assert [each.here for each in device.linked_devices.all()] == [False, True]
    async with world.device(phone_profile) as phone:
        phone.address_book.import_cards(book(1, "Phone's"))  # before it sees the laptop's
        assert (await phone.store()).contacts == 6
        listed = phone.linked_devices.all()[1]
        assert (listed.name, listed.platform, listed.state, listed.here) == ("Laptop", "Linux", "linked", False)
        assert 0 < listed.linked_ms <= listed.wrote_ms
        cards, status = phone.address_book.cards(), phone.status()
    async with world.device(laptop) as device:
        behind = device.status()
        await device.store()
        assert device.address_book.cards() == cards
        now = device.status()
        assert (now.commit, now.commit_digits) == (status.commit, status.commit_digits)
        assert behind.commit_digits != now.commit_digits


@asynccontextmanager
async def linked(world: Deployment, names: tuple[str, ...] = ("Laptop",)) -> AsyncIterator[tuple[Device, list[Path]]]:
    """A phone with three contacts, open, and the profiles of its linked devices."""
    phone_profile, laptops = await world.stored(world.label(), book(3)), [world.profile() for _ in names]
    async with world.device(phone_profile) as phone:
        for name, laptop in zip(names, laptops, strict=True):
            await link(world, phone, laptop, name)
        yield phone, laptops


async def test_a_link_code_links_one_device(world: Deployment) -> None:
    async with world.device(await world.registered(world.label())) as phone:
        linking = await phone.link()
        async with joining(world, world.profile(), linking.code) as (screen, task):
            await linking.arrived()
            async with world.device(world.profile()) as other:
                with refused("LINK_SLOT_TAKEN"):  # while the first is being linked
                    await other.join(linking.code, "Other", "Linux", print)
                await linking.confirm(await screen.digits)
                await task
                with refused("LINK_SLOT_TAKEN"):  # and when it is
                    await other.join(linking.code, "Other", "Linux", print)
        assert devices(phone) == [("", "phone"), ("Laptop", "linked")]


@pytest.mark.parametrize("late", ["before the hello", "before the code is typed"])
async def test_a_link_code_is_over_after_ten_minutes_whatever_the_store_says(world: Deployment, late: str) -> None:
    """The store's ten minutes have not begun to pass: the phone goes by its own clock."""
    behind_ms = 0
    profile = await world.registered(world.label())
    async with Device.open(profile, now_ms=lambda: system_now_ms() + behind_ms) as phone:
        linking = await phone.link()
        async with joining(world, world.profile(), linking.code) as (screen, _):
            if late == "before the code is typed":
                await linking.arrived()
            digits = await screen.digits if late == "before the code is typed" else ""
            behind_ms = CODE_MS
            with refused("LINK_SLOT_ABSENT"):
                await (linking.confirm(digits) if digits else linking.arrived())
        assert devices(phone) == [("", "phone")]


async def test_who_photographed_the_code_and_answers_first_is_not_linked(world: Deployment) -> None:
    """The person's own laptop shows no digits then, and whatever they type in their place burns the code."""
    async with world.device(await world.registered(world.label())) as phone:
        linking = await phone.link()
        async with joining(world, world.profile(), linking.code, "Thief's") as (screen, theft):
            assert (await linking.arrived()).name == "Thief's"
            async with world.device(world.profile()) as laptop:
                with refused("LINK_SLOT_TAKEN"):
                    await laptop.join(linking.code, "Laptop", "Linux", print)
            wrong = f"{(int(await screen.digits) + 1) % 10**6:06}"
            with refused("SHORT_CODE_WRONG"):
                await linking.confirm("12345")  # no six digits are no try
            for _ in range(2):
                with refused("SHORT_CODE_WRONG"):
                    await linking.confirm(wrong)
            with refused("LINK_CODE_BURNT"):
                await linking.confirm(wrong)
            with refused("LINK_SLOT_ABSENT"):
                await linking.confirm(await screen.digits)
            with refused("LINK_SLOT_ABSENT"):  # at once, without waiting for the rest of the time
                await theft
        await phone.store()
        assert devices(phone) == [("", "phone")]


async def test_a_linked_device_neither_links_another_nor_opens_a_vault_session(world: Deployment) -> None:
    async with linked(world) as (_, [laptop]), world.device(laptop) as device:
        for call in (
            device.link(),
            device.remove_device(device.linked_devices.find("Laptop")),
            device.restore(),
            device.uses(),
            device.vault_settings(),
            device.delete_keys(),
            device.set_change_delay(1),
            device.add_approver(bytes(32)),
            device.remove_approver(bytes(32)),
            device.approval_request(),
        ):
            with refused("IDENTITY_ONLY"):
                await call
        with refused("OTHER_ACCOUNT"):
            await device.register(device.account.label, world.code)
        assert (await device.store()).contacts == 3
        # One that was altered to try it all the same.
        with refused("IDENTITY_ONLY"):
            await device._line_store(device.account.label, device.account.seed).open_link(bytes(32))
        with refused("VAULT_IDENTITY_MISMATCH"):
            await device._vault.run(VaultSession.list)


async def test_a_removed_device_is_out_and_reads_nothing_that_is_written_later(world: Deployment) -> None:
    """Not with all that the store has either."""
    async with linked(world, ("Laptop", "Tablet")) as (phone, [laptop, tablet]):
        result = await phone.remove_device(phone.linked_devices.find("Laptop"))
        assert result.rotated
        assert devices(phone) == [("", "phone"), ("Tablet", "linked")]
        phone.address_book.import_cards(book(1, "Later"))
        await phone.store()
        state, before = phone._profile.line.state, phone._profile.line.rows.only(START).chain
        with world.contacts_database() as store:
            view = store.lines.view(phone.account.label, b"", 0)
            base = Commit.decode(dict(store.lines.commits(view, view.base_n - 1, 1 << 30))[view.base_n].commit)
            records = dict(
                zip(state.entries, store.lines.get(phone.account.label, [*state.entries.values()]), strict=True)
            )
        ((_, sealed),), info = base.base.keys, key_info(before, base.generation)
        async with world.device(tablet) as device:  # it got the new key
            assert (await device.store()).contacts == 4
            assert KemKey(device._profile.get(DeviceKeys).kem_secret).open(info, sealed)
        async with world.device(laptop) as device:
            with refused("DEVICE_UNLISTED"):
                await device.store()
            assert device.address_book.cards() == cards_of(book(3))
            with refused("SEAL_BROKEN"):
                KemKey(device._profile.get(DeviceKeys).kem_secret).open(info, sealed)
            for id, record in records.items():
                for key in device._profile.line.keys.values():
                    with refused("SEAL_BROKEN"):
                        key.open_record(id, record)


REMOVAL = (
    "commit made",
    "commit stands",
    "key made",
    "key stored",
    "key read back",
    "records staged",
    "base made",
    "base stands",
    "rotation finished",
    "checkpoint set",
)


async def test_a_removal_that_is_cut_off_at_any_step_is_gone_on_with(world: Deployment) -> None:
    profile, laptops = await world.stored(world.label(), book(3)), [world.profile() for _ in REMOVAL]
    async with world.device(profile) as phone:
        for step, laptop in zip(REMOVAL, laptops, strict=True):
            await link(world, phone, laptop, step)
    for step, laptop in zip(REMOVAL, laptops, strict=True):

        async def remove(device: Device, step: str = step) -> None:
            await device.remove_device(device.linked_devices.find(step))

        async with world.device(profile) as phone:
            generation = phone.status().generation
        assert await world.cut_off(profile, remove, step), step
        async with world.device(profile) as phone:
            await phone.store()
            with suppress(ProfileError):
                await remove(phone)  # it was cut off before anything was kept of it
            status = phone.status()
            assert status.generation > generation, step
            assert not status.unfinished, step
            assert step not in [each.name for each in phone.linked_devices.all()], step
        async with world.device(laptop) as device:
            with refused("DEVICE_UNLISTED"):
                await device.store()


async def test_another_device_that_replaces_a_record_puts_nobody_out(world: Deployment) -> None:
    async with linked(world, ("Laptop", "Bad")) as (phone, [laptop, bad]):
        async with world.device(bad) as device:
            theirs = device.linked_devices.find("Laptop")
            mine = DeviceRecord(theirs.key, KemKey().public, "Bad\u202e", "Linux")
            device.linked_devices.put(mine, system_now_ms())
            await device.store()
        await phone.store()
        assert devices(phone)[1:] == [("", "linked"), ("Bad", "linked")]  # what can't be shown as it is, is not shown
        await phone.remove_device(phone.linked_devices.find("Bad"))
        phone.address_book.import_cards(book(1, "Later"))
        await phone.store()
        async with world.device(laptop) as device:
            assert (await device.store()).contacts == 4


async def test_after_a_restore_the_devices_are_confirmed_again(world: Deployment) -> None:
    async with linked(world) as (phone, [laptop]):
        label = phone.account.label
    async with world.device(laptop) as device:
        device.address_book.import_cards(book(1, "Unsent"))
    async with world.device(await world.registered(label)) as new:
        await new.restore()
        assert devices(new) == [("", "phone"), ("Laptop", "waiting")]
        async with world.device(laptop) as device:
            with refused("DEVICE_UNLISTED"):
                await device.store()
            assert devices(device) == [("", "phone"), ("Laptop", "linked")]
            assert len(device.address_book.cards()) == 4
        await link(world, new, laptop, "Old laptop")
        assert devices(new) == [("", "phone"), ("Old laptop", "linked")]
        assert (await new.store()).contacts == 4
    async with world.device(laptop) as device:
        assert (await device.store()).contacts == 4
        assert devices(device) == [("", "phone"), ("Old laptop", "linked")]
        assert device.status().foreign == []


async def test_a_joining_that_is_cut_off_is_gone_on_with(world: Deployment) -> None:
    async with world.device(await world.stored(world.label(), book(3))) as phone:
        laptop = world.profile()
        linking = await phone.link()
        async with joining(world, laptop, linking.code) as (screen, task):
            await linking.arrived()
            await screen.digits
            task.cancel()
        await link(world, phone, laptop)  # by another code: it is the same device
        tablet, linking = world.profile(), await phone.link()
        screen = Screen()

        async def join(device: Device) -> None:
            await device.join(linking.code, "Tablet", "Linux", screen.show)

        cut = asyncio.create_task(world.cut_off(tablet, join, "changes received"))
        await linking.arrived()
        await linking.confirm(await screen.digits)
        assert await cut
        assert devices(phone) == [("", "phone"), ("Laptop", "linked"), ("Tablet", "linked")]
        async with world.device(tablet) as device:
            assert (await device.store()).contacts == 3


@pytest.mark.parametrize("years", [-5, 5])
async def test_a_device_whose_clock_is_years_off_is_told_so_and_loses_nothing(world: Deployment, years: int) -> None:
    off = {"now_ms": lambda: system_now_ms() + 365 * years * DAY_MS}
    async with linked(world) as (phone, [laptop]):
        async with world.device(laptop, **off) as device:
            device.address_book.import_cards(book(1, "Unsent"))
            with refused("CALL_STALE"):
                await device.store()
        async with world.device(laptop) as device:
            assert (await device.store()).contacts == 4
        tablet, linking = world.profile(), await phone.link()
        screen = Screen()
        async with world.device(tablet, **off) as device:
            joining = asyncio.create_task(device.join(linking.code, "Tablet", "Linux", screen.show))
            await linking.arrived()
            await linking.confirm(await screen.digits)
            with refused("CALL_STALE"):
                await joining
        await link(world, phone, tablet, "Tablet")
        async with world.device(tablet) as device:
            assert (await device.store()).contacts == 4


async def test_a_name_that_is_changed_anywhere_is_changed_on_all(world: Deployment) -> None:
    async with linked(world) as (phone, [laptop]), world.device(laptop) as device:
        own = device.linked_devices.find("Laptop")
        assert own == device.linked_devices.find(own.key.hex()[:8])
        for name in ("", "a\nb", "x" * 129):
            with refused("DEVICE_NAME_INVALID"):
                device.rename_device(own, name)
        device.rename_device(own, "Desk")
        await device.store()
        await phone.store()
        assert devices(phone)[1] == ("Desk", "linked")
        with refused("DEVICE_UNKNOWN"):
            phone.linked_devices.find("Laptop")


async def test_a_profile_with_an_account_of_its_own_does_not_join(world: Deployment) -> None:
    async with linked(world) as (phone, _), world.device(await world.registered(world.label())) as other:
        linking = await phone.link()
        with refused("OTHER_ACCOUNT"):
            await other.join(linking.code, "Other", "Linux", print)
        with refused("LINK_CODE_INVALID"):
            await other.join("IPLS-LINK:1:+49", "Other", "Linux", print)


async def test_no_more_devices_are_linked_than_a_list_has(world: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sync, "MAX_DEVICES", 1)
    async with linked(world) as (phone, _):
        with refused("DEVICES_TOO_MANY"):
            await phone.link()


async def test_a_phone_of_another_trust_root_links_nobody(world: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    async with world.device(await world.registered(world.label())) as phone:
        linking = await phone.link()
        monkeypatch.setattr(phone._profile, "trust_roots", lambda: [b"another"], raising=False)
        async with joining(world, world.profile(), linking.code) as (screen, task):
            await linking.arrived()
            await linking.confirm(await screen.digits)
            with refused("LINK_PACKAGE_INVALID"):
                await task
