"""Threads for what callers ask for: of one purpose each, bounded, and in turn by who asks.

What a process does of itself (publishing, following) has asyncio's own threads, `asyncio.to_thread`, and waits behind
no caller: nothing that a caller can have done at will goes there.
"""

import asyncio
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

from ipls.runtime.places import Busy

P = ParamSpec("P")
Result = TypeVar("Result")


class FairExecutor:
    """So many threads, for which so many works wait. Whoever has work waiting gets the next thread in turn, and nobody
    has more of it than places are left free: one caller alone has half of them, and there is one for who has none."""

    def __init__(self, purpose: str, threads: int, waiting: int) -> None:
        self._purpose = purpose
        self._pool = ThreadPoolExecutor(threads, purpose)
        self._free = waiting
        self._turns: OrderedDict[Hashable, deque[tuple[Future[Any], Callable[[], Any]]]] = OrderedDict()
        self._lock = threading.Lock()

    async def run(self, whose: Hashable, work: Callable[P, Result], *arguments: P.args, **options: P.kwargs) -> Result:
        """What the work returns or raises, done for `whose`, an account or a peer. Raises Busy SERVICE_BUSY, at
        once."""
        future: Future[Result] = Future()
        with self._lock:
            own = self._turns.get(whose, ())
            if len(own) >= self._free:
                raise Busy(f"too much waits for {self._purpose}")
            self._free -= 1
            self._turns.setdefault(whose, deque()).append((future, lambda: work(*arguments, **options)))
        self._pool.submit(self._work)
        return await asyncio.wrap_future(future)

    def _work(self) -> None:
        """What is next: each that was put in line has one thread come for it, or for another."""
        with self._lock:
            whose, own = self._turns.popitem(last=False)
            future, work = own.popleft()
            if own:
                self._turns[whose] = own  # at the end
            self._free += 1
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(work())
            except BaseException as error:  # for who awaits it
                future.set_exception(error)

    def close(self) -> None:
        """End the threads when all is done; no call may follow."""
        self._pool.shutdown()
