"""What an audit ends in, and nothing else:

AuditError
├── AuditFault          the log or its witnesses are at fault: `epoch` says where, None where it is no epoch's
└── AuditUnavailable    nothing is known to be wrong, but not everything could be seen: try again
"""

from collections.abc import Sequence

from ipls.proto.trust.v1.evidence_pb2 import Evidence


class AuditError(Exception):
    """`reason` is one of docs/protocol/errors.md; `evidence` proves to anyone what was found, where something does."""

    def __init__(self, reason: str, message: str, epoch: int | None = None, evidence: Sequence[Evidence] = ()) -> None:
        super().__init__(message if epoch is None else f"epoch {epoch}: {message}")
        self.reason = reason
        self.message = message
        self.epoch = epoch
        self.evidence = tuple(evidence)


class AuditFault(AuditError):
    pass


class AuditUnavailable(AuditError):
    pass
