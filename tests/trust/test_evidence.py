"""Evidence of each kind, real and framed: what proves nothing is refused, and nobody innocent is ever named."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipls.crypto.encoding import tagged_hash
from ipls.crypto.errors import VerificationError
from ipls.crypto.keys import public_key, sign
from ipls.proto.akd.v1.akd_pb2 import AbsenceProof, HistoryProof, MembershipProof, NonMembershipProof, UpdateProof
from ipls.proto.trust.v1.evidence_pb2 import Evidence, Rewrite
from ipls.proto.witness.v1.head_pb2 import Cosignature, SignedHead
from ipls.proto.witness.v1.witness_pb2 import Proposal, SignedProposal
from ipls.store.errors import StoreError
from ipls.store.evidence import MAX_FILES, EvidenceFolder
from ipls.trust.errors import EvidenceRefused
from ipls.trust.evidence import (
    EACH,
    Contradiction,
    contradiction,
    encode,
    from_heads,
    from_histories,
    judge_evidence,
    rewrite,
    says_more,
    two_heads,
    two_proposals,
    two_signatures,
)
from ipls.trust.heads import Head
from ipls.trust.proposals import sign_proposal
from ipls.trust.root import TrustRoot, Witness, WitnessKey
from tests.attack.directory import Directory, Tree
from tests.trust.roots import NAMESPACE, NOW, PROPOSER, THIEF, WITNESSES, YEAR, cosign, seed, signed, three_of

A, B, C = WITNESSES
ROOT = three_of(2)
HEAD, OTHER = Head(7, b"\x07" * 32), Head(7, b"\x08" * 32)
LABEL = b"+15555550100"


def answer(by: bytes, head: Head = HEAD, *, namespace: str = NAMESPACE, time: int = NOW) -> Cosignature:
    return cosign(by, namespace, *head, time)


def proposal(new: bytes, *, by: bytes = PROPOSER, namespace: str = NAMESPACE, epoch: int = 7) -> SignedProposal:
    made = Proposal(
        namespace=namespace,
        term=1,
        time_ms=NOW,
        epoch=epoch,
        old_root=bytes(32),
        new_root=new,
        blob_sha256=b"\x01" * 32,
        blob_size=9,
    )
    return SignedProposal(proposal=made, signature=sign_proposal(by, made))


def proposal_v1(new: bytes, *, blob_size: int = 0) -> SignedProposal:
    """As it was signed before time and size were."""
    made = Proposal(namespace=NAMESPACE, term=1, epoch=7, old_root=bytes(32), new_root=new, blob_sha256=b"\x01" * 32)
    said = (made.namespace, made.term, made.epoch, made.old_root, made.new_root, made.blob_sha256)
    signature = sign(PROPOSER, tagged_hash("ipls/witness/v1 proposal", *said))
    made.blob_size = blob_size
    return SignedProposal(proposal=made, signature=signature)


class Lie(NamedTuple):
    """A directory that has `LABEL` and others, and what became of it: the leaf's proofs and the heads over them."""

    earlier: SignedHead
    membership: bytes
    later: SignedHead
    changed: bytes
    changed_head: SignedHead
    gone: bytes
    gone_head: SignedHead


def tree_of(value: bytes) -> tuple[Directory, Tree]:
    directory = Directory(seed(1))
    directory.publish([(LABEL, value), *((b"+1555000%d" % i, b"key") for i in range(5))])
    return directory, directory.tree()


def member(directory: Directory, tree: Tree, label: bytes = LABEL) -> bytes:
    return tree.membership(tree.leaf(directory.position(label, True, 1))).SerializeToString()


def over(tree: Tree, epoch: int, *by: bytes) -> SignedHead:
    return signed(Head(epoch, tree.root()), *(by or (A, B)))


def make_lie() -> Lie:
    directory, tree = tree_of(b"honest")
    other, changed = tree_of(b"another")
    without = Directory(seed(1))
    without.publish([(b"+1555000%d" % i, b"key") for i in range(5)])
    bare = without.tree()
    gone = bare.non_membership(without.position(LABEL, True, 1)).SerializeToString()
    return Lie(
        over(tree, 1),
        member(directory, tree),
        over(tree, 2),
        member(other, changed),
        over(changed, 2),
        gone,
        over(bare, 2, B, C),
    )


