"""What is pinned, who signed what, and whether it counts. Pure: bytes and the time are handed in."""

from ipls.crypto.errors import SignatureRefused, VerificationError
from ipls.trust.bundle import check_bundle, countersigners, hsm_for, predecessor, verify_bundle
from ipls.trust.chain import TrustRootVersion, follow_versions
from ipls.trust.errors import BundleRefused, EvidenceRefused, HeadRefused, IdentityRefused, TrustError, TrustRootRefused
from ipls.trust.evidence import MAX_EVIDENCE, Finding, judge_evidence
from ipls.trust.heads import Head, check_cosignature, quorum_timestamp, signers, verify_head
from ipls.trust.identity import Identity, check_label, decode_record, verify_identity
from ipls.trust.proposals import verify_proposal
from ipls.trust.root import TrustRoot, Witness, WitnessKey, encode_trust_root, parse_trust_root
from ipls.trust.safety import Comparison, Party, SafetyNumber

__all__ = [
    "MAX_EVIDENCE",
    "BundleRefused",
    "Comparison",
    "EvidenceRefused",
    "Finding",
    "Head",
    "HeadRefused",
    "Identity",
    "IdentityRefused",
    "Party",
    "SafetyNumber",
    "SignatureRefused",
    "TrustError",
    "TrustRoot",
    "TrustRootRefused",
    "TrustRootVersion",
    "VerificationError",
    "Witness",
    "WitnessKey",
    "check_bundle",
    "check_cosignature",
    "check_label",
    "countersigners",
    "decode_record",
    "encode_trust_root",
    "follow_versions",
    "hsm_for",
    "judge_evidence",
    "parse_trust_root",
    "predecessor",
    "quorum_timestamp",
    "signers",
    "verify_bundle",
    "verify_head",
    "verify_identity",
    "verify_proposal",
]
