"""Callers' work: bounded, in turn by who asks, refused at once where there is no place."""

import asyncio
import threading
from collections.abc import Iterator

import pytest

from ipls.runtime.executors import FairExecutor
from ipls.runtime.places import Busy

PLACES = 8


class Held:
    """An executor whose one thread is held until `release`; then works are noted as they are done."""

    def __init__(self) -> None:
        self.executor = FairExecutor("looks", 1, PLACES)
        self.release = threading.Event()
        self.done = list[str]()

    async def hold(self) -> "asyncio.Task[bool]":
        began = asyncio.Event()
        loop = asyncio.get_running_loop()

        def wait() -> bool:
            loop.call_soon_threadsafe(began.set)
            return self.release.wait(60)

        task = asyncio.create_task(self.executor.run("first", wait))
        await began.wait()
        return task

    def ask(self, whose: str) -> "asyncio.Task[None]":
        return asyncio.create_task(self.executor.run(whose, self.done.append, whose))


@pytest.fixture
def held() -> Iterator[Held]:
    held = Held()
    yield held
    held.release.set()
    held.executor.close()


async def settled(*tasks: "asyncio.Task[None]") -> list[str]:
    found = await asyncio.gather(*tasks, return_exceptions=True)
    return [error.reason if isinstance(error, Busy) else str(error or "") for error in found]


async def test_one_caller_alone_has_half_of_the_places_and_others_still_get_one(held: Held) -> None:
    first = await held.hold()
    flood = [held.ask("thief") for _ in range(100)]
    await asyncio.sleep(0)
    owner = held.ask("owner")
    await asyncio.sleep(0)
    refused = [task for task in flood if task.done()]
    assert len(refused) == 100 - PLACES // 2
    assert await settled(*refused) == ["SERVICE_BUSY"] * len(refused)
    held.release.set()
    assert await settled(*flood, owner) == [""] * 4 + ["SERVICE_BUSY"] * 96 + [""]
    assert await first
    assert held.done == ["thief", "owner", "thief", "thief", "thief"]


async def test_what_is_refused_says_when_to_try_again_and_then_there_is_a_place(held: Held) -> None:
    first = await held.hold()
    flood = [held.ask(str(number)) for number in range(PLACES)]
    await asyncio.sleep(0)
    with pytest.raises(Busy) as busy:
        await held.executor.run("another", held.done.append, "another")
    assert busy.value.retry_after_s == 1
    held.release.set()
    assert await settled(*flood) == [""] * PLACES
    await held.executor.run("another", held.done.append, "another")
    assert held.done[-1] == "another"
    await first


async def test_who_went_away_is_passed_over(held: Held) -> None:
    first = await held.hold()
    gone, other = held.ask("gone"), held.ask("other")
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.wait([gone])
    await asyncio.sleep(0)
    held.release.set()
    await other
    assert held.done == ["other"]
    await first


async def test_what_the_work_raises_is_for_who_asked() -> None:
    executor = FairExecutor("looks", 1, PLACES)
    with pytest.raises(ValueError, match="invalid literal"):
        await executor.run("caller", int, "x")
    assert await executor.run("caller", int, "10", base=2) == 2
    executor.close()
