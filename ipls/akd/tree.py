"""The compressed trie over tiles: leaves put in, and paths read out. Directory spec, "The tree"; the storage spec."""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ipls.akd.errors import AkdError
from ipls.akd.hashing import EMPTY_NODE, fold, root_hash, root_node
from ipls.akd.labels import BITS, ROOT, Label, Node, common_length
from ipls.akd.tiles import (
    BUCKET_LEAVES,
    EMPTY_TILE,
    STEP,
    Entry,
    Row,
    Tile,
    TileReader,
    decode_tile,
    encode_tile,
    slot,
    tile_prefix,
)


class Insertion(NamedTuple):
    """What putting leaves into the tree gives.

    `unchanged` are the roots of the largest subtrees left alone, in the order of their labels; `superseded` the keys
    of the rows that `rows` replace; `depth` the deepest level written.
    """

    old_root: bytes
    new_root: bytes
    rows: list[Row]
    superseded: list[tuple[bytes, int]]
    unchanged: list[Node]
    depth: int


def insert(reader: TileReader, epoch: int, leaves: Sequence[Entry]) -> Insertion:
    """Puts new leaves (at least one) into the tree of `epoch`; reads once a level.

    Raises AkdError LEAF_EXISTS where a leaf's place is taken, TILE_MISSING, TILE_CORRUPT.
    """
    leaves = sorted(leaves)
    growth = _Growth(reader, epoch, leaves)
    old = growth.tiles.get(tile_prefix(0, 0))
    top = growth.grow(0, old or EMPTY_TILE, leaves)
    return Insertion(
        old_root=root_hash(root_node(_top(old) if old else None)),
        new_root=root_hash(root_node(top.node())),
        rows=growth.rows,
        superseded=growth.superseded,
        unchanged=growth.unchanged,
        depth=max(row.prefix[0] for row in growth.rows),
    )


def _top(tile: Tile) -> Node:
    return fold([entry.node() for entry in tile.entries], tile.gaps)[1]


def _by_slot(level: int, entries: Sequence[Entry]) -> Iterator[tuple[int, int]]:
    """The (start, end) of each run of sorted entries that take the same 4-bit step from `level`."""
    start = 0
    for end in range(1, len(entries) + 1):
        if end == len(entries) or slot(entries[end].label.bits, level) != slot(entries[start].label.bits, level):
            yield start, end
            start = end


class _Item(NamedTuple):
    """An entry of a tile being built; `before` is the interior value at the gap before it in the old tile."""

    entry: Entry
    changed: bool
    before: bytes | None


def _items(tile: Tile) -> list[_Item]:
    return [_Item(entry, False, before) for entry, before in zip(tile.entries, [None, *tile.gaps], strict=False)]


class _Growth:
    """One insertion at work: the old tiles on the new leaves' paths, and what is written."""

    def __init__(self, reader: TileReader, epoch: int, leaves: Sequence[Entry]) -> None:
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
            below: dict[bytes, Sequence[Entry]] = {}
            for prefix, row in rows.items():
                tile = self.tiles[prefix] = decode_tile(row)
                self._stored[prefix] = row.epoch
                subtrees = {slot(entry.label.bits, level) for entry in tile.entries if not entry.is_leaf}
                group = wanted[prefix]
                for start, end in _by_slot(level, group):
                    if slot(group[start].label.bits, level) in subtrees:
                        below[tile_prefix(group[start].label.bits, level + STEP)] = group[start:end]
            level, wanted = level + STEP, below

    def grow(self, level: int, old: Tile, leaves: Sequence[Entry]) -> Entry:
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
        arriving = {slot(leaves[start].label.bits, level): leaves[start:end] for start, end in _by_slot(level, leaves)}
        if old.is_bucket:  # it overflows: its leaves part into a tile for each step
            for start, end in _by_slot(level, old.entries):
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

    def _child(self, level: int, entry: Entry) -> Tile:
        if entry.is_leaf:
            return Tile(True, [entry], [])
        return self.tiles.get(tile_prefix(entry.label.bits, level + STEP), EMPTY_TILE)

    def _write(self, level: int, is_bucket: bool, items: Sequence[_Item]) -> Entry:
        """Stores a tile of which at least one item changed, keeping the interior values that still hold."""
        nodes = [item.entry.node() for item in items]
        known = [item.before for item in items[1:]]

        def visit(start: int, end: int) -> None:
            if not any(item.changed for item in items[start:end]):
                value = nodes[start].value if end - start == 1 else known[_parting(nodes, start, end) - 1]
                assert value is not None
                self.unchanged.append(Node(_span(nodes, start, end), value))
            elif end - start > 1:
                middle = _parting(nodes, start, end)
                known[middle - 1] = None
                visit(start, middle)
                visit(middle, end)

        visit(0, len(items))
        gaps, top = fold(nodes, known)
        return self._store(level, Tile(is_bucket, [item.entry for item in items], gaps), top)

    def _store(self, level: int, tile: Tile, top: Node | None = None) -> Entry:
        label, value = top or _top(tile)
        prefix = tile_prefix(label.bits, level)
        epoch = max(entry.epoch for entry in tile.entries)
        self.rows.append(Row(prefix, epoch, encode_tile(level, tile)))
        if prefix in self._stored:
            self.superseded.append((prefix, self._stored[prefix]))
        return tile.entries[0] if label.length == BITS else Entry(label, epoch, value)  # a lone leaf: in the root tile


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


def read_paths(reader: TileReader, epoch: int, depth: int, labels: Sequence[Label]) -> list[Path]:
    """The paths of leaf labels in the tree of `epoch`, all read at once. `depth`: the tree's deepest tile level.

    Raises AkdError TILE_MISSING, TILE_CORRUPT.
    """
    prefixes = {tile_prefix(label.bits, level) for label in labels for level in range(0, depth + 1, STEP)}
    tiles = {prefix: decode_tile(row) for prefix, row in reader.read(prefixes, epoch).items()}
    opened = {prefix: ([entry.node() for entry in tile.entries], tile.gaps) for prefix, tile in tiles.items()}
    return [_path(opened, label) for label in labels]


def _path(tiles: dict[bytes, tuple[list[Node], list[bytes]]], label: Label) -> Path:
    branches: list[Branch] = []
    for level in range(0, BITS, STEP):
        tile = tiles.get(tile_prefix(label.bits, level))
        if tile is None:
            raise AkdError("TILE_MISSING", "a tile on the path is not in the store")
        nodes, gaps = tile
        start, end = 0, len(nodes)
        node = root_node(_over(nodes, gaps, start, end)) if level == 0 else branches[-1].toward(label)
        while node.label == ROOT or end - start > 1:
            depth = node.label.length
            middle = _first_right(nodes, start, end, depth)
            children = (_over(nodes, gaps, start, middle), _over(nodes, gaps, middle, end))
            branches.append(Branch(node, children))
            start, end = (middle, end) if label.bit(depth) else (start, middle)
            node = branches[-1].toward(label)
            if node == EMPTY_NODE or not label.extends(node.label):
                return Path(branches, node if node.label == label else None)
    raise AkdError("TILE_CORRUPT", "a path has no end")


def _over(nodes: Sequence[Node], gaps: Sequence[bytes], start: int, end: int) -> Node:
    """The node over nodes[start:end]; the empty node over none."""
    if start == end:
        return EMPTY_NODE
    value = nodes[start].value if end - start == 1 else gaps[_parting(nodes, start, end) - 1]
    return Node(_span(nodes, start, end), value)
