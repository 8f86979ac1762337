"""The account goes over to another number, and the old one is let go; or it ends."""

import itertools
import os
import shutil
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, closing, suppress
from pathlib import Path

import pytest

from ipls._grpc import grpc
from ipls.client.device import Device
from ipls.client.directory import DirectoryReader, History
from ipls.client.errors import RefusedError, TryLaterError
from ipls.client.events import Event, JourneyStep
from ipls.client.line.kept import CONTACTS
from ipls.client.line.parts import Linked
from ipls.client.linking import find_listing
from ipls.client.number import NumberChanged
from ipls.client.profile import Account, Contact, DeviceKeys, Profile
from ipls.clock import system_now_ms
from ipls.contacts.cards.editing import Changes
from ipls.contacts.commits import KEY_ENVELOPE_BYTES, ListedDevice, Moved
from ipls.contacts.envelope import Envelope
from ipls.contacts.listing import Listing
from ipls.crypto.keys import public_key
from ipls.errors import IplsError
from ipls.units import DAY_MS
from tests.client.between import Calls, before_contacts
from tests.client.deployment import Crash, Deployment, book, cards_of
from tests.client.test_linked_devices import link

STEPS = [
    *("registration sent", "registered", "key made", "key stored", "key read back", "records staged", "base made"),
    *("base stands", "contacts brought over", "commit made", "line ended", "number changed", "account deleted"),
]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with Deployment(tmp_path_factory.mktemp("deployment")).running() as world:
        yield world


def refused(reason: str) -> AbstractContextManager[object]:
    return pytest.raises(IplsError, check=lambda error: error.reason == reason)


async def changed(world: Deployment, profile: Path, label: str) -> NumberChanged:
    async with world.device(profile) as device:
        return await device.change_number(label, world.code)


async def finds_nothing(world: Deployment, label: str) -> None:
    """Whoever registers the number next."""
    async with world.device(await world.registered(label)) as device:
        with refused("NOTHING_STORED"):
            await device.restore()
        assert (await device.vault_settings()).generations == []
        assert (await device.store()).contacts == 0


def going_to(world: Deployment, label: str) -> Callable[[Device], Awaitable[None]]:
    """A change of number, to be cut off."""

    async def change(device: Device) -> None:
        await device.change_number(label, world.code)

    return change


async def list_a_laptop(device: Device) -> None:
    """In the account's line; it is away."""
    laptop = Linked(ListedDevice(public_key(bytes(32)), bytes(32)), lambda *_: bytes(KEY_ENVELOPE_BYTES))
    await device._sync()._line.set_devices([laptop])


async def test_all_contacts_go_along_and_nothing_is_left_under_the_old_number(world: Deployment) -> None:
    old, new, cards = world.label(), world.label(), book(5)
    profile = await world.stored(old, cards)
    async with world.device(profile) as device:
        device.address_book.import_cards(book(1, "Not sent"))
        ids = [contact.id for contact in device.address_book.contacts()]
    result = await changed(world, profile, new)
    assert (result.number, result.version, result.contacts, result.old_number) == (new, 1, 6, None)
    async with world.device(profile) as device:
        assert (device.account.label, device.status().unsent) == (new, 0)
        assert [contact.id for contact in device.address_book.contacts()] == ids
        device.address_book.import_cards(book(1, "Later"))
        assert (await device.store()).contacts == 7
        with refused("NUMBER_SAME"):
            await device.change_number(new, world.code)
    await finds_nothing(world, old)
    await world.restores(new, cards + book(1, "Not sent") + book(1, "Later"))


async def test_a_change_that_is_cut_off_after_each_step_goes_on(world: Deployment) -> None:
    """Also with what was edited meanwhile: into the old line it goes no more once that has ended."""
    old, new, cards = world.label(), world.label(), book(3)
    profile = await world.stored(old, cards)

    change = going_to(world, new)
    for step in STEPS:
        assert await world.cut_off(profile, change, step), step
        async with world.device(profile) as device:
            device.address_book.import_cards(book(1, step))
            if device.account.label == old:
                with suppress(IplsError):  # as a person, or a background task, does meanwhile
                    await device.store()
        cards += book(1, step)
    await changed(world, profile, new)
    async with world.device(profile) as device:
        assert device.number_changed().old_number is None
        assert (await device.store()).contacts == 3 + len(STEPS)
    await finds_nothing(world, old)
    await world.restores(new, cards)


