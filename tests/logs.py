"""What a process logs, as an event that a test can wait for."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import structlog


@contextmanager
def heard(**fields: object) -> Iterator[asyncio.Event]:
    """Set once a line with these fields has been logged, by whichever thread."""
    loop, event = asyncio.get_running_loop(), asyncio.Event()

    def hear(_: object, __: str, line: structlog.typing.EventDict) -> structlog.typing.EventDict:
        if fields.items() <= line.items():
            loop.call_soon_threadsafe(event.set)
        return line

    before = structlog.get_config()["processors"]
    structlog.configure(processors=[hear, *before])
    try:
        yield event
    finally:
        structlog.configure(processors=before)


def begun_again(task: str, **fields: object) -> Any:
    """Set once a task of that name has ended, and is begun again."""
    return heard(event="task ended, and is begun again", task=task, **fields)
