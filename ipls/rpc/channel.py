"""Channels to our services: TLS always, the deployment's CA, certificates of a role where one is needed."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.message import DecodeError

CHUNK = 1 << 20
"""Bytes of payload in one streamed message; gRPC refuses messages over 4 MiB."""


def open_channel(
    address: str, ca_file: Path, *, certificate: Path | None = None, key: Path | None = None
) -> grpc.aio.Channel:
    """A channel to `host:port`, connected when first used. Raises OSError if a file can't be read.

    An answer that can't be read counts as an empty one: the caller, who believes nothing unchecked, refuses that.
    """
    credentials = grpc.ssl_channel_credentials(
        ca_file.read_bytes(),
        key.read_bytes() if key else None,
        certificate.read_bytes() if certificate else None,
    )
    options = [
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 2000),
        ("grpc.keepalive_time_ms", 10_000),  # while a call is open: a stopped peer fails it, not its deadline
        ("grpc.keepalive_timeout_ms", 5_000),
    ]
    channel = grpc.aio.secure_channel(address, credentials, options)
    for kind in ("unary_unary", "unary_stream", "stream_unary", "stream_stream"):
        setattr(channel, kind, _reading_all(getattr(channel, kind)))
    return channel


def _reading_all(method: Callable[..., Any]) -> Callable[..., Any]:
    # gRPC itself would hand the caller None and log a traceback.
    def make(path: str, *, response_deserializer: Callable[[bytes], Any], **options: Any) -> Any:
        def read(data: bytes) -> Any:
            try:
                return response_deserializer(data)
            except DecodeError:
                return response_deserializer(b"")

        return method(path, response_deserializer=read, **options)

    return make


def chunks(data: bytes) -> Iterator[bytes]:
    """`data` in pieces of at most CHUNK bytes; nothing for no data."""
    return (data[at : at + CHUNK] for at in range(0, len(data), CHUNK))