async def test_the_network_may_be_cut_at_every_call_of_a_change(world: Deployment, tmp_path: Path) -> None:
    """To the contact store: before it has the call, or before the device has the answer."""
    old, new, cards = world.label(), world.label(), book(3)
    profile = await world.stored(old, cards)
    made, cut, tried = itertools.count(), -1, 0

    async def failing(requests: Calls, context: object, passed: object) -> Calls:
        here = next(made) == cut
        if here and tried % 2:
            [_ async for _ in passed(requests)]  # its answer is lost
        if here:
            context.set_code(grpc.StatusCode.UNAVAILABLE)
            return
        async for answer in passed(requests):
            yield answer

    async with before_contacts(world, tmp_path) as (between, endpoints):
        for method in ("Read", "Commit", "PutRecords", "PutSnapshot", "GetRecords", "Have", "Begin", "DeleteAccount"):
            between.turned[method] = failing
        changed = None
        while changed is None or changed.old_number:
            cards += book(1, f"Try{tried}")
            made, cut = itertools.count(), tried // 2
            async with Device.open(profile, endpoints, retry_for_s=0) as phone:
                phone.address_book.import_cards(book(1, f"Try{tried}"))
                with suppress(TryLaterError):
                    changed = await phone.change_number(new, world.code)
            tried += 1
        async with Device.open(profile, endpoints) as phone:
            await phone.store()
    assert tried > 10
    await finds_nothing(world, old)
    async with world.device(await world.registered(new)) as phone:
        await phone.restore()
        assert sorted(phone.address_book.cards()) == sorted(cards_of(cards))


async def test_where_a_linked_device_has_yet_to_follow_the_old_account_waits(world: Deployment) -> None:
    old, new = world.label(), world.label()
    profile = await world.stored(old, book(3))
    async with world.device(profile) as device:
        await list_a_laptop(device)
        result = await device.change_number(new, world.code)
        assert (result.old_number, result.devices, result.unread) == (old, 1, 0)
        kept = device._second()._profile.line
        assert kept.state is not None
        assert isinstance(kept.state.moved, Moved)
        assert device._profile.line.state is not None
        here = (new, device._profile.line.state.line, public_key(device.account.seed))
        assert kept.state.moved[1:] == here
        with refused("NUMBER_KEPT"):
            await device.change_number(world.label(), world.code)
        assert await device.let_number_go()
        with refused("NUMBER_ALONE"):
            await device.let_number_go()
    await finds_nothing(world, old)
    await world.restores(new, book(3))


@pytest.mark.parametrize("step", ["commit made", "line ended"])
async def test_in_the_middle_of_it_the_new_number_is_not_let_go(world: Deployment, step: str) -> None:
    """The old line says that the account is there by then, or may say so."""
    old, new = world.label(), world.label()
    profile = await world.stored(old, book(3))

    change = going_to(world, new)
    assert await world.cut_off(profile, change, step)
    async with world.device(profile) as device:
        with refused("NUMBER_CHANGING"):
            await device.let_number_go()
        with refused("LINE_MOVED"):
            await device.store()
    await changed(world, profile, new)
    await world.restores(new, book(3))


