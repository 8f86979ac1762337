"""The directory spec's "Known weakness of lookup proofs": versions planted by the operator.

A lookup proof does not conflict with its owner's history; two history proofs do. What decides on an identity here
uses a history, most recent 1.
"""

import pytest

from ipls.akd import ProofRefused, verify_append_only, verify_history, verify_lookup
from ipls.akd.versions import future_markers, past_markers
from ipls.proto.akd.v1 import akd_pb2 as pb
from tests.attack.directory import Directory, Tree

OWNER = b"+491700000001"
EPOCH = 10


def planted(*, fully: bool) -> tuple[Directory, Tree]:
    """The owner at version 1; the operator inserts (fresh, 8), and what its history needs beside it if `fully`."""
    server = Directory(b"\x17" * 32)
    server.publish([(OWNER, b"owner's key"), *((b"+1555%d" % i, b"key") for i in range(20))])
    for epoch in range(2, EPOCH + 1):
        server.publish([(b"+1666%d" % epoch, b"key")])
        if epoch == 8:
            server.plant(OWNER, 8, b"thief's key", 8)
            if fully:
                server.retire(OWNER, 7, 8)
                server.plant(OWNER, 4, b"thief's key", 8)
        step = server.append_only(epoch).SerializeToString()
        verify_append_only(server.tree(epoch - 1).root(), server.tree(epoch).root(), epoch, step)  # audits pass
    return server, server.tree()


def history(server: Directory, tree: Tree, proof: pb.HistoryProof, most_recent: int) -> list[tuple[int, bytes]]:
    shown = verify_history(
        tree.root(), EPOCH, server.public_key, OWNER, proof.SerializeToString(), most_recent=most_recent
    )
    return [(version.version, version.value) for version in shown]


def test_a_lone_version_passes_a_lookup_and_the_owners_history() -> None:
    server, tree = planted(fully=False)
    proof = server.lookup(tree, OWNER, 8).SerializeToString()
    assert verify_lookup(tree.root(), EPOCH, server.public_key, OWNER, proof).value == b"thief's key"
    assert history(server, tree, server.history(tree, OWNER, [1], EPOCH), 0) == [(1, b"owner's key")]


def lone_version_attempts(server: Directory, tree: Tree) -> dict[str, pb.HistoryProof]:
    """What a server can say where it has (fresh, 8) alone: version 8 wants (stale, 7) and the past marker 4."""
    epoch, value, nonce = server.versions[OWNER, 8]
    fresh = tree.membership(tree.leaf(server.position(OWNER, True, 8)))
    first = tree.membership(tree.leaf(server.position(OWNER, True, 1)))

    def claim(past: int | None, **previous: object) -> pb.HistoryProof:
        return pb.HistoryProof(
            update_proofs=[
                pb.UpdateProof(
                    epoch=epoch,
                    value=value,
                    version=8,
                    existence_vrf_proof=server.vrf_proof(OWNER, True, 8),
                    existence_proof=fresh,
                    commitment_nonce=nonce,
                    **previous,  # the two fields of the version before
                )
            ],
            past_marker_vrf_proofs=[server.vrf_proof(OWNER, True, past)] if past else [],
            existence_of_past_marker_proofs=[first] if past else [],
            future_marker_vrf_proofs=[server.vrf_proof(OWNER, True, number) for number in future_markers(8, EPOCH)],
            non_existence_of_future_marker_proofs=[
                tree.non_membership(server.position(OWNER, True, number)) for number in future_markers(8, EPOCH)
            ],
        )

    return {
        "FIELD_MISSING": claim(4),
        "POSITION": claim(
            4, previous_version_vrf_proof=server.vrf_proof(OWNER, False, 7), previous_version_proof=first
        ),
        "VRF_PROOF": claim(
            4, previous_version_vrf_proof=server.vrf_proof(OWNER, True, 1), previous_version_proof=first
        ),
    }


@pytest.mark.parametrize("reason", ["FIELD_MISSING", "POSITION", "VRF_PROOF"])
def test_a_lone_version_is_refused_by_a_history(reason: str) -> None:
    server, tree = planted(fully=False)
    with pytest.raises(ProofRefused) as refusal:
        history(server, tree, lone_version_attempts(server, tree)[reason], 1)
    assert refusal.value.reason == reason


def test_a_retired_predecessor_is_not_enough() -> None:
    """(fresh, 8) and (stale, 7) without the past marker 4."""
    server, _ = planted(fully=False)
    server.retire(OWNER, 7, 8)
    tree = server.tree()
    proof = lone_version_attempts(server, tree)["FIELD_MISSING"]
    update = proof.update_proofs[0]
    update.previous_version_vrf_proof = server.vrf_proof(OWNER, False, 7)
    update.previous_version_proof.CopyFrom(tree.membership(tree.leaf(server.position(OWNER, False, 7))))
    with pytest.raises(ProofRefused) as refusal:
        history(server, tree, proof, 1)
    assert refusal.value.reason == "POSITION"
    proof.ClearField("past_marker_vrf_proofs")
    proof.ClearField("existence_of_past_marker_proofs")
    with pytest.raises(ProofRefused) as refusal:
        history(server, tree, proof, 1)
    assert refusal.value.reason == "PAST_MARKERS"


def test_what_a_history_needs_is_seen_by_the_owner() -> None:
    """(fresh, 8), (stale, 7), (fresh, 4): most recent 1 passes, the owner's complete history can no longer be made."""
    server, tree = planted(fully=True)
    assert history(server, tree, server.history(tree, OWNER, [8], EPOCH), 1) == [(8, b"thief's key")]
    markers = future_markers(1, EPOCH)
    assert markers == [2, 4]
    leaf = tree.leaf(server.position(OWNER, True, 4))
    complete = server.history(tree, OWNER, [1], EPOCH, future=[2])
    with pytest.raises(ProofRefused) as refusal:
        history(server, tree, complete, 0)
    assert refusal.value.reason == "FUTURE_MARKERS"
    complete.future_marker_vrf_proofs.append(server.vrf_proof(OWNER, True, 4))
    for ancestor, _ in tree.path(leaf):
        del complete.non_existence_of_future_marker_proofs[1:]
        complete.non_existence_of_future_marker_proofs.append(tree.non_membership(leaf.label, ancestor))
        with pytest.raises(ProofRefused) as refusal:
            history(server, tree, complete, 0)
        assert refusal.value.reason == "CHILD_LEADS_ON"


def test_two_histories_of_different_versions_always_conflict() -> None:
    """Whatever versions owner and thief stand at: one shows present what the other shows absent."""
    epoch = 600
    for owner in range(1, 120):
        owners_absent = set(future_markers(owner, epoch))
        for thief in range(owner + 1, 300):
            thiefs_present = {thief, *past_markers(thief)}
            assert owners_absent & thiefs_present, (owner, thief)
