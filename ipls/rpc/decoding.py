"""Messages off the network.

Tested by tests/rpc/test_hostile_peer.py.
"""

from collections.abc import Callable
from typing import Any

from google.protobuf.message import DecodeError


def decoding(deserialize: Callable[[bytes], Any], most: int) -> Callable[[bytes], Any]:
    """`deserialize`, with an empty message in the place of one that can't be read, or has over `most` bytes, which is
    not decoded.

    gRPC itself would log a traceback, and hand a caller None, or answer UNKNOWN.
    """

    def decode(data: bytes) -> Any:
        try:
            return deserialize(data if len(data) <= most else b"")
        except DecodeError:
            return deserialize(b"")

    return decode
