"""A profile that is followed while things fail: the network at every call, a kill -9 at any step, the disk, the store.

Nothing that was done to the profile is lost, nothing is sent twice, and it goes on by itself."""

import asyncio
import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from ipls._grpc import grpc
from ipls.client.device import Device
from ipls.client.events import CaughtUp
from tests.client.between import Calls, before_contacts
from tests.client.deployment import Deployment, book
from tests.client.followed import edit, followed, names, phone_and_copy
from tests.client.following_work import follow_until_checked
from tests.client.test_linked_devices import link
from tests.faults.deaths import killed_at_commit
from tests.faults.disks import disk, fill


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with Deployment(tmp_path_factory.mktemp("deployment")).running() as world:
        yield world


async def test_two_running_devices_have_each_others_edits_though_services_are_killed(world: Deployment) -> None:
    phone, laptop = await world.stored(world.label(), book(1)), world.profile()
    async with world.device(phone) as device:
        await link(world, device, laptop)
    async with followed(phone) as on_phone, followed(laptop) as on_laptop:
        for number, killed_one in enumerate(("", "contacts", "directory", "vault", "contacts")):
            if killed_one:
                world.kill(killed_one)
            await edit(phone, f"Phone{number}")
            await on_laptop.received()
            await edit(laptop, f"Laptop{number}")
            await on_phone.received()
            assert names(phone) == names(laptop)


async def test_the_network_may_be_cut_at_every_call_and_again(world: Deployment, tmp_path: Path) -> None:
    """Before the store has it, and after: then it is known again as sent."""
    phone, copy = await phone_and_copy(world)
    cut, made = set[int](), itertools.count()

    async def failing(requests: Calls, context: object, passed: object) -> Calls:
        number = next(made)
        if number in cut and number % 2:
            [_ async for _ in passed(requests)]  # its answer is lost
        if number in cut:
            context.set_code(grpc.StatusCode.UNAVAILABLE)
            return
        async for answer in passed(requests):
            yield answer

    async with before_contacts(world, tmp_path) as (between, endpoints):
        async with Device.open(phone, endpoints) as device:
            await device.store()
        for method in ("Read", "Commit", "GetRecords", "Follow", "Have"):
            between.turned[method] = failing
        async with followed(phone, retry_for_s=0) as heard:
            for number in range(6):
                now = next(made)
                cut |= {now + 1 + number, now + 2 + 2 * number}
                await edit(phone, f"Cut{number}")
                await heard.sent()
                async with world.device(copy) as device:
                    assert (await device.store()).received == 1
                    device.address_book.import_cards(book(1, f"Other{number}"))
                    await device.store()
                await heard.received()
    assert names(phone) == names(copy)
    assert len(names(phone)) == 13


async def test_a_kill_at_each_commit_of_the_database_loses_nothing_and_sends_nothing_twice(world: Deployment) -> None:
    """Before it and behind it, with something to be sent and something to be taken in."""
    phone, copy = await phone_and_copy(world)
    done, died = {"Person 0"}, True
    for number in itertools.count():
        for made in (False, True):
            await edit(phone, f"Mine{number}{made}")
            async with world.device(copy) as device:
                device.address_book.import_cards(book(1, f"Theirs{number}{made}"))
                await device.store()
            died = await asyncio.to_thread(killed_at_commit, follow_until_checked, phone, number, made=made)
            done |= {f"{whose}{number}{made} 0" for whose in ("Mine", "Theirs")}
        if not died:
            break
    assert number > 5
    async with followed(phone):
        pass
    async with world.device(copy) as device:
        await device.store()
    assert names(phone) == names(copy) == done


async def test_a_full_disk_is_told_and_what_others_did_comes_when_there_is_room(
    world: Deployment, tmp_path: Path
) -> None:
    first, copy = await phone_and_copy(world)
    with disk(tmp_path / "disk", 3 << 20) as full:
        phone = full / "phone"
        shutil.copytree(first, phone)
        async with followed(phone, retry_for_s=0) as heard:
            fill(full / "filler")
            async with world.device(copy) as device:
                device.address_book.import_cards(book(600, "Many"))
                await device.store()
            await heard.trouble("PROFILE_STORAGE")
            assert names(phone) == {"Person 0"}
            (full / "filler").unlink()
            await heard.until(CaughtUp, lambda event: event.received == 600)
        assert names(phone) == names(copy)
