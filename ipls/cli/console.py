"""How the command speaks: text for people on standard output, or one JSON object a line."""

import json
import sys
from contextlib import suppress
from typing import NoReturn

from ipls.cli.advice import NEXT


def fail(message: str, reason: str, status: int) -> NoReturn:
    """One clear line on standard error, with what to do next, then exit.

    A message may be a server's: its control characters stay out.
    """
    if step := NEXT.get(reason):
        message += f"; next: {step}"
    with suppress(OSError):  # nobody reads it; the status says it
        print(printable(f"ipls: {message} [{reason}]"), file=sys.stderr, flush=True)
    sys.exit(status)


def confirmed(question: str) -> bool:
    """Whether the person says yes; the end of the input is a no. (At typer's own question Ctrl-C would be one too.)"""
    print(f"{question} [y/N]: ", end="", flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def printable(text: str) -> str:
    """Without control characters."""
    return "".join(c if c.isprintable() else "?" for c in text)


def emit(value: object) -> None:
    """One JSON object on one line of standard output."""
    print(json.dumps(value, ensure_ascii=False), flush=True)
