"""Versions, epochs, values and markers that a lookup or a history must not show."""

from collections.abc import Callable
from itertools import product

import pytest

from ipls.proto.akd.v1 import akd_pb2 as pb
from tests.attack.directory import (
    Directory,
    digest,
)
from tests.attack.victim import (
    EPOCH,
    VICTIM,
    history,
    lookup,
    own_server,
    refuses,
    victims_server,
)


def test_lookup_opens_to_its_own_value() -> None:
    server, tree = victims_server(), victims_server().tree()
    for field, lie in (("value", b"thief's key"), ("commitment_nonce", digest(b"other")), ("epoch", 8)):
        proof = server.lookup(tree, VICTIM, 3)
        setattr(proof, field, lie)
        refuses("COMMITMENT", lambda proof=proof: lookup(server, tree, proof))


def test_a_nonce_of_another_length() -> None:
    server = own_server()
    server.plant(VICTIM, 3, b"key", 7, nonce=b"short")
    tree = server.tree()
    refuses("HASH_LENGTH", lambda: lookup(server, tree, server.lookup(tree, VICTIM, 3)))
    refuses("HASH_LENGTH", lambda: history(server, tree, server.history(tree, VICTIM, [3], EPOCH), 1))


@pytest.mark.parametrize(("version", "epoch"), [(0, 5), (6, 5), (5, EPOCH + 1), (EPOCH + 1, EPOCH + 1)])
def test_version_and_epochs_in_order(version: int, epoch: int) -> None:
    server, label = own_server(), b"+15559999"
    for number in {version, *({4, 8} if version else ())}:
        server.plant(label, number, b"key", epoch)
    server.retire(label, max(version, 1) - 1, epoch)
    tree = server.tree(EPOCH + 1)
    refuses("VERSION_RANGE", lambda: lookup(server, tree, server.lookup(tree, label, version), label))
    if version:
        for past in range(1, version):
            server.plant(label, past, b"key", epoch)
        tree = server.tree(EPOCH + 1)
    shown = server.history(tree, label, [version], EPOCH, future=[])
    refuses("VERSION_RANGE", lambda: history(server, tree, shown, 1, label))


def test_lookup_of_a_version_without_its_marker() -> None:
    """(fresh, 3) is there, (fresh, 2) is not: nothing else can stand in for it."""
    server, label = own_server(), b"+15559999"
    server.plant(label, 3, b"thief's key", 9)
    server.plant(label, 1, b"key", 1)
    tree = server.tree()
    proof = server.lookup(tree, label, 1)
    proof.MergeFrom(pb.LookupProof(epoch=9, value=b"thief's key", version=3))
    proof.commitment_nonce = server.versions[label, 3][2]
    proof.existence_vrf_proof = server.vrf_proof(label, True, 3)
    proof.existence_proof.CopyFrom(tree.membership(tree.leaf(server.position(label, True, 3))))
    proof.freshness_vrf_proof = server.vrf_proof(label, False, 3)
    proof.freshness_proof.CopyFrom(tree.non_membership(server.position(label, False, 3)))
    for stand_in in (1, 3):
        proof.marker_vrf_proof = server.vrf_proof(label, True, stand_in)
        proof.marker_proof.CopyFrom(tree.membership(tree.leaf(server.position(label, True, stand_in))))
        refuses("VRF_PROOF", lambda: lookup(server, tree, proof, label))
    proof.marker_vrf_proof = server.vrf_proof(label, True, 2)
    refuses("POSITION", lambda: lookup(server, tree, proof, label))


def test_history_opens_to_its_own_values() -> None:
    server, tree = victims_server(), victims_server().tree()
    for at, (field, lie) in product(
        range(3), [("value", b"thief's key"), ("commitment_nonce", digest(b"other")), ("epoch", 9)]
    ):
        shown = server.history(tree, VICTIM, [3, 2, 1], EPOCH)
        setattr(shown.update_proofs[at], field, lie)
        refuses("COMMITMENT", lambda shown=shown: history(server, tree, shown))


@pytest.mark.parametrize(
    ("versions", "most_recent", "reason"),
    [
        ([3, 1], 0, "NOT_CONSECUTIVE"),
        ([1, 2, 3], 0, "NOT_CONSECUTIVE"),
        ([3, 3, 2, 1], 0, "NOT_CONSECUTIVE"),
        ([3, 2, 1, 1], 0, "NOT_CONSECUTIVE"),
        ([3, 2], 0, "INCOMPLETE"),
        ([3], 0, "INCOMPLETE"),
        ([3], 2, "INCOMPLETE"),
        ([3, 2], 5, "INCOMPLETE"),
        ([3, 2], 1, "TOO_MANY_VERSIONS"),
        ([3, 2, 1], 2, "TOO_MANY_VERSIONS"),
    ],
)
def test_which_versions_a_history_shows(versions: list[int], most_recent: int, reason: str) -> None:
    server, tree = victims_server(), victims_server().tree()
    shown = server.history(tree, VICTIM, versions, EPOCH)
    refuses(reason, lambda: history(server, tree, shown, most_recent))


@pytest.mark.parametrize(("versions", "most_recent"), [([3, 2, 1], 0), ([3, 2, 1], 3), ([3, 2, 1], 9), ([3, 2], 2)])
def test_which_versions_a_history_may_show(versions: list[int], most_recent: int) -> None:
    server, tree = victims_server(), victims_server().tree()
    shown = history(server, tree, server.history(tree, VICTIM, versions, EPOCH), most_recent)
    assert [version.version for version in shown] == versions


