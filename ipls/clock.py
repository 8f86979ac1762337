"""The one reading of this machine's clock. The pure packages have none: they are told the time.

Tested by tests/e2e/test_witnesses.py.
"""

import time


def system_now_ms() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000
