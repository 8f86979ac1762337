"""Durations in milliseconds, the unit of every time here.

Tested by tests/store/directory/test_pruning.py.
"""

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
