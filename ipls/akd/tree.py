"""The compressed trie over tiles: leaves put in, and paths read out. Directory spec, "The tree"; the storage spec."""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import compress
from typing import NamedTuple

from ipls.akd.errors import AkdError
from ipls.akd.hashing import EMPTY_NODE, fold, root_hash, root_node
from ipls.akd.labels import BITS, Label, Node, common_length
from ipls.akd.messages import AppendOnly
from ipls.akd.tiles import (
    BUCKET_LEAVES,
    EMPTY_TILE,
    STEP,
    Row,
    Subtree,
    Tile,
    TileReader,
    by_slot,
    decode_tile,
    encode_tile,
    slot,
    tile_prefix,
    top_node,
)

TILES_KEPT = 4096
"""Tiles kept decoded for the paths that go through them again, some 20 MB."""


class Insertion(NamedTuple):
    """What putting leaves into the tree gives.

    `unchanged` are the roots of the largest subtrees left alone; `superseded` the keys of the rows that `rows` replace;
    `depth` the deepest level written.
    """

    old_root: bytes
    new_root: bytes
    rows: list[Row]
    superseded: list[tuple[bytes, int]]
    unchanged: list[Node]
    depth: int


def insert(reader: TileReader, epoch: int, leaves: Sequence[Subtree]) -> Insertion:
    """Puts new leaves (at least one) into the tree of `epoch`; reads once a level.

    Raises AkdError LEAF_EXISTS where a leaf's place is taken, TILE_MISSING, TILE_CORRUPT.
    """
    leaves = sorted(leaves)
    growth = _Growth(reader, epoch, leaves)
    old = growth.tiles.get(tile_prefix(0, 0))
    top = growth.grow(0, old or EMPTY_TILE, leaves)
    return Insertion(
        old_root=root_hash(root_node(top_node(old) if old else None)),
        new_root=root_hash(root_node(top.node())),
        rows=growth.rows,
        superseded=growth.superseded,
        unchanged=growth.unchanged,
        depth=max(row.prefix[0] for row in growth.rows),
    )


class _Item(NamedTuple):
    """An entry of a tile being built; `before` is the interior value at the gap before it in the old tile."""

    entry: Subtree
    changed: bool
    before: bytes | None


def _items(tile: Tile) -> list[_Item]:
    return [_Item(entry, False, before) for entry, before in zip(tile.entries, [None, *tile.gaps], strict=False)]