async def test_what_linked_devices_wrote_on_the_new_line_outlives_a_change_that_is_cut_off_twice(
    world: Deployment,
) -> None:
    old, new, laptop = world.label(), world.label(), world.profile()
    profile = await world.stored(old, book(3))
    async with world.device(profile) as phone:
        await link(world, phone, laptop)

    change = going_to(world, new)
    assert await world.cut_off(profile, change, "line ended")
    async with world.device(laptop) as device:
        book_there = device.address_book
        first, second, _ = (contact.id for contact in book_there.contacts())
        book_there.edit(first, Changes(name="Edited"))
        book_there.remove([second])
        book_there.import_cards(book(1, "Carol"))
        assert (await device.store()).contacts == 3
        assert device.account.label == new
        left = book_there.cards()
    async with world.device(profile) as phone:
        phone.address_book.edit(first, Changes(add_numbers=("+1 555 7777",)))
    for _ in range(2):
        assert await world.cut_off(profile, change, "line ended")
    await changed(world, profile, new)
    async with world.device(laptop) as device:
        assert (await device.store()).contacts == 3
        merged = device.address_book.card(first)
        assert b"FN:Edited" in merged
        assert b"+1 555 7777" in merged
        assert device.address_book.cards()[1:] == left[1:]


async def test_what_stands_under_the_new_number_by_then_is_merged_with(world: Deployment) -> None:
    """As a device that the store showed the end of the old line before it showed it to the phone writes there."""
    old, new = world.label(), world.label()
    profile = await world.stored(old, book(5))

    change = going_to(world, new)
    assert await world.cut_off(profile, change, "contacts brought over")
    async with world.device(profile) as device:
        first, second, third, fourth, fifth = (contact.id for contact in device.address_book.contacts())
        there = device._second()
        there.address_book.edit(first, Changes(name="Edited"))
        there.address_book.edit(fourth, Changes(name="Another"))
        there.address_book.remove([second])
        there.address_book.import_cards(book(1, "Carol"))
        await there._sync().push()
        device.address_book.edit(first, Changes(add_numbers=("+1 555 7777",)))
        device.address_book.remove([third])
        device.address_book.remove([fourth])
        await device.store()
    await changed(world, profile, new)
    async with world.device(profile) as device:
        here = device.address_book
        assert {contact.id for contact in here.contacts()} > {first, fourth, fifth}
        assert sorted(contact.name for contact in here.contacts()) == ["Another", "Carol 0", "Edited", "Person 4"]
        assert b"+1 555 7777" in here.card(first)
        cards = here.cards()
    await world.restores(new, b"".join(card + b"\r\n" for card in cards))


async def test_what_can_not_be_read_any_more_under_the_old_number_stays_under_the_new(world: Deployment) -> None:
    """Damaged on the phone and lost by the store, after it had been brought over."""
    old, new = world.label(), world.label()
    profile = await world.stored(old, book(3))

    change = going_to(world, new)
    assert await world.cut_off(profile, change, "contacts brought over")
    async with world.device(profile) as device:
        lost = device._profile.contacts()[1].id
        kept = device._profile.line
        assert kept.state
        name = kept.state.entries[lost]
        kept.rows.delete(CONTACTS, [lost])
    with closing(sqlite3.connect(world.config.contacts.database)) as store, store:
        assert store.execute("DELETE FROM blob WHERE label = ? AND name = ?", (old, name)).rowcount == 1
    result = await changed(world, profile, new)
    assert (result.contacts, result.old_number, result.unread) == (3, old, 1)
    await world.restores(new, book(3))


async def test_who_is_linked_or_removed_in_the_middle_of_it_is_listed_so_under_the_new_number(
    world: Deployment,
) -> None:
    old, new = world.label(), world.label()
    profile, stays, stolen, late = await world.stored(old, book(3)), *(world.profile() for _ in range(3))

    change = going_to(world, new)
    async with world.device(profile) as phone:
        await link(world, phone, stays, "Stays")
        await link(world, phone, stolen, "Stolen")
    assert await world.cut_off(profile, change, "contacts brought over")
    async with world.device(profile) as phone:
        await phone.remove_device(phone.linked_devices.find("Stolen"))
        await link(world, phone, late, "Late")
        await phone.change_number(new, world.code)
        phone.address_book.import_cards(book(1, "Later"))
        await phone.store()
        assert [(each.name, each.state) for each in phone.linked_devices.all()] == [
            *(("", "phone"), ("Stays", "linked"), ("Late", "linked")),
        ]
    for laptop in (stays, late):
        async with world.device(laptop) as device:
            assert (await device.store()).contacts == 4
            assert device.account.label == new
    async with world.device(stolen) as device:
        with refused("DEVICE_UNLISTED"):
            await device.store()
        with refused("DEVICE_UNLISTED"):
            await device._line_store(new, device.account.seed).read(0)