LIE = make_lie()


def refused(evidence: Evidence | bytes, root: TrustRoot = ROOT) -> str:
    with pytest.raises(VerificationError) as e:
        judge_evidence(root, evidence if isinstance(evidence, bytes) else encode(evidence))
    return e.value.reason


# Real


@pytest.mark.parametrize("namespace", [NAMESPACE, f"{NAMESPACE}/trust", f"{NAMESPACE}/fleet"])
def test_two_signatures_of_one_witness_name_it(namespace: str) -> None:
    evidence = two_signatures(answer(B, namespace=namespace), answer(B, OTHER, namespace=namespace, time=NOW - YEAR))
    finding = judge_evidence(ROOT, encode(evidence))
    assert (finding.kind, finding.witnesses, finding.namespace, finding.epoch) == (
        "two_signatures",
        ("w1",),
        namespace,
        7,
    )
    what = "epoch" if namespace == NAMESPACE else "number"
    assert finding.text.startswith(f"witness w1 signed two digests for {what} 7 of {namespace}: 0707")


def test_two_quorums_name_who_is_in_both() -> None:
    finding = judge_evidence(ROOT, encode(two_heads(signed(HEAD, A, B), signed(OTHER, B, C))))
    assert (finding.kind, finding.witnesses, finding.epoch) == ("two_heads", ("w1",), 7)
    everyone = judge_evidence(ROOT, encode(two_heads(signed(HEAD, A, B, C), signed(OTHER, A, B, C))))
    assert everyone.witnesses == ("w0", "w1", "w2")


def test_two_proposals_say_that_the_directory_forked_and_blame_no_witness() -> None:
    finding = judge_evidence(ROOT, encode(two_proposals(proposal(b"\x01" * 32), proposal(b"\x02" * 32))))
    assert (finding.kind, finding.witnesses, finding.epoch) == ("two_proposals", (), 7)
    assert finding.text.startswith("the directory forked: its proposal key signed two roots for epoch 7")


def test_old_proposals_and_an_old_one_and_a_new_one_prove_a_fork_too() -> None:
    one, other = proposal_v1(b"\x01" * 32), proposal_v1(b"\x02" * 32)
    for pair in ((one, other), (one, proposal(b"\x02" * 32)), (proposal(b"\x01" * 32), other)):
        assert judge_evidence(ROOT, encode(two_proposals(*pair))).kind == "two_proposals"
    forged = proposal_v1(b"\x02" * 32, blob_size=9)  # what was not signed stands in no evidence
    assert refused(two_proposals(one, forged)) == "SIGNATURE_INVALID"


def test_a_file_of_two_proposals_from_before_is_read_as_it_is() -> None:
    """The bytes that 0.1.0 wrote: fields 1 to 6 and a signature."""
    file = bytes.fromhex((Path(__file__).parent / "two_proposals_v1.hex").read_text())
    assert file == encode(two_proposals(proposal_v1(b"\x01" * 32), proposal_v1(b"\x02" * 32)))
    assert judge_evidence(ROOT, file).kind == "two_proposals"


def test_a_leaf_that_changed_or_went_shows_a_directory_that_does_not_only_append() -> None:
    changed = judge_evidence(ROOT, encode(rewrite(LIE.earlier, LIE.membership, LIE.changed_head, now=LIE.changed)))
    gone = judge_evidence(ROOT, encode(rewrite(LIE.earlier, LIE.membership, LIE.gone_head, gone=LIE.gone)))
    for finding, became in ((changed, "became"), (gone, "is gone in epoch 2")):
        assert (finding.kind, finding.witnesses, finding.epoch) == ("rewrite", (), 2)
        assert became in finding.text


