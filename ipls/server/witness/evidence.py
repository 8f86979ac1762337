"""What a witness is shown, compared with what it was shown before: the evidence that comes of it becomes files.

Tested by tests/attack/test_encounters.py.
"""

import threading

import structlog

from ipls.auditlog.equivocation import EquivocationDetector
from ipls.proto.trust.v1.evidence_pb2 import Evidence
from ipls.proto.witness.v1.head_pb2 import SignedHead
from ipls.proto.witness.v1.witness_pb2 import SignedProposal
from ipls.store.errors import StoreError
from ipls.store.evidence import EvidenceFolder
from ipls.store.witness import WitnessStore
from ipls.trust.evidence import holding
from ipls.trust.limits import MAX_INT
from ipls.trust.root import TrustRoot

log = structlog.get_logger()


class EvidenceRecorder:
    """Of one witness. Files go to `folder`; anyone can check them (docs/protocol/evidence.md).

    The proposals that it signed it knows always, all else since it started. For any thread.
    """

    def __init__(self, root: TrustRoot, store: WitnessStore, folder: EvidenceFolder) -> None:
        self._root = root
        self._store = store
        self._folder = folder
        self._detector = EquivocationDetector(root)
        self._meeting = threading.Lock()

    def head(self, head: SignedHead) -> None:
        """Keep evidence if a witness signed another root for its epoch. Nothing of the head need hold."""
        if len(head.root_hash) != 32 or head.epoch > MAX_INT:
            return
        held = holding(self._root, head)
        newest = self._store.state().epoch
        with self._meeting:
            found = self._detector.take(held, newest)
        self._keep(found)

    def proposal(self, signed: SignedProposal) -> None:
        """Keep evidence if the directory proposed another root for its epoch. The proposal has been verified."""
        row = self._store.signed(signed.proposal.epoch)
        newest = self._store.state().epoch
        with self._meeting:
            if row is not None and row.proposal:
                self._detector.take_proposal(SignedProposal.FromString(row.proposal), newest)
            found = self._detector.take_proposal(signed, newest)
        self._keep(found)

    def _keep(self, found: list[Evidence]) -> None:
        for evidence in found:
            try:
                log.warning("evidence", file=self._folder.keep(evidence).name)
            except (StoreError, OSError) as e:  # signing does not hang on it
                log.error("evidence not kept", why=type(e).__name__)
