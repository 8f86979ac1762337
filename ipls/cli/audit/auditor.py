"""The audit's input and output: asks the log and the witnesses over HTTP; `ipls.audit` judges what they answer."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from contextlib import contextmanager
from typing import NamedTuple
from urllib.parse import urlencode

from ipls.audit.errors import AuditError, AuditFault, AuditUnavailable
from ipls.audit.listing import MAX_PAGE, Listing, LogObject, Page, parse_page
from ipls.audit.votes import MAX_ANSWER, VoteIgnored, count_votes, parse_epoch, parse_vote
from ipls.audit.walk import Position, beginning, check_proof
from ipls.cli.audit.index import Index
from ipls.clock import system_now_ms
from ipls.rpc.http import HttpClient, HttpTooLarge, HttpUnavailable
from ipls.trust.heads import Head
from ipls.trust.limits import MAX_INT
from ipls.trust.root import TrustRoot, Witness

MAX_OBJECT = 128 * 1024 * 1024
"""Bytes of one object: four times what our own directory writes."""
MAX_IN_FLIGHT = 256 * 1024 * 1024
"""Bytes of objects in memory at a time."""
MAX_GROWTH = 100_000
"""Epochs that a log may grow by while it is listed."""
PAUSES_S = (0.2, 1.0)
"""Before the second and the third attempt."""
SILENT_S = 30.0
"""How long a witness that did not answer is not asked again."""
_LOOK_S = 0.25


class Step(NamedTuple):
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
        self._http = http or HttpClient()
        self._now_ms = now_ms
        self._memory = _Budget(MAX_IN_FLIGHT)
        self._silent_until: dict[str, float] = {}
        self._ended = threading.Event()

    def newest(self) -> dict[str, Head]:
        """The newest head that each witness has a signature on; one at the start has none.

        Raises AuditUnavailable AUDIT_WITNESS_SILENT if fewer than k answer. To be asked before the log is listed: what
        a witness shows can be read in the log.
        """
        heads: dict[str, Head] = {}
        silent: list[str] = []
        for witness in self._root.witnesses:
            try:
                claim = self._ask(witness, "last-verified-epoch")
                if claim is None:
                    continue
                epoch = parse_epoch(claim)
                answer = self._ask(witness, f"audits/{epoch}")
                if answer is not None:
                    digest, _ = parse_vote(self._root, witness, epoch, answer, self._now_ms())
                    heads[witness.name] = Head(epoch, digest)
            except HttpUnavailable:
                silent.append(witness.name)
            except VoteIgnored:
                continue  # a bare claim; the walk says which epochs it has not signed
        if len(self._root.witnesses) - len(silent) < self._root.k:
            raise AuditUnavailable("AUDIT_WITNESS_SILENT", f"no answer from {', '.join(silent)}")
        return heads

    def survey(self, newest: Mapping[str, Head]) -> None:
        """List the whole log into the index. Raises AuditError, as `Listing.take`."""
        top = max([self._root.start_epoch, *(head.epoch for head in newest.values())])
        listing = Listing(min(top + MAX_GROWTH, MAX_INT))
        token: str | None = None
        while True:
            page = self._page({"continuation-token": token} if token else {})
            self.index.add(listing.take(page))
            token = page.next_token
            if token is None:
                return

    def resume(self, kept: Position | None) -> Position:
        """Where to go on, after a check that the log still has the names that were walked.

        Raises AuditFault AUDIT_LOG_CHANGED, AUDIT_HOLE, AUDIT_CHAIN_BROKEN.
        """
        position = beginning(self._root)
        if kept is None:
            return position
        for step in self.index.between(position.epoch + 1, kept.epoch):
            position = position.after(step)
        if position != kept:
            raise AuditFault("AUDIT_LOG_CHANGED", "the log does not have the names of the last run", kept.epoch)
        return position

    def begin_at(self, first: int) -> Position:
        """Where an audit from epoch `first` begins: the root before it, as the witnesses signed it.

        Raises AuditError, as `count_votes`; AUDIT_HOLE, AUDIT_NOT_YET if the log doesn't have it.
        """
        if first == self._root.start_epoch + 1:
            return beginning(self._root)
        before = self.index.get(first - 1)
        if before is None and first - 1 > self.index.last:
            raise AuditUnavailable("AUDIT_NOT_YET", "the log has not come so far", first - 1)
        if before is None:
            raise AuditFault("AUDIT_HOLE", "the log has no object for it", first - 1)
        self._votes(Head(before.epoch, before.new_root))
        return Position(before.epoch, before.new_root, bytes(32))

    def steps(self, position: Position) -> Iterator[LogObject]:
        """What the log has after the position, by epoch: as listed, then what it has grown by since.

        Each of the latter is asked for by its number when it is needed. Raises AuditError, as `survey`.
        """
        yield from self.index.between(position.epoch + 1, self.index.last)
        epoch = max(position.epoch, self.index.last)
        while True:
            epoch += 1
            objects = Listing(epoch).take(self._page({"prefix": f"{epoch}/"}))
            if any(found.epoch != epoch for found in objects):
                raise AuditFault("AUDIT_LISTING_INVALID", "the log lists names that were not asked for", epoch)
            if not objects:
                return
            self.index.add(objects)
            yield objects[0]

    def walk(
        self, position: Position, steps: Iterator[LogObject], look: Callable[[], None] = lambda: None
    ) -> Iterator[Step]:
        """Check the steps, several at a time, and give them in order. `look` is called now and then while it waits.

        Raises AuditError at the first that does not hold; all before it do.
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
                yield Step(position, _result(checked, look))
        finally:
            self._ended.set()
            pool.shutdown(cancel_futures=True)
            self._ended.clear()

    def check_end(self, position: Position, newest: Mapping[str, Head]) -> None:
        """Raises AuditFault AUDIT_ENDS_EARLY if a witness signed an epoch that the log lacks, AUDIT_FORK if another
        root than the log's."""
        for name, head in newest.items():
            found = self.index.get(head.epoch)
            if head.epoch > position.epoch:
                raise AuditFault("AUDIT_ENDS_EARLY", f"{name} signed it; the log ends at {position.epoch}", head.epoch)
            if found is not None and found.new_root != head.root_hash:
                raise AuditFault("AUDIT_FORK", f"{name} signed another root, {head.root_hash.hex()}", head.epoch)

    def _check(self, step: LogObject) -> dict[str, int]:
        if step.size > MAX_OBJECT:
            raise AuditFault("AUDIT_OBJECT_SIZE", f"its object has over {MAX_OBJECT} bytes", step.epoch)
        with self._memory.taken(step.size):
            check_proof(step, self._object(step))
        return self._votes(Head(step.epoch, step.new_root))

    def _object(self, step: LogObject) -> bytes:
        try:
            status, blob = self._get(f"{self._root.log_url.rstrip('/')}/{step.name}", step.size)
        except HttpTooLarge:
            raise AuditFault("AUDIT_OBJECT_SIZE", "its object is longer than listed", step.epoch) from None
        except HttpUnavailable as e:
            raise AuditUnavailable("AUDIT_LOG_SILENT", f"the log does not answer ({e})", step.epoch) from e
        if status != 200:
            raise AuditFault("AUDIT_OBJECT_MISSING", f"its object is listed but can't be read ({status})", step.epoch)
        if len(blob) != step.size:
            raise AuditFault("AUDIT_OBJECT_SIZE", "its object is shorter than listed", step.epoch)
        return blob

    def _votes(self, head: Head) -> dict[str, int]:
        answers: dict[str, bytes | None] = {}
        for witness in self._root.witnesses:
            try:
                answers[witness.name] = self._ask(witness, f"audits/{head.epoch}")
            except HttpUnavailable:
                continue
        return count_votes(self._root, head, answers, self._now_ms())

    def _ask(self, witness: Witness, what: str) -> bytes | None:
        """The witness's answer, None if it has none. Raises HttpUnavailable, also soon after it did not answer."""
        if time.monotonic() < self._silent_until.get(witness.name, 0):
            raise HttpUnavailable(f"{witness.name} did not answer")
        url = f"{witness.url.rstrip('/')}/namespaces/{self._root.namespace}/{what}"
        try:
            status, answer = self._get(url, MAX_ANSWER)
        except HttpTooLarge:
            return b""  # whatever it is, it is no signature
        except HttpUnavailable:
            self._silent_until[witness.name] = time.monotonic() + SILENT_S
            raise
        return answer if status == 200 else None

    def _page(self, query: Mapping[str, str]) -> Page:
        try:
            url = f"{self._root.log_url.rstrip('/')}/?{urlencode({'list-type': '2', **query})}"
            status, body = self._get(url, MAX_PAGE)
        except HttpTooLarge:
            raise AuditFault("AUDIT_LISTING_INVALID", "a page is too large") from None
        except HttpUnavailable as e:
            raise AuditUnavailable("AUDIT_LOG_SILENT", f"the log does not answer ({e})") from e
        if status != 200:
            raise AuditUnavailable("AUDIT_LOG_SILENT", f"the log can't be listed ({status})")
        return parse_page(body)

    def _get(self, url: str, limit: int) -> tuple[int, bytes]:
        """With some patience for a side that is busy or starting again."""
        for pause_s in (*PAUSES_S, None):
            try:
                status, body = self._http.get(url, limit=limit)
                if status < 500 and status != 429:
                    return status, body
                failed = HttpUnavailable(f"status {status}")
            except HttpUnavailable as e:
                failed = e
            if pause_s is None or self._ended.wait(pause_s):
                break
        raise failed


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
