"""Two phones that take one number from each other in the middle of a journey."""

from collections.abc import Iterator
from contextlib import AbstractContextManager

import pytest

from ipls.client.device import Device
from ipls.errors import IplsError
from tests.client.deployment import Deployment, book, cards_of


def refused(reason: str) -> AbstractContextManager[object]:
    return pytest.raises(IplsError, check=lambda error: error.reason == reason)


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


async def test_a_line_that_another_phone_began_meanwhile_is_in_nobodys_way(world: Deployment) -> None:
    """Its phone finds what the other stored, and adds its own to it."""
    label, first = world.label(), world.profile()
    async with world.device(first) as device:
        await device.register(label, world.code)
        device.address_book.import_cards(book(2, "First"))
    assert await world.cut_off(first, Device.store, "base made")
    await world.stored(label, book(2, "Second"))
    async with world.device(first) as device:
        await device.register(label, world.code)
        with refused("LINE_FOREIGN"):
            await device.store()
        device.acknowledge_version(2)
        assert (await device.store()).contacts == 4
        assert device.address_book.cards() == cards_of(book(2, "Second") + book(2, "First"))
        assert not device.status().unfinished
    await world.restores(label, book(2, "Second") + book(2, "First"))