def test_a_witness_is_one_whatever_its_key_and_its_key_must_be_good_at_the_time() -> None:
    keys = WitnessKey(public_key(A), NOW - YEAR, NOW), WitnessKey(public_key(seed(30)), NOW, NOW + YEAR)
    root = three_of(2, witnesses=(Witness("w0", "https://w0.example", keys), *ROOT.witnesses[1:]))
    evidence = two_signatures(answer(A, time=NOW - 1), answer(seed(30), OTHER))
    assert judge_evidence(root, encode(evidence)).witnesses == ("w0",)
    assert refused(two_signatures(answer(A, time=NOW), answer(seed(30), OTHER)), root) == "HEAD_KEY_EXPIRED"


def test_evidence_outlives_the_trust_root_and_every_clock() -> None:
    root = three_of(2, expires_ms=1)
    assert judge_evidence(root, encode(two_signatures(answer(A), answer(A, OTHER)))).witnesses == ("w0",)


def test_the_same_pair_is_the_same_evidence_whichever_came_first() -> None:
    assert two_signatures(answer(A), answer(A, OTHER)) == two_signatures(answer(A, OTHER), answer(A))
    assert two_heads(signed(HEAD, A, B), signed(OTHER, A, B)) == two_heads(signed(OTHER, A, B), signed(HEAD, A, B))
    one, other = proposal(b"\x01" * 32), proposal(b"\x02" * 32)
    assert two_proposals(one, other) == two_proposals(other, one)


def test_a_field_that_the_culprit_adds_spoils_no_evidence() -> None:
    def added(message: Any) -> Any:
        return type(message).FromString(message.SerializeToString() + b"\xf8\x07\x01")

    for make, one, other in (
        (two_signatures, answer(A), answer(A, OTHER)),
        (two_heads, signed(HEAD, A, B), signed(OTHER, A, B)),
        (two_proposals, proposal(b"\x01" * 32), proposal(b"\x02" * 32)),
        (lambda one, other: rewrite(one, LIE.membership, other, now=LIE.changed), LIE.earlier, LIE.changed_head),
    ):
        assert encode(make(added(one), added(other))) == encode(make(one, other))


def stuffed(head: SignedHead) -> SignedHead:
    """With more in it than any evidence may have."""
    for n in range(40):
        head.cosignatures.add(message=bytes(10_000), public_key=bytes([n]) * 32)
    return head


def shown(leaf: bytes, place: str) -> bytes:
    """A history that shows the leaf as a version, as one that was retired, or as a marker of the past."""
    proof = MembershipProof.FromString(leaf)
    if place == "marker":
        return HistoryProof(existence_of_past_marker_proofs=[proof]).SerializeToString()
    return HistoryProof(update_proofs=[UpdateProof(**{place: proof})]).SerializeToString()


PLACES = ("existence_proof", "previous_version_proof", "marker")


@pytest.mark.parametrize("then", PLACES)
@pytest.mark.parametrize("now", PLACES)
def test_what_two_histories_prove_together(then: str, now: str) -> None:
    before, after = shown(LIE.membership, then), shown(LIE.changed, now)
    (evidence,) = from_histories(ROOT, LIE.earlier, before, LIE.changed_head, history=after)
    assert judge_evidence(ROOT, encode(evidence)).kind == "rewrite"
    heads = [stuffed(SignedHead.FromString(head.SerializeToString())) for head in (LIE.earlier, LIE.changed_head)]
    assert from_histories(ROOT, heads[0], before, heads[1], history=after) == [evidence]
    assert from_histories(ROOT, LIE.earlier, before, LIE.earlier, history=shown(LIE.membership, now)) == []


@pytest.mark.parametrize("then", PLACES)
def test_what_a_history_proves_together_with_what_is_not_there(then: str) -> None:
    before, gone = shown(LIE.membership, then), NonMembershipProof.FromString(LIE.gone)
    for proofs in (
        {"absence": AbsenceProof(non_existence_proofs=[gone]).SerializeToString()},
        {"history": HistoryProof(non_existence_of_future_marker_proofs=[gone]).SerializeToString()},
    ):
        (evidence,) = from_histories(ROOT, LIE.earlier, before, LIE.gone_head, **proofs)
        assert "is gone" in judge_evidence(ROOT, encode(evidence)).text
    assert from_histories(ROOT, LIE.earlier, before, LIE.gone_head) == []