def test_a_history_of_nothing() -> None:
    server, tree = victims_server(), victims_server().tree()
    shown = server.history(tree, VICTIM, [3], EPOCH)
    shown.ClearField("update_proofs")
    refuses("NO_VERSIONS", lambda: history(server, tree, shown, 1))
    refuses("NO_VERSIONS", lambda: history(server, tree, pb.HistoryProof(), 0))


@pytest.mark.parametrize("older", [3, 4])
def test_epochs_fall_strictly(older: int) -> None:
    """Version 2 at the epoch of version 1, and before it."""
    server, label = own_server(), b"+15559999"
    server.plant(label, 1, b"key", older)
    server.plant(label, 2, b"other key", 3)
    server.retire(label, 1, 3)
    tree = server.tree()
    shown = server.history(tree, label, [2, 1], EPOCH)
    refuses("EPOCH_ORDER", lambda: history(server, tree, shown, label=label))


@pytest.mark.parametrize(("epoch", "commitment"), [(6, None), (8, None), (7, digest(b"something else"))])
def test_the_version_before_is_retired_at_the_same_epoch(epoch: int, commitment: bytes | None) -> None:
    server = own_server()
    server.retire(VICTIM, 2, epoch, commitment=commitment)
    tree = server.tree()
    for versions, most_recent in (([3, 2, 1], 0), ([3], 1)):
        shown = server.history(tree, VICTIM, versions, EPOCH)
        refuses("STALE_LEAF", lambda shown=shown, n=most_recent: history(server, tree, shown, n))


def test_a_version_whose_predecessor_was_never_retired() -> None:
    server, tree = victims_server(), victims_server().tree()
    for field in ("previous_version_vrf_proof", "previous_version_proof"):
        shown = server.history(tree, VICTIM, [3], EPOCH)
        shown.update_proofs[0].ClearField(field)
        refuses("FIELD_MISSING", lambda shown=shown: history(server, tree, shown, 1))


def test_version_1_has_no_predecessor() -> None:
    server = own_server()
    server.retire(VICTIM, 0, 1)
    tree = server.tree()
    stale = tree.leaf(server.position(VICTIM, False, 0))
    predecessor = pb.UpdateProof(
        previous_version_vrf_proof=server.vrf_proof(VICTIM, False, 0), previous_version_proof=tree.membership(stale)
    )
    for field in ("previous_version_vrf_proof", "previous_version_proof", None):
        shown = server.history(tree, VICTIM, [3, 2, 1], EPOCH)
        shown.update_proofs[2].MergeFrom(predecessor)
        if field:
            shown.update_proofs[2].ClearField(field)
        refuses("FIELD_UNEXPECTED", lambda shown=shown: history(server, tree, shown))


def seven_versions() -> Directory:
    server = own_server()
    for version in range(1, 8):
        server.plant(b"+7", version, b"key %d" % version, version)
        server.retire(b"+7", version - 1, version)
    return server


def test_past_markers_are_all_there_in_order() -> None:
    """Version 7 has the past markers 4 and 6."""
    server = seven_versions()
    tree = server.tree()

    def shown(*markers: int) -> Callable[[], object]:
        proof = server.history(tree, b"+7", [7], EPOCH)
        proof.ClearField("past_marker_vrf_proofs")
        proof.ClearField("existence_of_past_marker_proofs")
        for number in markers:
            proof.past_marker_vrf_proofs.append(server.vrf_proof(b"+7", True, number))
            leaf = tree.leaf(server.position(b"+7", True, number))
            proof.existence_of_past_marker_proofs.append(tree.membership(leaf))
        return lambda: history(server, tree, proof, 1, b"+7")

    shown(4, 6)()
    for markers in [(), (4,), (6,), (4, 6, 7), (4, 4, 6), (1, 4, 6)]:
        refuses("PAST_MARKERS", shown(*markers))
    for markers in [(6, 4), (4, 4), (6, 6), (4, 5), (2, 6), (4, 7)]:
        refuses("VRF_PROOF", shown(*markers))


def test_future_markers_are_all_there_in_order() -> None:
    """Version 1 at epoch 10 has the future markers 2 and 4."""
    server, label = own_server(), b"+15550007"
    tree = server.tree()

    def shown(*markers: int) -> Callable[[], object]:
        proof = server.history(tree, label, [1], EPOCH, future=markers)
        return lambda: history(server, tree, proof, 0, label)

    shown(2, 4)()
    for markers in [(), (2,), (4,), (2, 4, 8), (2, 2, 4), (2, 4, 16)]:
        refuses("FUTURE_MARKERS", shown(*markers))
    for markers in [(4, 2), (2, 2), (2, 3), (3, 4), (2, 8)]:
        refuses("VRF_PROOF", shown(*markers))


@pytest.mark.parametrize(
    "field",
    [
        "past_marker_vrf_proofs",
        "existence_of_past_marker_proofs",
        "future_marker_vrf_proofs",
        "non_existence_of_future_marker_proofs",
    ],
)
def test_markers_and_their_vrf_proofs_pair_up(field: str) -> None:
    server, tree = victims_server(), victims_server().tree()
    shown = server.history(tree, VICTIM, [3], EPOCH)
    shown.ClearField(field)
    refuses("MARKER_COUNT", lambda: history(server, tree, shown, 1))