async def test_what_is_edited_while_the_change_waits_goes_along(world: Deployment) -> None:
    old, new = world.label(), world.label()
    profile, waited = await world.stored(old, book(3)), list[str]()

    def report(event: Event) -> None:
        if isinstance(event, JourneyStep) and event.name in ("contacts brought over", "line ended"):
            waited.append(event.name)
            phone.address_book.import_cards(book(1, event.name))

    async with world.device(profile, report) as phone:
        result = await phone.change_number(new, world.code)
        cards = phone.address_book.cards()
        assert waited == ["contacts brought over", "line ended"]
        assert (result.old_number, result.contacts, len(cards)) == (None, 5, 5)
        await phone.store()
    profile = await world.registered(new)
    async with world.device(profile) as phone:
        await phone.restore()
        assert sorted(phone.address_book.cards()) == sorted(cards)


async def test_a_change_that_was_begun_can_be_left(world: Deployment) -> None:
    old, new = world.label(), world.label()
    profile = await world.stored(old, book(3))

    change = going_to(world, new)
    assert await world.cut_off(profile, change, "contacts brought over")
    async with world.device(profile) as device:
        assert await device.let_number_go()
        assert (await device.store()).contacts == 3
    await finds_nothing(world, new)
    await world.restores(old, book(3))


@pytest.mark.parametrize("step", ["registered", "commit made", "line ended", "number changed"])
async def test_a_change_goes_on_without_the_old_number_where_another_has_that_by_now(
    world: Deployment, step: str
) -> None:
    """Also with what a device wrote that was told before; one that was not is linked anew."""
    old, new, laptop = world.label(), world.label(), world.profile()
    profile = await world.stored(old, book(3))

    change = going_to(world, new)
    async with world.device(profile) as phone:
        await link(world, phone, laptop)
        kept = [contact.id for contact in phone.address_book.contacts()]
    assert await world.cut_off(profile, change, step)
    if step == "line ended":
        async with world.device(laptop) as device:
            device.address_book.edit(kept[0], Changes(name="Edited"))
            device.address_book.remove([kept[1]])
            await device.store()
    async with world.device(profile) as phone:
        phone.address_book.edit(kept[0], Changes(add_numbers=("+1 555 7777",)))
        phone.address_book.import_cards(book(1, "Not sent"))
    await world.registered(old)
    result = await changed(world, profile, new)
    assert (result.number, result.old_number, result.taken, result.untold) == (new, None, old, 1)
    async with world.device(profile) as phone:
        followed = step == "line ended"
        first, last = ("Edited", 1) if followed else ("Person 0", 2)
        names = sorted(contact.name for contact in phone.address_book.contacts())
        assert names == sorted([first, *(["Person 1"] if not followed else []), "Person 2", "Not sent 0"])
        assert b"+1 555 7777" in phone.address_book.card(kept[0])
        assert (await phone.store()).contacts == 2 + last
        listed = [each.name for each in phone.linked_devices.all()]
        assert listed == (["", "Laptop"] if step in ("line ended", "number changed") else [""])
    async with world.device(laptop) as device:
        if followed:
            assert (await device.store()).contacts == 3
        else:
            with refused("DEVICE_UNLISTED"):
                await device.store()


