"""The one publisher of a namespace: the epoch sequence of the directory's design, again and again."""

import asyncio
import math
import sqlite3
from asyncio import to_thread
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

import structlog

from ipls.akd import EMPTY_ROOT, DirectoryKey, Publication
from ipls.proto.witness.v1.head_pb2 import SignedHead
from ipls.server.directory.epochs import prepare, recompute, write_object
from ipls.server.directory.errors import NoQuorum, PublisherStopped
from ipls.server.directory.pruning import Pruner
from ipls.server.directory.witnesses import Witnesses
from ipls.store.directory import DirectoryStore, Step, StoredHead
from ipls.store.log import LogStore
from ipls.trust.heads import timestamp
from ipls.trust.root import TrustRoot

log = structlog.get_logger()

RETRY_S = (0.25, 5.0)
"""The first wait after a failure, and the longest; it doubles in between."""

MAX_STATED_TERM = 2**62
"""A witness's term is its word alone: one that lies must not use up the terms there are."""


class Announcements:
    """Wakes those who wait for the next head. Take `next` before reading the state it may change."""

    def __init__(self) -> None:
        self.next = asyncio.Event()

    def announce(self) -> None:
        """A head was committed."""
        self.next.set()
        self.next = asyncio.Event()


class Publisher:
    """Makes epochs of the queue and keeps the newest head's signatures young.

    Every step is durable before the next begins and can be done again, so that a crash or a refusal anywhere is
    answered in one way: from the start. Without k signatures nothing of an epoch is visible or in the log.
    """

    def __init__(
        self,
        store: DirectoryStore,
        root: TrustRoot,
        key: DirectoryKey,
        witnesses: Witnesses,
        audit_log: LogStore,
        pruner: Pruner,
        *,
        max_updates: int,
        max_age_s: float,
        now_ms: Callable[[], int],
        retry_s: tuple[float, float] = RETRY_S,
    ) -> None:
        self._store = store
        self._root = root
        self._key = key
        self._witnesses = witnesses
        self._log = audit_log
        self._pruner = pruner
        self._max_updates = max_updates
        self._max_age_ms = int(max_age_s * 1000)
        self._now_ms = now_ms
        self._retry_s = retry_s
        self._term = 0
        self._signed_ms = 0
        self._publication: Publication | None = None
        self._submitted = asyncio.Event()
        self.heads = Announcements()

    def submitted(self) -> None:
        """Updates were queued."""
        self._submitted.set()

    async def run(self) -> NoReturn:
        """Publish until cancelled. Raises PublisherStopped, or StoreError LEASE_HELD if another process publishes."""
        with self._store.lease():
            wait_s = self._retry_s[0]
            while True:
                try:
                    await self.lead()
                    while True:
                        await self.advance()
                        wait_s = self._retry_s[0]
                        await self._work()
                except (NoQuorum, OSError, sqlite3.OperationalError) as e:
                    reason = (
                        e.reason
                        if isinstance(e, NoQuorum)
                        else ("LOG_UNAVAILABLE" if isinstance(e, OSError) else "DATABASE_UNAVAILABLE")
                    )
                    log.warning("no epoch", reason=reason, why=str(e), retry_s=wait_s)
                await asyncio.sleep(wait_s)
                wait_s = min(2 * wait_s, self._retry_s[1])

    async def lead(self) -> None:
        """Take a term above those of all witnesses that answer. Raises NoQuorum, PublisherStopped.

        A witness ahead of this database means that the database is not the newest copy: a row made now would be a
        second one for its epoch.
        """
        states = await self._witnesses.states()
        head = await to_thread(self._store.head)
        step = await to_thread(self._store.unfinished_step)
        newest = step.epoch if step else head.epoch if head else self._root.start_epoch
        ahead = max(state.epoch for state in states)
        if ahead > newest:
            raise PublisherStopped(
                "DIRECTORY_BEHIND_WITNESS",
                f"a witness has signed epoch {ahead}, this database ends at {newest}: restore its newest copy",
            )
        above = min(max(state.term for state in states), MAX_STATED_TERM)
        self._term = await to_thread(self._store.take_term, above)

    async def advance(self) -> None:
        """One round: start the namespace, finish the row there is, renew the head, publish what waits.

        Raises NoQuorum, OSError (the log can't be written) and sqlite3.OperationalError (a full disk), which are tried
        again later; PublisherStopped.
        """
        head = await to_thread(self._store.head)
        if head is None:
            head = await self._start()
        if step := await to_thread(self._store.unfinished_step):
            head = await self._finish(step)
        if self._renewal_due_ms(head) <= self._now_ms():
            head = await self._renew(head)
        if await to_thread(self._epoch_due_ms) <= self._now_ms():
            prepared = await to_thread(prepare, self._store, self._key, self._max_updates)
            self.heads.announce()  # updates that change nothing have their tickets resolved
            if prepared:
                step, self._publication = prepared
                await self._finish(step)

    async def _start(self) -> StoredHead:
        if (self._root.start_epoch, self._root.start_root) != (0, EMPTY_ROOT):
            raise PublisherStopped("START_NOT_EMPTY", "the trust root starts with a tree that this database lacks")
        signed = await self._sign(0, EMPTY_ROOT, EMPTY_ROOT, b"")
        head = StoredHead(0, EMPTY_ROOT, 0, signed.SerializeToString())
        await to_thread(self._store.commit_start, head)
        self.heads.announce()
        return head

    async def _finish(self, step: Step) -> StoredHead:
        """Signatures, then the log, then the head: the log may lead the head by one, never lag."""
        if self._publication is None or self._publication.epoch != step.epoch:
            self._publication = await to_thread(recompute, self._store, self._key, step)
        signed = await self._sign(step.epoch, step.old_root, step.new_root, step.blob)
        await to_thread(write_object, self._log, step)
        head = await to_thread(self._store.commit, step, self._publication, signed.SerializeToString())
        self._publication = None
        self.heads.announce()
        log.info("epoch published", epoch=head.epoch, updates=len(step.batch))
        return head

    async def _renew(self, head: StoredHead) -> StoredHead:
        signed = await self._sign(head.epoch, head.root_hash, head.root_hash, b"")
        renewed = head._replace(signed=signed.SerializeToString())
        await to_thread(self._store.renew, renewed)
        self.heads.announce()
        return renewed

    async def _sign(self, epoch: int, old_root: bytes, new_root: bytes, blob: bytes) -> SignedHead:
        signed = await self._witnesses.sign(self._term, epoch, old_root, new_root, blob)
        self._signed_ms = self._now_ms()
        return signed

    def _renewal_due_ms(self, head: StoredHead) -> int:
        """When a quarter of the maximum age is over for the oldest of the head's signatures.

        And over since they were given: a witness whose clock is behind is not asked without end.
        """
        signed = SignedHead.FromString(head.signed)
        oldest_ms = min(map(timestamp, signed.cosignatures))
        return max(oldest_ms, self._signed_ms) + self._root.max_head_age_ms // 4

    def _epoch_due_ms(self) -> float:
        """When the next epoch is to be made; never, while nothing waits."""
        waiting = self._store.waiting()
        if waiting.updates == 0:
            return math.inf
        return 0 if waiting.updates >= self._max_updates else waiting.oldest_ms + self._max_age_ms

    async def _work(self) -> None:
        """Return when an epoch or the head's renewal is due; until then, prune."""
        head = await to_thread(self._store.head)
        assert head is not None, "advance has made the first"
        pruning = True
        while True:
            if pruning:  # once at least, or a directory that is always busy would only grow
                pruning = await to_thread(self._pruner.some)
            self._submitted.clear()
            due_ms = min(self._renewal_due_ms(head), await to_thread(self._epoch_due_ms))
            wait_ms = due_ms - self._now_ms()
            if wait_ms <= 0:
                return
            if pruning:
                continue
            with suppress(TimeoutError):
                await asyncio.wait_for(self._submitted.wait(), wait_ms / 1000)
