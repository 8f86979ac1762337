"""The state machine of `tests.store.directory.machine`, within a budget; `scripts/fuzz directory` has a longer one."""

from tests.store.directory.machine import explore


def test_any_order_of_publishes_crashes_prunings_and_erasures() -> None:
    explore(stories=8, steps=25)
