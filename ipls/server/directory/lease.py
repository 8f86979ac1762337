"""The right to publish, as one process among many has it or waits for it (the contract: `ipls.store.directory`).

Tested by tests/server/directory/test_processes.py.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import structlog

from ipls.runtime.tasks import race
from ipls.store.directory import DirectoryStore, Lease

log = structlog.get_logger()

T = TypeVar("T")

BEATS = 6
"""Signs of life in one lease time: several may come late before anyone takes over."""


class LeaseKeeper:
    """One process's part in who publishes from a database."""

    def __init__(self, store: DirectoryStore, lease_s: float) -> None:
        """A holder that gives no sign of life for `lease_s` seconds loses the lease to whoever waits."""
        self._store = store
        self._lease_s = lease_s
        self._thread = ThreadPoolExecutor(1, "lease")  # of its own: a beat must not wait behind a thousand reads

    async def until_free(self) -> Lease:
        """The lease as it stands, once nobody holds it or its holder has been silent for the lease time."""
        seen, since = await self._run(self._store.lease), time.monotonic()
        while seen.held and time.monotonic() < since + self._lease_s:
            await asyncio.sleep(self._lease_s / BEATS)
            if (now := await self._run(self._store.lease)) != seen:
                seen, since = now, time.monotonic()
        return seen

    async def hold(self, seen: Lease, above: int, publish: Callable[[int], Coroutine[Any, Any, None]]) -> None:
        """Take the lease from `seen` by a term above `above`, and run `publish(term)` while it is ours.

        Raises what `publish` raises, and StoreRefused LEASE_LOST when another process has taken it, before or later.
        Whatever ends it, the lease is given back at once.
        """
        term = await self._run(self._store.take_lease, seen, above)
        log.info("publishing", term=term)
        try:
            await race(publish(term), self._beat(term))
        finally:
            # Not waited for, as the task may be ending; `close` does. If the database is what failed, it runs out.
            self._thread.submit(self._store.release, term)

    async def _beat(self, term: int) -> None:
        while True:
            await asyncio.sleep(self._lease_s / BEATS)
            await self._run(self._store.beat, term)

    async def _run(self, method: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, method, *arguments)

    def close(self) -> None:
        """End the thread, once it has given back what was held."""
        self._thread.shutdown()
