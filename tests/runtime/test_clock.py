"""What a process says of a clock that jumps."""

import asyncio
from functools import partial

import structlog

from ipls.clock import SETTLE_NS, SettledClock
from ipls.runtime.clock import watch
from ipls.runtime.service import Service


async def test_a_jump_is_said_once_and_so_is_its_end() -> None:
    heard = list[structlog.typing.EventDict]()
    # What the two clocks say, reading by reading: a day ahead for two readings and back, then a day ahead for good.
    day = 86_400 * 10**9
    readings = [(0, 0), (0, 0), (day, 0), (day, 0), (0, 0), (day, 0), (day, SETTLE_NS)]
    done = asyncio.Event()

    def hear(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        heard.append(event)
        raise structlog.DropEvent

    def steady() -> int:
        if len(readings) == 1:
            done.set()
        return readings[0][1]

    def wall() -> int:
        ahead, steady_ns = readings.pop(0) if len(readings) > 1 else readings[0]
        return steady_ns + ahead

    before = structlog.get_config()
    structlog.configure(processors=[hear])
    try:
        async with Service("watched") as service:
            clock = SettledClock(wall, steady)
            service.spawn("watch", partial(watch, clock, 0))
            await done.wait()
            await asyncio.sleep(0)
    finally:
        structlog.configure(**before)
    assert [(event.get("by_s"), event.get("where_it_jumped_to")) for event in heard] == [
        (86_400, None),
        (None, False),
        (86_400, None),
        (None, True),
    ]
