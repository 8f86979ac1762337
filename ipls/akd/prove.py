"""Proofs made from the stored tree. Directory spec, "Proofs"; each call reads all its paths at once.

Tested by tests/akd/test_publish.py and tests/attack/test_honest_proofs.py.
"""

from collections.abc import Sequence
from functools import lru_cache

from ipls.akd.errors import AkdError
from ipls.akd.keys import DirectoryKey, Place
from ipls.akd.labels import Label, Node
from ipls.akd.messages import encode_append_only, encode_label, encode_node
from ipls.akd.tiles import TileReader
from ipls.akd.tree import Branch, Path, changes, read_paths
from ipls.akd.verify import verify_membership, verify_non_membership
from ipls.akd.versions import Version, absence_markers, future_markers, marker, past_markers
from ipls.proto.akd.v1 import akd_pb2 as pb

SIBLINGS_KEPT = 16_384
"""Encoded siblings kept for the paths that go past them again, some 20 MB."""


def make_lookup(reader: TileReader, key: DirectoryKey, epoch: int, depth: int, label: bytes, current: Version) -> bytes:
    """The encoded LookupProof of `current`, the label's newest version at `epoch`.

    `depth` is the deepest tile level (bits) of the tree. Raises AkdError TREE_MISMATCH where the tree does not hold
    what is to be proved, TILE_MISSING, TILE_CORRUPT.
    """
    return make_lookups(reader, key, epoch, depth, [(label, current)])[0]


def make_absence(reader: TileReader, key: DirectoryKey, epoch: int, depth: int, label: bytes) -> bytes:
    """The encoded AbsenceProof of a label that has no version at `epoch`. Raises AkdError as `make_lookup`."""
    return make_lookups(reader, key, epoch, depth, [(label, None)])[0]


def make_lookups(
    reader: TileReader, key: DirectoryKey, epoch: int, depth: int, wanted: Sequence[tuple[bytes, Version | None]]
) -> list[bytes]:
    """For each label and its newest version at `epoch` what `make_lookup` gives; for None what `make_absence` gives.

    All paths are read at once, each tile on them is decoded once. Raises AkdError as `make_lookup`.
    """
    places = [
        _lookup_places(label, current.version) if current else _absence_places(label, epoch)
        for label, current in wanted
    ]
    prover = _Prover(reader, key, epoch, depth, [place for group in places for place in group])
    return [
        (_lookup(prover, group, current) if current else _absence(prover, group)).SerializeToString()
        for (_, current), group in zip(wanted, places, strict=True)
    ]


def make_append_only(reader: TileReader, epoch: int) -> bytes:
    """The encoded SingleAppendOnlyProof of the step to `epoch` as its publish made it, again from what that stored.

    Raises AkdError TREE_MISMATCH (nothing was inserted at that epoch, or its tiles are not whole), TILE_CORRUPT.
    """
    return encode_append_only(changes(reader, epoch))


def is_free(
    reader: TileReader,
    key: DirectoryKey,
    epoch: int,
    root_hash: bytes,
    depth: int,
    label: bytes,
    current: Version | None,
) -> bool:
    """Whether the tree of `epoch` has no leaf where those of the label's version after `current` would stand.

    As proofs show that hold under `root_hash`. Raises AkdError where the stored tree gives none: it is damaged there.
    """
    if epoch == 0:
        return True
    places = [Place(label, True, current.version + 1 if current else 1)]
    if current:
        places.append(Place(label, False, current.version))
    nodes = key.locate(places)
    paths = read_paths(reader, epoch, depth, nodes)
    for node, path in zip(nodes, paths, strict=True):
        if path.found:
            verify_membership(root_hash, _membership(path.branches, path.found).SerializeToString())
        else:
            verify_non_membership(root_hash, _non_membership(path.branches, node).SerializeToString())
    return not any(path.found for path in paths)


def _lookup_places(label: bytes, version: int) -> list[Place]:
    return [Place(label, True, version), Place(label, True, marker(version)), Place(label, False, version)]


def _absence_places(label: bytes, epoch: int) -> list[Place]:
    return [Place(label, True, number) for number in absence_markers(epoch)]


def _lookup(prover: "_Prover", places: Sequence[Place], current: Version) -> pb.LookupProof:
    existence, latest, freshness = places
    return pb.LookupProof(
        epoch=current.epoch,
        value=current.value,
        version=current.version,
        existence_vrf_proof=prover.vrf_proof(existence),
        existence_proof=prover.membership(existence),
        marker_vrf_proof=prover.vrf_proof(latest),
        marker_proof=prover.membership(latest),
        freshness_vrf_proof=prover.vrf_proof(freshness),
        freshness_proof=prover.non_membership(freshness),
        commitment_nonce=prover.nonce(existence, current.value),
    )


