"""Group commit: works of the state store, in its one thread; those that wait together share a transaction and an
anchor."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

import structlog
from google.protobuf.message import DecodeError

from ipls.hsm.state.store import StateStore, Transaction
from ipls.runtime.service import Service
from ipls.store.errors import StoreError
from ipls.vault.errors import SessionRefused

log = structlog.get_logger()

TRANSIENT = ("VAULT_NOTARY_LOST", "VAULT_STORAGE_FAILED")
"""Faults of the vault that a repeat may find mended."""
MAX_BATCH = 256
"""Works that share one transaction and one anchor."""
CHECK_PAUSE_S = 0.1
"""Between the steps of the walk through the whole database: service goes first."""
CHECK_EVERY_S = 24 * 3600.0
"""Between two walks."""

T = TypeVar("T")


class GroupCommit:
    """Performs works in the order in which they come; `process` has its task while there are any."""

    def __init__(self, state_store: StateStore, process: Service) -> None:
        self._state_store = state_store
        self._process = process
        self._thread = ThreadPoolExecutor(1)  # the state store and what lies in it belong to this thread
        self._works: list[tuple[Transaction, asyncio.Future[Any]]] = []
        self._performing = False

    async def durably(self, work: Callable[[], T]) -> T:
        """What `work` returns, when what it put in the state store is durable and anchored, as all works that wait
        then.

        Raises what it raises; SessionRefused VAULT_STORAGE_FAILED if database or bundle fail.
        """
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._works.append((work, future))
        if not self._performing:
            self._performing = True
            self._process.start("group commit", self._perform_all())
        try:
            return await future
        except (StoreError, OSError, DecodeError) as error:
            log.error("vault storage failed", error=f"{type(error).__name__}: {error}")
            raise SessionRefused("VAULT_STORAGE_FAILED", "the vault can't read or write what it keeps") from error

    async def keep_checking(self) -> None:
        """Walks through all that the database holds, at the start and each day, and tells what was edited.

        It costs whose row it is, when that is read, and nobody else.
        """
        pause_s = CHECK_PAUSE_S
        while True:
            try:
                await self._check_all()
                pause_s = CHECK_PAUSE_S
                await asyncio.sleep(CHECK_EVERY_S)
            except SessionRefused as refused:
                log.error("vault database not checked", reason=refused.reason, error=refused.message)
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, CHECK_EVERY_S)

    def close(self) -> None:
        """Returns when the work that is being done is done."""
        self._thread.shutdown()

    async def _check_all(self) -> None:
        steps, damaged = self._state_store.check(), 0
        while (found := await self.durably(partial(next, steps, None))) is not None:
            if found:
                log.error("vault database damaged", reason=found[0].reason, error=found[0].message, rows=len(found))
            damaged += len(found)
            await asyncio.sleep(CHECK_PAUSE_S)
        log.info("vault database checked", damaged=damaged)

    async def _perform_all(self) -> None:
        try:
            while self._works:
                batch, self._works = self._works[:MAX_BATCH], self._works[MAX_BATCH:]
                await self._perform_batch([(work, future) for work, future in batch if not future.done()])
        finally:
            self._performing = False

    async def _perform_batch(self, batch: list[tuple[Transaction, asyncio.Future[Any]]]) -> None:
        try:
            works = [work for work, _ in batch]
            outcomes = await asyncio.get_running_loop().run_in_executor(self._thread, self._state_store.perform, works)
        except Exception as error:  # a fault of ours must end the sessions that it met, and no others
            outcomes = [error] * len(batch)
        for (_, future), outcome in zip(batch, outcomes, strict=True):
            if future.done():
                continue  # its session has ended
            if isinstance(outcome, Exception):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)
