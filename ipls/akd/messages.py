"""Proofs between their protobuf encoding and checked plain values. Directory spec, "Strict encoding".

What decodes has every field, each of its right length, and equals its own re-encoding. Everything else raises
ProofRefused: ENCODING, FIELD_MISSING, FIELD_UNEXPECTED, HASH_LENGTH, LABEL_LENGTH, LABEL_BITS, SIBLING_COUNT,
DIRECTION, CHILD_COUNT, MARKER_COUNT.

Tested by tests/attack/test_encoding_forgeries.py.
"""

from functools import cache
from typing import NamedTuple, cast

from google.protobuf.descriptor import Descriptor
from google.protobuf.message import DecodeError, Message

from ipls.akd.errors import ProofRefused
from ipls.akd.labels import BITS, EMPTY, MASKS, Label, Node
from ipls.proto.akd.v1 import akd_pb2 as pb


class Step(NamedTuple):
    """One step of a membership proof: the parent, the proven child's sibling, the side the child is on."""

    parent: Label
    sibling: Node
    direction: int


class Membership(NamedTuple):
    """`node` is in the tree; steps root first."""

    node: Node
    steps: tuple[Step, ...]


class NonMembership(NamedTuple):
    """`label` is not in the tree: `parent` is its longest prefix there, and neither child leads to it."""

    label: Label
    longest_prefix: Label
    children: tuple[Node, Node]
    membership: Membership


class VersionProof(NamedTuple):
    """What lookup and history proofs say of one version: its fresh leaf, opened."""

    version: int
    epoch: int
    value: bytes
    nonce: bytes
    vrf_proof: bytes
    membership: Membership


class Lookup(NamedTuple):
    """A decoded LookupProof."""

    proved: VersionProof
    marker_vrf_proof: bytes
    marker: Membership
    freshness_vrf_proof: bytes
    freshness: NonMembership


class UpdateProof(NamedTuple):
    """A decoded UpdateProof; `previous` (VRF proof, membership of the stale leaf) is None for version 1 alone."""

    proved: VersionProof
    previous: tuple[bytes, Membership] | None


class History(NamedTuple):
    """A decoded HistoryProof; markers with their VRF proofs."""

    updates: tuple[UpdateProof, ...]
    past_markers: tuple[tuple[bytes, Membership], ...]
    future_markers: tuple[tuple[bytes, NonMembership], ...]


class Absence(NamedTuple):
    """A decoded AbsenceProof: non-memberships with their VRF proofs."""

    markers: tuple[tuple[bytes, NonMembership], ...]


class AppendOnly(NamedTuple):
    """A decoded SingleAppendOnlyProof; an inserted node's value is its commitment."""

    inserted: list[Node]
    unchanged: list[Node]


def decode_lookup(data: bytes) -> Lookup:
    """Decodes a LookupProof strictly."""
    message = pb.LookupProof()
    _parse(message, data)
    _need(message, "marker_vrf_proof", "marker_proof", "freshness_vrf_proof", "freshness_proof")
    return Lookup(
        _version(message),
        message.marker_vrf_proof,
        _membership(message.marker_proof),
        message.freshness_vrf_proof,
        _non_membership(message.freshness_proof),
    )


def decode_history(data: bytes) -> History:
    """Decodes a HistoryProof strictly."""
    message = pb.HistoryProof()
    _parse(message, data)
    past = [_membership(proof) for proof in message.existence_of_past_marker_proofs]
    future = [_non_membership(proof) for proof in message.non_existence_of_future_marker_proofs]
    if len(past) != len(message.past_marker_vrf_proofs) or len(future) != len(message.future_marker_vrf_proofs):
        raise ProofRefused("MARKER_COUNT", "the markers and their VRF proofs differ in number")
    return History(
        tuple(_update(update) for update in message.update_proofs),
        tuple(zip(message.past_marker_vrf_proofs, past, strict=True)),
        tuple(zip(message.future_marker_vrf_proofs, future, strict=True)),
    )


