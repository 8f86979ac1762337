"""Messages off the network.

Tested by tests/rpc/test_hostile_peer.py.
"""

from collections.abc import Callable
from typing import Any

from google.protobuf.message import DecodeError


def decoding(deserialize: Callable[[bytes], Any], unreadable: Callable[[], Any]) -> Callable[[bytes], Any]:
    """`deserialize`, with what `unreadable` makes in the place of a message that can't be read.

    gRPC itself would log a traceback, and hand a caller None, or answer UNKNOWN.
    """

    def decode(data: bytes) -> Any:
        try:
            return deserialize(data)
        except DecodeError:
            return unreadable()

    return decode
