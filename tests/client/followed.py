"""A profile that is followed in a task, and what that tells."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any, TypeVar

from ipls.client.address_book import AddressBook
from ipls.client.device import Device
from ipls.client.events import CaughtUp, Event, FollowMended, FollowTrouble, HistoryChecked
from ipls.client.following import follow
from ipls.client.profile import Profile
from ipls.clock import system_now_ms
from tests.client.deployment import Deployment, book

Kind = TypeVar("Kind", bound=Event)


class Heard:
    """What `follow` told, in its order."""

    def __init__(self) -> None:
        self._told = asyncio.Queue[Event | BaseException]()
        self.all: list[Event] = []

    def __call__(self, event: Event) -> None:
        self.all.append(event)
        self._told.put_nowait(event)

    def ended(self, task: asyncio.Task[Any]) -> None:
        if not task.cancelled() and (error := task.exception()):
            self._told.put_nowait(error)

    async def until(self, kind: type[Kind], is_it: Callable[[Kind], object] = lambda event: True) -> Kind:
        """The next one of this kind. Raises what `follow` ended with."""
        while True:
            told = await self._told.get()
            if isinstance(told, BaseException):
                raise told
            if isinstance(told, kind) and is_it(told):
                return told

    async def sent(self) -> CaughtUp:
        return await self.until(CaughtUp, lambda event: event.sent)

    async def received(self) -> CaughtUp:
        return await self.until(CaughtUp, lambda event: event.received)

    async def trouble(self, *reasons: str) -> FollowTrouble:
        return await self.until(FollowTrouble, lambda event: not reasons or event.reason in reasons)

    async def mended(self) -> FollowMended:
        return await self.until(FollowMended)


@asynccontextmanager
async def followed(folder: Path, **options: Any) -> AsyncIterator[Heard]:
    """In step, and checked, once the block begins."""
    async with followed_at_once(folder, **options) as heard:
        await heard.until(HistoryChecked)
        await heard.until(CaughtUp)
        yield heard


@asynccontextmanager
async def followed_at_once(folder: Path, **options: Any) -> AsyncIterator[Heard]:
    heard = Heard()
    task = asyncio.create_task(follow(folder, report=heard, **options))
    task.add_done_callback(heard.ended)
    try:
        yield heard
    finally:
        task.cancel()
        await asyncio.wait([task])


async def edit(folder: Path, name: str, count: int = 1) -> None:
    """As another process does, which may have to wait for its turn."""
    async with await asyncio.to_thread(Device.open, folder) as device:
        device.address_book.import_cards(book(count, name))


def names(folder: Path) -> set[str]:
    """Those of the contacts."""
    with closing(Profile(folder, reading=True)) as profile:
        return {contact.name for contact in AddressBook(profile, system_now_ms).contacts()}


def label_of(folder: Path) -> str:
    """Its number."""
    with closing(Profile(folder, reading=True)) as profile:
        return profile.account.label


async def phone_and_copy(world: Deployment, cards: bytes = b"") -> tuple[Path, Path]:
    """Two profiles of one account, with a line: a phone, and one that has its identity too."""
    phone, copy = await world.stored(world.label(), cards or book(1)), world.profile()
    shutil.copytree(phone, copy)
    return phone, copy
