"""The vault's pipes, between front, core, workers and anchor service: frames, both ways. Front and core have a Unix
socket, whoever of them started the other; the core its workers' and the anchor service's stdin and stdout.

    u32 length || u64 session || u8 kind || length bytes

Integers are big-endian. The kinds are field numbers: of CoreRequest and CoreResponse (protos/ipls/vault/v1/core.proto)
at the front, of what protos/ipls/hsm/v1 has elsewhere.
"""

import asyncio
import os
import select
import socket
import struct
from typing import BinaryIO, NamedTuple, TypeVar

from google.protobuf.message import DecodeError, Message

from ipls.errors import IplsError

MAX_MESSAGE = 1024 * 1024
"""Bytes behind a frame's header: a client's frame or a history proof, with what surrounds it."""
HANGS_S = 60.0
"""Of a process that is asked for what takes milliseconds: one that has not done it by then is killed, for another to
take its place."""

_HEADER = struct.Struct(">IQB")

M = TypeVar("M", bound=Message)


class PipeError(IplsError):
    """The other end broke the framing, or sent what is no message of the pipe; it is none to talk to any more."""

    def __init__(self, message: str) -> None:
        super().__init__("PIPE_BROKEN", message)


class Frame(NamedTuple):
    """What one end tells the other at once. `kind` says what `body` is."""

    session: int
    kind: int
    body: bytes


def framed(session: int, kind: int, body: bytes = b"") -> bytes:
    """The frame as it goes into a pipe. Raises PipeError over MAX_MESSAGE bytes."""
    _check_length(len(body))
    return _HEADER.pack(len(body), session, kind) + body


def parse(message: type[M], body: bytes) -> M:
    """The body of a frame as this message. Raises PipeError."""
    try:
        return message.FromString(body)
    except DecodeError:
        raise PipeError(f"not the encoding of {message.DESCRIPTOR.full_name}") from None


async def receive(reader: asyncio.StreamReader) -> Frame | None:
    """The next frame; None when the other end has closed the pipe, also in mid-frame. Raises PipeError."""
    try:
        length, session, kind = _header(await reader.readexactly(_HEADER.size))
        return Frame(session, kind, await reader.readexactly(length))
    except (asyncio.IncompleteReadError, ConnectionError):
        return None


async def connect(end: socket.socket) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """One end of a connected Unix socket, which belongs to the streams from now on."""
    return await asyncio.open_connection(limit=MAX_MESSAGE, sock=end)


def receive_blocking(stream: BinaryIO) -> Frame | None:
    """`receive` for a process without an event loop."""
    if (header := _read(stream, _HEADER.size)) is None:
        return None
    length, session, kind = _header(header)
    body = _read(stream, length)
    return None if body is None else Frame(session, kind, body)


def waiting(stream: BinaryIO, within_s: float = 0.0) -> bool:
    """Whether `receive_blocking` has something to read at once or `within_s`, or its end."""
    return bool(select.select([stream], [], [], within_s)[0])


def _header(data: bytes) -> tuple[int, int, int]:
    length, session, kind = _HEADER.unpack(data)
    _check_length(length)
    return length, session, kind


def _check_length(length: int) -> None:
    if length > MAX_MESSAGE:
        raise PipeError(f"a frame of {length} bytes, over {MAX_MESSAGE}")


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
