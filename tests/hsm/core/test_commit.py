"""Sessions that share a batch: what becomes of one is no other's loss.

In a vault's processes that is in tests/hsm/core/test_state.py and tests/hsm/core/test_flood.py.
"""

import asyncio
import threading
from collections.abc import Sequence
from typing import cast

import pytest

from ipls.hsm.core.commit import GroupCommit
from ipls.hsm.state.store import StateStore, Transaction
from ipls.runtime.service import Service


class Batches:
    """In the place of the state store: works wait for the test."""

    def __init__(self) -> None:
        self.begun, self.go_on = threading.Event(), threading.Event()

    def perform(self, works: Sequence[Transaction]) -> list[object]:
        self.begun.set()
        self.go_on.wait()
        return [work() for work in works]


async def test_a_session_that_ends_meanwhile_costs_the_others_of_its_batch_nothing() -> None:
    batches = Batches()
    async with Service("core") as process, asyncio.timeout(60):
        commit = GroupCommit(cast(StateStore, batches), process)
        ending, other = (asyncio.create_task(commit.durably(lambda n=n: n)) for n in range(2))
        await asyncio.to_thread(batches.begun.wait)
        ending.cancel()
        await asyncio.wait((ending,))
        batches.go_on.set()
        assert await other == 1
        assert await commit.durably(lambda: 2) == 2
        commit.close()


async def test_a_fault_of_ours_ends_those_whom_it_met_and_no_others() -> None:
    batches = Batches()
    batches.go_on.set()
    async with Service("core") as process, asyncio.timeout(60):
        commit = GroupCommit(cast(StateStore, batches), process)
        with pytest.raises(ZeroDivisionError):
            await commit.durably(lambda: 1 // 0)
        assert await commit.durably(lambda: 2) == 2
        commit.close()