class _Growth:
    """One insertion at work: the old tiles on the new leaves' paths, and what is written."""

    def __init__(self, reader: TileReader, epoch: int, leaves: Sequence[Subtree]) -> None:
        self.rows: list[Row] = []
        self.superseded: list[tuple[bytes, int]] = []
        self.unchanged: list[Node] = []
        self.tiles: dict[bytes, Tile] = {}
        self._stored: dict[bytes, int] = {}
        level, wanted = 0, {tile_prefix(0, 0): leaves}
        while wanted:
            rows = reader.read(wanted.keys(), epoch)
            if level and len(rows) < len(wanted):
                raise AkdError("TILE_MISSING", "a tile that its parent names is not in the store")
            below: dict[bytes, Sequence[Subtree]] = {}
            for prefix, row in rows.items():
                tile = self.tiles[prefix] = decode_tile(row)
                self._stored[prefix] = row.epoch
                subtrees = {slot(entry.label.bits, level) for entry in tile.entries if not entry.is_leaf}
                group = wanted[prefix]
                for start, end in by_slot(level, group):
                    if slot(group[start].label.bits, level) in subtrees:
                        below[tile_prefix(group[start].label.bits, level + STEP)] = group[start:end]
            level, wanted = level + STEP, below

    def grow(self, level: int, old: Tile, leaves: Sequence[Subtree]) -> Subtree:
        """Writes the tile at `level` that holds `old` and `leaves` (at least one), and what changes beneath it.

        Returns the subtree entry that stands for the tile in its parent.
        """
        if old.is_bucket and len(old.entries) + len(leaves) <= BUCKET_LEAVES:
            leaf_items = sorted(
                [*_items(old), *(_Item(leaf, True, None) for leaf in leaves)], key=lambda item: item.entry.label
            )
            if len({item.entry.label for item in leaf_items}) < len(leaf_items):
                raise AkdError("LEAF_EXISTS", "a leaf's place in the tree is taken")
            return self._write(level, True, leaf_items)
        items = {slot(item.entry.label.bits, level): item for item in _items(old)} if not old.is_bucket else {}
        children = {step: self._child(level, item.entry) for step, item in items.items()}
        arriving = {slot(leaves[start].label.bits, level): leaves[start:end] for start, end in by_slot(level, leaves)}
        if old.is_bucket:  # it overflows: its leaves part into a tile for each step
            for start, end in by_slot(level, old.entries):
                step = slot(old.entries[start].label.bits, level)
                child = children[step] = Tile(True, old.entries[start:end], old.gaps[start : end - 1])
                if step not in arriving:
                    entry = old.entries[start] if end - start == 1 else self._store(level + STEP, child)
                    items[step] = _Item(entry, False, old.gaps[start - 1] if start else None)
        for step, group in arriving.items():
            alone = step not in children and len(group) == 1
            entry = group[0] if alone else self.grow(level + STEP, children.get(step, EMPTY_TILE), group)
            items[step] = _Item(entry, True, None)
        return self._write(level, False, [items[step] for step in sorted(items)])

    def _child(self, level: int, entry: Subtree) -> Tile:
        if entry.is_leaf:
            return Tile(True, [entry], [])
        return self.tiles.get(tile_prefix(entry.label.bits, level + STEP), EMPTY_TILE)

    def _write(self, level: int, is_bucket: bool, items: Sequence[_Item]) -> Subtree:
        """Stores a tile of which at least one item changed, keeping the interior values that still hold."""
        nodes = [item.entry.node() for item in items]
        known, unchanged = _left_alone(nodes, [item.before for item in items[1:]], [item.changed for item in items])
        self.unchanged += unchanged
        gaps, top = fold(nodes, known)
        return self._store(level, Tile(is_bucket, [item.entry for item in items], gaps), top)

    def _store(self, level: int, tile: Tile, top: Node | None = None) -> Subtree:
        label, value = top or top_node(tile)
        prefix = tile_prefix(label.bits, level)
        epoch = max(entry.epoch for entry in tile.entries)
        self.rows.append(Row(prefix, epoch, encode_tile(level, tile)))
        if prefix in self._stored:
            self.superseded.append((prefix, self._stored[prefix]))
        return (
            tile.entries[0] if label.length == BITS else Subtree(label, epoch, value)
        )  # a lone leaf: in the root tile


def _left_alone(
    nodes: Sequence[Node], gaps: Sequence[bytes | None], changed: Sequence[bool]
) -> tuple[list[bytes | None], list[Node]]:
    """What a change of some of a tile's nodes leaves alone: the interior values that still hold, None in place of the
    others, and the largest subtrees."""
    known, subtrees = list(gaps), list[Node]()
    open_gaps: list[tuple[int, int, Node | None]] = []  # as in `fold`; None for a subtree with a change in it
    node = None if changed[0] else nodes[0]
    for gap in range(len(nodes)):
        last = gap == len(nodes) - 1
        depth = -1 if last else common_length(nodes[gap].label.bits, nodes[gap + 1].label.bits)
        while open_gaps and open_gaps[-1][1] > depth:
            closed, parting, left = open_gaps.pop()
            value = known[closed]
            if left and node and value:
                node = Node(left.label.cut(parting), value)
            else:
                known[closed] = None
                subtrees += [subtree for subtree in (left, node) if subtree]
                node = None
        if not last:
            open_gaps.append((gap, depth, node))
            node = None if changed[gap + 1] else nodes[gap + 1]
    return known, [*subtrees, node] if node else subtrees


def changes(reader: TileReader, epoch: int) -> AppendOnly:
    """What the step to `epoch` inserted and left alone, from the tiles that it wrote; reads once a level.

    Raises AkdError TREE_MISMATCH (nothing was inserted at that epoch, or a tile is not the one that its parent names),
    TILE_CORRUPT.
    """
    made = AppendOnly([], [])
    level, wanted = 0, [tile_prefix(0, 0)]
    while wanted:
        rows = reader.read(wanted, epoch)
        below = []
        for prefix in wanted:
            if prefix not in rows or rows[prefix].epoch != epoch:
                raise AkdError("TREE_MISMATCH", "a tile that the epoch wrote is not in the store")
            tile = decode_tile(rows[prefix])
            changed = [entry.epoch == epoch for entry in tile.entries]
            made.unchanged.extend(_left_alone([entry.node() for entry in tile.entries], tile.gaps, changed)[1])
            for entry in compress(tile.entries, changed):
                if entry.is_leaf:
                    made.inserted.append(Node(entry.label, entry.stored))
                else:
                    below.append(tile_prefix(entry.label.bits, level + STEP))
        level, wanted = level + STEP, below
    return made


