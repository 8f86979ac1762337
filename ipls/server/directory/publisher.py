"""The publisher of a namespace: the epoch sequence of the directory's design, again and again.

Any number of processes run one over one database; the holder of the lease publishes.

Tested by tests/server/directory/test_recovery.py and tests/server/directory/test_protocol_model.py.
"""

import asyncio
import logging
import math
from asyncio import to_thread
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

import structlog
from google.protobuf.message import DecodeError

from ipls.akd import EMPTY_ROOT, DirectoryKey
from ipls.proto.witness.v1.head_pb2 import SignedHead
from ipls.server.directory.epochs import adopt, prepare, recompute, write_object
from ipls.server.directory.errors import EpochDamaged, LogRefused, NoEpoch, PublisherStopped
from ipls.server.directory.lease import LeaseKeeper
from ipls.server.directory.pruning import Pruner
from ipls.server.directory.witnesses import RENEWALS, Witnesses
from ipls.store.directory import DirectoryStore, EpochRow, PreparedEpoch, StoredHead
from ipls.store.errors import StoreDamaged, StoreRefused, StoreUnavailable
from ipls.store.log import LogStore
from ipls.trust.errors import HeadRefused
from ipls.trust.heads import signers, timestamp
from ipls.trust.root import TrustRoot

log = structlog.get_logger()

RETRY_S = (0.25, 5.0)
"""The first wait after a failure, and the longest; it doubles in between."""

LOOK_EVERY_S = 2.0
"""How often the time is looked at while nothing is due: no timer counts the time that a machine sleeps."""

MAX_STATED_TERM = 2**62
"""A witness's term is its word alone: one that lies must not use up the terms there are."""


class HeadNotifier:
    """Wakes those who wait for the next head. Take `next` before reading the state it may change."""

    def __init__(self) -> None:
        self.next = asyncio.Event()

    def announce(self) -> None:
        """A head was committed."""
        self.next.set()
        self.next = asyncio.Event()


HOLD_MS = 60_000
"""Before updates that go over damage are tried again: somebody has to mend it first."""


