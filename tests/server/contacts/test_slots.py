"""Slots in which devices are linked: one device each, for minutes, whoever knows the link code."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from ipls.client.errors import TryLaterError
from ipls.client.link_slot import LinkSlot, Said
from ipls.contacts.linking import Inviter, Joiner, LinkCode, Package
from ipls.crypto.keys import SeedSigner
from ipls.rpc.errors import ServiceError
from ipls.runtime.places import Busy
from ipls.server.contacts import slots
from ipls.server.contacts.slots import SLOT_S, LinkSlots
from tests.server.contact_stores import ALICE, BOB, World
from tests.server.phones import Phone, registered, told


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = World(tmp_path)
    async with world.running():
        yield world


def slot(world: World, code: LinkCode) -> LinkSlot:
    return LinkSlot(world.lines, code.slot, retry_for_s=0)


async def test_two_devices_meet_in_a_slot(world: World) -> None:
    phone = await registered(world)
    await phone.begin()
    code = LinkCode.new(ALICE)
    old, new = Inviter(code), Joiner(code, "laptop", "Linux")
    mine, theirs = slot(world, code), slot(world, code)
    await phone.store.open_link(code.slot)
    await phone.store.open_link(code.slot)

    async def join() -> Package:
        await theirs.put_hello(new.hello)
        await theirs.put_hello(new.hello)
        new.on_answer((await theirs.collect(1)).answer)
        await theirs.put_opening(new.opening)
        return new.on_package((await theirs.collect(3)).package)

    joining = asyncio.create_task(join())
    old.admit((await mine.collect()).hello)
    await phone.store.answer(code.slot, old.answer)
    old.on_opening((await mine.collect(2)).opening)
    old.confirm(new.on_answer(old.answer))
    identity = SeedSigner(phone.writer.seed)
    package = Package(bytes(9), identity.public_key, 1, phone.seed, phone.n, phone.chain, 1, bytes(32))
    await phone.store.give_package(code.slot, old.package(identity, package))
    assert await joining == package


async def test_a_slot_takes_one_device(world: World) -> None:
    """Whoever has photographed the link code comes first, or between, or last."""
    phone = await registered(world)
    code = LinkCode.new(ALICE)
    new, thief = slot(world, code), slot(world, code)
    await phone.store.open_link(code.slot)
    await new.put_hello(b"hello")
    with told("LINK_SLOT_TAKEN"):
        await thief.put_hello(b"another hello")
    with told("LINK_SLOT_TAKEN"):
        await thief.put_hello(b"hello")
    with told("BODY_INVALID", "before"):
        await new.put_opening(b"opening")
    await phone.store.answer(code.slot, b"answer")
    with told("LINK_SLOT_TAKEN"):
        await thief.put_opening(b"another opening")
    await new.put_opening(b"opening")
    with told("LINK_SLOT_TAKEN"):
        await new.put_opening(b"another opening")
    assert await new.collect() == Said(b"hello", b"answer", b"opening")


async def test_the_identity_alone_opens_a_slot_and_answers_in_its_own(world: World) -> None:
    phone, bob = await registered(world), await registered(world, BOB)
    laptop = Phone(world, phone.writer.device())
    await phone.begin(devices=[laptop.writer])
    code = LinkCode.new(ALICE)
    with told("IDENTITY_ONLY"):
        await laptop.store.open_link(code.slot)
    await phone.store.open_link(code.slot)
    with told("LINK_SLOT_TAKEN"):
        await bob.store.open_link(code.slot)
    await slot(world, code).put_hello(b"hello")
    with told("IDENTITY_ONLY"):
        await laptop.store.answer(code.slot, b"answer")
    with told("LINK_SLOT_ABSENT"):
        await bob.store.answer(code.slot, b"answer")
    await phone.store.answer(code.slot, b"answer")
    with told("LINK_SLOT_TAKEN"):
        await phone.store.answer(code.slot, b"another answer")
    stranger = Phone(world, phone.writer.device(), retry_for_s=0)
    with pytest.raises(TryLaterError, check=lambda error: error.reason == "IDENTITY_UNKNOWN"):
        await stranger.store.open_link(os.urandom(32))


async def test_a_link_code_that_is_late_or_replaced_is_for_nothing(world: World) -> None:
    phone = await registered(world)
    first, second = LinkCode.new(ALICE), LinkCode.new(ALICE)
    await phone.store.open_link(first.slot)
    await slot(world, first).put_hello(b"hello")
    waiting = asyncio.create_task(slot(world, first).collect(1))
    await phone.store.open_link(second.slot)
    with told("LINK_SLOT_ABSENT"):
        await waiting
    with told("LINK_SLOT_ABSENT"):
        await slot(world, first).put_hello(b"hello")
    world.now_s += SLOT_S
    for call in (slot(world, second).put_hello(b"hello"), slot(world, second).collect()):
        with told("LINK_SLOT_ABSENT"):
            await call
    with told("LINK_SLOT_ABSENT"):
        await phone.store.answer(second.slot, b"answer")
    await phone.store.open_link(second.slot)
    await slot(world, second).put_hello(b"hello")


def refused(reason: str) -> Any:
    return pytest.raises(ServiceError, check=lambda error: error.reason == reason)


async def test_slots_hold_so_much_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots, "MAX_SLOTS", 2)
    monkeypatch.setattr(slots, "MAX_BYTES", 9000)
    one, two, three = (bytes([n]) * 32 for n in range(3))
    held = LinkSlots(lambda: 0.0)
    with refused("BODY_INVALID"):
        held.open(ALICE, b"short")
    held.open(ALICE, one)
    held.open(BOB, two)
    with pytest.raises(Busy):
        held.open("+1", three)
    for message in (b"", bytes(8193)):
        with refused("BODY_INVALID"):
            held.say(one, "hello", message, token=bytes(16))
    with refused("BODY_INVALID"):
        held.say(one, "hello", b"hello", token=bytes(15))
    held.say(one, "hello", bytes(8192), token=bytes(16))
    with pytest.raises(Busy):
        held.say(two, "hello", bytes(8192), token=bytes(16))
    held.open(ALICE, three)  # what was said in its last slot is gone
    held.say(two, "hello", bytes(8192), token=bytes(16))


async def test_who_collects_in_vain_is_not_kept_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots, "WAIT_S", 0)
    held = LinkSlots(lambda: 0.0)
    held.open(ALICE, bytes(32))
    assert await held.collect(bytes(32), 0) == {}
