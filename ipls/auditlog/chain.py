"""The walk: each epoch's object starts at the root where the last one ended, and proves that it only appended.

Tested by tests/auditor/test_run.py.
"""

import hashlib
from typing import NamedTuple

from ipls.akd import AkdError, verify_append_only
from ipls.auditlog.errors import AuditFault
from ipls.auditlog.listing import LogObject
from ipls.trust.root import TrustRoot


class Position(NamedTuple):
    """How far a walk has come: everything up to `epoch`, which has this root, holds.

    `trail` is a hash over all the names walked, by which a later run sees that the log still has them.
    """

    epoch: int
    root_hash: bytes
    trail: bytes

    def after(self, step: LogObject) -> "Position":
        """One step on. Raises AuditFault AUDIT_HOLE, AUDIT_CHAIN_BROKEN; the proof is `check_proof`'s business."""
        if step.epoch != self.epoch + 1:
            raise AuditFault("AUDIT_HOLE", "the log has no object for it", self.epoch + 1)
        if step.old_root != self.root_hash:
            raise AuditFault(
                "AUDIT_CHAIN_BROKEN", "it does not start from the root that the one before it ended in", step.epoch
            )
        return Position(step.epoch, step.new_root, hashlib.sha256(self.trail + step.name.encode()).digest())


def beginning(root: TrustRoot) -> Position:
    """Where the trust root says that the directory starts."""
    return Position(root.start_epoch, root.start_root, bytes(32))


def check_proof(step: LogObject, blob: bytes) -> None:
    """Raises AuditFault AUDIT_PROOF_REFUSED unless the object proves its step."""
    try:
        verify_append_only(step.old_root, step.new_root, step.epoch, blob, untrimmed=True)
    except AkdError as e:
        raise AuditFault("AUDIT_PROOF_REFUSED", f"the proof does not hold: {e}", step.epoch) from e