def test_of_many_empty_parts_nothing_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """They would take up to 64 times their bytes, and a history may have 64 MiB."""
    heads = SignedHead(cosignatures=[Cosignature()] * 2**16)
    with pytest.raises(EvidenceRefused, check=lambda error: error.reason == "EVIDENCE_ENCODING"):
        judge_evidence(ROOT, encode(two_heads(heads, SignedHead(epoch=1))))

    decoded = list[bytes]()

    def decode(data: bytes) -> HistoryProof:
        decoded.append(data)
        return HistoryProof()

    empty = b"\x0a\x00" * 2**16
    kind = SimpleNamespace(DESCRIPTOR=HistoryProof.DESCRIPTOR, FromString=decode)
    monkeypatch.setattr("ipls.trust.evidence.HistoryProof", kind)
    assert from_histories(ROOT, LIE.earlier, b"", LIE.changed_head, history=empty) == []
    assert empty not in decoded


def test_what_two_heads_prove_together() -> None:
    (quorums,) = from_heads(ROOT, signed(HEAD, A, B), signed(OTHER, B, C))
    assert judge_evidence(ROOT, encode(quorums)).kind == "two_heads"
    assert from_heads(ROOT, signed(HEAD, A, B), stuffed(signed(OTHER, B, C))) == [quorums]
    alone = from_heads(ROOT, signed(HEAD, A, B, C), signed(OTHER, B, THIEF))
    assert [judge_evidence(ROOT, encode(e)).witnesses for e in alone] == [("w1",)]
    assert from_heads(ROOT, signed(HEAD, A, B), signed(OTHER, C)) == []
    assert from_heads(ROOT, signed(HEAD, A, B), signed(HEAD, B, C)) == []
    assert from_heads(ROOT, signed(HEAD, A, B), signed(Head(8, bytes(32)), A, B)) == []


# Framed


@pytest.mark.parametrize(
    ("one", "other", "reason"),
    [
        (answer(A), answer(A), "EVIDENCE_SAME"),
        (answer(A), answer(A, time=NOW + 1), "EVIDENCE_SAME"),  # signed anew with the present time, as it may be
        (answer(A), answer(B, OTHER), "EVIDENCE_OTHER_WITNESS"),
        (answer(A), answer(A, Head(8, OTHER.root_hash)), "EVIDENCE_OTHER_EPOCH"),
        (answer(A), answer(A, OTHER, namespace=f"{NAMESPACE}/trust"), "EVIDENCE_OTHER_NAMESPACE"),
        (answer(A, namespace="x"), answer(A, OTHER, namespace="x"), "EVIDENCE_OTHER_NAMESPACE"),
        (answer(A), answer(THIEF, OTHER), "HEAD_KEY_UNPINNED"),
        (answer(A), answer(PROPOSER, OTHER), "HEAD_KEY_UNPINNED"),
        (answer(A), answer(A, OTHER, time=NOW + YEAR), "HEAD_KEY_EXPIRED"),
        (answer(A), Cosignature(), "EVIDENCE_OTHER_NAMESPACE"),
        (answer(A), Cosignature(message=b"\xff"), "EVIDENCE_ENCODING"),
    ],
    ids=range(11),
)
def test_framed_signatures(one: Cosignature, other: Cosignature, reason: str) -> None:
    assert refused(two_signatures(one, other)) == reason


def test_a_namespace_that_is_no_text() -> None:
    evidence = two_signatures(answer(A), Cosignature(message=b"\x12\x02\xff\xff"))
    assert refused(evidence) in ("EVIDENCE_ENCODING", "EVIDENCE_OTHER_NAMESPACE")


def test_a_signature_put_under_another_message_or_key() -> None:
    one, other = answer(A), answer(A, OTHER)
    other.signature = one.signature
    assert refused(two_signatures(one, other)) == "SIGNATURE_INVALID"
    other = answer(B, OTHER)
    other.public_key = public_key(A)
    assert refused(two_signatures(one, other)) == "SIGNATURE_INVALID"


