"""Channels to our services: TLS always, the deployment's CA, certificates of a role where one is needed.

Tested by tests/rpc/test_errors.py.
"""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from ipls._grpc import check_guarded, grpc
from ipls.rpc.decoding import decoding

CHUNK = 1 << 20
"""Bytes of payload in one streamed message; gRPC refuses messages over 4 MiB."""


def open_channel(
    address: str, ca_file: Path, *, certificate: Path | None = None, key: Path | None = None
) -> grpc.aio.Channel:
    """A channel to `host:port`, connected when first used.

    An answer that can't be read counts as an empty one: the caller, who believes nothing unchecked, refuses that.

    Raises OSError if a file can't be read, IplsError TLS_UNGUARDED.
    """
    check_guarded()
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
    def make(path: str, *, response_deserializer: Callable[[bytes], Any], **options: Any) -> Any:
        decode = decoding(response_deserializer, lambda: response_deserializer(b""))
        return method(path, response_deserializer=decode, **options)

    return make


def chunks(data: bytes) -> Iterator[bytes]:
    """`data` in pieces of at most CHUNK bytes; nothing for no data."""
    return (data[at : at + CHUNK] for at in range(0, len(data), CHUNK))


def cut(data: bytes, sizes: Iterable[int]) -> Iterator[bytes]:
    """`data` in pieces of these sizes, in their order."""
    at = 0
    for size in sizes:
        yield data[at : at + size]
        at += size
