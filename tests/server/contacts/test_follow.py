"""Devices that follow their account's line: told of each new head at once, one stream a device."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from ipls.client.errors import RefusedError, TryLaterError
from ipls.server.contacts.followers import Followers
from tests.hsm.rig import Owner
from tests.server.contact_stores import ALICE, BOB, World
from tests.server.phones import Phone, registered, told


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = World(tmp_path)
    async with world.running():
        yield world


async def test_each_new_head_is_told(world: World) -> None:
    phone, bob = await registered(world), await registered(world, BOB)
    laptop = Phone(world, phone.writer.device())
    async with aclosing(phone.store.follow()) as heads:
        first = asyncio.create_task(anext(heads))  # before there is a line
        await bob.begin()
        await phone.begin(devices=[laptop.writer])
        assert await first == (1, phone.chain)
        await laptop.at(phone).edit()
        assert await anext(heads) == (2, laptop.chain)
        await phone.at(laptop).begin()
        assert await anext(heads) == (1, phone.chain)


async def test_who_follows_begins_with_the_head(world: World) -> None:
    phone = await registered(world)
    await phone.begin()
    await phone.edit()
    async with aclosing(phone.store.follow()) as heads:
        assert await anext(heads) == (2, phone.chain)


async def test_a_newer_stream_of_a_device_ends_the_one_before(world: World) -> None:
    phone = await registered(world)
    laptop = Phone(world, phone.writer.device())
    await phone.begin(devices=[laptop.writer])
    streams = [device.store.follow() for device in (laptop, phone, phone)]
    for stream in streams:
        await anext(stream)
    with told("FOLLOW_REPLACED"):
        await anext(streams[1])
    await phone.edit()
    for stream in (streams[0], streams[2]):
        assert await anext(stream) == (2, phone.chain)
        await stream.aclose()


async def test_a_device_that_was_removed_is_told_nothing_more(world: World) -> None:
    phone = await registered(world)
    laptop = Phone(world, phone.writer.device(), retry_for_s=0)
    await phone.begin(devices=[laptop.writer])
    async with aclosing(laptop.store.follow()) as heads:
        await anext(heads)
        await phone.edit(devices=phone.writer.listing(2, []))
        with pytest.raises(TryLaterError, check=lambda error: error.reason == "IDENTITY_UNKNOWN"):
            await anext(heads)


async def test_the_identity_before_is_told_nothing_more(world: World) -> None:
    phone = await registered(world)
    await phone.begin()
    later = Phone(world, phone.writer.renewed())
    async with aclosing(phone.store.follow()) as heads:
        await anext(heads)
        await world.publish(Owner(ALICE, later.writer.seed))
        await later.at(phone).edit()
        with pytest.raises(RefusedError, check=lambda error: error.reason == "IDENTITY_SUPERSEDED"):
            await anext(heads)


async def test_who_left_is_forgotten() -> None:
    followers: Any = Followers()
    with followers.joined(ALICE, b"one"), followers.joined(ALICE, b"one"), followers.joined(BOB, b"two"):
        followers.announce("+1")
    assert followers._of == {}
