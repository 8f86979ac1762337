"""The machine's clock where it jumps, and where the machine sleeps. Time is the test's."""

import pytest

from ipls.clock import APART_NS, SETTLE_NS, SettledClock, system_now_ms
from ipls.units import DAY_MS

S = 10**9
NOW_NS = 1_800_000_000 * S


class Machine:
    """Two clocks: the one that people set, and the one since it was started, sleep included."""

    def __init__(self) -> None:
        self.wall_ns, self.steady_ns = NOW_NS, 7 * S
        self.clock = SettledClock(lambda: self.wall_ns, lambda: self.steady_ns)

    def passes(self, seconds: float) -> "Machine":
        self.wall_ns += int(seconds * S)
        self.steady_ns += int(seconds * S)
        return self

    def steps(self, seconds: float) -> "Machine":
        self.wall_ns += int(seconds * S)
        return self

    def off_ms(self) -> int:
        """How far the time is from that of the machine's clock as it stands."""
        return self.clock.now_ms() - self.wall_ns // 1_000_000


@pytest.mark.parametrize("day_s", [86_400, -86_400])
def test_a_step_that_is_taken_back_within_the_time_was_never_there(day_s: int) -> None:
    machine = Machine()
    machine.steps(day_s)
    for _ in range(30):
        assert machine.passes(1).off_ms() == -day_s * 1000
        assert machine.clock.jump_s == pytest.approx(day_s)
    assert machine.steps(-day_s).off_ms() == 0
    assert machine.clock.jump_s == 0
    assert machine.passes(SETTLE_NS / S).off_ms() == 0


@pytest.mark.parametrize("step_s", [86_400, -86_400, 4200])
def test_a_step_that_stays_is_believed(step_s: int) -> None:
    machine = Machine()
    ahead_ms = machine.clock.ahead_ms
    assert machine.steps(step_s).off_ms() == -step_s * 1000
    assert machine.passes(SETTLE_NS / S - 1).off_ms() == -step_s * 1000
    assert machine.clock.ahead_ms == ahead_ms
    assert machine.passes(1).off_ms() == 0
    assert machine.clock.jump_s == 0
    assert machine.clock.ahead_ms == ahead_ms + step_s * 1000


def test_a_clock_that_goes_on_jumping_is_not_believed_before_it_stays() -> None:
    machine, expected_ms = Machine(), NOW_NS // 1_000_000
    for _ in range(10):
        machine.steps(3600).passes(30)
        expected_ms += 30_000
        assert machine.clock.now_ms() == expected_ms
    machine.passes(SETTLE_NS / S)
    assert machine.off_ms() == 0


def test_after_a_sleep_the_time_is_right_at_once() -> None:
    assert Machine().passes(70 * 60).off_ms() == 0


def test_a_clock_that_runs_fast_is_followed() -> None:
    machine = Machine()
    for _ in range(3600):
        assert machine.passes(1).steps(APART_NS / S / 2).off_ms() == 0


def test_the_time_is_in_milliseconds() -> None:
    assert abs(system_now_ms() - 2_000_000_000_000) < 100 * 365 * DAY_MS