def decode_absence(data: bytes) -> Absence:
    """Decodes an AbsenceProof strictly."""
    message = pb.AbsenceProof()
    _parse(message, data)
    if len(message.vrf_proofs) != len(message.non_existence_proofs):
        raise ProofRefused("MARKER_COUNT", "the markers and their VRF proofs differ in number")
    absent = [_non_membership(proof) for proof in message.non_existence_proofs]
    return Absence(tuple(zip(message.vrf_proofs, absent, strict=True)))


def decode_membership(data: bytes) -> Membership:
    """Decodes a MembershipProof strictly."""
    message = pb.MembershipProof()
    _parse(message, data)
    return _membership(message)


def decode_non_membership(data: bytes) -> NonMembership:
    """Decodes a NonMembershipProof strictly."""
    message = pb.NonMembershipProof()
    _parse(message, data)
    return _non_membership(message)


def decode_append_only(data: bytes, *, untrimmed: bool = False) -> AppendOnly:
    """Decodes a SingleAppendOnlyProof strictly; with `untrimmed`, labels may keep their trailing zero bytes."""
    message = pb.SingleAppendOnlyProof()
    _parse(message, data)
    return AppendOnly(
        [_node(element, untrimmed) for element in message.inserted],
        [_node(element, untrimmed) for element in message.unchanged_nodes],
    )


def encode_label(label: Label) -> pb.NodeLabel:
    """The label's message, trailing zero bytes cut off."""
    return pb.NodeLabel(label_val=label.bits.to_bytes(32, "big").rstrip(b"\0"), label_len=label.length)


def encode_node(node: Node) -> pb.AzksElement:
    """The node's message."""
    return pb.AzksElement(label=encode_label(node.label), value=node.value)


def encode_append_only(proof: AppendOnly) -> bytes:
    """The encoded SingleAppendOnlyProof, nodes in the order of their labels."""
    message = pb.SingleAppendOnlyProof()
    for nodes, elements in ((proof.inserted, message.inserted), (proof.unchanged, message.unchanged_nodes)):
        for (bits, length), value in sorted(nodes):
            element = elements.add()  # filled in place: a fifth of the time of `encode_node`, and there are many
            element.label.label_val = bits.to_bytes(32, "big").rstrip(b"\0")
            element.label.label_len = length
            element.value = value
    return message.SerializeToString()


_UNSEEN = 64 * 1024
"""Bytes that are decoded unseen: at most 4 MiB then."""
_LEAST = 26
"""Bytes of a part of which there are several, on average: of a membership proof's step, two parts, 52 at least."""


