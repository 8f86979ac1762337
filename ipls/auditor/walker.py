"""The audit of a whole log: lists it, then fetches and checks several epochs at a time.

Tested by tests/auditor/test_run.py.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from contextlib import contextmanager
from typing import NamedTuple

from ipls.auditlog.chain import Position, beginning, check_proof
from ipls.auditlog.cosignatures import count_cosignatures, signed_heads
from ipls.auditlog.equivocation import EquivocationDetector
from ipls.auditlog.errors import AuditError, AuditFault, AuditUnavailable, AuditWaits
from ipls.auditlog.listing import Listing, LogObject
from ipls.auditor.index import Index
from ipls.auditor.state import Kept
from ipls.clock import system_now_ms
from ipls.http.client import HttpClient, HttpUnavailable
from ipls.http.public_log import PublicReader
from ipls.proto.witness.v1.head_pb2 import SignedHead
from ipls.trust.evidence import encode, judge_evidence
from ipls.trust.heads import Head
from ipls.trust.limits import MAX_INT
from ipls.trust.root import TrustRoot

MAX_OBJECT = 128 * 1024 * 1024
"""Bytes of one object: four times what our own directory writes."""
MAX_IN_FLIGHT = 256 * 1024 * 1024
"""Bytes of objects in memory at a time."""
MAX_GROWTH = 100_000
"""Epochs that a log may grow by while it is listed."""
_LOOK_S = 0.25


class VerifiedEpoch(NamedTuple):
    """An epoch that holds: where the walk is now, and the time (ms) of each counted witness's signature."""

    position: Position
    signed: Mapping[str, int]


