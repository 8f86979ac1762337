"""Calls to the services: retried while they are away, their refusals told as the device's own errors.

Tested by tests/client/test_patience.py and tests/client/test_device.py.
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

from google.protobuf.message import Message

from ipls._grpc import grpc
from ipls.client.errors import ClientError, RefusedError, TryLaterError
from ipls.crypto.keys import Signer
from ipls.rpc.errors import RemoteError, remote_error
from ipls.trust.calls import NONCE_BYTES, call_digest

Result = TypeVar("Result")
Call = TypeVar("Call")

CALL_S = 60.0
"""The longest that a call takes, however long the patience; one that carries contacts, while they get on."""
RETRY_FOR_S = 30.0
"""How long what is UNAVAILABLE, or busy, is asked again."""
LEAST_CALL_S = 5.0
"""What a call has in any case, however short the patience with a service that is away."""

_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 2.0


async def retrying(
    call: Callable[[], Awaitable[Result]], retry_for_s: float = RETRY_FOR_S, *, service: str = "the service"
) -> Result:
    """`await call()`, again while it answers UNAVAILABLE or SERVICE_BUSY; for calls that may be made twice. `service`
    is what a person is told is away.

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
                raise client_error(error, service) from raised
        await asyncio.sleep(wait)
        pause = min(2 * pause, _LONGEST_PAUSE_S)


def signed_call(
    message: Callable[..., Call],
    signer: Signer,
    namespace: str,
    label: str,
    method: str,
    body: Message,
    time_ms: int,
    *,
    version: int,
) -> Call:
    """A call of the contact store, as its account's key signs it anew; `message` is the SignedCall of that version."""
    data, nonce, key = body.SerializeToString(), os.urandom(NONCE_BYTES), signer.public_key
    digest = call_digest(namespace, label, key, method, data, time_ms, nonce, version=version)
    return message(
        label=label,
        public_key=key,
        body=data,
        timestamp_ms=time_ms,
        nonce=nonce,
        signature=signer.sign(digest),
    )


def within(retry_for_s: float) -> float:
    """The deadline of a call that is short, or only waits: where a service takes it and never answers, that is known as
    soon as that one refuses."""
    return min(CALL_S, max(retry_for_s, LEAST_CALL_S))


@asynccontextmanager
async def carrying(retry_for_s: float) -> AsyncIterator[Callable[[], None]]:
    """Around a call that carries contacts, which may take longer than one that is short while it gets on: it calls what
    this gives whenever a part of it went through.

    Raises TryLaterError DEADLINE_EXCEEDED where none does for as long as a short call may take.
    """
    loop, quiet_s = asyncio.get_running_loop(), within(retry_for_s)
    try:
        async with asyncio.timeout(quiet_s) as quiet:
            yield lambda: quiet.reschedule(loop.time() + quiet_s)
    except TimeoutError:
        why = "the contact store took a call with contacts, and got no further"
        raise TryLaterError("DEADLINE_EXCEEDED", why) from None


def plain(text: str) -> str:
    """Of a service's text, which may be the adversary's, what is fit for a terminal."""
    return "".join(c if c.isprintable() else " " for c in text[:300])


def client_error(error: RemoteError, service: str) -> ClientError:
    """What a service answered, fit for a terminal; where it did not, which one it is."""
    late = error.code is grpc.StatusCode.DEADLINE_EXCEEDED
    kind = TryLaterError if error.passes or late else RefusedError
    away = f"{service} does not answer: " if late or error.reason == "UNREACHABLE" else ""
    return kind(error.reason, away + plain(error.message))
