"""The core's end of the pipe to the front, which it does not trust.

Tested by tests/hsm/core/test_core.py.
"""

import asyncio
from contextlib import suppress

from ipls.hsm import pipe
from ipls.proto.vault.v1.core_pb2 import CoreResponse, Refused


class Front:
    """What comes from it, and what it is told."""

    def __init__(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        self._source = source
        self._sink = sink

    async def receive(self) -> pipe.Frame | None:
        """What it asks for next, a field of CoreRequest; None when it has closed the pipe. Raises PipeError."""
        return await pipe.receive(self._source)

    def send(self, session: int, kind: int, body: bytes) -> None:
        """Tells it a field of CoreResponse, without waiting: `drain` does. Raises PipeError if it is too long."""
        self._sink.write(pipe.framed(session, kind, body))

    def refuse(self, session: int, reason: str, message: str) -> None:
        """Session 0 is the core itself."""
        refused = Refused(reason=reason, message=message)
        self.send(session, CoreResponse.REFUSED_FIELD_NUMBER, refused.SerializeToString())

    async def drain(self) -> None:
        """Waits until the front has read most of what it was sent."""
        with suppress(ConnectionError):  # it has closed the other pipe too
            await self._sink.drain()