class Auditor:
    """One audit of the trust root's log."""

    def __init__(
        self,
        root: TrustRoot,
        *,
        parallel: int = 8,
        http: HttpClient | None = None,
        now_ms: Callable[[], int] = system_now_ms,
    ) -> None:
        self.index = Index()
        self._root = root
        self._parallel = parallel
        self._public = PublicReader(root, http=http, now_ms=now_ms)
        self._now_ms = now_ms
        self._memory = _Budget(MAX_IN_FLIGHT)
        self._detector = EquivocationDetector(root)
        self._meeting = threading.Lock()
        self._waiting: LogObject | None = None

    def newest(self) -> dict[str, Head]:
        """The newest head that each witness has a signature on; one at the start has none.

        Raises AuditUnavailable AUDIT_WITNESS_SILENT if fewer than k answer, AuditFault AUDIT_FORK if one signed another
        root before. To be asked before the log is listed: what a witness shows can be read in the log.
        """
        heads: dict[str, Head] = {}
        silent: list[str] = []
        for witness in self._root.witnesses:
            try:
                head = self._public.newest(witness)
            except HttpUnavailable:
                silent.append(witness.name)
                continue
            if head is not None:
                self._meet(head)
                heads[witness.name] = Head(head.epoch, head.root_hash)
        if len(self._root.witnesses) - len(silent) < self._root.k:
            raise AuditUnavailable("AUDIT_WITNESS_SILENT", f"no answer from {', '.join(silent)}")
        return heads

    def survey(self, newest: Mapping[str, Head]) -> None:
        """List the whole log into the index. Raises AuditError, as `Listing.take`."""
        top = max([self._root.start_epoch, *(head.epoch for head in newest.values())])
        listing = Listing(min(top + MAX_GROWTH, MAX_INT))
        token: str | None = None
        while True:
            page = self._public.page({"continuation-token": token} if token else {})
            self.index.add(listing.take(page))
            token = page.next_token
            if token is None:
                return

    def resume(self, kept: Kept | None) -> Position:
        """Where to go on, after a check that the log still has the names that were walked.

        Raises AuditFault AUDIT_LOG_CHANGED, AUDIT_HOLE, AUDIT_CHAIN_BROKEN; AUDIT_FORK if a witness signed another root
        for the epoch where the last run ended.
        """
        position = beginning(self._root)
        if kept is None:
            return position
        self._meet(kept.signed)
        self._meet(*self._answered(kept.position.epoch, self._public.answers(kept.position.epoch)))
        for step in self.index.between(position.epoch + 1, kept.position.epoch):
            position = position.after(step)
        if position != kept.position:
            message = "the log does not have the names of the last run"
            raise AuditFault("AUDIT_LOG_CHANGED", message, kept.position.epoch)
        return position

    def signed(self, position: Position) -> SignedHead:
        """What the witnesses signed of a position that the walk has reached."""
        return self._detector.at(position.epoch, position.root_hash)

    def begin_at(self, first: int) -> Position:
        """Where an audit from epoch `first` begins: the root before it, as the witnesses signed it.

        Raises AuditError, as `count_cosignatures`; AUDIT_HOLE, AUDIT_NOT_YET if the log doesn't have it; AuditWaits.
        """
        if first == self._root.start_epoch + 1:
            return beginning(self._root)
        before = self.index.get(first - 1)
        if before is None and first - 1 > self.index.last:
            raise AuditUnavailable("AUDIT_NOT_YET", "the log has not come so far", first - 1)
        if before is None:
            raise AuditFault("AUDIT_HOLE", "the log has no object for it", first - 1)
        try:
            self._settled(before)
        except AuditWaits:
            if self.index.last < first:
                raise
            self._cosigners(Head(before.epoch, before.new_root))
        return Position(before.epoch, before.new_root, bytes(32))

    def steps(self, position: Position) -> Iterator[LogObject]:
        """What the log has after the position, by epoch: as listed, then what it has grown by since.

        Each of the latter is asked for by its number when it is needed. Raises AuditError, as `survey`.
        """
        yield from self.index.between(position.epoch + 1, self.index.last)
        epoch = max(position.epoch, self.index.last)
        while True:
            epoch += 1
            found = self._public.step(epoch)
            if found is None:
                return
            self.index.add([found])
            yield found

    def walk(
        self, position: Position, steps: Iterator[LogObject], look: Callable[[], None] = lambda: None
    ) -> Iterator[VerifiedEpoch]:
        """Check the steps, several at a time, and give them in order. `look` is called now and then while it waits.

        Raises AuditError at the first that does not hold; all before it do. AuditWaits is for the log's newest object,
        which holds but for its signatures.
        """
        waiting: deque[tuple[LogObject, Future[dict[str, int]]]] = deque()
        ahead: AuditError | None = None
        pool = ThreadPoolExecutor(self._parallel)
        try:
            while True:
                try:
                    while ahead is None and len(waiting) < 2 * self._parallel and (step := next(steps, None)):
                        waiting.append((step, pool.submit(self._check, step)))
                except AuditError as error:  # in what comes later: those before it may be at fault too
                    ahead = error
                if not waiting and ahead is not None:
                    raise ahead
                if not waiting:
                    return
                step, checked = waiting.popleft()
                position = position.after(step)
                try:
                    signed = _result(checked, look)
                except AuditWaits:
                    if ahead is not None:
                        raise ahead from None
                    if self.index.last <= step.epoch:
                        raise
                    signed = self._cosigners(Head(step.epoch, step.new_root))  # it had them before another was written
                yield VerifiedEpoch(position, signed)
        finally:
            self._public.end()
            pool.shutdown(cancel_futures=True)
            self._public.begin()

    def check_end(self, position: Position, newest: Mapping[str, Head]) -> None:
        """Raises AuditFault AUDIT_ENDS_EARLY if a witness signed an epoch that the log lacks, AUDIT_FORK if another
        root than the log's."""
        for name, head in newest.items():
            found = self.index.get(head.epoch)
            if found is None and head.epoch > position.epoch:
                raise AuditFault("AUDIT_ENDS_EARLY", f"{name} signed it; the log ends at {position.epoch}", head.epoch)
            if found is not None and found.new_root != head.root_hash:
                raise AuditFault("AUDIT_FORK", f"{name} signed another root, {head.root_hash.hex()}", head.epoch)

    def _check(self, step: LogObject) -> dict[str, int]:
        if step != self._waiting:  # its proof has been checked
            with self._memory.taken(min(step.size, MAX_OBJECT)):
                check_proof(step, self._public.object(step, MAX_OBJECT))
        return self._settled(step)

    def _settled(self, step: LogObject) -> dict[str, int]:
        """As `_cosigners`, but AuditWaits where they are too few: unless the log has more objects, that is no fault."""
        try:
            return self._cosigners(Head(step.epoch, step.new_root))
        except AuditError as error:
            if error.reason not in ("AUDIT_UNSIGNED", "AUDIT_WITNESS_SILENT"):
                raise
            self._waiting = step
            raise AuditWaits(
                "AUDIT_NOT_YET", f"its object waits for signatures: {error.message}", step.epoch
            ) from error

    def _cosigners(self, head: Head) -> dict[str, int]:
        answers = self._public.answers(head.epoch)
        self._meet(*self._answered(head.epoch, answers))
        return count_cosignatures(self._root, head, answers, self._now_ms())

    def _answered(self, epoch: int, answers: Mapping[str, bytes | None]) -> list[SignedHead]:
        return signed_heads(self._root, epoch, answers, self._now_ms())

    def _meet(self, *heads: SignedHead) -> None:
        """Raises AuditFault AUDIT_FORK, with the evidence, if a witness signed another root for an epoch before."""
        with self._meeting:
            evidence = [found for head in heads for found in self._detector.take(head)]
        if evidence:
            text = judge_evidence(self._root, encode(evidence[0])).text
            raise AuditFault("AUDIT_FORK", text, heads[0].epoch, evidence)


def _result(checked: Future[dict[str, int]], look: Callable[[], None]) -> dict[str, int]:
    while True:
        try:
            return checked.result(_LOOK_S)
        except NotYet:
            look()


class _Budget:
    """Bytes that may be held at a time; who wants more waits."""

    def __init__(self, total: int) -> None:
        self._left = total
        self._changed = threading.Condition()

    @contextmanager
    def taken(self, size: int) -> Iterator[None]:
        """Holds `size` bytes, at most the total, while the block runs."""
        with self._changed:
            self._changed.wait_for(lambda: self._left >= size)
            self._left -= size
        try:
            yield
        finally:
            with self._changed:
                self._left += size
                self._changed.notify_all()
