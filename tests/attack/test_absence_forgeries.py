"""A label that is there, said not to be."""

from collections.abc import Sequence

import pytest

from ipls.akd import EMPTY_ROOT, verify_absence
from ipls.akd.versions import absence_markers, marker, past_markers
from ipls.proto.akd.v1 import akd_pb2 as pb
from tests.attack.directory import ROOT, Directory, Tree, digest, empty_node
from tests.attack.victim import EPOCH, NOBODY, VICTIM, own_server, refuses, victims_server

MARKERS = [1, 2, 4, 8]


def check(server: Directory, tree: Tree, proof: pb.AbsenceProof, label: bytes = NOBODY, epoch: int = EPOCH) -> None:
    verify_absence(tree.root(), epoch, server.public_key, label, proof.SerializeToString())


@pytest.mark.parametrize("planted", MARKERS)
def test_a_planted_version_is_not_passed_over(planted: int) -> None:
    """Version 1 alone would leave 2, 4 and 8 to plant."""
    server = own_server()
    server.plant(NOBODY, planted, b"thief's key", 8)
    tree = server.tree()
    others = [number for number in MARKERS if number != planted]
    refuses("ABSENCE_MARKERS", lambda: check(server, tree, server.absence(tree, NOBODY, others)))
    at = MARKERS.index(planted)
    for stand_in in (others[0], 3, 16):
        shown = server.absence(tree, NOBODY, [*others[:at], stand_in, *others[at:]])
        refuses("VRF_PROOF", lambda shown=shown: check(server, tree, shown))
        shown.vrf_proofs[at] = server.vrf_proof(NOBODY, True, planted)
        refuses("POSITION", lambda shown=shown: check(server, tree, shown))
    leaf = tree.leaf(server.position(NOBODY, True, planted))
    path = [ancestor for ancestor, _ in tree.path(leaf)]
    for ancestor in path:  # each is a prefix of the planted leaf, and each has a child that leads on to it
        shown = server.absence(tree, NOBODY, MARKERS[:at])
        rest = server.absence(tree, NOBODY, MARKERS[at + 1 :])
        shown.vrf_proofs.extend([server.vrf_proof(NOBODY, True, planted), *rest.vrf_proofs])
        shown.non_existence_proofs.extend([tree.non_membership(leaf.label, ancestor), *rest.non_existence_proofs])
        refuses("CHILD_LEADS_ON", lambda shown=shown: check(server, tree, shown))


def test_nobody_is_absent_and_everybody_else_is_not() -> None:
    server, tree = victims_server(), victims_server().tree()
    check(server, tree, server.absence(tree, NOBODY, MARKERS))
    refuses("VRF_PROOF", lambda: check(server, tree, server.absence(tree, NOBODY, MARKERS), VICTIM))


@pytest.mark.parametrize("markers", [[], [1], [1, 2, 4], [1, 2, 4, 8, 16], [1, 2, 4, 8, 8]])
def test_as_many_versions_as_there_are_powers_of_two(markers: Sequence[int]) -> None:
    server, tree = victims_server(), victims_server().tree()
    refuses("ABSENCE_MARKERS", lambda: check(server, tree, server.absence(tree, NOBODY, markers)))


@pytest.mark.parametrize("markers", [[8, 4, 2, 1], [1, 2, 4, 4], [1, 2, 3, 8], [2, 4, 8, 16], [1, 1, 1, 1]])
def test_the_powers_of_two_themselves_ascending(markers: Sequence[int]) -> None:
    server, tree = victims_server(), victims_server().tree()
    refuses("VRF_PROOF", lambda: check(server, tree, server.absence(tree, NOBODY, markers)))


def test_stale_places_are_not_asked_for() -> None:
    server, tree = victims_server(), victims_server().tree()
    proof = server.absence(tree, VICTIM, MARKERS[2:])
    for number in (2, 1):
        proof.vrf_proofs.insert(0, server.vrf_proof(VICTIM, False, 8 * number))
        target = server.position(VICTIM, False, 8 * number)
        proof.non_existence_proofs.insert(0, tree.non_membership(target))
    refuses("VRF_PROOF", lambda: check(server, tree, proof, VICTIM))


def test_an_absence_is_of_its_own_epoch() -> None:
    server, tree, before = victims_server(), victims_server().tree(), victims_server().tree(9)
    refuses("ROOT_HASH", lambda: check(server, tree, server.absence(before, NOBODY, MARKERS)))
    refuses("ABSENCE_MARKERS", lambda: check(server, tree, server.absence(tree, NOBODY, MARKERS), epoch=7))


@pytest.mark.parametrize("drop", ["vrf_proofs", "non_existence_proofs"])
def test_proofs_and_their_vrf_proofs_pair_up(drop: str) -> None:
    server, tree = victims_server(), victims_server().tree()
    proof = server.absence(tree, NOBODY, MARKERS)
    del getattr(proof, drop)[3]
    refuses("MARKER_COUNT", lambda: check(server, tree, proof))


def test_epoch_0_holds_nothing_and_needs_no_proof() -> None:
    server, tree = victims_server(), victims_server().tree()
    verify_absence(EMPTY_ROOT, 0, server.public_key, NOBODY, b"")
    refuses("ROOT_HASH", lambda: verify_absence(tree.root(), 0, server.public_key, NOBODY, b""))
    shown = server.absence(tree, NOBODY, [1]).SerializeToString()
    refuses("ABSENCE_MARKERS", lambda: verify_absence(EMPTY_ROOT, 0, server.public_key, NOBODY, shown))


def test_an_empty_tree_after_epoch_0_is_no_tree() -> None:
    """No epoch leaves the tree empty: two empty children prove nothing to be absent."""
    server, tree = own_server(), Tree([])
    tree.top.children, tree.top.bare = [empty_node(), empty_node()], b""
    proof = pb.AbsenceProof(
        vrf_proofs=[server.vrf_proof(NOBODY, True, 1)],
        non_existence_proofs=[tree.non_membership(server.position(NOBODY, True, 1), tree.top)],
    )
    assert tree.top.label == ROOT
    refuses("EMPTY_CHILD", lambda: check(server, tree, proof, epoch=1))
    bare = pb.AbsenceProof.FromString(proof.SerializeToString())
    bare.non_existence_proofs[0].longest_prefix_membership_proof.hash_val = digest(b"\0")
    encoded = bare.SerializeToString()
    refuses("EMPTY_CHILD", lambda: verify_absence(EMPTY_ROOT, 1, server.public_key, NOBODY, encoded))


def test_an_encoding_of_its_own() -> None:
    server, tree = victims_server(), victims_server().tree()
    proof = server.absence(tree, NOBODY, MARKERS).SerializeToString()
    first = 2 + 80
    assert proof[:2] == b"\x0a\x50"
    for bent in (
        proof + b"\xf8\x01\x00",
        proof + b"\0",
        proof[:-1],
        proof[first:] + proof[:first],
        b"\x0a\xd0\x00" + proof[2:],
        b"\xff" * 40,
        b"\x0b" * 5000,
    ):
        refuses("ENCODING", lambda bent=bent: verify_absence(tree.root(), EPOCH, server.public_key, NOBODY, bent))


def test_an_absence_conflicts_with_every_lookup_and_every_history() -> None:
    """Whatever version a lookup or a history begins with: it shows present what the absence shows absent."""
    epoch = 600
    absent = set(absence_markers(epoch))
    for version in range(1, epoch + 1):
        assert marker(version) in absent
        assert absent & {version, *past_markers(version)}
