"""Publishing: the next epoch's tree and its append-only proof. Directory spec, "Labels, values, versions"."""

from collections.abc import Sequence
from typing import NamedTuple

from ipls.akd.errors import AkdError, PublishError
from ipls.akd.hashing import STALE_COMMITMENT
from ipls.akd.keys import DirectoryKey, Place
from ipls.akd.labels import Node
from ipls.akd.messages import AppendOnly, decode_append_only, encode_append_only
from ipls.akd.tiles import Row, Subtree, TileReader
from ipls.akd.tree import Insertion, insert
from ipls.akd.versions import Version


class Update(NamedTuple):
    """A label's wanted value; `current` is its newest version, None for a new label."""

    label: bytes
    value: bytes
    current: Version | None


class Publication(NamedTuple):
    """The epoch that a publish makes. Nothing of it is stored yet.

    `blob` is the encoded SingleAppendOnlyProof from `old_root` to `new_root`; `rows` are to be written, `superseded`
    are the keys of the rows they replace; `depth` is the deepest tile level (bits) of the new tree.
    """

    epoch: int
    old_root: bytes
    new_root: bytes
    blob: bytes
    rows: list[Row]
    depth: int
    versions: list[tuple[bytes, Version]]
    superseded: list[tuple[bytes, int]]


def make_leaves(key: DirectoryKey, versions: Sequence[tuple[bytes, Version]]) -> list[Subtree]:
    """The leaves that the given versions of labels put into the tree, each at its own version's epoch."""
    fresh = key.locate([Place(label, True, made.version) for label, made in versions])
    renewed = [(label, made) for label, made in versions if made.version > 1]
    stale = key.locate([Place(label, False, made.version - 1) for label, made in renewed])
    opened = [(node, made.version, made.value) for node, (_, made) in zip(fresh, versions, strict=True)]
    leaves = [
        Subtree(node, made.epoch, commitment)
        for node, (_, made), commitment in zip(fresh, versions, key.commit(opened), strict=True)
    ]
    return leaves + [
        Subtree(node, made.epoch, STALE_COMMITMENT) for node, (_, made) in zip(stale, renewed, strict=True)
    ]


def publish(
    reader: TileReader, key: DirectoryKey, epoch: int, root_hash: bytes, depth: int, updates: Sequence[Update]
) -> Publication | None:
    """Publishes `updates` on the tree of `epoch`; None where none of them changes a value.

    `root_hash` and `depth` are those of `epoch`. Raises PublishError LABEL_TWICE, ROOT_MISMATCH (the stored tree is
    not the one under `root_hash`), or what else is wrong with the stored tree.
    """
    if len({update.label for update in updates}) < len(updates):
        raise PublishError("LABEL_TWICE", "a label stands twice in one publish")
    changes = [update for update in updates if update.current is None or update.current.value != update.value]
    if not changes:
        return None
    following = epoch + 1
    versions = [
        (change.label, Version(change.current.version + 1 if change.current else 1, following, change.value))
        for change in changes
    ]
    leaves = make_leaves(key, versions)
    insertion = _insert(reader, epoch, root_hash, leaves)
    inserted = [Node(leaf.label, leaf.stored) for leaf in leaves]
    return Publication(
        epoch=following,
        old_root=root_hash,
        new_root=insertion.new_root,
        blob=encode_append_only(AppendOnly(inserted, insertion.unchanged)),
        rows=insertion.rows,
        depth=max(depth, insertion.depth),
        versions=versions,
        superseded=insertion.superseded,
    )


def republish(
    reader: TileReader, epoch: int, root_hash: bytes, depth: int, blob: bytes
) -> tuple[Publication, list[Subtree]]:
    """The publication after `epoch` that a verified SingleAppendOnlyProof is of, and the leaves that it inserts.

    Its versions are not known. Raises PublishError as `publish`, and LEAF_EXISTS.
    """
    following = epoch + 1
    leaves = [Subtree(node.label, following, node.value) for node in decode_append_only(blob).inserted]
    insertion = _insert(reader, epoch, root_hash, leaves)
    publication = Publication(
        epoch=following,
        old_root=root_hash,
        new_root=insertion.new_root,
        blob=blob,
        rows=insertion.rows,
        depth=max(depth, insertion.depth),
        versions=[],
        superseded=insertion.superseded,
    )
    return publication, leaves


def _insert(reader: TileReader, epoch: int, root_hash: bytes, leaves: Sequence[Subtree]) -> Insertion:
    try:
        insertion = insert(reader, epoch, leaves)
    except AkdError as error:
        raise PublishError(error.reason, error.message) from None
    if insertion.old_root != root_hash:
        raise PublishError("ROOT_MISMATCH", "the stored tree is not the one under this epoch's root")
    return insertion
