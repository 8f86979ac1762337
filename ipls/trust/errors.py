"""What the trust package raises besides SignatureRefused, its sibling below VerificationError (`ipls.crypto.errors`):

TrustError
├── TrustRootRefused    a trust root file that can't be relied on
├── HeadRefused         a directory head that the pinned witnesses don't vouch for
├── BundleRefused       a fleet bundle that the operator and the witnesses don't vouch for
├── IdentityRefused     a label, an identity record or its proof
├── CeremonyRefused     a fleet ceremony's card, parcel or report, or who signed it
└── EvidenceRefused     evidence that proves nothing

Tested by tests/trust/test_chain.py and tests/trust/test_bundle.py.
"""

from ipls.crypto.errors import VerificationError


class TrustError(VerificationError):
    """The base. Whoever catches what this package raises catches VerificationError: a signature may be at fault."""


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