@pytest.mark.parametrize(
    ("one", "other", "reason"),
    [
        (signed(HEAD, A, B), signed(HEAD, B, C), "EVIDENCE_SAME"),
        (signed(HEAD, A, B), signed(OTHER, C), "HEAD_NO_QUORUM"),  # two witnesses' roots: a fork that blames nobody
        (signed(HEAD, A, B), signed(OTHER, C, C), "HEAD_NO_QUORUM"),
        (signed(HEAD, A, B), signed(OTHER, C, THIEF), "HEAD_KEY_UNPINNED"),
        (signed(HEAD, A, B), signed(Head(8, OTHER.root_hash), A, B), "EVIDENCE_OTHER_EPOCH"),
        (signed(HEAD, A, B), signed(OTHER, A, B, namespace=f"{NAMESPACE}/trust"), "HEAD_OTHER_NAMESPACE"),
        (signed(HEAD, A, B), SignedHead(), "HEAD_NO_QUORUM"),
    ],
    ids=range(7),
)
def test_framed_heads(one: SignedHead, other: SignedHead, reason: str) -> None:
    assert refused(two_heads(one, other)) == reason


def test_a_head_claimed_over_others_signatures() -> None:
    other = signed(HEAD, A, B)
    other.root_hash = OTHER.root_hash
    assert refused(two_heads(signed(HEAD, A, B), other)) == "HEAD_OTHER_ROOT"


@pytest.mark.parametrize(
    ("one", "other", "reason"),
    [
        (proposal(b"\x01" * 32), proposal(b"\x01" * 32), "EVIDENCE_SAME"),
        (proposal(b"\x01" * 32), proposal(b"\x02" * 32, epoch=8), "EVIDENCE_OTHER_EPOCH"),
        (proposal(b"\x01" * 32), proposal(b"\x02" * 32, by=THIEF), "SIGNATURE_INVALID"),
        (proposal(b"\x01" * 32), proposal(b"\x02" * 32, namespace="x"), "EVIDENCE_OTHER_NAMESPACE"),
        (proposal(b"\x01" * 32, namespace="x"), proposal(b"\x02" * 32, namespace="x"), "EVIDENCE_OTHER_NAMESPACE"),
        (proposal(b"\x01" * 32), SignedProposal(), "PROPOSAL_INVALID"),
    ],
    ids=range(6),
)
def test_framed_proposals(one: SignedProposal, other: SignedProposal, reason: str) -> None:
    assert refused(two_proposals(one, other)) == reason


def test_a_proposal_made_again_in_a_later_term_is_no_fork() -> None:
    one, other = proposal(b"\x01" * 32), proposal(b"\x01" * 32)
    other.proposal.term = 2
    other.signature = sign_proposal(PROPOSER, other.proposal)
    assert refused(two_proposals(one, other)) == "EVIDENCE_SAME"


def test_a_leaf_that_stays_is_no_rewrite() -> None:
    assert refused(rewrite(LIE.earlier, LIE.membership, LIE.later, now=LIE.membership)) == "EVIDENCE_SAME"


def test_a_leaf_that_came_is_no_rewrite() -> None:
    """The honest order of things, turned round."""
    earlier = over(make_tree_without(), 1)
    later = SignedHead.FromString(LIE.later.SerializeToString())
    assert refused(rewrite(later, LIE.membership, earlier, gone=LIE.gone)) == "EVIDENCE_ORDER"


def test_a_leaf_that_is_two_things_in_one_epoch_is_a_rewrite() -> None:
    head = over(tree_of(b"another")[1], LIE.earlier.epoch)
    evidence = rewrite(LIE.earlier, LIE.membership, head, now=LIE.changed)
    assert judge_evidence(ROOT, encode(evidence)).kind == "rewrite"


def make_tree_without() -> Tree:
    directory = Directory(seed(1))
    directory.publish([(b"+1555000%d" % i, b"key") for i in range(5)])
    return directory.tree()


