"""Proofs checked. Every rule of the directory spec's "Proofs"; ProofRefused names the rule that a proof breaks.

Roots and epochs come together from one verified head: the root does not commit to the epoch's number.

Tested by tests/attack/test_membership_forgeries.py and tests/attack/test_bit_flips.py.
"""

from collections.abc import Mapping
from itertools import pairwise

from ipls.akd import vrf
from ipls.akd.errors import ProofRefused
from ipls.akd.hashing import (
    EMPTY_NODE,
    EMPTY_ROOT,
    STALE_COMMITMENT,
    commitment,
    leaf_value,
    node_hash,
    parent_value,
    root_hash,
    root_over,
)
from ipls.akd.keys import Place
from ipls.akd.labels import BITS, EMPTY, ROOT, Label, Node, leaf_label
from ipls.akd.messages import (
    Membership,
    NonMembership,
    VersionProof,
    decode_absence,
    decode_append_only,
    decode_history,
    decode_lookup,
    decode_membership,
    decode_non_membership,
)
from ipls.akd.versions import Version, absence_markers, future_markers, marker, past_markers


def verify_lookup(root: bytes, epoch: int, vrf_public_key: bytes, label: bytes, proof: bytes) -> Version:
    """The version that an encoded LookupProof shows under the head (epoch, root), or ProofRefused.

    A lookup proof does NOT show that its owner's history ends in this version: whoever holds the VRF key can plant a
    later one that the owner's complete history skips (directory spec, "Known weakness"). It is here for
    compatibility; whatever decides on an identity uses `verify_history` with `most_recent=1`.
    """
    lookup = decode_lookup(proof)
    check = _Checker(root, epoch, vrf_public_key, label)
    version = check.version(lookup.proved)
    check.present(marker(version.version), lookup.marker_vrf_proof, lookup.marker)
    check.absent(Place(label, False, version.version), lookup.freshness_vrf_proof, lookup.freshness)
    return version


def verify_absence(root: bytes, epoch: int, vrf_public_key: bytes, label: bytes, proof: bytes) -> None:
    """Checks that an encoded AbsenceProof shows the label to have no version under the head (epoch, root).

    No lookup or history of any version holds beside it. Raises ProofRefused.
    """
    absence, markers = decode_absence(proof), absence_markers(epoch)
    if len(absence.markers) != len(markers):
        raise ProofRefused("ABSENCE_MARKERS", f"an absence at epoch {epoch} shows {len(markers)} versions not there")
    if epoch == 0 and root != EMPTY_ROOT:
        raise ProofRefused("ROOT_HASH", "the tree of epoch 0 is not empty")
    check = _Checker(root, epoch, vrf_public_key, label)
    for number, (vrf_proof, absent) in zip(markers, absence.markers, strict=True):
        check.absent(Place(label, True, number), vrf_proof, absent)


def verify_history(
    root: bytes,
    epoch: int,
    vrf_public_key: bytes,
    label: bytes,
    proof: bytes,
    *,
    most_recent: int = 0,
    allow_missing: bool = False,
    known_leaves: Mapping[int, bytes] | None = None,
) -> tuple[Version, ...]:
    """The versions, newest first, that an encoded HistoryProof shows under the head (epoch, root), or ProofRefused.

    `most_recent` 0 asks for the complete history; N for the newest N, or all where there are fewer.
    `allow_missing` takes versions below the newest whose value was erased, with the empty value. Nothing then ties the
    value, nor the epoch of version 1, to the leaf: `known_leaves` (version -> leaf hash, kept from `shown_leaves` when
    the version was verified in full) does, and each version named in it must still have that leaf.
    """
    history = decode_history(proof)
    check = _Checker(root, epoch, vrf_public_key, label)
    if not history.updates:
        raise ProofRefused("NO_VERSIONS", "a history shows no version")
    versions: list[Version] = []
    for update in history.updates:
        version = check.version(update.proved, may_be_missing=allow_missing and bool(versions))
        leaf = update.proved.membership.node.value
        if known_leaves and known_leaves.get(version.version, leaf) != leaf:
            raise ProofRefused("LEAF_CHANGED", "a version's leaf is not the one that was verified before")
        if versions and version.version != versions[-1].version - 1:
            raise ProofRefused("NOT_CONSECUTIVE", "a history's versions do not follow one another")
        if versions and version.epoch >= versions[-1].epoch:
            raise ProofRefused("EPOCH_ORDER", "an older version's epoch is not below the newer one's")
        if update.previous:
            check.retired(version, *update.previous)
        versions.append(version)
    start, end = versions[-1].version, versions[0].version
    if most_recent and len(versions) > most_recent:
        raise ProofRefused("TOO_MANY_VERSIONS", "a history shows more versions than were asked for")
    if start != 1 and len(versions) != most_recent:
        raise ProofRefused("INCOMPLETE", "a history with fewer versions than asked for does not reach version 1")
    past, future = past_markers(start), future_markers(end, epoch)
    if len(history.past_markers) != len(past):
        raise ProofRefused("PAST_MARKERS", f"a history from version {start} has {len(past)} past markers")
    if len(history.future_markers) != len(future):
        raise ProofRefused("FUTURE_MARKERS", f"a history to version {end} at epoch {epoch} has {len(future)} of them")
    for number, (vrf_proof, membership) in zip(past, history.past_markers, strict=True):
        check.present(number, vrf_proof, membership)
    for number, (vrf_proof, absence) in zip(future, history.future_markers, strict=True):
        check.absent(Place(label, True, number), vrf_proof, absence)
    return tuple(versions)


