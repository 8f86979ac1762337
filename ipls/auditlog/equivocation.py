"""What an auditor or a witness has met: by it they see that a witness signed, or the directory proposed, two roots for
one epoch."""

from collections.abc import Mapping
from typing import TypeVar

from ipls.proto.trust.v1.evidence_pb2 import Evidence
from ipls.proto.witness.v1.head_pb2 import Cosignature, SignedHead
from ipls.proto.witness.v1.witness_pb2 import SignedProposal
from ipls.trust.evidence import from_heads, from_proposals
from ipls.trust.limits import MAX_INT
from ipls.trust.root import TrustRoot

MAX_EPOCHS = 1000
"""Epochs, of heads and of proposals."""

_T = TypeVar("_T")


class EquivocationDetector:
    """Of each epoch, what proves that somebody signed two roots for it; a third is not kept.

    Of more epochs than MAX_EPOCHS those go that are farthest from the one named `near`; without one, the lowest.
    Nothing that others show pushes out what is nearer than half of MAX_EPOCHS.
    """

    def __init__(self, root: TrustRoot) -> None:
        self._root = root
        self._heads: dict[int, dict[bytes, dict[bytes, Cosignature]]] = {}  # epoch, root hash, witness's key
        self._proposals: dict[int, dict[bytes, SignedProposal]] = {}  # epoch, new root

    def take(self, head: SignedHead, near: int = MAX_INT) -> list[Evidence]:
        """What a head, with any number of signatures that hold, proves together with those met before.

        Met again, signed anew or not, it proves the same, in the same bytes.
        """
        if not head.cosignatures:
            return []
        roots = self._heads.setdefault(head.epoch, {})
        mine = roots.setdefault(head.root_hash, {})
        for cosignature in head.cosignatures:
            if sum(cosignature.public_key in kept for kept in roots.values()) < 2:
                mine.setdefault(cosignature.public_key, cosignature)
        if not mine:  # its witnesses are convicted without it
            del roots[head.root_hash]
            return []
        _bound(self._heads, near)
        shown = {c.public_key: mine[c.public_key] for c in head.cosignatures if c.public_key in mine}
        now = _head(head.epoch, head.root_hash, shown)
        before = [_head(head.epoch, *root) for root in roots.items()]
        return [found for other in before for found in from_heads(self._root, other, now)]

    def take_proposal(self, signed: SignedProposal, near: int) -> list[Evidence]:
        """What a proposal by the pinned key proves together with those met before."""
        proposal = signed.proposal
        roots = self._proposals.setdefault(proposal.epoch, {})
        if len(roots) < 2 and proposal.new_root not in roots:
            roots[proposal.new_root] = signed
        _bound(self._proposals, near)
        return from_proposals(self._root, *roots.values()) if len(roots) == 2 else []

    def at(self, epoch: int, root_hash: bytes) -> SignedHead:
        """What was met on a root of an epoch; a head without signatures, if nothing was."""
        return _head(epoch, root_hash, self._heads.get(epoch, {}).get(root_hash, {}))


def _head(epoch: int, root_hash: bytes, signatures: Mapping[bytes, Cosignature]) -> SignedHead:
    return SignedHead(epoch=epoch, root_hash=root_hash, cosignatures=list(signatures.values()))


def _bound(kept: dict[int, _T], near: int) -> None:
    if len(kept) > MAX_EPOCHS:
        del kept[max(min(kept), max(kept), key=lambda epoch: abs(epoch - near))]