def _absence(prover: "_Prover", places: Sequence[Place]) -> pb.AbsenceProof:
    return pb.AbsenceProof(
        vrf_proofs=[prover.vrf_proof(place) for place in places],
        non_existence_proofs=[prover.non_membership(place) for place in places],
    )


def make_history(
    reader: TileReader, key: DirectoryKey, epoch: int, depth: int, label: bytes, versions: Sequence[Version]
) -> bytes:
    """The encoded HistoryProof of `versions`: consecutive, newest first, ending in the newest at `epoch`.

    The caller cuts them to the most recent ones asked for. An erased version (a tombstone) has the empty value; its
    nonce opens nothing. Raises AkdError NO_VERSIONS, and as `make_lookup`.
    """
    if not versions:
        raise AkdError("NO_VERSIONS", "a history has at least one version")
    past = [Place(label, True, number) for number in past_markers(versions[-1].version)]
    future = [Place(label, True, number) for number in future_markers(versions[0].version, epoch)]
    fresh = [Place(label, True, version.version) for version in versions]
    stale = [Place(label, False, version.version - 1) for version in versions if version.version > 1]
    prover = _Prover(reader, key, epoch, depth, [*fresh, *stale, *past, *future])
    return pb.HistoryProof(
        update_proofs=[_update(prover, label, version) for version in versions],
        past_marker_vrf_proofs=[prover.vrf_proof(place) for place in past],
        existence_of_past_marker_proofs=[prover.membership(place) for place in past],
        future_marker_vrf_proofs=[prover.vrf_proof(place) for place in future],
        non_existence_of_future_marker_proofs=[prover.non_membership(place) for place in future],
    ).SerializeToString()


def _update(prover: "_Prover", label: bytes, version: Version) -> pb.UpdateProof:
    fresh = Place(label, True, version.version)
    proof = pb.UpdateProof(
        epoch=version.epoch,
        value=version.value,
        version=version.version,
        existence_vrf_proof=prover.vrf_proof(fresh),
        existence_proof=prover.membership(fresh),
        commitment_nonce=prover.nonce(fresh, version.value),
    )
    if version.version > 1:
        stale = Place(label, False, version.version - 1)
        proof.previous_version_vrf_proof = prover.vrf_proof(stale)
        proof.previous_version_proof.CopyFrom(prover.membership(stale))
    return proof


class _Prover:
    """The positions and paths of some places, found together."""

    def __init__(self, reader: TileReader, key: DirectoryKey, epoch: int, depth: int, places: Sequence[Place]) -> None:
        self._key = key
        distinct = list(dict.fromkeys(places))
        self._positions = dict(zip(distinct, key.prove(distinct), strict=True))
        labels = [label for label, _ in self._positions.values()]
        self._paths = dict(zip(distinct, read_paths(reader, epoch, depth, labels), strict=True))

    def vrf_proof(self, place: Place) -> bytes:
        return self._positions[place][1]

    def nonce(self, place: Place, value: bytes) -> bytes:
        return self._key.nonce(self._positions[place][0], place.version, value)

    def membership(self, place: Place) -> pb.MembershipProof:
        path = self._path(place, present=True)
        assert path.found
        return _membership(path.branches, path.found)

    def non_membership(self, place: Place) -> pb.NonMembershipProof:
        return _non_membership(self._path(place, present=False).branches, self._positions[place][0])

    def _path(self, place: Place, present: bool) -> Path:
        path = self._paths[place]
        if (path.found is not None) != present:
            raise AkdError("TREE_MISMATCH", "the tree does not hold what is to be proved")
        return path


def _membership(branches: Sequence[Branch], node: Node) -> pb.MembershipProof:
    return pb.MembershipProof(
        label=encode_label(node.label),
        hash_val=node.value,
        sibling_proofs=[_sibling(branch, node.label.bit(branch.node.label.length)) for branch in branches],
    )


def _non_membership(branches: Sequence[Branch], label: Label) -> pb.NonMembershipProof:
    node, children = branches[-1]
    return pb.NonMembershipProof(
        label=encode_label(label),
        longest_prefix=encode_label(node.label),
        longest_prefix_children=[encode_node(child) for child in children],
        longest_prefix_membership_proof=_membership(branches[:-1], node),
    )


@lru_cache(SIBLINGS_KEPT)
def _sibling(branch: Branch, direction: int) -> pb.SiblingProof:
    """A step of what goes through the branch to the child in this direction. Not to be changed: it is kept."""
    return pb.SiblingProof(
        label=encode_label(branch.node.label),
        siblings=[encode_node(branch.children[1 - direction])],
        direction=direction,
    )
