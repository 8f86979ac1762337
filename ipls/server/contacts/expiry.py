"""Lets go of what was hidden long enough, by a clock that the witnesses vouch for."""

import asyncio
from collections.abc import Callable

import structlog

from ipls.clock import system_now_ms
from ipls.rpc.errors import ServiceError
from ipls.server.contacts.identities import Identities
from ipls.store.errors import StoreUnavailable
from ipls.store.line import LineStore

log = structlog.get_logger()

EVERY_S = 600.0
ROWS = 100
"""Let go of at once, of 2 MiB perhaps: others' writes come between."""


async def run(store: LineStore, identities: Identities) -> None:
    """`let_go`, again and again, for ever."""
    while True:
        try:
            await let_go(store, identities)
        except (ServiceError, StoreUnavailable) as error:
            log.warning("nothing let go", reason=error.reason)
        await asyncio.sleep(EVERY_S)


async def let_go(store: LineStore, identities: Identities, now_ms: Callable[[], int] = system_now_ms) -> None:
    """All of it, now. Where this machine's clock is not that of a fresh head's signatures, nothing: a clock that runs
    ahead would end what is kept for months.

    Raises ServiceError DIRECTORY_UNAVAILABLE, StoreUnavailable.
    """
    await identities.newest()
    while await asyncio.to_thread(store.expire, now_ms(), ROWS):
        pass
