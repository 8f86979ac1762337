"""Channels to our services: TLS always, the deployment's CA, certificates of a role where one is needed."""

from collections.abc import Iterator
from pathlib import Path

import grpc

CHUNK = 1 << 20
"""Bytes of payload in one streamed message; gRPC refuses messages over 4 MiB."""


def open_channel(
    address: str, ca_file: Path, *, certificate: Path | None = None, key: Path | None = None
) -> grpc.aio.Channel:
    """A channel to `host:port`, connected when first used. Raises OSError if a file can't be read."""
    credentials = grpc.ssl_channel_credentials(
        ca_file.read_bytes(),
        key.read_bytes() if key else None,
        certificate.read_bytes() if certificate else None,
    )
    options = [
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 2000),
        ("grpc.keepalive_time_ms", 60_000),
    ]
    return grpc.aio.secure_channel(address, credentials, options)


def chunks(data: bytes) -> Iterator[bytes]:
    """`data` in pieces of at most CHUNK bytes; nothing for no data."""
    return (data[at : at + CHUNK] for at in range(0, len(data), CHUNK))
