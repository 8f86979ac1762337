"""One input on one target, measured: what it may raise, how many lines of Python it may run, what it may allocate.

None of it depends on how fast the machine is. A loop inside C code shows as a timeout.
"""

import sys
import tracemalloc
from types import FrameType
from typing import Any

from tests.fuzz.target import Target

LINES = (300_000, 200)
"""What an input may cost, flat and for each of its bytes; the costliest honest proof runs about a tenth of that."""
BYTES = (4 << 20, 200)


class Hangs(BaseException):
    """Nothing that catches an Exception may swallow it."""


class _Lines:
    def __init__(self, limit: int) -> None:
        self.left = limit

    def count(self, frame: FrameType, event: str, argument: Any) -> Any:
        self.left -= 1
        if self.left < 0:
            raise Hangs("more lines of Python than any input of this length may take")
        return self.count


def check(target: Target, data: bytes) -> bool:
    """Whether the target took the input; raises what it must not raise, Hangs, or AssertionError for its memory."""
    lines = _Lines(LINES[0] + LINES[1] * len(data))
    started = not tracemalloc.is_tracing()
    if started:
        tracemalloc.start()
    tracemalloc.reset_peak()
    before, _ = tracemalloc.get_traced_memory()
    tracing = sys.gettrace()
    sys.settrace(lines.count)
    try:
        target.run(data)
        return True
    except target.refusals:
        return False
    finally:
        sys.settrace(tracing)
        _, peak = tracemalloc.get_traced_memory()
        if started:
            tracemalloc.stop()
        assert peak - before <= BYTES[0] + BYTES[1] * len(data), f"{peak - before} bytes for an input of {len(data)}"
