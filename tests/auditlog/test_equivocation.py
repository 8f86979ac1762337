"""What is remembered of what was met: enough to convict, and no more, whatever others show."""

import tracemalloc

from ipls.auditlog.equivocation import MAX_EPOCHS, EquivocationDetector
from ipls.proto.trust.v1.evidence_pb2 import Evidence
from ipls.proto.witness.v1.head_pb2 import SignedHead
from ipls.proto.witness.v1.witness_pb2 import Proposal, SignedProposal
from ipls.trust.evidence import encode, judge_evidence
from ipls.trust.heads import Head
from ipls.trust.proposals import sign_proposal
from tests.trust.roots import NAMESPACE, NOW, PROPOSER, WITNESSES, signed, three_of

A, B, C = WITNESSES
ROOT = three_of(2)
ONE, OTHER, THIRD = b"\x01" * 32, b"\x02" * 32, b"\x03" * 32


def proposal(new_root: bytes, epoch: int, term: int = 1) -> SignedProposal:
    made = Proposal(
        namespace=NAMESPACE,
        term=term,
        time_ms=NOW,
        epoch=epoch,
        old_root=bytes(32),
        new_root=new_root,
        blob_sha256=bytes(32),
        blob_size=9,
    )
    return SignedProposal(proposal=made, signature=sign_proposal(PROPOSER, made))


def blamed(found: list[Evidence]) -> list[tuple[str, ...]]:
    return [judge_evidence(ROOT, encode(evidence)).witnesses for evidence in found]


def test_the_same_met_again_and_signed_anew_is_the_same_evidence() -> None:
    met = EquivocationDetector(ROOT)
    assert met.take(signed(Head(7, ONE), A, C)) == []
    found = met.take(signed(Head(7, OTHER), A))
    assert blamed(found) == [("w0",)]
    for root in (OTHER, ONE):
        assert met.take(signed(Head(7, root), A, time=NOW + 9)) == found
    assert met.take(signed(Head(7, ONE), C, time=NOW + 9)) == []


def test_a_third_root_of_a_convicted_witness_adds_nothing_but_convicts_another() -> None:
    met = EquivocationDetector(ROOT)
    met.take(signed(Head(7, ONE), A, B))
    met.take(signed(Head(7, OTHER), A))
    assert met.take(signed(Head(7, THIRD), A)) == []
    assert met.at(7, THIRD).cosignatures == []
    assert blamed(met.take(signed(Head(7, THIRD), A, B))) == [("w1",)]


def test_what_is_nearest_is_remembered_whatever_else_is_shown() -> None:
    near = 5000
    met = EquivocationDetector(ROOT)
    for epoch in (near - MAX_EPOCHS // 2 + 1, near):
        met.take(signed(Head(epoch, ONE), A, B), near)
        met.take_proposal(proposal(ONE, epoch), near)
    for epoch in (*range(1, MAX_EPOCHS), *range(2**60, 2**60 + MAX_EPOCHS), *range(near + 1, near + MAX_EPOCHS)):
        met.take(signed(Head(epoch, ONE), C), near)
        met.take_proposal(proposal(ONE, epoch), near)
    for epoch in (near - MAX_EPOCHS // 2 + 1, near):
        assert blamed(met.take(signed(Head(epoch, OTHER), A, B), near)) == [("w0", "w1")]
        assert blamed(met.take_proposal(proposal(OTHER, epoch), near)) == [()]
    for epoch in (1, 2**60, near + MAX_EPOCHS - 1):
        assert met.at(epoch, ONE).cosignatures == []
        assert met.take_proposal(proposal(OTHER, epoch), near) == []


def test_what_proves_nothing_takes_no_room() -> None:
    """Heads that nobody signed, of any epoch, and all those of one that a witness signs without end."""
    met = EquivocationDetector(ROOT)
    near = 2 * MAX_EPOCHS
    met.take(signed(Head(7, ONE), A), near)
    for epoch in range(8, near):
        met.take(SignedHead(epoch=epoch, root_hash=ONE), near)
    met.take(signed(Head(near, ONE), A), near)
    assert blamed(met.take(signed(Head(7, OTHER), A), near)) == [("w0",)]
    without_end = [signed(Head(7, n.to_bytes(32, "big")), A) for n in range(500)]
    tracemalloc.start()
    for head in without_end:
        met.take(head)
    grown, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert grown < 20_000


def test_a_directory_that_proposes_without_end_gives_one_file_an_epoch() -> None:
    met = EquivocationDetector(ROOT)
    assert met.take_proposal(proposal(ONE, 7), 7) == []
    assert met.take_proposal(proposal(ONE, 7, term=2), 7) == []
    found = met.take_proposal(proposal(OTHER, 7), 7)
    assert blamed(found) == [()]
    for n in range(3, 6):
        assert met.take_proposal(proposal(bytes([n]) * 32, 7, term=n), 7) == found