def _span(nodes: Sequence[Node], start: int, end: int) -> Label:
    """The label of the node over nodes[start:end]."""
    first, last = nodes[start].label, nodes[end - 1].label
    return first if end - start == 1 else first.cut(common_length(first.bits, last.bits))


def _parting(nodes: Sequence[Node], start: int, end: int) -> int:
    """Where the node over nodes[start:end] (two or more) parts them: the index of its right child's first."""
    return _first_right(nodes, start, end, _span(nodes, start, end).length)


def _first_right(nodes: Sequence[Node], start: int, end: int, depth: int) -> int:
    """The first index in start..end (`end` if none) whose label has bit `depth` set; the bits before it are shared."""
    return bisect_left(nodes, 1, start, end, key=lambda node: node.label.bit(depth))


class Branch(NamedTuple):
    """An interior node with its two children, left first."""

    node: Node
    children: tuple[Node, Node]

    def toward(self, label: Label) -> Node:
        """The child on the label's side."""
        return self.children[label.bit(self.node.label.length)]


class Path(NamedTuple):
    """The way from the root toward a label: the branches on it, root first, and what the last step leads to.

    `found` is the node at the label itself; None where the tree has none, and then the last branch is the label's
    longest prefix in the tree.
    """

    branches: list[Branch]
    found: Node | None


class _OpenTile:
    """A tile for paths to go through; a branch that one path has met is there for the next."""

    def __init__(self, tile: Tile) -> None:
        self._nodes = [entry.node() for entry in tile.entries]
        self._gaps = tile.gaps
        self._branches: dict[tuple[int, int, int], tuple[Branch, int]] = {}
        self.size = len(self._nodes)

    def branch(self, start: int, end: int, depth: int) -> tuple[Branch, int]:
        """The branch at `depth` over nodes[start:end], and where its right child begins."""
        asked = start, end, depth  # the root may part nothing
        if asked not in self._branches:
            middle = _first_right(self._nodes, start, end, depth)
            children = self._over(start, middle), self._over(middle, end)
            node = self._over(start, end)
            self._branches[asked] = Branch(node if depth else root_node(node), children), middle
        return self._branches[asked]

    def _over(self, start: int, end: int) -> Node:
        """The node over nodes[start:end]; the empty node over none."""
        if start == end:
            return EMPTY_NODE
        nodes = self._nodes
        value = nodes[start].value if end - start == 1 else self._gaps[_parting(nodes, start, end) - 1]
        return Node(_span(nodes, start, end), value)


@lru_cache(TILES_KEPT)
def _open(row: Row) -> _OpenTile:
    return _OpenTile(decode_tile(row))


def read_paths(reader: TileReader, epoch: int, depth: int, labels: Sequence[Label]) -> list[Path]:
    """The paths of leaf labels in the tree of `epoch`, all read at once. `depth`: the tree's deepest tile level.

    Raises AkdError TILE_MISSING, TILE_CORRUPT.
    """
    levels = range(0, min(depth, BITS - STEP) + 1, STEP)
    prefixes = {tile_prefix(label.bits, level) for label in labels for level in levels}
    tiles = {prefix: _open(row) for prefix, row in reader.read(prefixes, epoch).items()}
    return [_path(tiles, label) for label in labels]


def _path(tiles: Mapping[bytes, _OpenTile], label: Label) -> Path:
    branches: list[Branch] = []
    depth = 0
    for level in range(0, BITS, STEP):
        tile = tiles.get(tile_prefix(label.bits, level))
        if tile is None:
            raise AkdError("TILE_MISSING", "a tile on the path is not in the store")
        start, end = 0, tile.size
        while depth == 0 or end - start > 1:
            branch, middle = tile.branch(start, end, depth)
            branches.append(branch)
            start, end = (middle, end) if label.bit(depth) else (start, middle)
            node = branch.toward(label)
            if node == EMPTY_NODE or not label.extends(node.label):
                return Path(branches, node if node.label == label else None)
            depth = node.label.length
    raise AkdError("TILE_CORRUPT", "a path has no end")
