"""A contact store that turns on who follows it: says nothing, floods, ends its streams, tells of heads that are not
there. What the device does about that is bounded, its edits are sent, and what others do comes all the same."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ipls.client import following
from ipls.client.device import Device
from ipls.client.events import FollowTrouble
from ipls.proto.contacts.v2 import contacts_pb2 as pb
from tests.client.between import Between, Calls, before_contacts
from tests.client.deployment import Deployment, book
from tests.client.followed import Heard, edit, followed, names, phone_and_copy


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with Deployment(tmp_path_factory.mktemp("deployment")).running() as world:
        yield world


@pytest.fixture
async def between(world: Deployment, tmp_path: Path) -> AsyncIterator[tuple[Between, Path, Path]]:
    """Who stands there, a phone that talks to it, and a copy of that."""
    phone, copy = await phone_and_copy(world)
    async with before_contacts(world, tmp_path) as (between, endpoints):
        for profile in (phone, copy):
            async with Device.open(profile, endpoints) as device:
                await device.store()
        yield between, phone, copy


async def still_works(heard: Heard, phone: Path, name: str) -> None:
    await edit(phone, name)
    await heard.sent()


async def silent(requests: Calls, context: Any, passed: Callable[[Calls], Calls]) -> Calls:
    """The head of now, and never another one."""
    async for answer in passed(requests):
        yield answer
        break
    await asyncio.Event().wait()


async def mute(requests: Calls, context: Any, passed: Callable[[Calls], Calls]) -> Calls:
    await asyncio.Event().wait()
    yield b""


async def test_a_stream_that_says_nothing_hides_what_others_do_only_until_the_device_asks(
    between: tuple[Between, Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, phone, copy = between
    store.turned["Follow"] = silent
    monkeypatch.setattr(following, "ASK_EVERY_S", 0.5)
    async with followed(phone) as heard:
        await still_works(heard, phone, "Sent")
        async with Device.open(copy) as device:
            device.address_book.import_cards(book(1, "Others"))
            await device.store()
        await heard.received()
    assert names(phone) == names(copy)


async def test_a_stream_that_never_begins_is_told_and_is_in_no_edits_way(between: tuple[Between, Path, Path]) -> None:
    store, phone, _ = between
    store.turned["Follow"] = mute
    async with followed(phone, retry_for_s=0) as heard:
        await still_works(heard, phone, "Sent")
        await heard.trouble("DEADLINE_EXCEEDED")
        await still_works(heard, phone, "Sent too")


async def test_a_flood_of_heads_that_are_not_there_costs_a_few_questions(between: tuple[Between, Path, Path]) -> None:
    store, phone, _ = between
    told, flooded = 0, asyncio.Event()

    async def flood(requests: Calls, context: Any, passed: Callable[[Calls], Calls]) -> Calls:
        nonlocal told
        while True:
            told += 1
            if told == 100_000:  # far more than any buffer on the way has room for, if nobody took them
                flooded.set()
            yield pb.FollowResponse(n=told, chain=told.to_bytes(32)).SerializeToString()

    store.turned["Follow"] = flood
    async with followed(phone) as heard:
        before = store.calls["Read"]
        for number in range(5):
            await still_works(heard, phone, f"Sent{number}")
        # One each for the edits, one each for heads that were looked into, ever later.
        assert store.calls["Read"] - before < 20
        assert not flooded.is_set()
        assert not any(isinstance(event, FollowTrouble) for event in heard.all)


async def test_streams_that_end_at_once_are_opened_ever_later(between: tuple[Between, Path, Path]) -> None:
    store, phone, _ = between

    async def one(requests: Calls, context: Any, passed: Callable[[Calls], Calls]) -> Calls:
        yield pb.FollowResponse(n=9, chain=bytes(32)).SerializeToString()

    store.turned["Follow"] = one
    async with followed(phone) as heard:
        for number in range(5):
            await still_works(heard, phone, f"Sent{number}")
        assert store.calls["Follow"] < 20
