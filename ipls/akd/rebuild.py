"""The rows that a tree must have, made again from its leaves alone: what a stored tree is checked against.

Nothing stored is read, so that no damage in the store can carry over. Where old epochs are pruned, only what the kept
ones need is made (the storage spec, "Pruning").
"""

from bisect import bisect_right
from collections.abc import Sequence
from typing import NamedTuple

from ipls.akd.hashing import EMPTY_ROOT, fold, root_hash, root_node
from ipls.akd.labels import Node
from ipls.akd.tiles import (
    BUCKET_LEAVES,
    STEP,
    Row,
    Subtree,
    Tile,
    by_slot,
    decode_tile,
    encode_tile,
    tile_prefix,
    top_node,
)

Key = tuple[bytes, int]
"""A row's (prefix, epoch)."""


class Kept(NamedTuple):
    """The epochs that must be whole: from `floor` to `head`, and those pinned below."""

    floor: int
    head: int
    pins: tuple[int, ...]

    def stamps(self, epochs: Sequence[int]) -> list[int]:
        """Of the sorted epochs with insertions beneath a prefix, those whose tile a kept epoch reads."""
        first = max(bisect_right(epochs, self.floor) - 1, 0)
        needed = {bisect_right(epochs, pin) - 1 for pin in self.pins} | set(range(first, len(epochs)))
        return [epochs[index] for index in sorted(needed - {-1})]


class Grown(NamedTuple):
    """What stands beneath a prefix from `epoch` on: its tile, and the entry for it in a split tile above.

    A lone leaf is a bucket of one; such a tile is not stored, except at the root.
    """

    epoch: int
    tile: Tile
    entry: Subtree

    def encode(self, level: int) -> bytes:
        """The body of the tile's row; `level` is the prefix's."""
        return encode_tile(level, self.tile)


def _grown(epoch: int, tile: Tile, node: Node) -> Grown:
    return Grown(
        epoch,
        tile,
        tile.entries[0] if len(tile.entries) == 1 and tile.is_bucket else Subtree(node.label, epoch, node.value),
    )


def decode_grown(row: Row) -> Grown:
    """What `Grown.encode` gave. Raises AkdError TILE_CORRUPT."""
    tile = decode_tile(row)
    return _grown(row.epoch, tile, top_node(tile))


def _bucket(epoch: int, leaves: list[Subtree]) -> Grown:
    gaps, node = fold([leaf.node() for leaf in leaves], [None] * (len(leaves) - 1))
    return _grown(epoch, Tile(True, leaves, gaps), node)


def grow_leaves(level: int, leaves: Sequence[Subtree], kept: Kept, rows: dict[Key, bytes]) -> list[Grown]:
    """All that stood beneath one prefix of `level` bits at the kept epochs, oldest first.

    `leaves` are all that stand there at `kept.head`, sorted by label. The rows that must be stored beneath the prefix's
    own tile are added to `rows`.
    """
    if len(leaves) <= BUCKET_LEAVES:
        stamps = kept.stamps(sorted({leaf.epoch for leaf in leaves}))
        return [_bucket(epoch, [leaf for leaf in leaves if leaf.epoch <= epoch]) for epoch in stamps]
    children = [grow_leaves(level + STEP, leaves[start:end], kept, rows) for start, end in by_slot(level, leaves)]
    return grow_children(level, children, kept, rows)


def grow_children(level: int, children: Sequence[Sequence[Grown]], kept: Kept, rows: dict[Key, bytes]) -> list[Grown]:
    """As `grow_leaves`, from what stood beneath the prefixes 4 bits longer; adds these prefixes' own rows alone."""
    grown = []
    for epoch in kept.stamps(sorted({state.epoch for child in children for state in child})):
        present = [state for child in children if (state := at(child, epoch))]
        if all(state.tile.is_bucket for state in present):
            leaves = [leaf for state in present for leaf in state.tile.entries]
            if len(leaves) <= BUCKET_LEAVES:
                grown.append(_bucket(epoch, leaves))
                continue
        for state in present:
            key = (tile_prefix(state.entry.label.bits, level + STEP), state.epoch)
            if not state.entry.is_leaf and key not in rows:
                rows[key] = state.encode(level + STEP)
        entries = [state.entry for state in present]
        gaps, node = fold([entry.node() for entry in entries], [None] * (len(entries) - 1))
        grown.append(_grown(epoch, Tile(False, entries, gaps), node))
    return grown


def at(grown: Sequence[Grown], epoch: int) -> Grown | None:
    """The newest not above `epoch`."""
    newer = bisect_right(grown, epoch, key=lambda state: state.epoch)
    return grown[newer - 1] if newer else None


def rebuilt_root(grown: Sequence[Grown], epoch: int) -> bytes:
    """The root hash of a kept epoch, from what stood beneath the empty prefix."""
    state = at(grown, epoch)
    return root_hash(root_node(top_node(state.tile))) if state else EMPTY_ROOT


def bucket_body(level: int, leaves: Sequence[Subtree]) -> bytes:
    """The body of a tile of 2 to 16 leaves, sorted by label."""
    return _bucket(0, list(leaves)).encode(level)