def test_framed_rewrites() -> None:
    directory, tree = tree_of(b"honest")
    another = member(directory, tree, b"+15550001")
    for evidence, reason in (
        (rewrite(LIE.earlier, LIE.membership, LIE.changed_head, now=LIE.membership), "EVIDENCE_PROOF_REFUSED"),
        (rewrite(LIE.earlier, LIE.changed, LIE.changed_head, now=LIE.changed), "EVIDENCE_PROOF_REFUSED"),
        (rewrite(LIE.earlier, LIE.membership, LIE.later, gone=LIE.gone), "EVIDENCE_PROOF_REFUSED"),
        (rewrite(LIE.earlier, LIE.membership, LIE.changed_head, now=b"\xff"), "EVIDENCE_PROOF_REFUSED"),
        (rewrite(LIE.earlier, LIE.membership, LIE.changed_head), "EVIDENCE_PROOF_REFUSED"),
        (rewrite(LIE.earlier, another, LIE.gone_head, gone=LIE.gone), "EVIDENCE_OTHER_LEAF"),
        (rewrite(signed(Head(1, tree.root()), A), LIE.membership, LIE.changed_head, now=LIE.changed), "HEAD_NO_QUORUM"),
        (rewrite(LIE.earlier, LIE.membership, over(tree, 2, THIEF, A), now=LIE.changed), "HEAD_KEY_UNPINNED"),
    ):
        assert refused(evidence) == reason


def test_a_node_that_is_no_leaf_may_change() -> None:
    directory, tree = tree_of(b"honest")
    parent, _ = tree.parent(tree.leaf(directory.position(LABEL, True, 1)))
    inner = tree.membership(parent).SerializeToString()
    _, changed = tree_of(b"another")
    same = next(n for n, _ in changed.path(changed.leaf(directory.position(LABEL, True, 1))) if n.label == parent.label)
    evidence = rewrite(LIE.earlier, inner, LIE.changed_head, now=changed.membership(same).SerializeToString())
    with pytest.raises(VerificationError, match="NOT_A_LEAF"):
        judge_evidence(ROOT, encode(evidence))


REAL = {
    "two_signatures": two_signatures(answer(A), answer(A, OTHER)),
    "two_heads": two_heads(signed(HEAD, A, B), signed(OTHER, B, C)),
    "two_proposals": two_proposals(proposal(b"\x01" * 32), proposal(b"\x02" * 32)),
    "changed": rewrite(LIE.earlier, LIE.membership, LIE.changed_head, now=LIE.changed),
    "gone": rewrite(LIE.earlier, LIE.membership, LIE.gone_head, gone=LIE.gone),
}
GUILTY = {name: set(judge_evidence(ROOT, encode(evidence)).witnesses) for name, evidence in REAL.items()}


@pytest.mark.parametrize("kind", REAL)
def test_evidence_has_one_encoding(kind: str) -> None:
    data = encode(REAL[kind])
    assert judge_evidence(ROOT, data)
    for other in (data + b"\x7a\x00", data + b"\x2a\x00", data[:-1], b"", data + data):
        assert refused(other) == "EVIDENCE_ENCODING"
    assert refused(data + bytes(256 * 1024)) == "EVIDENCE_ENCODING"


@pytest.mark.parametrize("kind", REAL)
@given(st.data())
def test_mutated_evidence_never_names_an_innocent_witness(kind: str, data: st.DataObject) -> None:
    """Bits flipped, bytes cut out or put in: it is refused, or it still says no more than the truth."""
    honest = encode(REAL[kind])
    at = data.draw(st.integers(0, len(honest) - 1))
    end = data.draw(st.integers(at, min(len(honest), at + 40)))
    put = data.draw(st.one_of(st.binary(max_size=40), st.just(bytes([honest[at] ^ 1 << data.draw(st.integers(0, 7))]))))
    mutated = honest[:at] + put + honest[end:]
    try:
        finding = judge_evidence(ROOT, mutated)
    except VerificationError:
        return
    assert finding.kind == judge_evidence(ROOT, honest).kind
    assert set(finding.witnesses) <= GUILTY[kind]


@given(st.binary(max_size=300))
def test_junk_is_refused_with_our_own_error(junk: bytes) -> None:
    refused(junk)
    refused(rewrite(LIE.earlier, junk, LIE.changed_head, now=junk))
    refused(Evidence(rewrite=Rewrite(earlier=LIE.earlier, earlier_membership=LIE.membership)))


