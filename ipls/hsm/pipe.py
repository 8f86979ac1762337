"""The vault's pipes, between front, core and workers: u32 length || message, both ways."""

import asyncio
import os
import select
from typing import BinaryIO

from ipls.errors import IplsError

MAX_MESSAGE = 1024 * 1024
"""Bytes of one message: a frame of a session or a history proof, with what surrounds it."""


class PipeError(IplsError):
    """The other end broke the framing; the pipe can't be used any more."""

    def __init__(self, message: str) -> None:
        super().__init__("PIPE_BROKEN", message)


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
    header = _read(stream, 4)
    return header and _read(stream, _length(header))


def waiting(stream: BinaryIO) -> bool:
    """Whether `receive_blocking` has something to read at once, or its end."""
    return bool(select.select([stream], [], [], 0)[0])


def _read(stream: BinaryIO, size: int) -> bytes | None:
    data = b""
    while len(data) < size:
        try:
            part = stream.read(size - len(data))
        except ConnectionError:
            return None
        if not part:
            return None
        data += part
    return data


def take_stdio() -> tuple[BinaryIO, BinaryIO]:
    """This process's stdin and stdout as (to read, to write), both without a buffer; what prints by mistake goes to
    stderr from now on."""
    source, sink = os.fdopen(os.dup(0), "rb", buffering=0), os.fdopen(os.dup(1), "wb", buffering=0)
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)
    return source, sink
