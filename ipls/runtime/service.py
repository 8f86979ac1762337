"""One process and all that it runs: each task has a name and this owner, each resource is let go in order.

A process of ours does nothing beside its `Service` (docs/adr/0005-tasks.md): what was to run for as long as the process
and ends, by failing or not, is said by name and ends the process, so that whoever supervises it starts it again. What
may fail and go on says so by a restart policy.
"""

import asyncio
import resource
import signal
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, AsyncExitStack
from types import TracebackType
from typing import Any, Self, TypeVar

import structlog

from ipls.errors import IplsError
from ipls.runtime import clock
from ipls.runtime.restart import RestartPolicy
from ipls.runtime.tasks import end, race

log = structlog.get_logger()

MAX_DESCRIPTORS = 16_384
"""Of one process, if the system gives it so many; with them connections are bounded, which nothing else counts: 47 KiB
for each with TLS (`bench/streams.py connections`) are 770 MiB."""

Resource = TypeVar("Resource")
Result = TypeVar("Result")


class TaskEnded(IplsError):
    """A task that was to run for as long as its process has ended, without an error of its own."""


class Service:
    """`async with Service("directory") as service:`, in it whatever the process does.

    When the block ends, calls that were given to `drain` are made, the last first; then the tasks are cancelled and
    waited for; then the resources are let go, the last first. A task that fails cancels the block, and comes out of it
    as what it raised, or as TaskEnded.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._resources = AsyncExitStack()
        self._drains = AsyncExitStack()
        self._group = asyncio.TaskGroup()
        self._tasks = set[asyncio.Task[Any]]()
        self._stopping = asyncio.Event()
        self._over = False

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over = True
        try:
            async with self._resources:
                try:
                    await self._drains.aclose()
                finally:
                    await end(tuple(self._tasks))
        finally:
            await self._leave(kind, error, trace)

    async def _leave(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """One error is told, as it is: the block's own, or that of the task that ended it."""
        first: BaseException | None = None
        try:
            await self._group.__aexit__(kind, error, trace)
        except BaseExceptionGroup as group:
            first = error if error in group.exceptions else group.exceptions[0]
        if first is not None:
            raise first

    def spawn(
        self, name: str, work: Callable[[], Awaitable[object]], *, restart: RestartPolicy | None = None
    ) -> asyncio.Task[None]:
        """Run what is to go on for as long as the process. Where it ends all the same, its name is logged, and it is
        begun again when the policy says; without a policy the process ends."""
        task = self._group.create_task(self._forever_running(name, work, restart), name=name)
        self._tasks.add(task)
        return task

    async def _forever_running(
        self, name: str, work: Callable[[], Awaitable[object]], restart: RestartPolicy | None
    ) -> None:
        loop = asyncio.get_running_loop()
        while True:
            begun, failure = loop.time(), None
            try:
                await work()
            except Exception as error:
                failure = error
            except asyncio.CancelledError:
                if _asked_to_end():
                    raise
                # else what it waited for was cancelled, by a channel that was closed for one
            if failure is None and (self._over or _asked_to_end()):
                return
            told = self._told(name, failure)
            if restart is None:
                log.error("task ended, and the process with it", **told)
                raise failure or TaskEnded("TASK_ENDED", f"{self.name}: the task {name} ended")
            pause_s = restart.pause_s(loop.time() - begun)
            log.error("task ended, and is begun again", **told, pause_s=pause_s)
            await asyncio.sleep(pause_s)

    def _told(self, name: str, failure: Exception | None) -> dict[str, object]:
        """The type and the reason alone: a message may hold what must not reach a log."""
        told: dict[str, object] = {"service": self.name, "task": name, "error": failure and type(failure).__name__}
        return told | {"reason": failure.reason} if isinstance(failure, IplsError) else told

    def start(self, name: str, work: Coroutine[Any, Any, Result]) -> asyncio.Task[Result]:
        """Run what ends by itself. What it raises is logged with its name, and ends the process."""

        async def started() -> Result:
            try:
                return await work
            except Exception as error:
                log.error("task failed, and the process with it", **self._told(name, error))
                raise

        task = self._group.create_task(started(), name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _: work.close())  # where the task was cancelled before it began
        return task

    def enter(self, resource: AbstractContextManager[Resource]) -> Resource:
        """Hold it until the tasks have ended."""
        return self._resources.enter_context(resource)

    async def enter_async(self, resource: AbstractAsyncContextManager[Resource]) -> Resource:
        """The same."""
        return await self._resources.enter_async_context(resource)

    def release(self, call: Callable[[], object]) -> None:
        """Make this call when the tasks have ended."""
        self._resources.callback(call)

    def release_async(self, call: Callable[[], Awaitable[object]]) -> None:
        """The same."""
        self._resources.push_async_callback(call)

    def drain(self, call: Callable[[], Awaitable[object]]) -> None:
        """Make this call at the end, while the tasks still run: let go of those who are being served."""
        self._drains.push_async_callback(call)

    def serving(self, ports: Sequence[int], **more: object) -> None:
        """Say that it serves, and where."""
        log.info("serving", service=self.name, ports=list(ports), **more)

    def stop(self) -> None:
        """Have `until_stopped` return."""
        self._stopping.set()

    async def until_stopped(self) -> None:
        """Return after `stop`, or the first SIGTERM or SIGINT."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        await self._stopping.wait()


def _asked_to_end() -> bool:
    """Whether somebody has cancelled the task that calls."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def run(name: str, start: Callable[[Service], Awaitable[object]]) -> None:
    """A process of its own: `start`, then serve until SIGTERM or SIGINT, which also cut `start` short. It may have
    MAX_DESCRIPTORS, and no more.

    Raises what `start` and the tasks raise.
    """

    async def serve() -> None:
        async with Service(name) as service:
            service.spawn("watch the clock", clock.watch)

            async def started() -> None:
                await start(service)
                await service.until_stopped()

            await race(started(), service.until_stopped())

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    given = MAX_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MAX_DESCRIPTORS)
    resource.setrlimit(resource.RLIMIT_NOFILE, (given, hard))
    asyncio.run(serve())
