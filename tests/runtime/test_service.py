"""One process and what it runs: what a task's end does to it, and in which order it ends itself."""

import asyncio
import inspect
import resource
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import NoReturn

import pytest
from structlog.testing import capture_logs

from ipls.errors import IplsError
from ipls.runtime.restart import RestartPolicy
from ipls.runtime.service import MAX_DESCRIPTORS, Service, TaskEnded
from tests.environment import DIES_WITH_US


async def for_ever() -> None:
    await asyncio.Event().wait()


async def live(**works: Callable[[], Awaitable[object]]) -> None:
    """A service that runs these until something ends it."""
    async with Service("test") as service:
        for name, work in works.items():
            service.spawn(name, work)
        await for_ever()


# What ends unasked.


async def test_a_task_that_returns_ends_the_process_and_is_named() -> None:
    with capture_logs() as lines, pytest.raises(TaskEnded) as caught:
        await live(counting=lambda: asyncio.sleep(0))
    assert caught.value.reason == "TASK_ENDED"
    assert "counting" in caught.value.message
    assert [(line["service"], line["task"], line["error"]) for line in lines] == [("test", "counting", None)]


async def test_what_a_task_raises_comes_out_as_it_is_and_the_log_has_its_type_and_reason_alone() -> None:
    cause = ValueError("+491700000001")
    failure = IplsError("DISK_ON_FIRE", "+491700000001")

    async def burn() -> NoReturn:
        raise failure from cause

    with capture_logs() as lines, pytest.raises(IplsError) as caught:
        await live(burning=burn)
    assert caught.value is failure
    assert failure.__cause__ is cause
    (line,) = lines
    assert (line["task"], line["error"], line["reason"]) == ("burning", "IplsError", "DISK_ON_FIRE")
    assert "+49" not in str(lines)


async def test_a_task_that_is_cancelled_from_within_ends_the_process_too() -> None:
    """As by a call on a channel that somebody closed."""

    async def wait_for_nothing() -> None:
        lost = asyncio.get_running_loop().create_future()
        lost.cancel()
        await lost

    with capture_logs() as lines, pytest.raises(TaskEnded):
        await live(waiting=wait_for_nothing)
    assert [line["task"] for line in lines] == ["waiting"]


async def test_with_a_restart_policy_it_is_begun_again_however_it_ended() -> None:
    ends = [ValueError("+491700000001"), IplsError("DISK_ON_FIRE", "+491700000001"), None]
    goes_on = asyncio.Event()

    async def work() -> None:
        if not ends:
            goes_on.set()
            await for_ever()
        if failure := ends.pop(0):
            raise failure

    with capture_logs() as lines:
        async with Service("test") as service:
            service.spawn("follow", work, restart=RestartPolicy())
            await goes_on.wait()
    assert [(line["task"], line["error"], line["pause_s"]) for line in lines] == [
        ("follow", "ValueError", 0.1),
        ("follow", "IplsError", 0.2),
        ("follow", None, 0.5),
    ]
    assert "+49" not in str(lines)


async def test_the_failure_of_one_is_told_and_not_how_the_others_end() -> None:
    async def gives_in() -> None:
        with suppress(asyncio.CancelledError):
            await for_ever()

    async def fail() -> NoReturn:
        raise LookupError

    with capture_logs() as lines, pytest.raises(LookupError):
        await live(giving_in=gives_in, failing=fail)
    assert [line["task"] for line in lines] == ["failing"]


async def test_what_is_started_may_end_and_what_it_raises_ends_the_process() -> None:
    async def three() -> int:
        return 3

    async def fail() -> NoReturn:
        raise IplsError("DISK_ON_FIRE", "+491700000001")

    async def begin(service: Service) -> None:
        assert await service.start("three", three()) == 3
        service.start("fails", fail())
        await for_ever()

    with capture_logs() as lines, pytest.raises(IplsError) as caught:
        async with Service("test") as service:
            await begin(service)
    assert caught.value.reason == "DISK_ON_FIRE"
    assert [(line["task"], line["error"], line["reason"]) for line in lines] == [("fails", "IplsError", "DISK_ON_FIRE")]
    assert "+49" not in str(lines)


async def test_what_is_started_and_cancelled_before_it_began_is_closed() -> None:
    """Before, Python said on standard error that it was never awaited."""
    work = for_ever()
    async with Service("test") as service:
        service.start("late", work)
    assert inspect.getcoroutinestate(work) == inspect.CORO_CLOSED


# The end.


async def fill(service: Service, done: list[str]) -> None:
    """Give the service two of each kind, which tell `done` of their ends."""

    async def lasting(name: str) -> None:
        try:
            await for_ever()
        finally:
            await asyncio.sleep(0)
            done.append(name)

    async def note(name: str) -> None:
        done.append(name)

    @contextmanager
    def resource() -> Iterator[str]:
        try:
            yield "entered"
        finally:
            done.append("resource 1")

    @asynccontextmanager
    async def async_resource() -> AsyncIterator[str]:
        try:
            yield "entered too"
        finally:
            done.append("resource 2")

    assert service.enter(resource()) == "entered"
    assert await service.enter_async(async_resource()) == "entered too"
    service.release(lambda: done.append("resource 3"))
    service.release_async(lambda: note("resource 4"))
    service.spawn("task", lambda: lasting("task"))
    service.start("task", lasting("task"))
    service.drain(lambda: note("drain 1"))
    service.drain(lambda: note("drain 2"))
    await asyncio.sleep(0)  # the tasks have begun


IN_ORDER = ["drain 2", "drain 1", "task", "task", "resource 4", "resource 3", "resource 2", "resource 1"]


async def test_drains_then_tasks_then_resources_the_last_first() -> None:
    done: list[str] = []
    async with Service("test") as service:
        await fill(service, done)
    assert done == IN_ORDER


