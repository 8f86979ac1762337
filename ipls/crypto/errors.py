"""What the crypto package raises, and the base of what the trust package raises:

VerificationError
├── SignatureRefused    a key or a signature that doesn't hold
└── TrustError          see `ipls.trust.errors`

Tested by tests/crypto/test_keys.py.
"""

from ipls.errors import IplsError


class VerificationError(IplsError):
    """Something signed, pinned or proven doesn't hold. Its text never has a label, a name or a secret in it."""


class SignatureRefused(VerificationError):
    pass
