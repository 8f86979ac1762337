"""Erased values (tombstones) where none may be, or over a leaf that was another."""

from collections.abc import Iterator, Mapping

import pytest

from ipls.akd import ProofRefused, Version, shown_leaves, verify_history
from ipls.proto.akd.v1 import akd_pb2 as pb
from ipls.trust.errors import IdentityRefused
from ipls.trust.heads import Head
from ipls.trust.identity import verify_identity
from tests.attack.directory import Directory, Tree, future_markers
from tests.attack.victim import EPOCH, SEED, VICTIM, history, lookup, own_server, refuses, victims_server
from tests.trust.roots import three_of


def allowing(
    server: Directory,
    tree: Tree,
    proof: pb.HistoryProof,
    most_recent: int = 0,
    known: Mapping[int, bytes] | None = None,
    label: bytes = VICTIM,
) -> tuple[Version, ...]:
    return verify_history(
        tree.root(),
        EPOCH,
        server.public_key,
        label,
        proof.SerializeToString(),
        most_recent=most_recent,
        allow_missing=True,
        known_leaves=known,
    )


def erased(*versions: int) -> tuple[Directory, Tree]:
    server = own_server()
    for version in versions:
        server.erase(VICTIM, version)
    return server, server.tree()


def leaves() -> dict[int, bytes]:
    """The victim's leaves, as its device kept them when all three versions were shown in full."""
    server, tree = victims_server(), victims_server().tree()
    proof = server.history(tree, VICTIM, [3, 2, 1], EPOCH)
    history(server, tree, proof)
    return shown_leaves(proof.SerializeToString())


@pytest.mark.parametrize("versions", [(1,), (2,), (1, 2)])
def test_an_erased_value_is_taken_by_who_asked_for_it_alone(versions: tuple[int, ...]) -> None:
    server, tree = erased(*versions)
    proof = server.history(tree, VICTIM, [3, 2, 1], EPOCH)
    for known in (None, {}, leaves()):
        shown = allowing(server, tree, proof, known=known)
        assert [version.version for version in shown if not version.value] == sorted(versions, reverse=True)
        assert [version.epoch for version in shown] == [7, 4, 1]
    refuses("VALUE_MISSING", lambda: history(server, tree, proof))


@pytest.mark.parametrize("most_recent", [0, 1, 2, 9])
def test_the_newest_version_is_never_missing(most_recent: int) -> None:
    server, tree = erased(3)
    proof = server.history(tree, VICTIM, [3, 2, 1][: most_recent or None], EPOCH)
    refuses("VALUE_MISSING", lambda: allowing(server, tree, proof, most_recent, leaves()))
    refuses("VALUE_MISSING", lambda: history(server, tree, proof, most_recent))


def test_a_lookup_has_its_value() -> None:
    server, tree = erased(3)
    refuses("VALUE_MISSING", lambda: lookup(server, tree, server.lookup(tree, VICTIM, 3)))


def test_an_identity_is_never_missing() -> None:
    """What vault, contact store and device decide by has no way to ask for missing values."""
    server, tree = erased(2, 3)
    root = three_of(vrf_public_key=server.public_key)
    for versions in ([3], [3, 2], [3, 2, 1]):
        proof = server.history(tree, VICTIM, versions, EPOCH).SerializeToString()
        with pytest.raises(IdentityRefused) as refusal:
            verify_identity(root, Head(EPOCH, tree.root()), VICTIM.decode(), proof)
        assert refusal.value.reason == "IDENTITY_UNPROVEN"


def test_a_value_that_is_shown_must_open_though_it_may_be_missing() -> None:
    server, tree = erased()
    proof = server.history(tree, VICTIM, [3, 2, 1], EPOCH)
    for index in range(3):
        bent = pb.HistoryProof.FromString(proof.SerializeToString())
        bent.update_proofs[index].value = b"thief's key"
        refuses("COMMITMENT", lambda bent=bent: allowing(server, tree, bent))


@pytest.mark.parametrize("value", [b"", b"thief's key"])
def test_a_leaf_that_is_not_the_one_kept(value: bytes) -> None:
    """The operator rewrote the tree: version 2 stands at its place with another leaf, its value erased or another."""
    kept = leaves()
    server = own_server()
    server.plant(VICTIM, 2, b"thief's key", 4)
    if not value:
        server.erase(VICTIM, 2)
    tree = server.tree()
    proof = server.history(tree, VICTIM, [3, 2, 1], EPOCH)
    assert allowing(server, tree, proof)[1].value == value  # nothing else can tell
    refuses("LEAF_CHANGED", lambda: allowing(server, tree, proof, known=kept))
    refuses("LEAF_CHANGED", lambda: allowing(server, tree, proof, known={2: kept[2]}))
    allowing(server, tree, proof, known={1: kept[1], 3: kept[3], 4: kept[1]})


