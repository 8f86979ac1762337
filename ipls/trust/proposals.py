"""What the directory's proposal key signs, so that nobody else can move a witness."""

from ipls.crypto.encoding import tagged_hash
from ipls.crypto.errors import SignatureRefused
from ipls.crypto.keys import sign, verify
from ipls.proto.witness.v1.witness_pb2 import Proposal, SignedProposal


def sign_proposal(seed: bytes, proposal: Proposal) -> bytes:
    """The 64-byte signature of a proposal."""
    return sign(seed, _digest(proposal))


def verify_proposal(public: bytes, signed: SignedProposal) -> Proposal:
    """The proposal, signed by `public`.

    Raises SignatureRefused: PROPOSAL_INVALID, SIGNATURE_LENGTH, SIGNATURE_INVALID.
    """
    _check_hashes(signed.proposal)
    verify(public, _digest(signed.proposal), signed.signature)
    return signed.proposal


def judge_proposal(public: bytes, signed: SignedProposal) -> Proposal:
    """As `verify_proposal`, of evidence: also a proposal of before times and sizes were signed, which has neither."""
    proposal = signed.proposal
    if proposal.time_ms or proposal.blob_size:
        return verify_proposal(public, signed)
    _check_hashes(proposal)
    verify(public, _digest_v1(proposal), signed.signature)
    return proposal


def _check_hashes(proposal: Proposal) -> None:
    if {len(proposal.old_root), len(proposal.new_root), len(proposal.blob_sha256)} != {32}:
        raise SignatureRefused("PROPOSAL_INVALID", "root hashes and the blob's digest have 32 bytes")


def _digest(p: Proposal) -> bytes:
    said = (p.namespace, p.term, p.time_ms, p.epoch, p.old_root, p.new_root, p.blob_sha256, p.blob_size)
    return tagged_hash("ipls/witness/v2 proposal", *said)


def _digest_v1(p: Proposal) -> bytes:
    return tagged_hash("ipls/witness/v1 proposal", p.namespace, p.term, p.epoch, p.old_root, p.new_root, p.blob_sha256)
