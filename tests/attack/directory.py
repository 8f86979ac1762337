"""A malicious directory server: it holds the VRF key and the whole tree, and signs its own roots.

Its tree is written down from the directory spec's page anew, sharing nothing with `ipls.akd.tree`: explicit nodes,
labels as they are hashed, values computed from children however those lie. Left alone it makes honest proofs. A test
bends the tree or a proof and takes the root over the lie, so that only the rule broken can refuse it.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from blake3 import blake3

from ipls.akd.vrf import SecretKey
from ipls.proto.akd.v1 import akd_pb2 as pb

SKIP_LIST = [1, 2, 4, 16, 256, 65536, 2**32]


def digest(*parts: bytes) -> bytes:
    return blake3(b"".join(parts)).digest()


def u64(number: int) -> bytes:
    return number.to_bytes(8, "big")


def lp(data: bytes) -> bytes:
    return u64(len(data)) + data


class RawLabel(NamedTuple):
    """A node label as it is hashed, well-formed or not."""

    value: bytes
    length: int

    @property
    def bits(self) -> str:
        return f"{int.from_bytes(self.value, 'big'):0256b}"[: self.length]

    def message(self) -> pb.NodeLabel:
        return pb.NodeLabel(label_val=self.value.rstrip(b"\0"), label_len=self.length)

    def hash(self) -> bytes:
        return digest(self.length.to_bytes(4, "big"), self.value)


def raw(bits: str) -> RawLabel:
    return RawLabel(int(bits.ljust(256, "0"), 2).to_bytes(32, "big"), len(bits))


ROOT = raw("")
EMPTY = RawLabel(b"\x01" * 32, 0)


@dataclass(eq=False)
class Node:
    """A node of the server's tree: a leaf (commitment, epoch), an interior node, or a bare value."""

    label: RawLabel
    children: "list[Node] | None" = None
    commitment: bytes = b""
    epoch: int = 0
    bare: bytes = b""

    def value(self) -> bytes:
        if self.bare:
            return self.bare
        if self.children is None:
            return digest(self.commitment, u64(self.epoch))
        return digest(*(digest(child.value(), child.label.hash()) for child in self.children))

    def element(self) -> pb.AzksElement:
        return pb.AzksElement(label=self.label.message(), value=self.value())


def empty_node() -> Node:
    return Node(EMPTY, bare=digest(digest(b"\0"), EMPTY.hash()))


def trie(leaves: Sequence[Node]) -> Node:
    """The compressed trie over nodes none of whose labels is a prefix of another's."""
    if len(leaves) == 1:
        return leaves[0]
    first, *rest = [leaf.label.bits for leaf in leaves]
    shared = next(i for i in range(256) if any(bits[i] != first[i] for bits in rest))
    sides = [[leaf for leaf in leaves if leaf.label.bits[shared] == side] for side in "01"]
    return Node(raw(first[:shared]), [trie(side) for side in sides])


class Tree:
    """A tree with its root; `top` may be bent at will."""

    def __init__(self, leaves: Sequence[Node]) -> None:
        sides = [[leaf for leaf in leaves if leaf.label.bits[0] == side] for side in "01"]
        self.top = Node(ROOT, [trie(side) if side else empty_node() for side in sides])
        if not leaves:
            self.top = Node(ROOT, bare=digest(b"\0"))
        self._leaves = {leaf.label: leaf for leaf in leaves}
        self._prefixes: dict[RawLabel, Node] = {}

    def root(self) -> bytes:
        return digest(self.top.value(), ROOT.hash())

    def leaf(self, label: RawLabel) -> Node:
        return self._leaves[label]

    def path(self, node: Node) -> list[tuple[Node, int]]:
        """The (parent, side) steps from the root to a node, as the tree is built, whatever its labels say."""

        def search(at: Node) -> list[tuple[Node, int]] | None:
            if at is node:
                return []
            for side, child in enumerate(at.children or []):
                below = search(child)
                if below is not None:
                    return [(at, side), *below]
            return None

        path = search(self.top)
        assert path is not None
        return path

    def parent(self, node: Node) -> tuple[Node, int]:
        return self.path(node)[-1]

    def replace(self, node: Node, other: Node) -> None:
        parent, side = self.parent(node)
        assert parent.children
        parent.children[side] = other

    def longest_prefix(self, label: RawLabel) -> Node:
        """The node with the longest proper prefix of a label; once asked, the answer stays, bent tree or not."""
        if label not in self._prefixes:
            at = self.top
            while True:
                assert at.children
                child = at.children[int(label.bits[at.label.length])]
                if child.label == EMPTY or child.label == label or not label.bits.startswith(child.label.bits):
                    break
                at = child
            self._prefixes[label] = at
        return self._prefixes[label]

    def membership(self, node: Node) -> pb.MembershipProof:
        return pb.MembershipProof(
            label=node.label.message(),
            hash_val=node.value(),
            sibling_proofs=[
                pb.SiblingProof(
                    label=parent.label.message(), siblings=[parent.children[1 - side].element()], direction=side
                )
                for parent, side in self.path(node)
                if parent.children
            ],
        )

    def non_membership(self, label: RawLabel, parent: Node | None = None) -> pb.NonMembershipProof:
        parent = parent or self.longest_prefix(label)
        return pb.NonMembershipProof(
            label=label.message(),
            longest_prefix=parent.label.message(),
            longest_prefix_children=[child.element() for child in parent.children or []],
            longest_prefix_membership_proof=self.membership(parent),
        )


