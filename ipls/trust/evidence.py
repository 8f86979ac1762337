"""Evidence: what proves to a third party, offline, that the directory or a witness broke its word.

docs/protocol/evidence.md says of each kind what it proves and whom it blames. Two different witnesses' roots for one
epoch blame nobody. Ages don't matter here, and nothing expires; the windows of the witnesses' keys do. Keys are those
of the trust root handed in: of the version that was in force.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple, TypeVar

from google.protobuf.message import DecodeError, Message

from ipls.akd import ProofRefused, verify_membership, verify_non_membership
from ipls.akd.messages import check_parts
from ipls.crypto.errors import VerificationError
from ipls.proto.akd.v1.akd_pb2 import AbsenceProof, HistoryProof, MembershipProof
from ipls.proto.trust.v1.evidence_pb2 import Evidence, Rewrite, TwoHeads, TwoProposals, TwoSignatures
from ipls.proto.witness.v1.head_pb2 import Cosignature, SignatureMessage, SignedHead
from ipls.proto.witness.v1.witness_pb2 import SignedProposal
from ipls.trust.errors import EvidenceRefused
from ipls.trust.heads import Head, check_cosignature, signers
from ipls.trust.limits import MAX_COSIGNATURES, MAX_INT
from ipls.trust.proposals import judge_proposal
from ipls.trust.root import TrustRoot

MAX_EVIDENCE = 256 * 1024
"""Bytes: two heads of 64 signatures and two proofs of 256 steps are below 100 KiB."""

EACH = 4
"""Pieces that are kept against one key, of one kind: a dishonest witness can sign without end, and each of these proves
it as well as all. So nobody's take the place of another's."""

_M = TypeVar("_M", bound=Message)


class Finding(NamedTuple):
    """What evidence proves. `witnesses` are the names of those that it blames; `epoch` is the (later) one it is about.

    `kind` is `two_signatures`, `two_heads`, `two_proposals` (which blames the holder of the directory's proposal key)
    or `rewrite` (which blames no witness by name). `text` is one plain sentence.
    """

    kind: str
    witnesses: tuple[str, ...]
    namespace: str
    epoch: int
    text: str


def two_signatures(one: Cosignature, other: Cosignature) -> Evidence:
    """(a) One witness signed two digests for one epoch. Nothing is checked here: `judge_evidence` does."""
    first, second = _in_order(one, other)
    return Evidence(two_signatures=TwoSignatures(one=first, other=second))


def two_heads(one: SignedHead, other: SignedHead) -> Evidence:
    """(b) Two quorums signed two roots for one epoch."""
    first, second = _in_order(one, other)
    return Evidence(two_heads=TwoHeads(one=first, other=second))


def two_proposals(one: SignedProposal, other: SignedProposal) -> Evidence:
    """(c) The proposal key signed two new roots for one epoch."""
    first, second = _in_order(one, other)
    return Evidence(two_proposals=TwoProposals(one=first, other=second))


def rewrite(
    earlier: SignedHead, membership: bytes, later: SignedHead, *, now: bytes = b"", gone: bytes = b""
) -> Evidence:
    """(d) A leaf of `earlier` is another under `later` (`now`: its membership) or `gone` (its non-membership)."""
    evidence = Rewrite(earlier=_known(earlier), earlier_membership=membership, later=_known(later))
    if now:
        evidence.later_membership = now
    else:
        evidence.later_non_membership = gone
    return Evidence(rewrite=evidence)


def from_heads(root: TrustRoot, one: SignedHead, other: SignedHead) -> list[Evidence]:
    """All that two signed heads prove together: two quorums, else each witness that signed both; mostly nothing."""
    if one.epoch != other.epoch or one.root_hash == other.root_hash:
        return []
    evidence = two_heads(holding(root, one), holding(root, other))
    if _proves(root, evidence):
        return [evidence]
    ours, theirs = _by_witness(root, one), _by_witness(root, other)
    both = [two_signatures(ours[name], theirs[name]) for name in sorted(ours.keys() & theirs.keys())]
    return [evidence for evidence in both if _proves(root, evidence)]


def from_proposals(root: TrustRoot, one: SignedProposal, other: SignedProposal) -> list[Evidence]:
    """What two proposals prove together: that the directory forked; mostly nothing."""
    evidence = two_proposals(one, other)
    return [evidence] if _proves(root, evidence) else []


def holding(root: TrustRoot, signed: SignedHead) -> SignedHead:
    """A head, whatever came with it, with one signature of each witness that has one on it that holds."""
    return _known(
        SignedHead(
            epoch=signed.epoch, root_hash=signed.root_hash, cosignatures=list(_by_witness(root, signed).values())
        )
    )


def from_histories(
    root: TrustRoot,
    earlier: SignedHead,
    before: bytes,
    later: SignedHead,
    *,
    history: bytes = b"",
    absence: bytes = b"",
) -> list[Evidence]:
    """What an account's history `before`, under `earlier`, proves together with another or its absence under `later`.

    All three are as they came from the directory (HistoryProof, AbsenceProof, encoded), verified or not. The first leaf
    that changed or went is enough; nothing where they agree.
    """
    try:
        for kind, proof in ((HistoryProof, before), (HistoryProof, history), (AbsenceProof, absence)):
            check_parts(kind, proof)
        then = {leaf.label.label_val: leaf for leaf in _present(HistoryProof.FromString(before))}
        shown, denied = HistoryProof.FromString(history), AbsenceProof.FromString(absence)
    except (ProofRefused, DecodeError):
        return []
    earlier, later = holding(root, earlier), holding(root, later)
    # One of each position: what came may repeat them without end.
    present = {now.label.label_val: now for now in _present(shown)}
    absent = {a.label.label_val: a for a in shown.non_existence_of_future_marker_proofs} | {
        a.label.label_val: a for a in denied.non_existence_proofs
    }
    candidates = [
        rewrite(earlier, _bytes(leaf), later, now=_bytes(present[position]))
        for position, leaf in then.items()
        if position in present and present[position].hash_val != leaf.hash_val
    ] + [
        rewrite(earlier, _bytes(leaf), later, gone=_bytes(absent[position]))
        for position, leaf in then.items()
        if position in absent
    ]
    return next(([evidence] for evidence in candidates if _proves(root, evidence)), [])


def _present(history: HistoryProof) -> Iterator[MembershipProof]:
    for update in history.update_proofs:
        yield update.existence_proof
        yield update.previous_version_proof
    yield from history.existence_of_past_marker_proofs


def _bytes(message: Message) -> bytes:
    return message.SerializeToString(deterministic=True)


def encode(evidence: Evidence) -> bytes:
    """The bytes of a file of evidence."""
    return _bytes(evidence)


class Contradiction(NamedTuple):
    """What evidence is about: more of the same proves no more. `culprits` are keys that it blames, in a kind and
    namespace; of the directory, and of those who are not named, there is one."""

    what: tuple[object, ...]
    culprits: frozenset[tuple[str, str, bytes]]


def contradiction(evidence: Evidence) -> Contradiction:
    """Of evidence that was judged."""
    kind = evidence.WhichOneof("kind") or ""
    namespace, keys, what = "", {b""}, tuple[object, ...]()
    if kind == "two_signatures":
        given = evidence.two_signatures
        signed = SignatureMessage.FromString(given.one.message)
        namespace, what, keys = signed.namespace, (signed.epoch.inner,), {given.one.public_key}
    elif kind == "two_heads":
        heads = evidence.two_heads
        ours, theirs = ({c.public_key for c in head.cosignatures} for head in (heads.one, heads.other))
        what, keys = (heads.one.epoch,), ours & theirs or ours | theirs  # a witness may have signed with two keys
    elif kind == "two_proposals":
        what = (evidence.two_proposals.one.proposal.epoch,)
    elif kind == "rewrite":
        rewritten = evidence.rewrite
        what = (rewritten.earlier.epoch, rewritten.later.epoch, rewritten.WhichOneof("later_proof"))
    return Contradiction(what, frozenset((kind, namespace, key) for key in keys))


def says_more(about: Contradiction, kept: Collection[Contradiction]) -> bool:
    """Whether evidence is worth keeping beside that of these: it proves something else, and against one of its culprits
    there are fewer than EACH."""
    against = Counter(culprit for other in kept for culprit in other.culprits)
    return about not in kept and any(against[culprit] < EACH for culprit in about.culprits)


def judge_evidence(root: TrustRoot, evidence: bytes) -> Finding:
    """What the encoded evidence proves under this trust root.

    Raises EvidenceRefused for evidence that proves nothing: EVIDENCE_ENCODING, EVIDENCE_SAME, EVIDENCE_OTHER_WITNESS,
    EVIDENCE_OTHER_NAMESPACE, EVIDENCE_OTHER_EPOCH, EVIDENCE_OTHER_LEAF, EVIDENCE_ORDER, EVIDENCE_PROOF_REFUSED; and
    VerificationError as `verify_head` or `judge_proposal` for a signature that does not hold.
    """
    if len(evidence) > MAX_EVIDENCE:
        raise EvidenceRefused("EVIDENCE_ENCODING", f"evidence has at most {MAX_EVIDENCE} bytes")
    message = _parse(Evidence(), evidence)
    message.DiscardUnknownFields()
    if encode(message) != evidence:
        raise EvidenceRefused("EVIDENCE_ENCODING", "the evidence is not in its one encoding")
    kind = message.WhichOneof("kind")
    if kind is None:
        raise EvidenceRefused("EVIDENCE_ENCODING", "no kind of evidence that is known here")
    return _JUDGES[kind](root, getattr(message, kind))


def _two_signatures(root: TrustRoot, given: TwoSignatures) -> Finding:
    one, other = _signed(root, given.one), _signed(root, given.other)
    if one.witness != other.witness:
        raise EvidenceRefused("EVIDENCE_OTHER_WITNESS", "the signatures are two witnesses': that blames nobody")
    if one.namespace != other.namespace:
        raise EvidenceRefused("EVIDENCE_OTHER_NAMESPACE", "the signatures are in two namespaces")
    _same_epoch(one.head.epoch, other.head.epoch)
    _differ(one.head.root_hash, other.head.root_hash)
    what = "epoch" if one.namespace == root.namespace else "number"
    text = (
        f"witness {one.witness} signed two digests for {what} {one.head.epoch} of {one.namespace}: "
        f"{_short(one.head.root_hash)} and {_short(other.head.root_hash)}"
    )
    return Finding("two_signatures", (one.witness,), one.namespace, one.head.epoch, text)


def _two_heads(root: TrustRoot, given: TwoHeads) -> Finding:
    names = _quorum(root, given.one) & _quorum(root, given.other)
    one, other = given.one, given.other
    _same_epoch(one.epoch, other.epoch)
    _differ(one.root_hash, other.root_hash)
    text = (
        f"two quorums signed epoch {one.epoch} of {root.namespace} with two roots, {_short(one.root_hash)} and "
        f"{_short(other.root_hash)}: both were signed by {', '.join(sorted(names))}"
    )
    return Finding("two_heads", tuple(sorted(names)), root.namespace, one.epoch, text)


def _two_proposals(root: TrustRoot, given: TwoProposals) -> Finding:
    one = judge_proposal(root.proposal_key, given.one)
    other = judge_proposal(root.proposal_key, given.other)
    if {one.namespace, other.namespace} != {root.namespace}:
        raise EvidenceRefused("EVIDENCE_OTHER_NAMESPACE", "the proposals are not both of the trust root's namespace")
    _same_epoch(one.epoch, other.epoch)
    _differ(one.new_root, other.new_root)
    text = (
        f"the directory forked: its proposal key signed two roots for epoch {one.epoch} of {root.namespace}, "
        f"{_short(one.new_root)} and {_short(other.new_root)}"
    )
    return Finding("two_proposals", (), root.namespace, one.epoch, text)


def _rewrite(root: TrustRoot, given: Rewrite) -> Finding:
    earlier, later = given.earlier, given.later
    _quorum(root, earlier)
    _quorum(root, later)
    if earlier.epoch > later.epoch:
        raise EvidenceRefused("EVIDENCE_ORDER", "the later head is of an earlier epoch")
    with _proofs():
        position, leaf = verify_membership(earlier.root_hash, given.earlier_membership)
        if given.WhichOneof("later_proof") == "later_membership":
            there, now = verify_membership(later.root_hash, given.later_membership)
            became = f"became {_short(now)}"
        else:
            there, now = verify_non_membership(later.root_hash, given.later_non_membership), b""
            became = "is gone"
    if there != position:
        raise EvidenceRefused("EVIDENCE_OTHER_LEAF", "the proofs are about two leaves")
    _differ(leaf, now)
    text = (
        f"the directory of {root.namespace} does not only append: leaf {_short(position)} of epoch {earlier.epoch} "
        f"(value {_short(leaf)}) {became} in epoch {later.epoch}, and a quorum of the witnesses signed each"
    )
    return Finding("rewrite", (), root.namespace, later.epoch, text)


_JUDGES: dict[str, Callable[..., Finding]] = {
    "two_signatures": _two_signatures,
    "two_heads": _two_heads,
    "two_proposals": _two_proposals,
    "rewrite": _rewrite,
}


class _Signed(NamedTuple):
    """Who signed what."""

    witness: str
    namespace: str
    head: Head


def _signed(root: TrustRoot, cosignature: Cosignature) -> _Signed:
    """One witness's signature, whatever it says, in a namespace of the trust root."""
    try:
        message = _parse(SignatureMessage(), cosignature.message)
        namespace, head = message.namespace, Head(message.epoch.inner, message.digest)
    except ValueError as e:  # upb checks a proto2 string's UTF-8 only when it is read
        raise EvidenceRefused("EVIDENCE_ENCODING", "a signed message can't be read") from e
    if namespace not in (root.namespace, f"{root.namespace}/trust", f"{root.namespace}/fleet"):
        raise EvidenceRefused("EVIDENCE_OTHER_NAMESPACE", "a signature is in no namespace of this trust root")
    name, _ = check_cosignature(root, namespace, head, cosignature, 0, MAX_INT)
    return _Signed(name, namespace, head)


def _by_witness(root: TrustRoot, signed: SignedHead) -> dict[str, Cosignature]:
    """Of each witness whose signature on this head holds, one signature."""
    found = {}
    for cosignature in signed.cosignatures[:MAX_COSIGNATURES]:
        with suppress(VerificationError):
            head = Head(signed.epoch, signed.root_hash)
            name, _ = check_cosignature(root, root.namespace, head, cosignature, 0, MAX_INT)
            found[name] = cosignature
    return found


def _quorum(root: TrustRoot, signed: SignedHead) -> set[str]:
    return set(signers(root, signed, now_ms=MAX_INT, check_age=False))


def _same_epoch(one: int, other: int) -> None:
    if one != other:
        raise EvidenceRefused("EVIDENCE_OTHER_EPOCH", "what was signed is of two epochs")


def _differ(one: bytes, other: bytes) -> None:
    if one == other:
        raise EvidenceRefused("EVIDENCE_SAME", "twice the same: that is no contradiction")


def _parse(message: _M, data: bytes) -> _M:
    try:
        check_parts(message, data)
        message.ParseFromString(data)
    except (ProofRefused, DecodeError) as e:
        raise EvidenceRefused("EVIDENCE_ENCODING", "it can't be read as evidence") from e
    return message


def _in_order(one: _M, other: _M) -> tuple[_M, _M]:
    """The same pair, whichever was met first, is the same evidence."""
    first, second = sorted((_known(one), _known(other)), key=_bytes)
    return first, second


def _known(message: _M) -> _M:
    """A copy without fields that are unknown here: evidence has none, and who made the message may have added some."""
    copy = type(message)()
    copy.CopyFrom(message)
    copy.DiscardUnknownFields()
    return copy


def _short(digest: bytes) -> str:
    return f"{digest[:8].hex()}…"


@contextmanager
def _proofs() -> Iterator[None]:
    try:
        yield
    except ProofRefused as e:
        raise EvidenceRefused("EVIDENCE_PROOF_REFUSED", f"a proof does not hold: {e}") from e


def _proves(root: TrustRoot, evidence: Evidence) -> bool:
    try:
        judge_evidence(root, encode(evidence))
    except VerificationError:
        return False
    return True
