"""Tasks that end with their owner: what a call, or a part of a service, runs beside itself for a while."""

import asyncio
from collections.abc import Collection, Coroutine
from types import TracebackType
from typing import Any, Self, TypeVar

Result = TypeVar("Result")

CANCEL_AGAIN_S = 1.0
"""grpc.aio may swallow a cancellation as a message comes (https://github.com/grpc/grpc/issues/36066): then again. What
takes longer to let go of is a resource of the `Service`, which no cancellation cuts short."""


class TaskScope:
    """`async with TaskScope() as scope`: what was started in it and still runs at the block's end is cancelled there. A
    part of a service has one for as long as it lasts, and ends it by `close`.

    Unlike asyncio's TaskGroup it leaves what a task raises to whoever awaits the task, and what the block raises as it
    is: a refusal is an answer here, not the end of everything else.
    """

    def __init__(self) -> None:
        self._tasks = set[asyncio.Task[Any]]()

    def __len__(self) -> int:
        """How many still run."""
        return len(self._tasks)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """End all of them now."""
        await end(tuple(self._tasks))

    def start(self, name: str, work: Coroutine[Any, Any, Result]) -> asyncio.Task[Result]:
        """Run it beside the block."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        return task

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # else asyncio would complain where nobody awaits it


async def end(tasks: Collection[asyncio.Task[Any]]) -> None:
    """Cancel those that still run, and return when all have ended, also where the caller is cancelled meanwhile."""
    for task in tasks:
        if not task.cancelling():  # else it is cleaning up
            task.cancel()
    cancelled: asyncio.CancelledError | None = None
    while pending := [task for task in tasks if not task.done()]:
        try:
            _, late = await asyncio.wait(pending, timeout=CANCEL_AGAIN_S)
        except asyncio.CancelledError as error:
            cancelled = error
        else:
            for task in late:
                task.cancel()
    if cancelled is not None:
        raise cancelled


async def race(*works: Coroutine[Any, Any, Result]) -> Result:
    """What the first to end returns or raises; the others are cancelled, and have ended when this returns."""
    async with TaskScope() as scope:
        tasks = [scope.start(f"race {number}", work) for number, work in enumerate(works)]
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return next(task for task in tasks if task in done).result()