def test_a_tombstone_over_the_leaf_of_another_version_or_label() -> None:
    server, tree = erased(2)
    other = b"+15550007"
    for place in ((VICTIM, True, 1), (VICTIM, True, 3), (VICTIM, False, 2), (other, True, 1)):
        proof = server.history(tree, VICTIM, [3, 2, 1], EPOCH)
        proof.update_proofs[1].existence_proof.CopyFrom(tree.membership(tree.leaf(server.position(*place))))
        refuses("POSITION", lambda proof=proof: allowing(server, tree, proof, known=leaves()))
        proof.update_proofs[1].existence_vrf_proof = server.vrf_proof(*place)
        refuses("VRF_PROOF", lambda proof=proof: allowing(server, tree, proof, known=leaves()))


def test_a_tombstone_over_no_leaf() -> None:
    """An inner node on the way to version 2's place; the leaf's hash under another root."""
    server, tree = erased(2)
    leaf = tree.leaf(server.position(VICTIM, True, 2))
    for ancestor, _ in tree.path(leaf):
        proof = server.history(tree, VICTIM, [3, 2, 1], EPOCH)
        proof.update_proofs[1].existence_proof.CopyFrom(tree.membership(ancestor))
        refuses("POSITION", lambda proof=proof: allowing(server, tree, proof))
    proof = server.history(tree, VICTIM, [3, 2, 1], EPOCH)
    proof.update_proofs[1].existence_proof.hash_val = bytes(32)
    refuses("ROOT_HASH", lambda: allowing(server, tree, proof))


def test_a_version_that_was_never_there_is_not_passed_off_as_erased() -> None:
    """The owner stands at version 1; 3 is planted with all that it needs but 2."""
    server, label = own_server(), b"+15550007"
    server.plant(label, 3, b"thief's key", 8)
    server.retire(label, 2, 8)
    server.retire(label, 1, 6)
    server.versions[label, 2] = (6, b"", bytes(32))
    tree = server.tree()
    proof = server.history(tree, label, [1], EPOCH, future=future_markers(3, EPOCH))
    stale = tree.membership(tree.leaf(server.position(label, False, 1)))
    for place in ((label, True, 1), (label, True, 3), (label, False, 2)):
        missing = pb.UpdateProof(
            epoch=6,
            value=b"",
            version=2,
            existence_vrf_proof=server.vrf_proof(label, True, 2),
            existence_proof=tree.membership(tree.leaf(server.position(*place))),
            previous_version_vrf_proof=server.vrf_proof(label, False, 1),
            previous_version_proof=stale,
            commitment_nonce=bytes(32),
        )
        shown = pb.HistoryProof.FromString(proof.SerializeToString())
        del shown.update_proofs[:]
        shown.update_proofs.extend([server.update(tree, label, 3), missing, proof.update_proofs[0]])
        refuses("POSITION", lambda shown=shown: allowing(server, tree, shown, label=label))


def positions_of(proof: bytes, part: bytes) -> Iterator[int]:
    """The bits of a proof that `part` takes up, wherever it stands."""
    at = proof.find(part)
    while at >= 0:
        yield from range(8 * at, 8 * (at + len(part)))
        at = proof.find(part, at + 1)


def test_every_single_bit_flip_is_refused_but_in_what_opens_nothing() -> None:
    """A tombstone's nonce opens nothing, and nothing ties the epoch of version 1 to a leaf that is not opened."""
    server = Directory(SEED)
    server.publish([(VICTIM, b"one"), (b"+1", b"other")])
    server.publish([(VICTIM, b"two")])
    server.erase(VICTIM, 1)
    tree = server.tree()
    proof = server.history(tree, VICTIM, [2, 1], 2).SerializeToString()

    def check(shown: bytes) -> tuple[Version, ...]:
        return verify_history(tree.root(), 2, server.public_key, VICTIM, shown, allow_missing=True)

    honest = check(proof)
    nonce = set(positions_of(proof, server.versions[VICTIM, 1][2]))
    assert len(nonce) == 256
    for bit in range(len(proof) * 8):
        flipped = bytearray(proof)
        flipped[bit // 8] ^= 1 << bit % 8
        if bit in nonce:
            assert check(bytes(flipped)) == honest
        else:
            with pytest.raises(ProofRefused):
                check(bytes(flipped))
