"""Evidence against witnesses, and against who else has the proposal key: what witnesses show is compared with the
heads that this directory has their signatures on, and with what it proposes.

Tested by tests/attack/test_equivocation.py.
"""

import structlog

from ipls.proto.trust.v1.evidence_pb2 import Evidence
from ipls.proto.witness.v1.head_pb2 import SignedHead
from ipls.proto.witness.v1.witness_pb2 import SignedProposal
from ipls.store.directory import DirectoryStore
from ipls.store.errors import StoreError
from ipls.store.evidence import EvidenceFolder
from ipls.trust.evidence import from_heads, from_proposals
from ipls.trust.limits import MAX_INT
from ipls.trust.root import TrustRoot

log = structlog.get_logger()


class EvidenceRecorder:
    """Files go to `folder`; anyone can check them (docs/protocol/evidence.md)."""

    def __init__(self, root: TrustRoot, store: DirectoryStore, folder: EvidenceFolder) -> None:
        self._root = root
        self._store = store
        self._folder = folder

    def met(self, shown: SignedHead) -> None:
        """Keep evidence if a witness in `shown` signed another root for the epoch before. For threads."""
        ours = self._store.head(min(shown.epoch, MAX_INT))
        if ours is None:
            return
        self._keep(from_heads(self._root, SignedHead.FromString(ours.signed), shown))

    def forked(self, ours: SignedProposal, theirs: SignedProposal) -> None:
        """Keep evidence if `theirs`, by which a witness signed another root, is by our proposal key. For threads."""
        self._keep(from_proposals(self._root, ours, theirs))

    def _keep(self, found: list[Evidence]) -> None:
        for evidence in found:
            try:
                log.error("evidence", file=str(self._folder.keep(evidence)))
            except (OSError, StoreError) as e:  # publishing does not hang on it
                log.error("evidence could not be written", error=str(e))