async def test_the_order_is_the_same_where_the_block_raises_and_its_exception_comes_out_as_it_is() -> None:
    done: list[str] = []
    failure = ValueError("of the block")

    async def begin(service: Service) -> None:
        await fill(service, done)
        raise failure

    with pytest.raises(ValueError, match="of the block") as caught:
        async with Service("test") as service:
            await begin(service)
    assert caught.value is failure
    assert done == IN_ORDER


async def test_what_the_block_raises_comes_out_also_where_a_task_fails_as_it_is_cancelled() -> None:
    async def fail_late() -> None:
        try:
            await for_ever()
        finally:
            raise LookupError

    async def block() -> None:
        async with Service("test") as service:
            service.spawn("late", fail_late)
            await asyncio.sleep(0)
            raise ValueError("of the block")

    with pytest.raises(ValueError, match="of the block"):
        await block()


async def test_the_resources_outlast_the_tasks_where_one_fails_as_the_block_ends() -> None:
    done: list[str] = []
    goes_wrong = asyncio.Event()

    async def fail() -> NoReturn:
        await goes_wrong.wait()
        raise ValueError("of the task")

    async def begin(service: Service) -> None:
        await fill(service, done)
        service.spawn("fails", fail)
        await asyncio.sleep(0)  # it waits
        goes_wrong.set()
        await asyncio.sleep(0)  # it has failed, which the block learns of only as it waits next

    with capture_logs(), pytest.raises(ValueError, match="of the task"):
        async with Service("test") as service:
            await begin(service)
    assert done[-4:] == IN_ORDER[-4:]
    assert sorted(done) == sorted(IN_ORDER)


async def test_a_failing_drain_leaves_the_rest_in_order() -> None:
    done: list[str] = []

    async def fail() -> NoReturn:
        raise ValueError("of the drain")

    async def begin(service: Service) -> None:
        await fill(service, done)
        service.drain(fail)

    with pytest.raises(ValueError, match="of the drain"):
        async with Service("test") as service:
            await begin(service)
    assert done == IN_ORDER


async def test_a_task_that_swallows_a_cancellation_ends_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ipls.runtime.tasks.CANCEL_AGAIN_S", 0.01)
    begun, ended = asyncio.Event(), asyncio.Event()

    async def stubborn() -> None:
        try:
            with suppress(asyncio.CancelledError):
                begun.set()
                await for_ever()
            await for_ever()
        finally:
            ended.set()

    async with Service("test") as service:
        service.spawn("stubborn", stubborn)
        await begun.wait()
    assert ended.is_set()


async def test_stop_ends_the_wait() -> None:
    async with Service("test") as service:
        service.spawn("stops", lambda: stopped(service))
        await service.until_stopped()


async def stopped(service: Service) -> None:
    service.stop()
    await for_ever()


# A process of its own.

PROCESS = """
import asyncio
from ipls.runtime.logging import configure_logging
from ipls.runtime.service import Service, run

say = lambda text: print(text, flush=True)

async def work():
    say("up")  # which the signal handlers are before any task
    {work}

async def drained():
    say("drained")

async def start(service):
    service.release(lambda: say("released"))
    service.drain(drained)
    service.spawn("work", work)
    try:
        {start}
    finally:
        say("start ended")

configure_logging()
run("test", start)
"""
FOR_EVER = "await asyncio.Event().wait()"


def process(*, work: str = FOR_EVER, start: str = "pass") -> subprocess.Popen[str]:
    code = PROCESS.format(work=work, start=start)
    command = [*DIES_WITH_US, sys.executable, "-c", code]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize(("hard", "given"), [(1000, 1000), (MAX_DESCRIPTORS + 1, MAX_DESCRIPTORS)])
def test_it_has_the_descriptors_that_the_system_gives_up_to_a_bound(hard: int, given: int) -> None:
    """A system's soft limit is mostly 1,024, which idle connections of a few addresses would use up."""
    hard = min(hard, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (500, {hard}))\n"
    code = limit + PROCESS.format(work="return", start="say(resource.getrlimit(resource.RLIMIT_NOFILE)[0])")
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.stdout.split("\n")[0] == str(min(given, hard))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(
    ("start", "said"),
    [
        ("pass", ["start ended", "up", "drained", "released"]),
        (FOR_EVER, ["up", "start ended", "drained", "released"]),
    ],
    ids=["serving", "in a start that hangs"],
)
def test_a_signal_ends_it_in_order_and_with_status_0(number: signal.Signals, start: str, said: list[str]) -> None:
    with process(start=start) as running:
        assert running.stdout
        heard = []
        while "up" not in heard:
            heard.append(running.stdout.readline().strip())
        running.send_signal(number)
        out, err = running.communicate()
    assert heard + out.split("\n")[:-1] == said
    assert running.returncode == 0, err


@pytest.mark.parametrize("start", ["pass", FOR_EVER], ids=["serving", "in a start that hangs"])
@pytest.mark.parametrize("work", ["pass", "raise ValueError"])
def test_a_task_that_ends_ends_it_with_another_status_and_is_named(work: str, start: str) -> None:
    with process(work=work, start=start) as running:
        out, err = running.communicate()
    assert out.split("\n")[-3:] == ["drained", "released", ""]
    assert running.returncode == 1
    assert [line for line in err.splitlines() if "task ended, and the process with it" in line and "work" in line]


def test_a_start_that_fails_ends_it_in_order_and_with_another_status() -> None:
    with process(start="raise ValueError('of the start')") as running:
        out, err = running.communicate()
    assert out.split("\n")[:-1] == ["start ended", "up", "drained", "released"]
    assert running.returncode == 1
    assert err.endswith("ValueError: of the start\n")
