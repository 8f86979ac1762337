import hashlib
from typing import Any

import pytest

from ipls.crypto.encoding import tagged_hash
from ipls.crypto.errors import SignatureRefused
from ipls.crypto.keys import public_key, sign
from ipls.proto.witness.v1.witness_pb2 import Proposal, SignedProposal
from ipls.trust.proposals import sign_proposal, verify_proposal
from tests.trust.roots import NAMESPACE, PROPOSER, THIEF

FIELDS: dict[str, Any] = {
    "namespace": NAMESPACE,
    "term": 3,
    "time_ms": 1_700_000_000_000,
    "epoch": 5,
    "old_root": b"o" * 32,
    "new_root": b"n" * 32,
    "blob_sha256": hashlib.sha256(b"blob").digest(),
    "blob_size": 4,
}
SIGNATURE = sign_proposal(PROPOSER, Proposal(**FIELDS))


def refused(signature: bytes = SIGNATURE, **changes: Any) -> str:
    with pytest.raises(SignatureRefused) as e:
        verify_proposal(
            public_key(PROPOSER), SignedProposal(proposal=Proposal(**{**FIELDS, **changes}), signature=signature)
        )
    return e.value.reason


def test_a_signed_proposal_is_accepted() -> None:
    signed = SignedProposal(proposal=Proposal(**FIELDS), signature=SIGNATURE)
    assert verify_proposal(public_key(PROPOSER), signed) == Proposal(**FIELDS)


def test_what_is_signed_is_the_spec_s_digest() -> None:
    assert sign(PROPOSER, tagged_hash("ipls/witness/v2 proposal", *FIELDS.values())) == SIGNATURE


@pytest.mark.parametrize(
    "changes",
    [
        {"namespace": "other"},
        {"term": 4},
        {"time_ms": 1_700_000_000_001},
        {"time_ms": 0},
        {"epoch": 6},
        {"old_root": bytes(32)},
        {"new_root": bytes(32)},
        {"blob_sha256": bytes(32)},
        {"blob_size": 5},
        {"blob_size": 0},
        {"time_ms": 0, "blob_size": 0},
        {"old_root": FIELDS["new_root"], "new_root": FIELDS["old_root"]},
    ],
    ids=str,
)
def test_every_field_is_signed(changes: dict[str, Any]) -> None:
    assert refused(**changes) == "SIGNATURE_INVALID"


def test_unsigned_short_or_by_another_key() -> None:
    assert refused(b"") == "SIGNATURE_LENGTH"
    assert refused(SIGNATURE[:63]) == "SIGNATURE_LENGTH"
    assert refused(sign_proposal(THIEF, Proposal(**FIELDS))) == "SIGNATURE_INVALID"


@pytest.mark.parametrize("field", ["old_root", "new_root", "blob_sha256"])
def test_a_hash_of_another_length_is_refused_though_signed(field: str) -> None:
    changes = {field: b"short"}
    assert refused(sign_proposal(PROPOSER, Proposal(**{**FIELDS, **changes})), **changes) == "PROPOSAL_INVALID"
