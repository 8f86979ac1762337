"""Whether the machine's clock jumps: noticed, said, and waited out (`ipls.clock`)."""

import asyncio
from typing import NoReturn

import structlog

from ipls.clock import SETTLE_NS, SettledClock, machine

log = structlog.get_logger()

LOOK_EVERY_S = 1.0


async def watch(clock: SettledClock = machine, every_s: float = LOOK_EVERY_S) -> NoReturn:
    """Read the clock every second, and say when it jumps and when that is over. For as long as a process runs."""
    before_s, before_ms = 0.0, clock.now_ms()
    while True:
        now_ms, jump_s = clock.now_ms(), clock.jump_s
        if jump_s and not before_s:
            waits_s = SETTLE_NS // 10**9
            log.warning("the machine's clock jumped, and is not believed yet", by_s=round(jump_s), waits_s=waits_s)
        elif before_s and not jump_s:
            believed = abs(now_ms - before_ms) > abs(before_s) * 500  # ms: half of it
            log.warning("the machine's clock is believed again", where_it_jumped_to=believed)
        before_s, before_ms = jump_s, now_ms
        await asyncio.sleep(every_s)
