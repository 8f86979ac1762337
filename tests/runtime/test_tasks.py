"""Tasks that end with their owner."""

import asyncio
from typing import NoReturn

import pytest

from ipls.runtime.tasks import TaskScope, race


class Lasting:
    """Work without end, whose end takes two turns of the loop."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.ended = False

    async def run(self) -> None:
        self.begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            self.ended = True


async def fail() -> NoReturn:
    raise ValueError("of the task")


async def answer() -> str:
    return "answer"


async def test_what_still_runs_at_the_end_of_the_block_has_ended_after_it() -> None:
    lasting = Lasting()
    async with TaskScope() as scope:
        assert await scope.start("answer", answer()) == "answer"
        scope.start("lasting", lasting.run())
        await lasting.begun.wait()
        assert len(scope) == 1
    assert lasting.ended
    assert len(scope) == 0


async def test_what_a_task_raises_is_for_whoever_awaits_it_and_what_the_block_raises_comes_out() -> None:
    lasting = Lasting()
    async with TaskScope() as scope:
        scope.start("fails unheard", fail())
        with pytest.raises(ValueError, match="of the task"):
            await scope.start("fails", fail())

    async def refuse(scope: TaskScope) -> NoReturn:
        scope.start("lasting", lasting.run())
        await lasting.begun.wait()
        raise LookupError

    with pytest.raises(LookupError):
        async with TaskScope() as scope:
            await refuse(scope)
    assert lasting.ended


async def test_a_part_of_a_service_ends_its_tasks_by_close() -> None:
    lasting, scope = Lasting(), TaskScope()
    scope.start("lasting", lasting.run())
    await lasting.begun.wait()
    await scope.close()
    assert lasting.ended


async def test_the_first_to_end_wins_and_the_others_have_ended() -> None:
    lasting = Lasting()

    async def first() -> str:
        await lasting.begun.wait()
        return "first"

    assert await race(lasting.run(), first()) == "first"
    assert lasting.ended


async def test_what_the_first_raises_comes_out_and_the_others_have_ended() -> None:
    lasting = Lasting()

    async def first() -> NoReturn:
        await lasting.begun.wait()
        raise ValueError("of the first")

    with pytest.raises(ValueError, match="of the first"):
        await race(lasting.run(), first())
    assert lasting.ended


@pytest.mark.parametrize("times", [1, 2])
async def test_whoever_is_cancelled_ends_once_all_of_them_have(times: int) -> None:
    """Also one that is cancelled again as it waits for them."""
    first, second = Lasting(), Lasting()
    caller = asyncio.ensure_future(race(first.run(), second.run()))
    await first.begun.wait()
    await second.begun.wait()
    for _ in range(times):
        caller.cancel()
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert first.ended
    assert second.ended