class Publisher:
    """Makes epochs of the queue and keeps the newest head's signatures young, while it holds the lease.

    Every step is durable before the next begins and can be done again, so that a crash or a refusal anywhere is
    answered in one way: from the start. Without k signatures nothing of an epoch is visible but its object in the log.
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
        self._wait_s = retry_s[0]
        self._trouble = ""
        self._held_ms = 0
        self._term = 0
        self._signed_epoch = 0
        self._is_level = False
        self._signed_ms = 0
        self._made: PreparedEpoch | None = None
        self._submitted = asyncio.Event()
        self.heads = HeadNotifier()

    def submitted(self) -> None:
        """Updates were queued."""
        self._submitted.set()

    async def run(self, lease: LeaseKeeper) -> NoReturn:
        """Publish whenever the lease is ours, until cancelled. Raises PublisherStopped.

        Who can't publish gives the lease back for a while: another process may reach what this one does not.
        """
        while True:
            try:
                seen = await lease.until_free()
                above = await self.ask()
                await lease.hold(seen, above, self._publish)
            except (NoEpoch, OSError, StoreUnavailable, StoreDamaged) as e:
                reason = "LOG_UNAVAILABLE" if isinstance(e, OSError) else e.reason
                self._trouble = "no epoch"
                level = logging.ERROR if isinstance(e, EpochDamaged | StoreDamaged) else logging.WARNING
                log.log(level, self._trouble, reason=reason, why=str(e), retry_s=self._wait_s)
                await asyncio.sleep(self._wait_s)
                self._wait_s = min(2 * self._wait_s, self._retry_s[1])
            except StoreRefused as e:
                if e.reason != "LEASE_LOST":
                    raise
                log.info("another process publishes", why=str(e))

    async def ask(self) -> int:
        """Ask the witnesses what they have signed. The term that a new one must be above. Raises NoQuorum."""
        states = (await self._witnesses.states()).values()
        self._signed_epoch = sorted(state.epoch for state in states)[-self._root.k]
        return min(max(state.term for state in states), MAX_STATED_TERM)

    async def _publish(self, term: int) -> None:
        self.lead(term)
        while True:
            await self.advance()
            self._wait_s = self._retry_s[0]
            await self._tell()
            await self._work()

    async def _tell(self) -> None:
        """Say once that updates are held, and when all is well again."""
        held = (await to_thread(self._store.waiting)).held
        if held and self._trouble != "updates held":
            self._trouble = "updates held"
            why = f"{held} updates wait: the stored tree is damaged where they would go"
            log.error(self._trouble, reason="TREE_CORRUPT", why=why)
        elif self._trouble and not held:
            self._trouble = ""
            log.info("epochs again")

    def lead(self, term: int) -> None:
        """Publish in this term from now on."""
        self._term = term
        self._is_level = False
        self._held_ms = 0

    async def advance(self) -> None:
        """One round: start the namespace, finish the row there is, adopt what only the log has, renew the head, publish
        what waits. The head is renewed too where an epoch fails.

        Raises NoEpoch, OSError (the log can't be written), StoreUnavailable (a full disk) and StoreDamaged, which are
        tried again later; StoreRefused LEASE_LOST; PublisherStopped.
        """
        head = await to_thread(self._store.head)
        head = await self._start() if head is None else await self._sound(head)
        is_due = await to_thread(self._epoch_due_ms) <= self._now_ms()
        self._is_level = self._is_level and not is_due
        try:
            while step := await to_thread(self._store.unfinished_step) or await self._adopt(head):
                head = await self._finish(step)
        except (NoEpoch, OSError, PublisherStopped):
            await self._keep_young(head)  # which takes neither the log nor the tree, and reads end without
            raise
        await self._keep_young(head)
        if is_due:
            if self._hold_ends_ms() <= self._now_ms():
                self._held_ms = self._now_ms()
                await to_thread(self._store.let_go, self._term)
            prepared = await to_thread(prepare, self._store, self._key, self._term, self._max_updates)
            self.heads.announce()  # updates that change nothing have their tickets resolved
            if prepared:
                step, self._made = prepared
                await self._finish(step)

    async def _start(self) -> StoredHead:
        if (self._root.start_epoch, self._root.start_root) != (0, EMPTY_ROOT):
            raise PublisherStopped("START_NOT_EMPTY", "the trust root starts with a tree that this database lacks")
        signed = await self._sign(0, EMPTY_ROOT, EMPTY_ROOT, b"")
        head = StoredHead(0, EMPTY_ROOT, 0, signed.SerializeToString())
        await to_thread(self._store.commit_start, self._term, head)
        self.heads.announce()
        return head

    async def _sound(self, head: StoredHead) -> StoredHead:
        """The newest head as its witnesses signed it. Where a bit of its row has flipped, no other root is proposed for
        its epoch: that would be a fork, of our own making."""
        signed = _signed(head)
        sound = head._replace(epoch=signed.epoch, root_hash=signed.root_hash)
        if sound != head and self._counts(head):
            log.error("head mended", epoch=sound.epoch)
            await to_thread(self._store.mend_head, self._term, head.epoch, sound)
            return sound
        return head

    async def _adopt(self, head: StoredHead) -> EpochRow | None:
        """The row of the next epoch, made of the log's object; None if the log has none.

        A row made from the queue instead would be a second one for its epoch. Whoever holds the lease alone writes to
        the log, or should: it is looked at until it has no more, and again before each row.
        """
        if self._is_level:
            return None
        step = await to_thread(adopt, self._store, self._log, self._term, head)
        if step is None and head.epoch < self._signed_epoch:
            message = f"k witnesses have signed epoch {head.epoch + 1}, and the log does not show it"
            raise LogRefused("STEP_UNAVAILABLE", message)
        self._is_level = step is None
        if step:
            log.warning("epoch adopted", epoch=step.epoch)
        return step

    async def _finish(self, step: EpochRow) -> StoredHead:
        """The log, then signatures, then the head: the log may lead the head by one, never lag."""
        if self._made is None or self._made.publication.epoch != step.epoch:
            self._made = await to_thread(recompute, self._store, self._key, step)
        blob = await to_thread(write_object, self._log, step)
        signed = await self._sign(step.epoch, step.old_root, step.new_root, blob)
        head = await to_thread(self._store.commit, self._term, step, self._made, signed.SerializeToString())
        self._made = None
        self.heads.announce()
        log.info("epoch published", epoch=head.epoch, updates=len(step.batch))
        return head

    async def _keep_young(self, head: StoredHead) -> None:
        """Have the newest head signed anew, where that is due."""
        if self._renewal_due_ms(head) > self._now_ms() and self._counts(head):
            return
        signed = await self._sign(head.epoch, head.root_hash, head.root_hash, b"")
        await to_thread(self._store.renew, self._term, head._replace(signed=signed.SerializeToString()))
        self.heads.announce()

    async def _sign(self, epoch: int, old_root: bytes, new_root: bytes, blob: bytes) -> SignedHead:
        head = await to_thread(self._store.head)
        known = _signed(head) if head else None
        newest = epoch >= self._signed_epoch
        signed = await self._witnesses.sign(self._term, epoch, old_root, new_root, blob, known, newest=newest)
        self._signed_ms = self._now_ms()
        return signed

    def _counts(self, head: StoredHead) -> bool:
        """Whether its signatures are a quorum: a new version of the trust root may have taken out the keys of some, or
        a bit has flipped."""
        try:
            signers(self._root, _signed(head), now_ms=self._now_ms(), check_age=False)
        except HeadRefused:
            return False
        return True

    def _renewal_due_ms(self, head: StoredHead) -> int:
        """When a quarter of the maximum age is over for the oldest of the head's signatures.

        And over since they were given: a witness whose clock is behind is not asked without end. Unless they were given
        at a time that has yet to come, by a clock that has been put right since.
        """
        try:
            oldest_ms = min(map(timestamp, _signed(head).cosignatures), default=0)
        except HeadRefused:
            return 0
        given_ms = self._signed_ms if self._signed_ms <= self._now_ms() else 0
        return max(oldest_ms, given_ms) + self._root.max_head_age_ms // RENEWALS

    def _epoch_due_ms(self) -> float:
        """When the next epoch is to be made; never, while nothing waits. At once for what was queued at a time that has
        yet to come, by a clock that has been put right since."""
        waiting = self._store.waiting()
        again_ms = self._hold_ends_ms() if waiting.held else math.inf
        if waiting.updates == 0:
            return again_ms
        at_once = waiting.updates >= self._max_updates or waiting.oldest_ms > self._now_ms()
        return 0 if at_once else min(again_ms, waiting.oldest_ms + self._max_age_ms)

    def _hold_ends_ms(self) -> int:
        return self._held_ms + HOLD_MS if self._held_ms <= self._now_ms() else 0

    async def _work(self) -> None:
        """Return when an epoch or the head's renewal is due; until then, prune."""
        head = await to_thread(self._store.head)
        assert head is not None, "advance has made the first"
        pruning = True
        while True:
            if pruning:  # once at least, or a directory that is always busy would only grow
                pruning = await to_thread(self._pruner.some, self._term)
            self._submitted.clear()
            due_ms = min(self._renewal_due_ms(head), await to_thread(self._epoch_due_ms))
            wait_ms = due_ms - self._now_ms()
            if wait_ms <= 0:
                return
            if pruning:
                continue
            with suppress(TimeoutError):  # not wait_for, which may swallow the cancellation that ends us
                async with asyncio.timeout(min(wait_ms / 1000, LOOK_EVERY_S)):
                    await self._submitted.wait()


def _signed(head: StoredHead) -> SignedHead:
    """What witnesses signed; nothing, if it can't be read any more."""
    try:
        return SignedHead.FromString(head.signed)
    except DecodeError:
        return SignedHead()
