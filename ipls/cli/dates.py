"""Times as the command writes them.

Tested by tests/cli/test_trust.py.
"""

from datetime import UTC, datetime


def date(ms: int) -> str:
    """To the minute, in UTC; no later than the year 9999."""
    return datetime.fromtimestamp(min(ms, 253_402_300_799_000) / 1000, UTC).isoformat(" ", "minutes")
