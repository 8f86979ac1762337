"""The state machine of `tests.store.machine`, within a budget; `scripts/fuzz directory` has a longer one."""

from tests.store.machine import explore


def test_any_order_of_publishes_crashes_prunings_and_erasures() -> None:
    explore(stories=8, steps=25)
