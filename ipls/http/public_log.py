"""A public log and its witnesses, read over HTTP as anyone can; `ipls.auditlog` judges what they answer.

Blocking: for threads. The auditor walks a whole log by this, and a witness catches up by it.

Tested by tests/auditor/test_run.py and tests/attack/test_catching_up.py.
"""

import threading
import time
from collections.abc import Callable, Mapping
from urllib.parse import urlencode

from ipls.auditlog.cosignatures import MAX_ANSWER, parse_cosignature, parse_epoch
from ipls.auditlog.errors import AuditFault, AuditUnavailable, CosignatureInvalid
from ipls.auditlog.listing import MAX_PAGE, Listing, LogObject, Page, parse_page
from ipls.clock import system_now_ms
from ipls.http.client import HttpClient, HttpTooLarge, HttpUnavailable
from ipls.proto.witness.v1.head_pb2 import SignedHead
from ipls.trust.root import TrustRoot, Witness

PAUSES_S = (0.2, 1.0)
"""Before the second and the third attempt."""
SILENT_S = 30.0
"""How long a witness that did not answer is not asked again."""


class PublicReader:
    """The log and the witnesses of one trust root. `end` cuts the pauses between attempts short."""

    def __init__(
        self,
        root: TrustRoot,
        *,
        http: HttpClient | None = None,
        now_ms: Callable[[], int] = system_now_ms,
        silent_s: float = SILENT_S,
    ) -> None:
        self._root = root
        self._silent_s = silent_s
        self._http = http or HttpClient()
        self._now_ms = now_ms
        self._silent_until: dict[str, float] = {}
        self._ended = threading.Event()

    def newest(self, witness: Witness) -> SignedHead | None:
        """The newest head that the witness shows a signature on, with that one; None if it shows none that holds.

        Raises HttpUnavailable.
        """
        claim = self._ask(witness, "last-verified-epoch")
        if claim is None:
            return None
        try:
            epoch = parse_epoch(claim)
            answer = self._ask(witness, f"audits/{epoch}")
            if answer is None:
                return None
            verified = parse_cosignature(self._root, witness, epoch, answer, self._now_ms())
            return SignedHead(epoch=epoch, root_hash=verified.root_hash, cosignatures=[verified.cosignature])
        except CosignatureInvalid:
            return None  # a bare claim

    def answers(self, epoch: int) -> dict[str, bytes | None]:
        """What each witness answers for `audits/E`, by its name: None if it has none, nothing if it does not answer."""
        answers: dict[str, bytes | None] = {}
        for witness in self._root.witnesses:
            try:
                answers[witness.name] = self._ask(witness, f"audits/{epoch}")
            except HttpUnavailable:
                continue
        return answers

    def page(self, query: Mapping[str, str]) -> Page:
        """A page of the log's listing. Raises AuditFault AUDIT_LISTING_INVALID, AuditUnavailable AUDIT_LOG_SILENT."""
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

    def step(self, epoch: int) -> LogObject | None:
        """The log's one object for an epoch, as listed; None if it has none. Raises AuditError, as `Listing.take`."""
        objects = Listing(epoch).take(self.page({"prefix": f"{epoch}/"}))
        if any(found.epoch != epoch for found in objects):
            raise AuditFault("AUDIT_LISTING_INVALID", "the log lists names that were not asked for", epoch)
        return objects[0] if objects else None

    def try_object(self, name: str, limit: int) -> bytes | None:
        """The log's object of that name, of at most `limit` bytes, if the log gives it now: asked once, no listing.

        Raises HttpUnavailable, HttpTooLarge.
        """
        status, blob = self._http.get(f"{self._root.log_url.rstrip('/')}/{name}", limit=limit)
        return blob if status == 200 else None

    def object(self, step: LogObject, limit: int) -> bytes:
        """An object, of the size that was listed and at most `limit` bytes.

        Raises AuditFault AUDIT_OBJECT_SIZE, AUDIT_OBJECT_MISSING; AuditUnavailable AUDIT_LOG_SILENT.
        """
        if step.size > limit:
            raise AuditFault("AUDIT_OBJECT_SIZE", f"its object has over {limit} bytes", step.epoch)
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

    def end(self) -> None:
        """Let whoever waits between two attempts fail at once; until `begin`."""
        self._ended.set()

    def begin(self) -> None:
        """Try several times again, as at first."""
        self._ended.clear()

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
            self._silent_until[witness.name] = time.monotonic() + self._silent_s
            raise
        return answer if status == 200 else None

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
