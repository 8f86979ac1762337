"""One run of the command: where it is, what it keeps for the next one, what it reports."""

import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from ipls.auditlog.chain import Position, beginning
from ipls.auditlog.errors import AuditError, AuditUnavailable
from ipls.auditor.state import Kept, save_kept
from ipls.auditor.walker import VerifiedEpoch
from ipls.cli.console import emit
from ipls.proto.trust.v1.evidence_pb2 import Evidence
from ipls.proto.witness.v1.head_pb2 import SignedHead
from ipls.store.errors import StoreError
from ipls.store.evidence import EvidenceFolder
from ipls.trust.root import TrustRoot

SAVE_S = 1.0


class Run:
    """`path` is the state file, None where nothing is kept; `signed` gives the signatures on a position walked."""

    def __init__(
        self,
        root: TrustRoot,
        path: Path | None,
        evidence: EvidenceFolder,
        signed: Callable[[Position], SignedHead],
        *,
        as_json: bool,
    ) -> None:
        self.at = beginning(root)
        self._root = root
        self._path = path
        self._evidence = evidence
        self._signed_at = signed
        self._as_json = as_json
        self._from = self.at
        self._saved = self.at
        self._looked = self._started = time.monotonic()
        self._signed: Counter[str] = Counter()

    def begin(self, position: Position) -> None:
        """Everything up to here held before, or is not asked about."""
        self.at = self._from = self._saved = position
        self._looked = self._started = time.monotonic()

    def take(self, step: VerifiedEpoch, *, tell: bool) -> None:
        """One more epoch holds; `tell` of it now."""
        self.at = step.position
        self._signed.update(step.signed.keys())
        if tell and self._as_json:
            emit({"epoch": self.at.epoch, "root": self.at.root_hash.hex(), "signed": sorted(step.signed)})
        elif tell:
            names = ", ".join(sorted(step.signed))
            print(f"epoch {self.at.epoch} holds: {self.at.root_hash.hex()}, signed by {names}", flush=True)
        self.look()

    def look(self) -> None:
        """Save if it was not done lately."""
        if time.monotonic() - self._looked >= SAVE_S:
            self.save()

    def save(self) -> None:
        """Keep the position for the next run."""
        self._looked = time.monotonic()
        if self._path and self.at != self._saved:
            save_kept(self._path, self._root, Kept(self.at, self._signed_at(self.at)))
            self._saved = self.at

    def note(self, error: AuditUnavailable) -> None:
        """Something did not answer; the run goes on."""
        print(f"ipls: {error}; trying again [{error.reason}]", file=sys.stderr, flush=True)

    def report(self, error: AuditError | None) -> None:
        """The last word, of a run that ended well (None) or not."""
        self.save()
        files = [file for found in (error.evidence if error else ()) if (file := self._keep(found))]
        seconds = time.monotonic() - self._started
        epochs = self.at.epoch - self._from.epoch
        rate = epochs / seconds if seconds else 0.0
        if self._as_json:
            fault = error and {"epoch": error.epoch, "reason": error.reason, "message": error.message}
            unavailable = isinstance(error, AuditUnavailable)
            emit(
                {
                    "namespace": self._root.namespace,
                    "ok": error is None,
                    "first": self._from.epoch + 1,
                    "last": self.at.epoch,
                    "epochs": epochs,
                    "root": self.at.root_hash.hex(),
                    "signed": {witness.name: self._signed[witness.name] for witness in self._root.witnesses},
                    "seconds": round(seconds, 3),
                    "epochs_per_second": round(rate, 1),
                    "fault": None if unavailable else fault,
                    "unavailable": fault if unavailable else None,
                    "evidence": files,
                }
            )
            return
        print(f"{self._root.namespace}: the log holds up to epoch {self.at.epoch}, root {self.at.root_hash.hex()}")
        print(f"checked now: {epochs} epochs from {self._from.epoch + 1} on, {rate:.1f} a second")
        for witness in self._root.witnesses:
            print(f"signed by {witness.name}: {self._signed[witness.name]} of {epochs}")
        for file in files:
            print(f"evidence: {file}")

    def _keep(self, evidence: Evidence) -> str | None:
        try:
            return str(self._evidence.keep(evidence))
        except (OSError, StoreError) as e:  # the fault is told all the same
            print(f"ipls: evidence could not be written: {e}", file=sys.stderr)
            return None
