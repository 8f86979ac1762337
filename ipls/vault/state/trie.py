"""The records trie: one root hash over all records, by which a record read is shown to be there, or none to be there.

A trie of 4 bits over 32-byte keys. The root is a node; further down a node stands where at least two keys share a
prefix, a key alone under its prefix is a leaf in the node above. So the root is a function of the records, whatever
the order in which they came. Records change and are never removed.
"""

import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from ipls.crypto.encoding import tagged_hash
from ipls.vault.errors import SessionRefused

FETCH = 8
"""Nodes of a path asked for at once: the tries of some 4^8 accounts seldom reach deeper."""
_MASKS = struct.Struct(">HH")
_KEY_NIBBLES = 64


class Leaf(NamedTuple):
    """A record: its key, and `digest_of` both."""

    key: bytes
    digest: bytes


Node = dict[int, bytes | Leaf]
"""By nibble: the hash of the node below, or the leaf."""
Load = Callable[[Sequence[bytes]], Mapping[bytes, bytes]]
"""From prefixes to the bodies of the nodes there, as far as there are any; it may lie."""
NextLeaf = Callable[[bytes], Leaf | None]
"""The first leaf whose key is not below that one; it may lie."""


def digest_of(key: bytes, record: bytes) -> bytes:
    """What the trie holds for a record. The key is in it: under another one it is not the same record."""
    return tagged_hash("ipls/vault/v1 record leaf", key, record)


def node_hash(body: bytes) -> bytes:
    """The hash of a node in its parent, or the trie's root."""
    return tagged_hash("ipls/vault/v1 node", body)


def encode(node: Node) -> bytes:
    """u16 mask of nodes below || u16 mask of leaves || in the order of the nibbles: 32-byte hash, or key || digest."""
    below = sum(1 << nibble for nibble, child in node.items() if isinstance(child, bytes))
    leaves = sum(1 << nibble for nibble in node) - below
    return _MASKS.pack(below, leaves) + b"".join(
        child if isinstance(child, bytes) else child.key + child.digest for _, child in sorted(node.items())
    )


def decode(body: bytes) -> Node:
    """The inverse, of a body whose hash was seen to hold."""
    below, leaves = _MASKS.unpack_from(body)
    node: Node = {}
    at = _MASKS.size
    for nibble in range(16):
        if below >> nibble & 1:
            node[nibble], at = body[at : at + 32], at + 32
        elif leaves >> nibble & 1:
            node[nibble], at = Leaf(body[at : at + 32], body[at + 32 : at + 64]), at + 64
    return node


EMPTY_ROOT = node_hash(encode({}))


def prefix_of(key: bytes, depth: int) -> bytes:
    """Where the node for the first `depth` nibbles of a key lies: u8(depth) || those nibbles, padded by a zero one."""
    whole, odd = divmod(depth, 2)
    return bytes((depth,)) + key[:whole] + (bytes((key[whole] & 0xF0,)) if odd else b"")


