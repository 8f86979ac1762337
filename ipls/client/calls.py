"""Calls to the services: retried while they are away, their refusals told as the device's own errors.

Tested by tests/client/test_device.py.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from ipls._grpc import grpc
from ipls.client.errors import ClientError, RefusedError, TryLaterError
from ipls.rpc.errors import RemoteError, remote_error

Result = TypeVar("Result")

CALL_S = 60.0
"""Deadline of one call."""
RETRY_FOR_S = 30.0
"""How long what is UNAVAILABLE, or busy, is asked again."""

_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 2.0


async def retrying(call: Callable[[], Awaitable[Result]], retry_for_s: float = RETRY_FOR_S) -> Result:
    """`await call()`, again while it answers UNAVAILABLE or SERVICE_BUSY; for calls that may be made twice.

    Raises RefusedError with the service's reason, TryLaterError once patience is at its end.
    """
    end = time.monotonic() + retry_for_s
    pause = _FIRST_PAUSE_S
    while True:
        try:
            return await call()
        except grpc.aio.AioRpcError as raised:
            error = remote_error(raised)
            wait = max(pause, error.retry_after_s or 0)
            if not error.passes or time.monotonic() + wait > end:
                raise client_error(error) from raised
        await asyncio.sleep(wait)
        pause = min(2 * pause, _LONGEST_PAUSE_S)


def client_error(error: RemoteError) -> ClientError:
    """What a service answered, fit for a terminal: it may be the adversary's text."""
    later = error.passes or error.code is grpc.StatusCode.DEADLINE_EXCEEDED
    kind = TryLaterError if later else RefusedError
    return kind(error.reason, "".join(c if c.isprintable() else " " for c in error.message[:300]))
