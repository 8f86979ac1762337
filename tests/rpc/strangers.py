"""Who speaks HTTP/2 by hand, from an address of their own, and so does what no gRPC client does."""

import asyncio
import ssl
import struct
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

_DATA, _HEADERS, _RST, _SETTINGS, _PING, _GOAWAY, _WINDOW = 0, 1, 3, 4, 6, 7, 8
_END_STREAM, _END_HEADERS, _ACK = 1, 4, 1
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_INITIAL_WINDOW = 4
_CANCEL = 8


def message(data: bytes) -> bytes:
    """As gRPC frames it."""
    return b"\0" + struct.pack(">I", len(data)) + data


def _frame(kind: int, flags: int, stream: int, body: bytes) -> bytes:
    return struct.pack(">I", len(body))[1:] + bytes((kind, flags)) + struct.pack(">I", stream) + body


def _header(name: bytes, value: bytes) -> bytes:
    return b"\0" + bytes((len(name),)) + name + bytes((len(value),)) + value


class Stranger:
    """One connection. It answers pings while `alive`, and takes answers unless it began with a `window` of 0."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, window: int) -> None:
        self._reader = reader
        self._writer = writer
        self._next = 1
        self.alive = True
        self.open = set[int]()
        self.received = Counter[int]()
        """Bytes, by stream."""
        self.changed = asyncio.Condition()
        self.listening: asyncio.Task[None]
        settings = struct.pack(">HI", _INITIAL_WINDOW, window)
        writer.write(_PREFACE + _frame(_SETTINGS, 0, 0, settings))

    def call(self, method: str, data: bytes = b"", *, end: bool = False, metadata: dict[str, str] | None = None) -> int:
        """Open a stream for `package.Service/Method` and send this much on it; its number."""
        stream, self._next = self._next, self._next + 2
        headers = {":method": "POST", ":scheme": "https", ":path": f"/{method}", ":authority": "localhost"}
        headers |= {"te": "trailers", "content-type": "application/grpc"} | (metadata or {})
        block = b"".join(_header(name.encode(), value.encode()) for name, value in headers.items())
        self._writer.write(_frame(_HEADERS, _END_HEADERS, stream, block))
        self.open.add(stream)
        if data or end:
            self.send(stream, data, end=end)
        return stream

    def send(self, stream: int, data: bytes, *, end: bool = False) -> None:
        self._writer.write(_frame(_DATA, _END_STREAM if end else 0, stream, data))

    def leave(self, stream: int) -> None:
        """End it from this side, by RST_STREAM."""
        self._writer.write(_frame(_RST, 0, stream, struct.pack(">I", _CANCEL)))
        self.open.discard(stream)

    async def until(self, open_streams: int) -> None:
        """Return when no more than so many of its calls are open."""
        async with self.changed:
            await self.changed.wait_for(lambda: len(self.open) <= open_streams)

    async def ended(self, stream: int) -> int:
        """When the call is over: how many bytes came."""
        async with self.changed:
            await self.changed.wait_for(lambda: stream not in self.open)
        return self.received[stream]

    async def closed(self) -> None:
        """When the server has closed it."""
        await asyncio.wait((self.listening,))

    async def _listen(self) -> None:
        try:
            while True:
                head = await self._reader.readexactly(9)
                kind, flags = head[3], head[4]
                stream = int.from_bytes(head[5:], "big") & 0x7FFFFFFF
                body = await self._reader.readexactly(int.from_bytes(head[:3], "big"))
                if kind == _SETTINGS and not flags & _ACK:
                    self._writer.write(_frame(_SETTINGS, _ACK, 0, b""))
                elif kind == _PING and self.alive and not flags & _ACK:
                    self._writer.write(_frame(_PING, _ACK, 0, body))
                elif kind == _DATA:
                    self.received[stream] += len(body)
                if kind == _RST or (kind in (_DATA, _HEADERS) and flags & _END_STREAM):
                    await self._drop({stream})
                elif kind == _DATA:
                    async with self.changed:
                        self.changed.notify_all()
        except (asyncio.IncompleteReadError, OSError):
            await self._drop(set(self.open))

    async def _drop(self, streams: set[int]) -> None:
        async with self.changed:
            self.open -= streams
            self.changed.notify_all()


@asynccontextmanager
async def stranger(port: int, ca: Path, source: str = "127.0.0.2", *, window: int = 1 << 20) -> AsyncIterator[Stranger]:
    """Connected from that address."""
    context = ssl.create_default_context(cafile=ca)
    context.set_alpn_protocols(["h2"])
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", port, ssl=context, server_hostname="localhost", local_addr=(source, 0)
    )
    connection = Stranger(reader, writer, window)
    connection.listening = asyncio.create_task(connection._listen())
    try:
        yield connection
    finally:
        writer.transport.abort()
        await connection.listening
