"""Times in milliseconds, the unit of every time here: durations, and how one since 1970 is written.

Tested by tests/store/directory/test_pruning.py and tests/cli/test_trust.py.
"""

from datetime import UTC, datetime

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS


def date(ms: int) -> str:
    """To the minute, in UTC; no later than the year 9999."""
    return datetime.fromtimestamp(min(ms, 253_402_300_799_000) / 1000, UTC).isoformat(" ", "minutes")
