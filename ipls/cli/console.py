"""How the command speaks: text for people on standard output, or one JSON object a line."""

import json
import sys
from typing import NoReturn


def fail(message: str, reason: str, status: int) -> NoReturn:
    """One clear line on standard error, then exit."""
    print(f"ipls: {message} [{reason}]", file=sys.stderr)
    sys.exit(status)


def emit(value: object) -> None:
    """One JSON object on one line of standard output."""
    print(json.dumps(value, ensure_ascii=False), flush=True)
