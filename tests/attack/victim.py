"""What the forgery tests share: a server with a victim's story, and proofs checked as a client would.

The root is always taken over the lie, so that nothing but the rule at hand refuses a proof; each test asserts the
reason.
"""

from collections.abc import Callable
from functools import cache

import pytest

from ipls.akd import (
    ProofRefused,
    Version,
    verify_history,
    verify_lookup,
)
from ipls.proto.akd.v1 import akd_pb2 as pb
from tests.attack.directory import (
    Directory,
    Tree,
)

SEED = b"\x2a" * 32
VICTIM = b"+491500000119"  # its leaves stand far apart, so that a lie about one part leaves the others alone
NOBODY = b"+491500000200"  # never published
EPOCH = 10


def story() -> list[list[tuple[bytes, bytes]]]:
    """Ten epochs: other people, and the victim at version 1, 2 and 3 from epochs 1, 4 and 7 on."""
    epochs = []
    for epoch in range(1, EPOCH + 1):
        updates = [(b"+1555%04d" % (epoch * 6 + i), b"record %d" % i) for i in range(6)]
        if epoch in (1, 4, 7):
            updates.append((VICTIM, b"victim's key %d" % epoch))
        epochs.append(updates)
    return epochs


PARTS = {  # of a lookup of version 3, and of its most recent 1 history at epoch 10
    "existence": (True, 3),
    "marker": (True, 2),
    "freshness": (False, 3),
    "previous": (False, 2),
    "future marker": (True, 4),
}
ABSENT = ("freshness", "future marker")


@cache
def victims_server() -> Directory:
    """Shared by the tests that only read it or bend trees of their own."""
    server = Directory(SEED)
    for updates in story():
        server.publish(updates)
    return server


def own_server() -> Directory:
    """One to plant leaves in."""
    server = Directory(SEED)
    for updates in story():
        server.publish(updates)
    return server


def lookup(server: Directory, tree: Tree, proof: pb.LookupProof, label: bytes = VICTIM, epoch: int = EPOCH) -> Version:
    return verify_lookup(tree.root(), epoch, server.public_key, label, proof.SerializeToString())


def history(
    server: Directory,
    tree: Tree,
    proof: pb.HistoryProof,
    most_recent: int = 0,
    label: bytes = VICTIM,
    epoch: int = EPOCH,
) -> tuple[Version, ...]:
    encoded = proof.SerializeToString()
    return verify_history(tree.root(), epoch, server.public_key, label, encoded, most_recent=most_recent)


def refuses(reason: str, check: Callable[[], object]) -> None:
    with pytest.raises(ProofRefused) as refusal:
        check()
    assert refusal.value.reason == reason


def absence(proof: pb.LookupProof | pb.HistoryProof) -> pb.NonMembershipProof:
    if isinstance(proof, pb.LookupProof):
        return proof.freshness_proof
    return proof.non_existence_of_future_marker_proofs[0]


def both_kinds(server: Directory, tree: Tree) -> list[tuple[pb.LookupProof | pb.HistoryProof, Callable[[], object]]]:
    """An honest lookup and history to be bent, each with its check."""
    proof, shown = server.lookup(tree, VICTIM, 3), server.history(tree, VICTIM, [3], EPOCH)
    return [(proof, lambda: lookup(server, tree, proof)), (shown, lambda: history(server, tree, shown, 1))]