@pytest.mark.parametrize("step", [None, "contacts brought over"])
async def test_a_stolen_device_that_could_not_be_removed_does_not_go_along(world: Deployment, step: str | None) -> None:
    """Another has the old number by then, under which nothing can be said any more."""
    old, new, stolen = world.label(), world.label(), world.profile()
    profile = await world.stored(old, book(3))

    change = going_to(world, new)
    async with world.device(profile) as phone:
        await link(world, phone, stolen, "Stolen")
    assert step is None or await world.cut_off(profile, change, step)
    await world.registered(old)
    async with world.device(profile) as phone:
        with refused("IDENTITY_SUPERSEDED"):
            await phone.remove_device(phone.linked_devices.find("Stolen"))
        assert (await phone.change_number(new, world.code)).untold == 1
        assert [each.name for each in phone.linked_devices.all()] == [""]
        phone.address_book.import_cards(book(1, "Later"))
        await phone.store()
        state = phone._profile.line.state
        assert state is not None
        assert state.devices == ()
    async with world.device(stolen) as device:  # which the operator tells the number
        with refused("DEVICE_UNLISTED"):
            await device._line_store(new, device.account.seed).read(0)


async def test_the_directorys_word_alone_gives_no_number_away(
    world: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says that it knows nothing of the key, which no proof shows: what a linked device wrote would be left."""
    old, new, laptop = world.label(), world.label(), world.profile()
    profile = await world.stored(old, book(1))
    honest = DirectoryReader.own_history

    change = going_to(world, new)

    async def write(name: str) -> None:
        async with world.device(laptop) as device:
            device.address_book.import_cards(book(1, name))
            await device.store()

    async def lied_to(step: Callable[[Device], Awaitable[object]], about: str) -> None:
        async def own_history(reader: DirectoryReader, label: str, seed: bytes, *listing: Listing | None) -> History:
            if label == about:
                raise RefusedError("READER_UNKNOWN", "this key is not one of the account's")
            return await honest(reader, label, seed, *listing)

        with monkeypatch.context() as patch:
            patch.setattr(DirectoryReader, "own_history", own_history)
            async with world.device(profile) as phone:
                with refused("READER_UNKNOWN"):
                    await step(phone)

    async with world.device(profile) as phone:
        await link(world, phone, laptop)
    await write("Under the old")
    await lied_to(change, old)
    assert await world.cut_off(profile, change, "line ended")
    await write("Under the new")
    await lied_to(Device.let_number_go, new)
    assert (await changed(world, profile, new)).contacts == 3
    async with world.device(laptop) as device:
        assert (await device.store()).contacts == 3


async def test_where_the_store_withholds_the_newest_of_a_contact_the_old_account_waits(world: Deployment) -> None:
    """What the phone has of it is older."""
    old, new, laptop = world.label(), world.label(), world.profile()
    profile = await world.stored(old, book(3))
    async with world.device(profile) as phone:
        await link(world, phone, laptop)
        first = phone.address_book.contacts()[0].id
        async with world.device(laptop) as device:
            device.address_book.edit(first, Changes(name="Newer"))
            await device.store()
            assert device._profile.line.state is not None
            name = device._profile.line.state.entries[bytes.fromhex(first)]
        with closing(sqlite3.connect(world.config.contacts.database)) as store, store:
            assert store.execute("DELETE FROM blob WHERE label = ? AND name = ?", (old, name)).rowcount == 1
        await phone.store()
        await phone.remove_device(phone.linked_devices.find("Laptop"))
        result = await phone.change_number(new, world.code)
        assert (result.contacts, result.devices, result.unread, result.old_number) == (3, 0, 1, old)


async def test_an_account_whose_line_has_ended_for_a_number_that_was_let_go_goes_to_no_third(
    world: Deployment,
) -> None:
    """Nor does a copy of the phone, which did not see the end: both begin anew."""
    old, new, third = world.label(), world.label(), world.label()
    profile, copied = await world.stored(old, book(3)), world.profile()
    shutil.copytree(profile, copied)

    change = going_to(world, new)
    assert await world.cut_off(profile, change, "line ended")
    await world.registered(new)
    async with world.device(profile) as phone:
        assert not await phone.let_number_go()
        for label in (third, new):
            with refused("LINE_MOVED"):
                await phone.change_number(label, world.code)
        with refused("NUMBER_ALONE"):
            await phone.let_number_go()
    async with world.device(copied) as phone:
        with refused("LINE_MOVED"):
            await phone.change_number(third, world.code)
        assert await phone.let_number_go()
        assert (await phone.recover("anew")).contacts == 3
    assert (await changed(world, copied, third)).contacts == 3


async def test_a_change_to_a_number_that_another_has_by_now_is_given_up_and_loses_nothing(world: Deployment) -> None:
    """The old line has ended already, and a linked device has written under the new number."""
    old, new, laptop, other = world.label(), world.label(), world.profile(), world.profile()
    profile = await world.stored(old, book(3))

    change = going_to(world, new)
    async with world.device(profile) as phone:
        await link(world, phone, laptop)
        await link(world, phone, other, "Other")
    assert await world.cut_off(profile, change, "line ended")
    async with world.device(laptop) as device:
        device.address_book.import_cards(book(1, "Carol"))
        await device.store()
    async with world.device(profile) as phone:
        await phone._second()._sync().settle()  # what it took in when it went on, and was cut off again
        phone.address_book.import_cards(book(1, "Not sent"))
    await world.registered(new)
    async with world.device(profile) as phone:
        assert not await phone.let_number_go()
        with refused("LINE_MOVED"):
            await phone.store()
        assert (await phone.recover("anew")).contacts == 5
        names = sorted(contact.name for contact in phone.address_book.contacts())
        assert names == ["Carol 0", "Not sent 0", "Person 0", "Person 1", "Person 2"]
    async with world.device(other) as device:  # one that had not gone along goes on with the phone
        assert (await device.store()).contacts == 5
        assert device.account.label == old


async def test_a_number_that_another_has_by_now_is_forgotten(world: Deployment) -> None:
    old, new = world.label(), world.label()
    profile = await world.stored(old, book(3))
    async with world.device(profile) as device:
        await list_a_laptop(device)
        await device.change_number(new, world.code)
    await world.registered(old)
    async with world.device(profile) as device:
        assert not await device.let_number_go()
        assert device.number_changed().old_number is None


async def test_so_is_one_whose_key_the_directory_has_lost(world: Deployment) -> None:
    old, new = world.label(), world.label()
    profile = await world.stored(old, book(3))
    async with world.device(profile) as device:
        await list_a_laptop(device)
        await device.change_number(new, world.code)
        device._profile.aside().put(Account(old, os.urandom(32), 1, 1))
        await device.delete_account()
    await finds_nothing(world, new)


async def test_nothing_of_the_new_numbers_former_holder_is_taken_in(world: Deployment) -> None:
    old, new = world.label(), world.label()
    await world.stored(new, book(4, "Somebody else's"))
    profile = await world.stored(old, book(3))
    result = await changed(world, profile, new)
    assert (result.contacts, result.version) == (3, 2)
    await world.restores(new, book(3))


# Linked devices


@asynccontextmanager
async def gone_over(world: Deployment) -> AsyncIterator[tuple[Device, Path, str]]:
    """A phone, open, whose account has another number now; the profile of a laptop that was linked before; and that
    number."""
    new, laptop = world.label(), world.profile()
    async with world.device(await world.stored(world.label(), book(3))) as phone:
        await link(world, phone, laptop)
        result = await phone.change_number(new, world.code)
        assert (result.devices, phone.account.label) == (1, new)
        yield phone, laptop, new


async def test_a_linked_device_follows_with_what_it_did_not_send(world: Deployment) -> None:
    async with gone_over(world) as (phone, laptop, new):
        first = phone._profile.contacts()[0]
        phone.address_book.edit(first.id.hex(), Changes(add_numbers=("+1 555 7777",)))
        await phone.store()
        async with world.device(laptop) as device:
            device.address_book.import_cards(book(1, "Not sent"))
            device.address_book.edit(first.id.hex(), Changes(name="Another"))  # of what the phone has changed since
            stored = await device.store()
            assert (stored.contacts, device.account.label, device.status().unsent) == (4, new, 0)
            assert [each.state for each in device.linked_devices.all()] == ["phone", "linked"]
            with refused("IDENTITY_ONLY"):
                await device.change_number(world.label(), world.code)
        assert (await phone.store()).contacts == 4
        merged = phone.address_book.card(first.id.hex())
        assert b"FN:Another" in merged
        assert b"+1 555 7777" in merged
        assert await phone.let_number_go()
        async with world.device(laptop) as device:
            device.address_book.import_cards(book(1, "Later"))
            assert (await device.store()).contacts == 5


async def test_it_follows_with_what_is_too_large_for_the_list(
    world: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ipls.contacts.whole.MAX_WHOLE", 1000)  # for 31 MiB
    new, laptop = world.label(), world.profile()

    def large(name: str) -> bytes:
        return book(1, name).replace(b"END", b"NOTE:" + b"x" * 2000 + b"\r\nEND")

    async with world.device(await world.stored(world.label(), book(1))) as phone:
        await link(world, phone, laptop)
        async with world.device(laptop) as device:
            device.address_book.import_cards(large("Sent"))
            await device.store()
            device.address_book.import_cards(large("Not sent"))
        await phone.change_number(new, world.code)
        async with world.device(laptop) as device:
            assert (await device.store()).contacts == 3
            assert device.account.label == new
            cards = device.address_book.cards()
            assert sorted(map(len, cards))[0] < 1000
            assert sorted(cards) == sorted(cards_of(book(1) + large("Sent") + large("Not sent")))
        await phone.store()
        assert [len(card) < 1000 for card in phone.address_book.cards()] == [True] * 3


async def test_what_nothing_can_be_taken_out_of_costs_itself_alone_when_it_follows(
    world: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A card so broken that it can't be cut, which two devices together make too large."""
    monkeypatch.setattr("ipls.contacts.whole.MAX_WHOLE", 1000)  # for 31 MiB
    new, laptop = world.label(), world.profile()

    def broken(*more: bytes) -> Envelope:
        lines = [b"NOTE;QUOTED-PRINTABLE:open=", b"TEL:" + b"1" * 500, b"UNHEARD-OF:1", *more]
        return Envelope(b"\r\n".join([b"BEGIN:VCARD", b"VERSION:3.0", *lines, b"END:VCARD"]))

    async with world.device(await world.stored(world.label(), book(1))) as phone:
        id = bytes(16)
        phone._profile.put_contacts([Contact(id, broken())])
        await phone.store()
        await link(world, phone, laptop)
        phone._profile.put_contacts([Contact(id, broken(b"X-A:" + b"a" * 300))])
        await phone.change_number(new, world.code)
        async with world.device(laptop) as device:
            device._profile.put_contacts([Contact(id, broken(b"X-B:" + b"b" * 300))])
            device.address_book.import_cards(book(1, "Not sent"))
            for _ in range(2):
                assert (await device.store()).contacts == 3
                assert (device.account.label, device.status().unsent) == (new, 0)
                shown = device.address_book.card(id.hex())
                assert b"a" * 300 in shown
                assert b"b" * 300 in shown
        assert (await phone.store()).contacts == 3
        assert b"a" * 300 in phone.address_book.card(id.hex())


async def test_so_does_one_that_runs(world: Deployment) -> None:
    """As soon as it is told that the line went on."""
    async with gone_over(world) as (_, laptop, new), world.device(laptop) as device:
        device.address_book.import_cards(book(1, "Not sent"))
        caught_up = await device.catch_up()
        assert (device.account.label, device.status().contacts, caught_up.sent) == (new, 4, 1)


@pytest.mark.parametrize("step", ["swap", "forget"])
async def test_a_linked_device_that_is_cut_off_while_it_follows_goes_on(
    world: Deployment, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    done = getattr(Profile, step)

    def crash(profile: Profile) -> None:
        kept = profile.get(Account)
        if step == "swap" or (kept is not None and kept.label != new):  # of the old number's account
            raise Crash
        done(profile)

    async with gone_over(world) as (_, laptop, new):
        async with world.device(laptop) as device:
            device.address_book.import_cards(book(1, "Not sent"))
        with monkeypatch.context() as patch, suppress(Crash):
            patch.setattr(Profile, step, crash)
            async with world.device(laptop) as device:
                await device.store()
        async with world.device(laptop) as device:
            assert device.account.label != new
            device.address_book.import_cards(book(1, "Meanwhile"))
            assert (await device.store()).contacts == 5
            assert device.account.label == new
            assert device.number_changed().old_number is None


async def test_a_linked_device_follows_to_no_number_that_another_has(
    world: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even with the help of the contact store, which goes on to show what it showed before."""
    async with gone_over(world) as (phone, laptop, new):
        listing = await find_listing(
            phone._line_store(new, phone.account.seed), public_key(phone.account.seed), keys_in(laptop)
        )
        await world.registered(new)
        async with world.device(laptop) as device:
            old = device.account.label
            with refused("IDENTITY_SUPERSEDED"):
                await device.store()

            async def as_before(*_: object) -> Listing:
                return listing

            monkeypatch.setattr("ipls.client.device.find_listing", as_before)
            with refused("MOVE_UNPROVED"):
                await device.store()
            assert (device.account.label, device.status().contacts) == (old, 3)


def keys_in(laptop: Path) -> DeviceKeys:
    with closing(Profile(laptop)) as profile:
        keys = profile.get(DeviceKeys)
    assert keys is not None
    return keys


# Its end


async def delete(device: Device) -> None:
    await device.delete_account()


async def test_a_deleted_account_is_gone_for_whoever_has_the_number_next(world: Deployment) -> None:
    label = world.label()
    profile = await world.stored(label, book(3))
    async with world.device(profile) as device:
        await device.delete_account()
    with world.contacts_database() as store:
        while store.lines.expire(system_now_ms(), 100):
            pass
        assert store.lines.kept_lines(label) == []
        assert store.lines.kept_blobs(label, b"", 100) == ([], b"")
    await finds_nothing(world, label)


@pytest.mark.parametrize("step", ["keys let go", "account deleted"])
async def test_a_deletion_cut_off_is_run_again(world: Deployment, step: str) -> None:
    label = world.label()
    profile = await world.stored(label, book(3))
    assert await world.cut_off(profile, delete, step)
    async with world.device(profile) as device:
        assert len(device.address_book.cards()) == 3
        await device.delete_account()
    await finds_nothing(world, label)


async def test_who_thinks_better_of_it_in_the_middle_has_all_contacts_still(world: Deployment) -> None:
    label = world.label()
    profile = await world.stored(label, book(3))
    assert await world.cut_off(profile, delete, "account deleted")
    async with world.device(profile) as device:
        with refused("STORE_ROLLED_BACK"):
            await device.store()
        assert (await device.recover("anew")).contacts == 3
    await world.restores(label, book(3))


async def test_an_account_that_stored_nothing_is_deleted_too(world: Deployment) -> None:
    label = world.label()
    async with world.device(await world.registered(label)) as device:
        await device.delete_account()
    await finds_nothing(world, label)


async def test_with_the_account_goes_what_was_left_under_the_number_before(world: Deployment) -> None:
    old, new = world.label(), world.label()
    profile = await world.stored(old, book(3))
    async with world.device(profile) as device:
        await list_a_laptop(device)
        await device.change_number(new, world.code)
        await device.delete_account()
    for label in (old, new):
        await finds_nothing(world, label)


async def test_a_thief_of_the_number_deletes_nothing_that_the_owner_stored(world: Deployment) -> None:
    """At once it is kept for 90 days; where a change delay is set, not even that is begun."""
    label = world.label()
    profile = await world.stored(label, book(3))
    async with world.device(await world.registered(label)) as thief:
        await thief.delete_account()
    async with world.device(profile) as device:
        await device.register(label, world.code)
        assert (await device.vault_settings()).generations[0].generation == 1
        await device.set_change_delay(DAY_MS)
        assert (await device.recover("anew")).contacts == 3
    async with world.device(await world.registered(label)) as thief:
        with refused("VAULT_CHANGE_DELAYED"):
            await thief.delete_account()
    async with world.device(profile) as device:
        await device.register(label, world.code)
        with world.contacts_database() as store:
            assert store.lines.standing(label) is not None
