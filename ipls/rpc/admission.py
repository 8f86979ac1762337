"""Who gets a place at a service, and for how long: the same rules for every service, by `ipls/rpc/limits.py`.

A call first waits in the table of the silent until its first message has come whole, unary calls too; it holds no other
place until then. With it the call takes a place among those in work, or among the standing ones, and both are shared so
that nobody who has few is kept out by others who have many. Strangers share theirs, the deployment's own parts others.

Tested by tests/attack/test_standing_streams.py.
"""

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from typing import Any

from ipls.address import site
from ipls.rpc.errors import ServiceError
from ipls.rpc.limits import Limits, Method
from ipls.rpc.peer import Parted, peer_of
from ipls.runtime.half_open import HalfOpenTable
from ipls.runtime.places import Busy, Places

_PUSHED_OUT = 0.0
"""The end of a silent call's time that had to make room: long past."""


class _Shared:
    """What callers of one kind share."""

    def __init__(self, limits: Limits, services: Collection[str], share: int) -> None:
        together = limits.half_sent // limits.largest_request(services)
        self.silent = HalfOpenTable[asyncio.Timeout](max(1, min(limits.silent, together)))
        self.working = Places(limits.working, share=share, site=site)
        self.standing = Places(limits.standing, share=share, site=site)


class Admission:
    """A server's places, for the calls of all its ports."""

    def __init__(self, limits: Limits, services: Collection[str]) -> None:
        self.limits = limits
        self._shared = Parted(
            lambda: _Shared(limits, services, limits.stranger_share), lambda: _Shared(limits, services, 2)
        )

    @asynccontextmanager
    async def silent(self, context: Any, method: Method) -> AsyncIterator[None]:
        """A place for a call until it has spoken. Raises Busy SERVICE_BUSY; ServiceError CALL_SLOW."""
        table = self._shared.of(context).silent
        try:
            async with asyncio.timeout(self.limits.silent_s + method.request / self.limits.rate) as limit:
                longest = table.admit(limit, peer_of(context))
                if longest and not longest.expired():
                    longest.reschedule(_PUSHED_OUT)
                try:
                    yield
                finally:
                    table.leave(limit)
        except TimeoutError as error:
            if limit.when() == _PUSHED_OUT:
                raise Busy("all places are taken") from error
            raise slow() from error

    def check_metadata(self, context: Any) -> None:
        """Raises ServiceError MESSAGE_TOO_LARGE."""
        if sum(len(key) + len(value) for key, value in context.invocation_metadata() or ()) > self.limits.metadata:
            raise ServiceError("MESSAGE_TOO_LARGE", f"a call has at most {self.limits.metadata} bytes of headers")

    def work(self, context: Any, method: Method) -> None:
        """Takes a place for a call that has spoken, until gRPC is through with it: also with its answer, which a caller
        may not take. Raises Busy SERVICE_BUSY."""
        shared, peer = self._shared.of(context), peer_of(context)
        places = shared.standing if method.standing else shared.working
        places.take(peer)
        context.add_done_callback(lambda _: places.leave(peer))


def slow() -> ServiceError:
    """For who keeps the service waiting."""
    return ServiceError("CALL_SLOW", "the call sends or takes too little, or takes too long")


class Pace:
    """What a caller may keep the service waiting: `Method.pause_s` in the whole call, and what its bytes need."""

    def __init__(self, method: Method, limits: Limits) -> None:
        self._left_s = method.pause_s
        self._rate = limits.rate

    @asynccontextmanager
    async def waiting(self, size: int) -> AsyncIterator[None]:
        """While at most `size` bytes come or go. Raises ServiceError CALL_SLOW."""
        now = asyncio.get_running_loop().time
        began = now()
        try:
            async with asyncio.timeout(self._left_s + size / self._rate) as limit:
                yield
        except TimeoutError as error:
            if limit.expired():
                raise slow() from error
            raise
        self._left_s -= now() - began

    def moved(self, size: int) -> None:
        """So many bytes came or went."""
        self._left_s += size / self._rate
