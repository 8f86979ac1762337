"""VRF proofs and positions that are not the label's own."""

import pytest

from ipls.akd import verify_lookup
from ipls.akd.vrf import verify as verify_vrf
from ipls.proto.akd.v1 import akd_pb2 as pb
from tests.attack.directory import Directory, raw, small_order_proof
from tests.attack.victim import (
    ABSENT,
    EPOCH,
    PARTS,
    VICTIM,
    absence,
    both_kinds,
    history,
    lookup,
    refuses,
    victims_server,
)

ORDER = 2**252 + 27742317777372353535851937790883648493
VRF_PLACES: list[tuple[str, str]] = [
    ("lookup", "existence"),
    ("lookup", "marker"),
    ("lookup", "freshness"),
    ("history", "existence"),
    ("history", "previous"),
    ("history", "marker"),
    ("history", "future marker"),
]


def with_vrf_proof(kind: str, part: str, vrf_proof: bytes | None, node: pb.MembershipProof | None = None):
    """Checks an honest proof of which one part's VRF proof, or membership, is exchanged."""
    server, tree = victims_server(), victims_server().tree()
    if kind == "lookup":
        proof = server.lookup(tree, VICTIM, 3)
        if vrf_proof is not None:
            setattr(proof, f"{part}_vrf_proof", vrf_proof)
        if node:
            getattr(proof, f"{part}_proof").CopyFrom(node)
        return lambda: lookup(server, tree, proof)
    shown = server.history(tree, VICTIM, [3], EPOCH)
    update = shown.update_proofs[0]
    if vrf_proof is not None:
        if part == "existence":
            update.existence_vrf_proof = vrf_proof
        elif part == "previous":
            update.previous_version_vrf_proof = vrf_proof
        else:
            (shown.past_marker_vrf_proofs if part == "marker" else shown.future_marker_vrf_proofs)[0] = vrf_proof
    if node:
        {
            "existence": update.existence_proof,
            "previous": update.previous_version_proof,
            "marker": shown.existence_of_past_marker_proofs[0],
        }[part].CopyFrom(node)
    return lambda: history(server, tree, shown, 1)


@pytest.mark.parametrize(("kind", "part"), VRF_PLACES)
def test_vrf_proofs_are_the_labels_own(kind: str, part: str) -> None:
    server = victims_server()
    fresh, version = PARTS[part]
    honest = server.vrf_proof(VICTIM, fresh, version)
    with_vrf_proof(kind, part, honest)()
    for other in (
        server.vrf_proof(b"+15550007", fresh, version),
        server.vrf_proof(VICTIM, not fresh, version),
        server.vrf_proof(VICTIM, fresh, version + 7),
        Directory(b"\x2b" * 32).vrf_proof(VICTIM, fresh, version),
        bytes(80),
        b"\xff" * 48 + bytes(32),
    ):
        refuses("VRF_PROOF", with_vrf_proof(kind, part, other))
    for response in (int.from_bytes(honest[48:], "little") + ORDER, ORDER):
        refuses("VRF_SCALAR", with_vrf_proof(kind, part, honest[:48] + response.to_bytes(32, "little")))
    for length in (honest[:79], honest + b"\0", b""):
        refuses("VRF_LENGTH", with_vrf_proof(kind, part, length))


@pytest.mark.parametrize(("kind", "part"), [place for place in VRF_PLACES if place[1] not in ABSENT])
def test_the_leaf_shown_is_the_one_at_the_position(kind: str, part: str) -> None:
    server, tree = victims_server(), victims_server().tree()
    other = tree.membership(tree.leaf(server.position(b"+15550007", True, 1)))
    refuses("POSITION", with_vrf_proof(kind, part, None, other))


@pytest.mark.parametrize("kind", ["lookup", "history"])
def test_the_absent_label_is_the_one_at_the_position(kind: str) -> None:
    server, tree = victims_server(), victims_server().tree()
    for proof, check in both_kinds(server, tree)[kind == "history" :][:1]:
        absence(proof).CopyFrom(tree.non_membership(server.position(b"+15550007", False, 9)))
        refuses("POSITION", check)


def test_a_leaf_at_a_prefix_of_the_position() -> None:
    """A leaf whose label has 255 of the position's bits."""
    server = victims_server()
    tree = server.tree()
    leaf = tree.leaf(server.position(VICTIM, True, 3))
    leaf.label = raw(leaf.label.bits[:255])
    refuses("POSITION", lambda: lookup(server, tree, server.lookup(tree, VICTIM, 3)))
    refuses("POSITION", lambda: history(server, tree, server.history(tree, VICTIM, [3], EPOCH), 1))


SMALL_ORDER = [
    b"\x01" + bytes(31),
    bytes(32),
    (2**255 - 20).to_bytes(32, "little"),
    bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"),
    bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"),
]


@pytest.mark.parametrize("key", [*SMALL_ORDER, b"\xff" * 32, b"\x02" + bytes(31), b"", bytes(33)])
def test_a_key_of_small_order_or_none(key: bytes) -> None:
    """Under the neutral element anyone makes VRF proofs; keys that are no points are no keys either."""
    refuses("VRF_KEY", lambda: verify_vrf(key, b"alpha", small_order_proof(b"alpha")))
    server, tree = victims_server(), victims_server().tree()
    proof = server.lookup(tree, VICTIM, 3).SerializeToString()
    refuses("VRF_KEY", lambda: verify_lookup(tree.root(), EPOCH, key, VICTIM, proof))
