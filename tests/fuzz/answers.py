"""Services that answer a caller with bytes of the adversary's choice."""

import io
from collections.abc import Awaitable, Callable
from typing import Any

from google.protobuf.message import DecodeError, Message

from ipls._grpc import grpc


def framed(message: bytes) -> bytes:
    """u32 length || message."""
    return len(message).to_bytes(4, "big") + message


def _next(stream: io.BytesIO) -> bytes:
    """The next message, or what there is of it; empty at the end."""
    return stream.read(int.from_bytes(stream.read(4), "big"))


class Answers:
    """A call's answers: the frames of a stream up to an empty one, each read as gRPC hands it to a caller."""

    def __init__(self, kind: type[Message], stream: io.BytesIO) -> None:
        self._kind = kind
        self._stream = stream

    async def __aiter__(self) -> Any:
        while frame := _next(self._stream):
            yield _read(self._kind, frame)

    def add_done_callback(self, callback: Any) -> None:
        pass

    def cancel(self) -> None:
        pass


def answering(kind: type[Message], stream: io.BytesIO) -> Callable[..., Answers]:
    """A method that answers with what comes next in `stream`."""
    return lambda *_, **__: Answers(kind, stream)


def answering_once(kind: type[Message], stream: io.BytesIO) -> Callable[..., Awaitable[Message]]:
    """The same with one frame; UNAVAILABLE where none is left."""

    async def answer(*_: Any, **__: Any) -> Message:
        if stream.tell() == len(stream.getvalue()):
            raise grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata())
        return _read(kind, _next(stream))

    return answer


def _read(kind: type[Message], frame: bytes) -> Message:
    try:
        return kind.FromString(frame)
    except DecodeError:
        return kind()


def frames(*messages: Message) -> bytes:
    """What a stream has of these."""
    return b"".join(framed(message.SerializeToString()) for message in messages)
