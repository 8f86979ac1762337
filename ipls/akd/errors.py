"""What can go wrong in the directory's mathematics.

AkdError
 ├─ ProofRefused   a proof breaks a rule of the directory spec; `reason` names the rule
 └─ PublishError   a publish that must not happen (a label twice, a tree that is not the one expected)
"""


class AkdError(Exception):
    """Base of this package's errors: `reason` is UPPER_SNAKE, the message is for people and holds no secret."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(f"{reason}: {message}")
        self.reason = reason
        self.message = message


class ProofRefused(AkdError):
    """A proof breaks the rule that `reason` names."""


class PublishError(AkdError):
    """A publish was refused; nothing is published."""
