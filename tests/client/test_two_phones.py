"""Two phones that take one number from each other in the middle of a journey."""

from collections.abc import Iterator
from contextlib import AbstractContextManager

import pytest

from ipls.client.device import Device
from ipls.client.errors import ClientError
from tests.client.deployment import Deployment, book


def refused(reason: str) -> AbstractContextManager[object]:
    return pytest.raises(ClientError, check=lambda error: error.reason == reason)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with Deployment(tmp_path_factory.mktemp("deployment")).running() as world:
        yield world


async def test_a_mistyped_number_does_not_bind_the_profile(world: Deployment) -> None:
    mistyped, label, profile = world.label(), world.label(), world.profile()

    async def wrong_code(request_id: bytes) -> str:
        return "no code"

    async with world.device(profile) as device:
        with refused("CODE_WRONG"):
            await device.register(mistyped, wrong_code)
        assert (await device.register(label, world.code)).label == label


async def test_a_registration_that_another_phone_overtook_can_be_made_again(world: Deployment) -> None:
    label, profile = world.label(), world.profile()

    async def register(device: Device) -> None:
        await device.register(label, world.code)

    assert await world.cut_off(profile, register, "registration sent")
    await world.registered(label)
    async with world.device(profile) as device:
        with refused("REGISTRATION_NOT_PROVED"):
            await register(device)
        assert (await device.register(label, world.code)).version == 3


async def test_a_manifest_that_another_phone_overtook_is_in_nobodys_way(world: Deployment) -> None:
    """Its phone finds what the other stored, and adds its own to it."""
    label, first = world.label(), world.profile()
    async with world.device(first) as device:
        await device.register(label, world.code)
        device.address_book.import_cards(book(2, "First"))
    assert await world.cut_off(first, Device.store, "manifest made")
    await world.stored(label, book(2, "Second"))
    async with world.device(first) as device:
        await device.register(label, world.code)
        with refused("RESTORE_FIRST"):
            await device.store()
        await device.restore()
        assert len(device.address_book.cards()) == 4
        assert not device.status().unfinished