def _nibble(key: bytes, depth: int) -> int:
    return key[depth // 2] & 15 if depth % 2 else key[depth // 2] >> 4


class Trie:
    """The trie under a root that is known to be right, read through `load`, whose answers are checked; and what becomes
    of it by `put`."""

    def __init__(self, root: bytes, load: Load, next_leaf: NextLeaf | None = None) -> None:
        """With `next_leaf` a node that is not the one it was is made again from the nodes and leaves below it."""
        self.root = root
        self.changed: dict[bytes, bytes] = {}
        """The bodies to be written, by prefix."""
        self.healed = 0
        """How many nodes were made again."""
        self._load = load
        self._next_leaf = next_leaf
        self._nodes: dict[bytes, Node] = {}  # as they hang under the root
        self._loaded: dict[bytes, bytes] = {}  # not checked yet

    def get(self, key: bytes) -> bytes | None:
        """The digest of the record of this key, None if it is certain that there is none. Raises SessionRefused."""
        path = self._path(key)
        found = path[-1].get(_nibble(key, len(path) - 1))
        return found.digest if isinstance(found, Leaf) and found.key == key else None

    def leaves(self, after: bytes = b"", damaged: Callable[[SessionRefused], object] | None = None) -> Iterator[Leaf]:
        """Those of the keys above that one, ascending. Raises SessionRefused; or tells `damaged`, and leaves out what
        is below that node."""
        return self._leaves(bytes(32), 0, self.root, after, damaged)

    def _leaves(
        self, place: bytes, depth: int, below: bytes, after: bytes, damaged: Callable[[SessionRefused], object] | None
    ) -> Iterator[Leaf]:
        shift = 4 * (_KEY_NIBBLES - 1 - depth)
        try:
            node = self._node(place, depth, below)
        except SessionRefused as refused:
            if damaged is None:
                raise
            damaged(refused)
            return
        for nibble, child in sorted(node.items()):
            first = int.from_bytes(place, "big") | nibble << shift
            if isinstance(child, Leaf):
                if child.key > after:
                    yield child
            elif (first | (1 << shift) - 1).to_bytes(32, "big") > after:
                yield from self._leaves(first.to_bytes(32, "big"), depth + 1, child, after, damaged)

    def put(self, key: bytes, digest: bytes) -> None:
        """Adds a record or changes it. Raises SessionRefused, and has changed nothing then."""
        path = self._path(key)
        depth = len(path) - 1
        found = path[-1].get(_nibble(key, depth))
        path[-1][_nibble(key, depth)] = Leaf(key, digest)
        while isinstance(found, Leaf) and found.key != key:  # both go down, to where their keys part
            depth += 1
            path.append({_nibble(found.key, depth): found})
            found = path[-1].get(_nibble(key, depth))
            path[-1][_nibble(key, depth)] = Leaf(key, digest)
        for depth in reversed(range(len(path))):
            prefix, body = prefix_of(key, depth), encode(path[depth])
            self._nodes[prefix] = path[depth]
            self.changed[prefix] = body
            self.root = node_hash(body)
            if depth:
                path[depth - 1][_nibble(key, depth - 1)] = self.root

    def _path(self, key: bytes) -> list[Node]:
        """The nodes from the root to the one in which the key's leaf stands or would stand."""
        path: list[Node] = []
        below: bytes | Leaf | None = self.root
        while isinstance(below, bytes):
            path.append(self._node(key, len(path), below))
            below = path[-1].get(_nibble(key, len(path) - 1))
        return path

    def _node(self, key: bytes, depth: int, expected: bytes) -> Node:
        prefix = prefix_of(key, depth)
        node = self._nodes.get(prefix)
        if node is None:
            body = self._body(key, depth, prefix)
            if node_hash(body) != expected:
                body = self._made_again(key, depth) if self._next_leaf else body
                if node_hash(body) != expected:
                    raise SessionRefused(
                        "VAULT_DATABASE_EDITED", f"the records trie's node at depth {depth} is not the one it was"
                    )
                self.changed[prefix] = body
                self.healed += 1
            node = self._nodes[prefix] = decode(body)
        return node

    def _made_again(self, key: bytes, depth: int) -> bytes:
        """A node's body, from what lies right below it; not verified."""
        assert self._next_leaf
        shift = 4 * (_KEY_NIBBLES - 1 - depth)
        place = (int.from_bytes(key, "big") >> shift + 4) << shift + 4
        firsts = [(place | nibble << shift).to_bytes(32, "big") for nibble in range(16)]
        bodies = self._load([prefix_of(first, depth + 1) for first in firsts])
        node: Node = {}
        for nibble, first in enumerate(firsts):
            if (below := bodies.get(prefix_of(first, depth + 1))) is not None:
                node[nibble] = node_hash(below)
            elif (leaf := self._next_leaf(first)) and prefix_of(leaf.key, depth + 1) == prefix_of(first, depth + 1):
                node[nibble] = leaf
        return encode(node)

    def _body(self, key: bytes, depth: int, prefix: bytes) -> bytes:
        if prefix not in self._loaded:
            depths = range(depth, min(depth + FETCH, _KEY_NIBBLES))
            self._loaded.update(self._load([prefix_of(key, each) for each in depths]))
        return self._loaded.get(prefix, encode({}))
