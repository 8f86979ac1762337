"""What the trust package raises, and nothing else:

TrustError              `reason` is one of docs/protocol/errors.md
├── SignatureRefused    a key or a signature that doesn't hold
├── TrustRootRefused    a trust root file that can't be relied on
├── HeadRefused         a directory head that the pinned witnesses don't vouch for
├── BundleRefused       a fleet bundle that the operator and the witnesses don't vouch for
├── IdentityRefused     a label, an identity record or its proof
├── ReportRefused       a fleet ceremony's card, parcel or report, or who signed it
└── EvidenceRefused     evidence that proves nothing
"""


class TrustError(Exception):
    """Something signed, pinned or proven doesn't hold. Its text never has a label, a name or a secret in it."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


class SignatureRefused(TrustError):
    pass


class TrustRootRefused(TrustError):
    pass


class HeadRefused(TrustError):
    pass


class BundleRefused(TrustError):
    pass


class IdentityRefused(TrustError):
    pass


class CeremonyRefused(TrustError):
    pass


class EvidenceRefused(TrustError):
    pass
