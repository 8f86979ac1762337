"""What an audit ends in, and nothing else:

AuditError
├── AuditFault          the log or its witnesses are at fault: `epoch` says where, None where it is no epoch's
└── AuditUnavailable    nothing is known to be wrong, but not everything could be seen: try again
"""


class AuditError(Exception):
    """`reason` is one of docs/protocol/errors.md."""

    def __init__(self, reason: str, message: str, epoch: int | None = None) -> None:
        super().__init__(message if epoch is None else f"epoch {epoch}: {message}")
        self.reason = reason
        self.message = message
        self.epoch = epoch


class AuditFault(AuditError):
    pass


class AuditUnavailable(AuditError):
    pass
