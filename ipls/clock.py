"""The one reading of this machine's clock. The pure packages have none: they are told the time."""

import threading
import time
from collections.abc import Callable

SETTLE_NS = 45 * 10**9
"""How long a clock that jumped must stay there to be believed."""
APART_NS = 2 * 10**9
"""Two readings that differ by less than this, beside the time between them, are of one clock that runs on."""

_STEADY = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def _steady_ns() -> int:
    """It counts the time that the machine sleeps, and nobody sets it."""
    return time.clock_gettime_ns(_STEADY)


class SettledClock:
    """The machine's clock, which it follows when it runs faster or slower; where it jumps, the time goes on evenly
    until the clock has stayed for 45 seconds where it jumped to.

    So a clock that is a day off for half a minute leaves no signature, nonce or deadline of a day that was not. After
    a sleep the time is right at once. Whoever wants a jump of the clock noticed reads it every second
    (`ipls.runtime.clock`); without that the first reading after it counts as its time.
    """

    def __init__(self, wall_ns: Callable[[], int] = time.time_ns, steady_ns: Callable[[], int] = _steady_ns) -> None:
        self._wall_ns = wall_ns
        self._steady_ns = steady_ns
        self._lock = threading.Lock()
        self._ahead_ns = wall_ns() - steady_ns()
        self._jumped: tuple[int, int] | None = None  # how far it is ahead now, and since when

    def now_ms(self) -> int:
        """Milliseconds since 1970. From any thread."""
        with self._lock:
            steady_ns = self._steady_ns()
            ahead_ns = self._wall_ns() - steady_ns
            if abs(ahead_ns - self._ahead_ns) < APART_NS:
                self._ahead_ns, self._jumped = ahead_ns, None
            elif self._jumped is None or abs(ahead_ns - self._jumped[0]) >= APART_NS:
                self._jumped = ahead_ns, steady_ns
            elif steady_ns - self._jumped[1] >= SETTLE_NS:
                self._ahead_ns, self._jumped = ahead_ns, None
            return (steady_ns + self._ahead_ns) // 1_000_000

    @property
    def ahead_ms(self) -> int:
        """How far it is ahead of a clock that nobody sets: another number later says that it was set meanwhile, and
        believed."""
        return self._ahead_ns // 1_000_000

    @property
    def jump_s(self) -> float:
        """How far the machine's clock is from the time that is gone by, as of the last reading; 0 if it is not."""
        jumped, ahead_ns = self._jumped, self._ahead_ns
        return 0.0 if jumped is None else (jumped[0] - ahead_ns) / 1e9


machine = SettledClock()


def system_now_ms() -> int:
    """Milliseconds since 1970."""
    return machine.now_ms()
