"""What can go wrong in the directory's mathematics.

AkdError
 ├─ ProofRefused   a proof breaks a rule of the directory spec; `reason` names the rule
 └─ PublishError   a publish that must not happen (a label twice, a tree that is not the one expected)

Tested by tests/attack/test_encoding_forgeries.py.
"""

from ipls.errors import IplsError


class AkdError(IplsError):
    """Base of this package's errors; as text it begins with its reason."""

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}"


class ProofRefused(AkdError):
    """A proof breaks the rule that `reason` names."""


class PublishError(AkdError):
    """A publish was refused; nothing is published."""
