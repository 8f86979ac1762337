"""A journey that is cancelled wherever it waits: nothing is lost, and the same call goes on from there."""

import asyncio
import itertools
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from ipls.client.device import Device
from tests.client.deployment import Deployment, book, cards_of

CARDS = book(12)
Work = Coroutine[Any, Any, object]


class Counted(Coroutine[Any, Any, object]):
    """Work that cancels its own task where it waits for the `at`-th time."""

    def __init__(self, work: Work, at: int) -> None:
        self._work = work
        self._left = at

    def send(self, value: Any) -> Any:
        self._left -= 1
        if not self._left:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
        return self._work.send(value)

    def throw(self, *error: Any) -> Any:
        return self._work.throw(*error)

    def close(self) -> None:
        self._work.close()

    def __await__(self) -> Any:
        return self._work.__await__()


async def is_cancelled(work: Work, at: int) -> bool:
    """Whether it was, before it came to its end; nothing that it began goes on then."""
    beside = asyncio.all_tasks()
    task = asyncio.create_task(Counted(work, at))
    await asyncio.wait([task])
    ours = [each for each in asyncio.all_tasks() - beside if "/ipls/" in repr(each)]  # gRPC ends its own a little later
    assert not ours
    if not task.cancelled():
        task.result()
    return task.cancelled()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with Deployment(tmp_path_factory.mktemp("deployment")).running() as world:
        yield world


async def cut_off_everywhere(world: Deployment, profile: Path, journey: Callable[[Device], Work], least: int) -> None:
    """Begun anew each time, with a connection that stands, until it comes to its end before it is cancelled.

    `least`: contacts that must be there whenever it ended.
    """
    for at in itertools.count(1):
        async with world.device(profile) as device:
            cancelled = await is_cancelled(journey(device), at)
        async with world.device(profile) as device:
            assert len(device.address_book.contacts()) >= least
            assert device.status().unreadable == 0
        if not cancelled:
            break
    assert at > 20


async def test_a_store_that_is_cancelled_wherever_it_waits_is_finished_by_another(world: Deployment) -> None:
    label = world.label()
    profile = await world.registered(label)
    async with world.device(profile) as device:
        device.address_book.import_cards(CARDS)
    await cut_off_everywhere(world, profile, Device.store, 12)
    async with world.device(profile) as device:
        status = device.status()
        assert (status.contacts, status.unsent, status.unfinished) == (12, 0, False)
    await world.restores(label, CARDS)


async def test_a_restore_that_is_cancelled_wherever_it_waits_is_finished_by_another(world: Deployment) -> None:
    label = world.label()
    await world.stored(label, CARDS)
    profile = await world.registered(label)
    await cut_off_everywhere(world, profile, Device.restore, 0)
    async with world.device(profile) as device:
        assert device.address_book.cards() == cards_of(CARDS)
        assert not device.status().unfinished
        assert (await device.store()).contacts == 12
    await world.restores(label, CARDS)
