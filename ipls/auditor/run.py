"""One run of an audit: where it begins, what it walks, what it keeps for the next one, what it finds."""

import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from ipls.auditlog.chain import beginning
from ipls.auditlog.errors import AuditError, AuditUnavailable, AuditWaits
from ipls.auditor.state import Kept, default_path, load_kept, save_kept
from ipls.auditor.walker import Auditor, VerifiedEpoch
from ipls.proto.trust.v1.evidence_pb2 import Evidence
from ipls.store.errors import StoreError
from ipls.store.evidence import EvidenceFolder
from ipls.trust.root import TrustRoot

SAVE_S = 1.0


class Listed(NamedTuple):
    """So many epochs are listed after the one where the run begins."""

    epochs: int


class CaughtUp(NamedTuple):
    """Everything that the log had is walked; further epochs come as they are published."""


class Waiting(NamedTuple):
    """The log's newest object holds, and has not enough signatures yet; the run goes on."""

    error: AuditWaits


class Unanswered(NamedTuple):
    """Something did not answer while the log is followed; the run goes on."""

    error: AuditUnavailable


class Unwritten(NamedTuple):
    """A file of evidence could not be written."""

    error: OSError | StoreError


Event = Listed | VerifiedEpoch | CaughtUp | Waiting | Unanswered | Unwritten
Report = Callable[[Event], None]


class Summary(NamedTuple):
    """What a run has found: epochs `first` to `last` hold; `root_hash` is the last one's."""

    first: int
    last: int
    root_hash: bytes
    waiting: int | None
    """The epoch after it, where its object lies in the log and waits for signatures."""
    signed: dict[str, int]
    """For each of the trust root's witnesses, how many of these epochs it signed."""
    seconds: float
    evidence: list[Path]
    """The files in which it is kept."""

    @property
    def epochs(self) -> int:
        """How many were checked."""
        return self.last - self.first + 1

    @property
    def rate(self) -> float:
        """Epochs a second."""
        return self.epochs / self.seconds if self.seconds else 0.0


class AuditRun:
    """From epoch `first`, or from where `state` says that the last run came. What happens goes to `report`."""

    def __init__(
        self,
        root: TrustRoot,
        report: Report,
        *,
        first: int | None = None,
        state: Path | None = None,
        evidence: Path | None = None,
        parallel: int = 8,
    ) -> None:
        """`state` None is a file in the user's state folder, `evidence` None a folder beside the state.

        Raises ConfigError AUDIT_STATE_INVALID.
        """
        path = state or default_path(root)
        self._root = root
        self._report = report
        self._first = first
        # An audit of a part says nothing about where the audit of the whole is.
        self._path = None if first is not None else path
        self._kept = load_kept(self._path, root) if self._path else None
        self._evidence = EvidenceFolder(evidence or path.parent / "evidence")
        self._auditor = Auditor(root, parallel=parallel)
        self._at = self._from = self._saved = beginning(root)
        self._looked = self._started = time.monotonic()
        self._signed: Counter[str] = Counter()
        self._waiting: int | None = None

    def catch_up(self) -> None:
        """Everything that the log has by now. Raises AuditError at the first fault, or where something is silent."""
        self._auditor.survey(self._auditor.newest())
        self._at = self._from = self._saved = (
            self._auditor.resume(self._kept) if self._first is None else self._auditor.begin_at(self._first)
        )
        self._looked = self._started = time.monotonic()
        self._report(Listed(self._auditor.index.last - self._at.epoch))
        self._walk()
        self._report(CaughtUp())

    def follow(self, interval_s: float) -> None:
        """Go on for ever, once it has caught up. Raises AuditError at the first fault."""
        while True:
            threading.Event().wait(interval_s)
            try:
                self._walk()
            except AuditUnavailable as error:
                self._report(Unanswered(error))

    def end(self, error: AuditError | None) -> Summary:
        """Keep the position and the evidence of the error, None for a run that ended well."""
        self._save()
        found = error.evidence if error else ()
        files = [file for evidence in found if (file := self._keep(evidence))]
        return Summary(
            first=self._from.epoch + 1,
            last=self._at.epoch,
            root_hash=self._at.root_hash,
            waiting=self._waiting,
            signed={witness.name: self._signed[witness.name] for witness in self._root.witnesses},
            seconds=time.monotonic() - self._started,
            evidence=files,
        )

    def _walk(self) -> None:
        newest = self._auditor.newest()
        before, self._waiting = self._waiting, None
        try:
            for step in self._auditor.walk(self._at, self._auditor.steps(self._at), self._look):
                self._at = step.position
                self._signed.update(step.signed.keys())
                self._report(step)
                self._look()
        except AuditWaits as error:
            self._waiting = error.epoch
            if self._waiting != before:  # told once
                self._report(Waiting(error))
        self._auditor.check_end(self._at, newest)
        self._save()

    def _look(self) -> None:
        """Save if it was not done lately."""
        if time.monotonic() - self._looked >= SAVE_S:
            self._save()

    def _save(self) -> None:
        """Keep the position for the next run."""
        self._looked = time.monotonic()
        if self._path and self._at != self._saved:
            save_kept(self._path, self._root, Kept(self._at, self._auditor.signed(self._at)))
            self._saved = self._at

    def _keep(self, evidence: Evidence) -> Path | None:
        try:
            return self._evidence.keep(evidence)
        except (OSError, StoreError) as error:  # the fault is told all the same
            self._report(Unwritten(error))
            return None
