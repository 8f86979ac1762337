"""What an audit ends in, and nothing else:

AuditError
├── AuditFault          the log or its witnesses are at fault: `epoch` says where, None where it is no epoch's
└── AuditUnavailable    nothing is known to be wrong, but not everything could be seen: try again
    └── AuditWaits      the newest object has not k signatures yet

CosignatureInvalid      does not leave an audit: one witness's answer does not count

Tested by tests/auditlog/test_parsers.py.
"""

from collections.abc import Sequence

from ipls.errors import IplsError
from ipls.proto.trust.v1.evidence_pb2 import Evidence


class AuditError(IplsError):
    """`evidence` proves to anyone what was found, where something does. As text it begins with its epoch."""

    def __init__(self, reason: str, message: str, epoch: int | None = None, evidence: Sequence[Evidence] = ()) -> None:
        super().__init__(reason, message)
        self.epoch = epoch
        self.evidence = tuple(evidence)

    def __str__(self) -> str:
        return self.message if self.epoch is None else f"epoch {self.epoch}: {self.message}"


class AuditFault(AuditError):
    pass


class AuditUnavailable(AuditError):
    pass


class AuditWaits(AuditUnavailable):
    """The log's newest object has not k signatures yet: the log comes before the signatures."""


class CosignatureInvalid(IplsError):
    """An answer that is no signature of this witness on this epoch; its text says why."""

    def __init__(self, message: str) -> None:
        super().__init__("COSIGNATURE_INVALID", message)