def test_evidence_larger_than_any_may_be_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    real = encode(two_signatures(answer(A), answer(A, Head(7, b"\x08" * 32))))
    assert judge_evidence(ROOT, real).witnesses
    monkeypatch.setattr("ipls.trust.evidence.MAX_EVIDENCE", len(real) - 1)
    assert refused(real) == "EVIDENCE_ENCODING"


@given(st.sets(st.sampled_from([A, B, C])), st.sets(st.sampled_from([A, B, C])))
def test_honest_witnesses_are_in_no_evidence_that_heads_make(ours: set[bytes], theirs: set[bytes]) -> None:
    """Whoever signed both is named, whoever signed one is not."""
    found = from_heads(ROOT, signed(HEAD, *ours), signed(OTHER, *theirs))
    named = {name for evidence in found for name in judge_evidence(ROOT, encode(evidence)).witnesses}
    assert named == {f"w{WITNESSES.index(by)}" for by in ours & theirs}


# Kept


def about_signatures(epoch: int, by: bytes = A) -> Contradiction:
    return contradiction(two_signatures(*(answer(by, Head(epoch, head.root_hash)) for head in (HEAD, OTHER))))


def about_heads(epoch: int, by: bytes = A) -> Contradiction:
    """Each signed by one more, who signed no other."""
    innocent = [each for each in WITNESSES if each != by]
    ones = (signed(Head(epoch, head.root_hash), by, each) for head, each in zip((HEAD, OTHER), innocent, strict=True))
    return contradiction(two_heads(*ones))


def about_proposals(epoch: int) -> Contradiction:
    return contradiction(two_proposals(*(proposal(bytes([n]) * 32, epoch=epoch) for n in (1, 2))))


def about_leaves(epoch: int) -> Contradiction:
    return contradiction(rewrite(LIE.earlier, b"", SignedHead(epoch=epoch), gone=b"proof"))


@pytest.mark.parametrize("about", [about_signatures, about_heads, about_proposals, about_leaves])
def test_so_many_of_a_kind_are_kept_against_one_and_nobodys_take_anothers_place(
    about: Callable[[int], Contradiction],
) -> None:
    kept: list[Contradiction] = []
    for epoch in range(EACH):
        assert says_more(about(epoch), kept)
        kept.append(about(epoch))
        assert not says_more(about(epoch), kept)
    assert not says_more(about(EACH), kept)
    assert says_more(about_signatures(EACH, B), kept)
    assert says_more(about_heads(EACH, B), kept)


def test_heads_of_one_witness_with_two_keys_are_about_both() -> None:
    about = contradiction(two_heads(signed(HEAD, A), signed(OTHER, seed(30))))
    assert about.culprits == {("two_heads", "", public_key(by)) for by in (A, seed(30))}


def test_a_folder_keeps_each_evidence_once_under_its_hash(tmp_path: Path) -> None:
    folder = EvidenceFolder(tmp_path / "evidence")
    kept = {folder.keep(evidence) for evidence in [*REAL.values(), *REAL.values()]}
    assert sorted(kept) == folder.files()
    assert len(kept) == len(REAL)
    assert {path.read_bytes() for path in kept} == {encode(evidence) for evidence in REAL.values()}
    assert sorted(tmp_path.joinpath("evidence").iterdir()) == folder.files()


def test_a_full_folder_takes_no_more_but_still_names_what_it_has(tmp_path: Path) -> None:
    folder = EvidenceFolder(tmp_path)
    first = folder.keep(REAL["gone"])
    for i in range(MAX_FILES - 1):
        (tmp_path / f"{i}.evidence").touch()
    with pytest.raises(StoreError) as e:
        folder.keep(REAL["changed"])
    assert e.value.reason == "EVIDENCE_FULL"
    assert folder.keep(REAL["gone"]) == first


def test_what_a_crash_left_half_written_is_no_evidence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    folder = EvidenceFolder(tmp_path)
    restore: Callable[..., object] = Path.replace
    monkeypatch.setattr(Path, "replace", crash)
    with pytest.raises(KeyboardInterrupt):
        folder.keep(REAL["gone"])
    assert folder.files() == []
    monkeypatch.setattr(Path, "replace", restore)
    assert folder.keep(REAL["gone"]).read_bytes() == encode(REAL["gone"])
