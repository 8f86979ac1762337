"""The code that a registration takes: given, read from a development outbox, or typed by the person.

Tested by tests/e2e/test_client_commands.py.
"""

import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from ipls.cli.console import typed_line
from ipls.client.errors import ProfileError, RefusedError
from ipls.client.outbox import code_from
from ipls.client.registration import CodeSource

Result = TypeVar("Result")

Code = Annotated[
    str | None, typer.Option(help="The code that was sent before; without it one is sent, and asked for here.")
]
Outbox = Annotated[
    Path | None, typer.Option(help="Development only: read the code from the registration service's outbox.")
]

TRIES = 3
"""With a code, before the command ends; the code may be good for more."""


def code_source(code: str | None, outbox: Path | None) -> CodeSource:
    """Where the code comes from."""

    async def given(request_id: bytes) -> str:
        if not code:
            raise ProfileError("CODE_EMPTY", "the code is empty")
        return code

    return given if code is not None else code_from(outbox) if outbox else _typed


async def trying(source: CodeSource, register: Callable[[CodeSource], Awaitable[Result]]) -> Result:
    """Register; a person who typed a wrong code may type another."""
    for more in reversed(range(TRIES)):
        try:
            return await register(source)
        except RefusedError as error:
            if error.reason != "CODE_WRONG" or source is not _typed or not more:
                raise
            print(f"that is not the code; you may try {more} more time{'s' * (more > 1)}", file=sys.stderr)
    raise AssertionError("the last try returns or raises")


async def _typed(request_id: bytes) -> str:
    """The code, as the person enters it; nothing has another one sent."""
    line = await typed_line("enter it, or nothing to have another one sent: ")
    if not line:
        raise ProfileError("CODE_EMPTY", "no code was entered; the one that was sent stays good")
    return line.strip()