def shown_leaves(proof: bytes) -> dict[int, bytes]:
    """The leaf hash of each version in an encoded HistoryProof. Believe it only once `verify_history` took the proof.

    Raises ProofRefused.
    """
    return {update.proved.version: update.proved.membership.node.value for update in decode_history(proof).updates}


def verify_membership(root: bytes, proof: bytes) -> tuple[bytes, bytes]:
    """(position, leaf hash), 32 bytes each, of the leaf that an encoded MembershipProof shows under a root hash.

    Raises ProofRefused, also for a node that is no leaf: those change.
    """
    membership = decode_membership(proof)
    if membership.node.label.length != BITS:
        raise ProofRefused("NOT_A_LEAF", "a node's label does not have 256 bits")
    _check_member(root, membership)
    return _position(membership.node.label), membership.node.value


def verify_non_membership(root: bytes, proof: bytes) -> bytes:
    """The position, 32 bytes, that an encoded NonMembershipProof shows to have no leaf under a root hash.

    Raises ProofRefused.
    """
    absence = decode_non_membership(proof)
    if absence.label.length != BITS:
        raise ProofRefused("NOT_A_LEAF", "a node's label does not have 256 bits")
    _check_absent(root, absence)
    return _position(absence.label)


def _position(label: Label) -> bytes:
    return label.bits.to_bytes(BITS // 8, "big")


def verify_append_only(old_root: bytes, new_root: bytes, epoch: int, proof: bytes, *, untrimmed: bool = False) -> None:
    """Checks an encoded SingleAppendOnlyProof for the step `epoch - 1` -> `epoch`, or raises ProofRefused.

    `untrimmed` is for the auditor alone: other directories' blobs may not cut the trailing zero bytes off labels.
    """
    step = decode_append_only(proof, untrimmed=untrimmed)
    if not step.inserted:
        raise ProofRefused("NOTHING_INSERTED", "an append-only proof inserts nothing")
    for node in (*step.inserted, *step.unchanged):
        if node.label.length == 0:
            raise ProofRefused("ELEMENT_LENGTH", "an element's label has length 0")
    for node in step.inserted:
        if node.label.length != BITS:
            raise ProofRefused("INSERTED_LENGTH", "an inserted leaf's label does not have 256 bits")
    unchanged = sorted((node.label, node_hash(node)) for node in step.unchanged)
    leaves = (Node(node.label, leaf_value(node.value, epoch)) for node in step.inserted)
    everything = sorted([*unchanged, *((leaf.label, node_hash(leaf)) for leaf in leaves)])
    for (one, _), (next_one, _) in pairwise(everything):  # what a label is a prefix of follows it at once
        if one == next_one:
            raise ProofRefused("SAME_LABEL", "two elements have the same label")
        if next_one.extends(one):
            raise ProofRefused("PREFIX_LABEL", "an element's label is a prefix of another's")
    if root_over(unchanged) != old_root:
        raise ProofRefused("OLD_ROOT", "the unchanged nodes do not give the old root")
    if root_over(everything) != new_root:
        raise ProofRefused("NEW_ROOT", "the unchanged and inserted nodes do not give the new root")


class _Checker:
    """The parts that the proofs share: what one head says of one label."""

    def __init__(self, root: bytes, epoch: int, vrf_public_key: bytes, label: bytes) -> None:
        self._root = root
        self._epoch = epoch
        self._vrf_public_key = vrf_public_key
        self._label = label
        self._positions: dict[tuple[Place, bytes], Label] = {}

    def version(self, proof: VersionProof, *, may_be_missing: bool = False) -> Version:
        """Membership of (fresh, version), opened to its value at its epoch; unopened where the value may be missing."""
        if not 1 <= proof.version <= proof.epoch <= self._epoch:
            raise ProofRefused("VERSION_RANGE", "not 1 <= version <= its epoch <= the head's epoch")
        self.present(proof.version, proof.vrf_proof, proof.membership)
        if leaf_value(commitment(proof.value, proof.nonce), proof.epoch) != proof.membership.node.value:
            if proof.value:
                raise ProofRefused("COMMITMENT", "the leaf does not open to this value at this epoch")
            if not may_be_missing:
                raise ProofRefused("VALUE_MISSING", "a value is missing that must be shown")
        return Version(proof.version, proof.epoch, proof.value)

    def present(self, version: int, vrf_proof: bytes, membership: Membership) -> None:
        """Membership of (fresh, version)."""
        self._tie(Place(self._label, True, version), vrf_proof, membership.node.label)
        _check_member(self._root, membership)

    def retired(self, successor: Version, vrf_proof: bytes, membership: Membership) -> None:
        """Membership of (stale, the version before `successor`), inserted at the successor's epoch."""
        self._tie(Place(self._label, False, successor.version - 1), vrf_proof, membership.node.label)
        _check_member(self._root, membership)
        if membership.node.value != leaf_value(STALE_COMMITMENT, successor.epoch):
            raise ProofRefused("STALE_LEAF", "the version before was not retired at this version's epoch")

    def absent(self, place: Place, vrf_proof: bytes, proof: NonMembership) -> None:
        """Non-membership of a place."""
        self._tie(place, vrf_proof, proof.label)
        _check_absent(self._root, proof)

    def _tie(self, place: Place, vrf_proof: bytes, label: Label) -> None:
        if self._position(place, vrf_proof) != label:
            raise ProofRefused("POSITION", "a node label is not the VRF's output for this label and version")

    def _position(self, place: Place, vrf_proof: bytes) -> Label:
        """Where the VRF proof puts the place; a lookup of version 1, 2, 4, ... shows the same one twice."""
        asked = place, vrf_proof
        if asked not in self._positions:
            self._positions[asked] = leaf_label(vrf.verify(self._vrf_public_key, place.alpha(), vrf_proof)[:32])
        return self._positions[asked]


def _check_absent(root: bytes, proof: NonMembership) -> None:
    """The proof's label has no node under the root hash."""
    target = proof.label
    parent, membership = proof.longest_prefix, proof.membership
    if not target.extends(parent):
        raise ProofRefused("PREFIX_NOT_ABOVE", "the longest prefix is not a proper prefix of the absent label")
    if proof.children == (EMPTY_NODE, EMPTY_NODE):
        raise ProofRefused("EMPTY_CHILD", "both children are empty")
    for side, child in enumerate(proof.children):
        _check_under(parent, side, child)
        if child.label != EMPTY and (child.label == target or target.extends(child.label)):
            raise ProofRefused("CHILD_LEADS_ON", "a child is the absent label or a prefix of it")
    if membership.node.label != parent:
        raise ProofRefused("PREFIX_MEMBERSHIP", "the membership shown is that of another node")
    if membership.node.value != parent_value(*proof.children):
        raise ProofRefused("CHILDREN_HASH", "the children do not hash to the node's value")
    _check_member(root, membership)


def _check_member(root: bytes, membership: Membership) -> None:
    """The proof's node stands under the root hash."""
    label, value = membership.node
    for parent, sibling, direction in reversed(membership.steps):
        if not label.extends(parent):
            raise ProofRefused("PARENT_NOT_ABOVE", "a parent's label is not a proper prefix of its child's")
        if label.bit(parent.length) != direction:
            raise ProofRefused("CHILD_SIDE", "a child is not on the side that its label says")
        _check_under(parent, 1 - direction, sibling)
        children = (sibling, Node(label, value)) if direction else (Node(label, value), sibling)
        label, value = parent, parent_value(*children)
    if label != ROOT:
        raise ProofRefused("TOP_NOT_ROOT", "a membership proof does not end in the root's label")
    if root_hash(Node(label, value)) != root:
        raise ProofRefused("ROOT_HASH", "a membership proof does not end in the root hash")


def _check_under(parent: Label, side: int, node: Node) -> None:
    """The node lies under the parent on this side; at the root it may be the empty one, exactly."""
    if node.label == EMPTY:
        if parent != ROOT:
            raise ProofRefused("EMPTY_SIBLING", "an empty node stands below the root")
        if node != EMPTY_NODE:
            raise ProofRefused("EMPTY_VALUE", "an empty node does not have the empty value")
    elif not node.label.extends(parent):
        raise ProofRefused("SIBLING_NOT_UNDER", "a sibling or child does not lie under its parent")
    elif node.label.bit(parent.length) != side:
        raise ProofRefused("SIBLING_SIDE", "a sibling or child is not on its own side")
