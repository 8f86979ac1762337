"""An honest directory's epochs in memory, and their proposals, for tests of what a witness signs."""

import copy
import hashlib
from typing import Any

from ipls.akd import EMPTY_ROOT, DirectoryKey, MemoryTiles, Publication, Update, publish
from ipls.proto.witness.v1.witness_pb2 import Proposal, SignedProposal
from ipls.trust.proposals import sign_proposal
from tests.trust.roots import NAMESPACE, NOW, PROPOSER, VRF


class Chain:
    """Grows by `step`; `fork` gives a second directory that can go on from the same epoch."""

    def __init__(self) -> None:
        self.key = DirectoryKey.from_seed(VRF)
        self.tiles = MemoryTiles()
        self.epoch, self.root, self.depth = 0, EMPTY_ROOT, 0

    def step(self, *labels: bytes) -> Publication:
        updates = [Update(label, b"value", None) for label in labels or (b"label %d" % self.epoch,)]
        made = publish(self.tiles, self.key, self.epoch, self.root, self.depth, updates)
        assert made is not None
        self.tiles.write(made.rows)
        self.epoch, self.root, self.depth = made.epoch, made.new_root, made.depth
        return made

    def fork(self) -> "Chain":
        other = copy.copy(self)
        other.tiles = copy.deepcopy(self.tiles)
        return other


def proposal(made: Publication, *, seed: bytes = PROPOSER, **changes: Any) -> SignedProposal:
    """As the directory proposes an epoch, in term 1; `changes` are signed too."""
    fields: dict[str, Any] = {
        "namespace": NAMESPACE,
        "term": 1,
        "time_ms": NOW,
        "epoch": made.epoch,
        "old_root": made.old_root,
        "new_root": made.new_root,
        "blob_sha256": hashlib.sha256(made.blob).digest(),
        "blob_size": len(made.blob),
    }
    return _signed(seed, Proposal(**{**fields, **changes}))


def renewal(
    epoch: int, root_hash: bytes, *, seed: bytes = PROPOSER, term: int = 1, time_ms: int = NOW
) -> SignedProposal:
    """As the directory asks for a signature on the start, or anew on the newest epoch."""
    body = Proposal(
        namespace=NAMESPACE,
        term=term,
        time_ms=time_ms,
        epoch=epoch,
        old_root=root_hash,
        new_root=root_hash,
        blob_sha256=hashlib.sha256(b"").digest(),
    )
    return _signed(seed, body)


def _signed(seed: bytes, body: Proposal) -> SignedProposal:
    return SignedProposal(proposal=body, signature=sign_proposal(seed, body))
