"""Channels to our services: TLS always, the deployment's CA, certificates of a role where one is needed.

Tested by tests/rpc/test_errors.py.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Self, cast

from ipls._grpc import check_guarded, grpc
from ipls.rpc.decoding import decoding
from ipls.rpc.limits import Limits

LOOK_EVERY_S = 1.0
"""How often a channel looks whether a certificate was renewed."""
CHUNK = 1 << 20
"""Bytes of payload in one streamed message; gRPC refuses messages over 4 MiB."""


def open_channel(
    address: str, ca: Path | bytes, *, certificate: Path | None = None, key: Path | None = None
) -> grpc.aio.Channel:
    """A channel to `host:port`, connected when first used; `ca`: the CA's certificates (PEM), or their file. What
    begins a second after a certificate was renewed, or later, shows that one.

    An answer that can't be read, or is longer than its method's may be (`Method.answer`), counts as an empty one: the
    caller, who believes nothing unchecked, refuses that.

    Raises OSError if a file can't be read, IplsError TLS_UNGUARDED.
    """
    return cast(grpc.aio.Channel, _RenewedChannel(address, (ca, key, certificate)))


class _RenewedChannel:
    """Channels to one address: another takes the place of the last when the files of its certificates have changed.
    What was begun on that one goes on there.

    It has of grpc.aio.Channel what is used of it: stubs are made with it, and it is a context.
    """

    def __init__(self, address: str, files: tuple[Path | bytes, Path | None, Path | None]) -> None:
        check_guarded()
        self._address = address
        self._files = files
        self._stamps = self._changed()
        self._opened = [self._open()]
        self._look_at = 0.0
        for kind in ("unary_unary", "unary_stream", "stream_unary", "stream_stream"):
            setattr(self, kind, partial(self._method, kind))

    def _changed(self) -> tuple[int, ...]:
        return tuple(file.stat().st_mtime_ns for file in self._files if isinstance(file, Path))

    def _open(self) -> grpc.aio.Channel:
        credentials = grpc.ssl_channel_credentials(
            *(file.read_bytes() if isinstance(file, Path) else file for file in self._files)
        )
        options = [
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.min_reconnect_backoff_ms", 5_000),  # what an attempt may take: a handshake over a poor line, or busy
            ("grpc.max_reconnect_backoff_ms", 2000),
            ("grpc.keepalive_time_ms", 10_000),  # while a call is open: a stopped peer fails it, not its deadline
            ("grpc.keepalive_timeout_ms", 5_000),
        ]
        return grpc.aio.secure_channel(self._address, credentials, options)

    def _present(self) -> grpc.aio.Channel:
        """The one for what begins now: the last, where the files can't be read. They are looked at once a second."""
        if (now := time.monotonic()) < self._look_at:
            return self._opened[-1]
        self._look_at = now + LOOK_EVERY_S
        with suppress(OSError):
            if (stamps := self._changed()) != self._stamps:
                self._opened.append(self._open())
                self._stamps = stamps
        return self._opened[-1]

    def _method(self, kind: str, path: str, *, response_deserializer: Callable[[bytes], Any], **options: Any) -> Any:
        decode = decoding(response_deserializer, Limits().method(path.removeprefix("/")).answer)

        @lru_cache(maxsize=1)
        def of(channel: grpc.aio.Channel) -> Any:
            return getattr(channel, kind)(path, response_deserializer=decode, **options)

        return lambda *arguments, **named: of(self._present())(*arguments, **named)

    async def channel_ready(self) -> None:
        await self._present().channel_ready()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *raised: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends what is under way."""
        for channel in self._opened:
            await channel.close(None)


def chunks(data: bytes) -> Iterator[bytes]:
    """`data` in pieces of at most CHUNK bytes; nothing for no data."""
    return (data[at : at + CHUNK] for at in range(0, len(data), CHUNK))


def cut(data: bytes, sizes: Iterable[int]) -> Iterator[bytes]:
    """`data` in pieces of these sizes, in their order."""
    at = 0
    for size in sizes:
        yield data[at : at + size]
        at += size
