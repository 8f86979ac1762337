"""How a command ends after Ctrl-C.

Tested by tests/cli/test_start.py and tests/e2e/test_client_commands.py.
"""

import sys
from typing import NoReturn

INTERRUPTED = 130
"""The exit status, as shells have it."""


def interrupted(left: str = "") -> NoReturn:
    """End, and say so in one line, with how things were left."""
    beside = "\n" if sys.stderr.isatty() else ""  # a terminal has shown ^C
    print(f"{beside}ipls: interrupted{left and f'; {left}'}", file=sys.stderr, flush=True)
    sys.exit(INTERRUPTED)
