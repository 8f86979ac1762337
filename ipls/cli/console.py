"""How the command speaks: text for people on standard output, or one JSON object a line."""

import asyncio
import json
import signal
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


async def typed_line(question: str) -> str:
    """What the person enters, with its line end; empty at the end of the input."""
    print(question, end="", file=sys.stderr, flush=True)
    # In this thread: nobody else waits for the loop, and Ctrl-C could not end a thread that reads.
    of_the_loop = signal.signal(signal.SIGINT, signal.default_int_handler)
    interrupted = False
    try:
        line = sys.stdin.readline()
    except KeyboardInterrupt:
        line, interrupted = "", True
    finally:
        signal.signal(signal.SIGINT, of_the_loop)
    if interrupted:
        signal.raise_signal(signal.SIGINT)  # the loop ends what runs in its order
        await asyncio.sleep(0)
    return line


def printable(text: str) -> str:
    """Without control characters."""
    return "".join(c if c.isprintable() else "?" for c in text)


def emit(value: object) -> None:
    """One JSON object on one line of standard output."""
    print(json.dumps(value, ensure_ascii=False), flush=True)