def pow2_below(number: int) -> int:
    return 2 ** (number.bit_length() - 1)


def past_markers(start: int) -> list[int]:
    found = {max(s for s in SKIP_LIST if s <= start), pow2_below(start)}
    found |= {start >> i << i for i in range(start.bit_length())}
    return sorted(found - {start})


def future_markers(end: int, epoch: int) -> list[int]:
    found = {(end | (1 << i)) >> i << i for i in range(end.bit_length()) if not end & (1 << i)}
    above = min(s for s in SKIP_LIST if s > end)
    found |= {2**i for i in range(64) if end < 2**i <= above}
    found |= {s for s in SKIP_LIST if s > end}
    return sorted(number for number in found if number <= epoch)


class Directory:
    """The server. `publish` is what an honest one does; `plant` and `retire` put in any leaf at any epoch."""

    def __init__(self, seed: bytes) -> None:
        self.seed = seed
        self.vrf = SecretKey(seed)
        self.public_key = self.vrf.public_key
        self.epoch = 0
        self.versions: dict[tuple[bytes, int], tuple[int, bytes, bytes]] = {}  # -> epoch, value, nonce
        self._leaves: dict[RawLabel, tuple[bytes, int]] = {}
        self._places: dict[tuple[bytes, bool, int], tuple[RawLabel, bytes]] = {}

    def _place(self, label: bytes, fresh: bool, version: int) -> tuple[RawLabel, bytes]:
        key = (label, fresh, version)
        if key not in self._places:
            output, proof = self.vrf.prove([digest(lp(label), bytes([fresh]), u64(version))])[0]
            self._places[key] = (RawLabel(output[:32], 256), proof)
        return self._places[key]

    def position(self, label: bytes, fresh: bool, version: int) -> RawLabel:
        return self._place(label, fresh, version)[0]

    def vrf_proof(self, label: bytes, fresh: bool, version: int) -> bytes:
        return self._place(label, fresh, version)[1]

    def plant(self, label: bytes, version: int, value: bytes, epoch: int, *, nonce: bytes | None = None) -> None:
        position = self.position(label, True, version)
        nonce = nonce or self._nonce(position, version, value)
        self.versions[label, version] = (epoch, value, nonce)
        self._leaves[position] = (digest(lp(value), lp(nonce)), epoch)

    def _nonce(self, position: RawLabel, version: int, value: bytes) -> bytes:
        length = position.length.to_bytes(4, "big")
        return digest(digest(self.seed), length, position.value, u64(version), lp(value))

    def erase(self, label: bytes, version: int) -> None:
        """The value is served as empty from here on, whichever version it is; the leaf stays."""
        epoch = self.versions[label, version][0]
        self.versions[label, version] = (epoch, b"", self._nonce(self.position(label, True, version), version, b""))

    def retire(self, label: bytes, version: int, epoch: int, *, commitment: bytes | None = None) -> None:
        self._leaves[self.position(label, False, version)] = (commitment or digest(b"\0"), epoch)

    def publish(self, updates: Sequence[tuple[bytes, bytes]]) -> None:
        """The next epoch; every update is taken for a change."""
        self.epoch += 1
        for label, value in updates:
            version = max((number for owner, number in self.versions if owner == label), default=0) + 1
            if version > 1:
                self.retire(label, version - 1, self.epoch)
            self.plant(label, version, value, self.epoch)

    def tree(self, epoch: int | None = None) -> Tree:
        """A tree of its own, to be bent."""
        limit = self.epoch if epoch is None else epoch
        return Tree(
            [
                Node(label, commitment=commitment, epoch=inserted)
                for label, (commitment, inserted) in self._leaves.items()
                if inserted <= limit
            ]
        )

    def lookup(self, tree: Tree, label: bytes, version: int) -> pb.LookupProof:
        epoch, value, nonce = self.versions[label, version]
        marker = pow2_below(version) if version else 0
        return pb.LookupProof(
            epoch=epoch,
            value=value,
            version=version,
            existence_vrf_proof=self.vrf_proof(label, True, version),
            existence_proof=tree.membership(tree.leaf(self.position(label, True, version))),
            marker_vrf_proof=self.vrf_proof(label, True, marker),
            marker_proof=tree.membership(tree.leaf(self.position(label, True, marker))),
            freshness_vrf_proof=self.vrf_proof(label, False, version),
            freshness_proof=tree.non_membership(self.position(label, False, version)),
            commitment_nonce=nonce,
        )

    def update(self, tree: Tree, label: bytes, version: int) -> pb.UpdateProof:
        epoch, value, nonce = self.versions[label, version]
        proof = pb.UpdateProof(
            epoch=epoch,
            value=value,
            version=version,
            existence_vrf_proof=self.vrf_proof(label, True, version),
            existence_proof=tree.membership(tree.leaf(self.position(label, True, version))),
            commitment_nonce=nonce,
        )
        if version > 1:
            proof.previous_version_vrf_proof = self.vrf_proof(label, False, version - 1)
            stale = tree.leaf(self.position(label, False, version - 1))
            proof.previous_version_proof.CopyFrom(tree.membership(stale))
        return proof

    def history(
        self, tree: Tree, label: bytes, versions: Sequence[int], epoch: int, *, future: Sequence[int] | None = None
    ) -> pb.HistoryProof:
        """A history of `versions`, newest first, at `epoch`; `future` may leave out future markers."""
        past = past_markers(versions[-1]) if versions[-1] else []
        future = future_markers(versions[0], epoch) if future is None else future
        return pb.HistoryProof(
            update_proofs=[self.update(tree, label, version) for version in versions],
            past_marker_vrf_proofs=[self.vrf_proof(label, True, number) for number in past],
            existence_of_past_marker_proofs=[
                tree.membership(tree.leaf(self.position(label, True, number))) for number in past
            ],
            future_marker_vrf_proofs=[self.vrf_proof(label, True, number) for number in future],
            non_existence_of_future_marker_proofs=[
                tree.non_membership(self.position(label, True, number)) for number in future
            ],
        )

    def absence(self, tree: Tree, label: bytes, markers: Sequence[int]) -> pb.AbsenceProof:
        """That the label has none of these versions; an honest one names every power of two up to the epoch."""
        return pb.AbsenceProof(
            vrf_proofs=[self.vrf_proof(label, True, number) for number in markers],
            non_existence_proofs=[tree.non_membership(self.position(label, True, number)) for number in markers],
        )

    def append_only(self, epoch: int) -> pb.SingleAppendOnlyProof:
        """The proof of the step to `epoch`, elements in the order of their labels."""
        inserted, unchanged = [], []

        def walk(node: Node) -> bool:
            """Whether the node is untouched by the step; emits what is to be emitted beneath it where it is not."""
            if node.children is None:
                if node.label != EMPTY and node.epoch == epoch:
                    inserted.append(pb.AzksElement(label=node.label.message(), value=node.commitment))
                    return False
                return True
            left, right = node.children
            untouched = walk(left), walk(right)
            if all(untouched):
                return True
            unchanged.extend(
                child.element()
                for child, same in zip((left, right), untouched, strict=True)
                if same and child.label != EMPTY
            )
            return False

        walk(self.tree(epoch).top)
        return pb.SingleAppendOnlyProof(
            inserted=sorted(inserted, key=_order), unchanged_nodes=sorted(unchanged, key=_order)
        )


def _order(element: pb.AzksElement) -> tuple[bytes, int]:
    return element.label.label_val, element.label.label_len


def small_order_proof(alpha: bytes, public_key: bytes = b"\x01" + bytes(31)) -> bytes:
    """A VRF proof that anyone can make under the neutral element as a key: Gamma neutral, U = k B, V = k H."""
    from nacl.bindings import crypto_scalarmult_ed25519_base_noclamp, crypto_scalarmult_ed25519_noclamp

    from ipls.akd import vrf

    point = vrf._hash_to_curve(public_key, alpha)
    nonce = b"\x07" + bytes(31)
    commitments = crypto_scalarmult_ed25519_base_noclamp(nonce) + crypto_scalarmult_ed25519_noclamp(nonce, point)
    challenge = hashlib.sha512(b"\x03\x02" + public_key + point + public_key + commitments + b"\0").digest()[:16]
    return public_key + challenge + nonce
