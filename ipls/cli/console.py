"""How the command speaks: text for people on standard output, or one JSON object a line."""

import json
import sys
from typing import NoReturn


def fail(message: str, reason: str, status: int) -> NoReturn:
    """One clear line on standard error, then exit. A message may be a server's: its control characters stay out."""
    line = "".join(c if c.isprintable() else "?" for c in f"ipls: {message} [{reason}]")
    print(line, file=sys.stderr)
    sys.exit(status)


def emit(value: object) -> None:
    """One JSON object on one line of standard output."""
    print(json.dumps(value, ensure_ascii=False), flush=True)