def check_parts(message: Message | type[Message], data: bytes) -> None:
    """Return if the encoded `message` may be decoded: of nothing but empty parts it would take 64 times its bytes.

    Raises ProofRefused ENCODING.
    """
    if len(data) > _UNSEEN:
        kind = cast(Descriptor, message.DESCRIPTOR)
        _count_parts(kind, data, 0, len(data), len(data) // _LEAST)


def _parse(message: Message, data: bytes) -> None:
    check_parts(message, data)
    try:
        message.ParseFromString(data)
    except DecodeError:
        raise ProofRefused("ENCODING", "the proof is not a message of its kind") from None
    message.DiscardUnknownFields()
    if message.SerializeToString() != data:
        raise ProofRefused("ENCODING", "the proof is not equal to its own re-encoding")


@cache
def _lengths(kind: Descriptor) -> dict[int, tuple[bool, Descriptor | None]]:
    """Of the fields with a length, by their tag: whether there may be several, and what message each is, if it is one
    in which there are several of something."""
    return {
        field.number << 3 | 2: (field.is_repeated, field.message_type if _has_several(field.message_type) else None)
        for field in kind.fields
        if field.message_type or field.type in (field.TYPE_BYTES, field.TYPE_STRING)
    }


@cache
def _has_several(kind: Descriptor | None) -> bool:
    return kind is not None and any(field.is_repeated or _has_several(field.message_type) for field in kind.fields)


def _count_parts(kind: Descriptor, data: bytes, at: int, end: int, left: int) -> int:
    """How many more there may be, of `left`, after those between `at` and `end`. Raises ProofRefused."""
    lengths = _lengths(kind)
    while at < end:
        tag, at = data[at], at + 1
        length, shift = 0, 0
        while at < end and data[at] >= 0x80 and shift < 63:
            length |= (data[at] & 0x7F) << shift
            at, shift = at + 1, shift + 7
        if at >= end or (tag not in lengths and tag & 0x87):
            raise ProofRefused("ENCODING", "the proof is not a message of its kind")
        length |= data[at] << shift
        at += 1
        if tag not in lengths:  # a number
            continue
        several, inner = lengths[tag]
        left -= several
        if at + length > end or left < 0:
            raise ProofRefused("ENCODING", "the proof is cut, or has more parts than its bytes can be good for")
        if inner:
            left = _count_parts(inner, data, at, at + length, left)
        at += length
    return left


def _need(message: Message, *fields: str) -> None:
    for field in fields:
        if not message.HasField(field):
            raise ProofRefused("FIELD_MISSING", f"{message.DESCRIPTOR.name} lacks {field}")


def _hash(value: bytes) -> bytes:
    if len(value) != 32:
        raise ProofRefused("HASH_LENGTH", "a hash or nonce does not have 32 bytes")
    return value


def _label(message: pb.NodeLabel, untrimmed: bool = False) -> Label:
    value, length = message.label_val, message.label_len
    if not (value and length):  # what is not the default is there
        _need(message, "label_val", "label_len")
    if length > BITS or len(value) > BITS // 8:
        raise ProofRefused("LABEL_LENGTH", "a node label is longer than 256 bits")
    if value.endswith(b"\0") and not untrimmed:
        raise ProofRefused("ENCODING", "a node label's trailing zero bytes are not cut off")
    label = Label(int.from_bytes(value.ljust(32, b"\0"), "big"), length)
    if label.bits & ~MASKS[length] and label != EMPTY:
        raise ProofRefused("LABEL_BITS", "a node label has bits set past its length")
    return label


def _node(message: pb.AzksElement, untrimmed: bool = False) -> Node:
    _need(message, "label", "value")
    return Node(_label(message.label, untrimmed), _hash(message.value))


def _step(message: pb.SiblingProof) -> Step:
    _need(message, "label", "direction")
    if len(message.siblings) != 1:
        raise ProofRefused("SIBLING_COUNT", "a step of a membership proof does not have exactly one sibling")
    if message.direction > 1:
        raise ProofRefused("DIRECTION", "a direction is neither 0 nor 1")
    return Step(_label(message.label), _node(message.siblings[0]), message.direction)


def _membership(message: pb.MembershipProof) -> Membership:
    _need(message, "label", "hash_val")
    node = Node(_label(message.label), _hash(message.hash_val))
    return Membership(node, tuple(_step(step) for step in message.sibling_proofs))


def _non_membership(message: pb.NonMembershipProof) -> NonMembership:
    _need(message, "label", "longest_prefix", "longest_prefix_membership_proof")
    if len(message.longest_prefix_children) != 2:
        raise ProofRefused("CHILD_COUNT", "a non-membership proof does not have exactly two children")
    left, right = message.longest_prefix_children
    return NonMembership(
        _label(message.label),
        _label(message.longest_prefix),
        (_node(left), _node(right)),
        _membership(message.longest_prefix_membership_proof),
    )


def _version(message: pb.LookupProof | pb.UpdateProof) -> VersionProof:
    _need(message, "epoch", "value", "version", "existence_vrf_proof", "existence_proof", "commitment_nonce")
    return VersionProof(
        message.version,
        message.epoch,
        message.value,
        _hash(message.commitment_nonce),
        message.existence_vrf_proof,
        _membership(message.existence_proof),
    )


def _update(message: pb.UpdateProof) -> UpdateProof:
    proved = _version(message)
    if proved.version <= 1:
        if message.HasField("previous_version_vrf_proof") or message.HasField("previous_version_proof"):
            raise ProofRefused("FIELD_UNEXPECTED", "version 1 has no previous version")
        return UpdateProof(proved, None)
    _need(message, "previous_version_vrf_proof", "previous_version_proof")
    return UpdateProof(proved, (message.previous_version_vrf_proof, _membership(message.previous_version_proof)))
