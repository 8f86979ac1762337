"""The vault's pipes, between front, core and workers: u32 length || message, both ways."""

import asyncio
import os
from typing import BinaryIO

MAX_MESSAGE = 1024 * 1024
"""Bytes of one message: a frame of a session or a history proof, with what surrounds it."""


class PipeError(Exception):
    """The other end broke the framing; the pipe can't be used any more."""

    reason = "PIPE_BROKEN"


def framed(message: bytes) -> bytes:
    """`message` as it goes into a pipe. Raises PipeError over MAX_MESSAGE bytes."""
    if len(message) > MAX_MESSAGE:
        raise PipeError(f"message over {MAX_MESSAGE} bytes")
    return len(message).to_bytes(4, "big") + message


def _length(header: bytes) -> int:
    length = int.from_bytes(header, "big")
    if length > MAX_MESSAGE:
        raise PipeError(f"message over {MAX_MESSAGE} bytes announced")
    return length


async def receive(reader: asyncio.StreamReader) -> bytes | None:
    """The next message; None when the other end has closed the pipe, also in mid-message. Raises PipeError."""
    try:
        return await reader.readexactly(_length(await reader.readexactly(4)))
    except (asyncio.IncompleteReadError, ConnectionError):
        return None


def receive_blocking(stream: BinaryIO) -> bytes | None:
    """`receive` for a process without an event loop."""
    try:
        header = stream.read(4)
        if len(header) < 4:
            return None
        length = _length(header)
        message = stream.read(length)
    except ConnectionError:
        return None
    return message if len(message) == length else None


def take_stdio() -> tuple[BinaryIO, BinaryIO]:
    """This process's stdin and stdout as (to read, to write); what prints by mistake goes to stderr from now on."""
    source, sink = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb", buffering=0)
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)
    return source, sink
