"""The tree's hashing (directory spec, "What a leaf holds" and "The tree"): BLAKE3, 32 bytes.

One of the two modules that a native kernel can replace: callers hand over whole batches (`commit`, `fold`).

Tested by tests/akd/test_tree.py and tests/conformance/test_replay.py.
"""

from collections.abc import Iterable, Sequence

from blake3 import blake3

from ipls.akd.labels import BITS, EMPTY, MASKS, ROOT, Label, Node, common_length
from ipls.crypto.encoding import lp, u64


def digest(data: bytes) -> bytes:
    """The directory spec's `H`."""
    return blake3(data).digest()


def node_hash(node: Node) -> bytes:
    """What goes into the parent's value."""
    return blake3(node.value + blake3(node.label.encode()).digest()).digest()


def parent_value(left: Node, right: Node) -> bytes:
    """An interior node's value."""
    return blake3(node_hash(left) + node_hash(right)).digest()


STALE_COMMITMENT = digest(b"\x00")
EMPTY_NODE = Node(EMPTY, node_hash(Node(EMPTY, STALE_COMMITMENT)))
_EMPTY_HASH = node_hash(EMPTY_NODE)
_EMPTY_TREE = Node(ROOT, digest(b"\x00"))


def commitment(value: bytes, nonce: bytes) -> bytes:
    """A fresh leaf's commitment to its value."""
    return digest(lp(value) + lp(nonce))


def commitment_nonce(commitment_key: bytes, label: Label, version: int, value: bytes) -> bytes:
    """The nonce (32 bytes) that opens a fresh leaf."""
    return digest(commitment_key + label.encode() + u64(version) + lp(value))


def commit(commitment_key: bytes, leaves: Iterable[tuple[Label, int, bytes]]) -> list[bytes]:
    """The commitments of fresh leaves, each given as (node label, version, value)."""
    return [commitment(leaf[2], commitment_nonce(commitment_key, *leaf)) for leaf in leaves]


def leaf_value(leaf_commitment: bytes, epoch: int) -> bytes:
    """A leaf's hash, from its commitment and the epoch it was inserted in."""
    return blake3(leaf_commitment + epoch.to_bytes(8, "big")).digest()


def fold(nodes: Sequence[Node], known: Sequence[bytes | None]) -> tuple[list[bytes], Node]:
    """The interior nodes over `nodes`: their values in the order of the gaps between neighbours, and the top node.

    `nodes` are sorted, at least one, none a prefix of another. In a compressed trie each gap belongs to exactly one
    interior node, the one that parts the two neighbours. A value in `known` (one a gap) is taken as it is.
    """
    gaps = list(known)
    open_gaps: list[tuple[int, int, Node]] = []  # (gap, depth at which it parts, its left child), deepest last
    node = nodes[0]

    def close() -> Node:
        gap, depth, left = open_gaps.pop()
        value = gaps[gap]
        if value is None:
            value = gaps[gap] = parent_value(left, node)
        return Node(left.label.cut(depth), value)

    for gap in range(len(nodes) - 1):
        depth = common_length(nodes[gap].label.bits, nodes[gap + 1].label.bits)
        while open_gaps and open_gaps[-1][1] > depth:
            node = close()
        open_gaps.append((gap, depth, node))
        node = nodes[gap + 1]
    while open_gaps:
        node = close()
    return [value for value in gaps if value is not None], node


def root_node(top: Node | None) -> Node:
    """The root over the top node of all leaves; an absent side takes the empty label. None: the empty tree."""
    if top is None:
        return _EMPTY_TREE
    if top.label == ROOT:
        return top
    sides = (EMPTY_NODE, top) if top.label.bit(0) else (top, EMPTY_NODE)
    return Node(ROOT, parent_value(*sides))


def root_hash(root: Node) -> bytes:
    """The published root hash of a root node."""
    return node_hash(root)


EMPTY_ROOT = root_hash(_EMPTY_TREE)
"""The root hash of the empty tree, epoch 0."""


def root_over(hashed: Sequence[tuple[Label, bytes]]) -> bytes:
    """The root hash of the tree over nodes, given as (label, `node_hash`), as `fold` wants them, or none.

    It keeps nothing but the hashes of the path it stands on: an epoch's proof asks for a hundred thousand nodes.
    """
    if not hashed:
        return EMPTY_ROOT
    open_gaps: list[tuple[int, bytes]] = []  # (depth at which it parts, its left child's hash), deepest last
    (bits, length), top = hashed[0]
    for gap in range(1, len(hashed) + 1):
        depth = common_length(bits, hashed[gap][0].bits) if gap < len(hashed) else -1
        while open_gaps and open_gaps[-1][0] > depth:
            length, left = open_gaps.pop()
            label = (length << BITS | bits & MASKS[length]).to_bytes(36, "big")
            top = blake3(blake3(left + top).digest() + blake3(label).digest()).digest()
        if gap < len(hashed):
            open_gaps.append((depth, top))
            (bits, length), top = hashed[gap]
    if length == 0:
        return top
    sides = _EMPTY_HASH + top if bits >> BITS - 1 else top + _EMPTY_HASH
    return node_hash(Node(ROOT, digest(sides)))
