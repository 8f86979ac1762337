"""The tiles under the tree: rows are a pure function of the leaves and their epochs, whatever order made them."""

from collections.abc import Collection
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipls.akd import EMPTY_ROOT, AkdError, MemoryTiles, Row
from ipls.akd.labels import BITS, Label
from ipls.akd.tiles import Subtree, decode_tile, encode_tile
from ipls.akd.tree import Insertion, changes, insert, read_paths
from tests.attack import directory

# labels that share long prefixes, so that a few dozen make buckets, splits and jumps at any depth
POSITIONS = st.builds(
    lambda base, spread, shift: (base ^ spread << shift) % 2**BITS,
    st.sampled_from([0, 2**BITS - 1, int("a5" * 32, 16)]),
    st.integers(0, 255),
    st.sampled_from([0, 3, 100, 236, 244, 248]),
)
STORIES = st.lists(st.lists(POSITIONS, min_size=1, max_size=30, unique=True), min_size=1, max_size=6)


def commitment(bits: int) -> bytes:
    return directory.digest(bits.to_bytes(32, "big"))


def epochs_of(story: list[list[int]]) -> list[list[Subtree]]:
    """The story's leaves epoch by epoch, each position where it first stands."""
    seen: set[int] = set()
    epochs: list[list[Subtree]] = []
    for positions in story:
        new = [bits for bits in positions if bits not in seen]
        seen.update(new)
        if new:
            epochs.append([Subtree(Label(bits, BITS), len(epochs) + 1, commitment(bits)) for bits in new])
    return epochs


def grow(epochs: list[list[Subtree]]) -> tuple[MemoryTiles, list[Insertion]]:
    tiles, insertions = MemoryTiles(), []
    for epoch, leaves in enumerate(epochs):
        insertions.append(insert(tiles, epoch, leaves))
        tiles.write(insertions[-1].rows)
    return tiles, insertions


def rebuilt(leaves: list[Subtree]) -> list[Row]:
    """The rows of a tree made of all its leaves at once, each with its own epoch."""
    return sorted(insert(MemoryTiles(), 0, leaves).rows)


def naive(leaves: list[Subtree]) -> directory.Tree:
    return directory.Tree(
        [
            directory.Node(
                directory.RawLabel(leaf.label.bits.to_bytes(32, "big"), BITS),
                commitment=leaf.stored,
                epoch=leaf.epoch,
            )
            for leaf in leaves
        ]
    )


@settings(max_examples=120, deadline=None)
@given(STORIES)
def test_rows_are_a_function_of_the_leaves(story: list[list[int]]) -> None:
    epochs = epochs_of(story)
    tiles, insertions = grow(epochs)
    ever: set[Row] = set()
    leaves: list[Subtree] = []
    for epoch, insertion in enumerate(insertions, 1):
        leaves += epochs[epoch - 1]
        newest = rebuilt(leaves)
        ever.update(newest)
        assert {row for row in insertion.rows if row.epoch == epoch} == {row for row in newest if row.epoch == epoch}
        found = tiles.read([row.prefix for row in newest], epoch)
        assert sorted(found.values()) == newest
    assert set(tiles.rows()) == ever
    superseded = [key for insertion in insertions for key in insertion.superseded]
    assert len(superseded) == len(set(superseded))
    assert {row for row in ever if (row.prefix, row.epoch) not in superseded} == set(rebuilt(leaves))


@settings(max_examples=60, deadline=None)
@given(STORIES)
def test_roots_and_steps_are_those_of_a_plain_trie(story: list[list[int]]) -> None:
    epochs = epochs_of(story)
    _, insertions = grow(epochs)
    leaves: list[Subtree] = []
    root = EMPTY_ROOT
    for epoch, insertion in enumerate(insertions, 1):
        leaves += epochs[epoch - 1]
        tree = naive(leaves)
        assert (insertion.old_root, insertion.new_root) == (root, tree.root())
        root = insertion.new_root
        for node in insertion.unchanged:
            label = directory.RawLabel(node.label.bits.to_bytes(32, "big"), node.label.length)
            parent = tree.longest_prefix(label)
            (there,) = (child for child in parent.children or [] if child.label == label)
            assert there.value() == node.value  # a node of the new tree, and its sibling was touched
            assert not any(leaf.epoch == epoch and leaf.label.extends(node.label) for leaf in leaves)
            assert parent.label.length == 0 or any(
                leaf.epoch == epoch
                and leaf.label.extends(Label(node.label.cut(parent.label.length).bits, parent.label.length))
                for leaf in leaves
            )


@settings(max_examples=60, deadline=None)
@given(STORIES)
def test_a_step_is_read_again_from_the_tiles(story: list[list[int]]) -> None:
    """Whatever epochs came after it."""
    epochs = epochs_of(story)
    tiles, insertions = grow(epochs)
    for epoch, (leaves, insertion) in enumerate(zip(epochs, insertions, strict=True), 1):
        read = changes(tiles, epoch)
        assert sorted(read.inserted) == sorted((leaf.label, leaf.stored) for leaf in leaves)
        assert sorted(read.unchanged) == sorted(insertion.unchanged)


@given(STORIES, POSITIONS)
def test_paths_at_every_epoch(story: list[list[int]], absent: int) -> None:
    """Read when all epochs are stored: rows of later splits are there, and past epochs still read the same."""
    epochs = epochs_of(story)
    tiles, insertions = grow(epochs)
    depth = max(insertion.depth for insertion in insertions)
    leaves: list[Subtree] = []
    for epoch in range(1, len(epochs) + 1):
        leaves += epochs[epoch - 1]
        tree = naive(leaves)
        wanted = {leaf.label.bits for leaf in leaves} | {absent, leaves[0].label.bits ^ 1}
        labels = [Label(bits, BITS) for bits in sorted(wanted)]
        for label, path in zip(labels, read_paths(tiles, epoch, depth, labels), strict=True):
            leaf = next((leaf for leaf in leaves if leaf.label == label), None)
            assert path.found == (leaf.node() if leaf else None)
            longest = tree.longest_prefix(directory.RawLabel(label.bits.to_bytes(32, "big"), BITS))
            assert (path.branches[-1].node.label.length, path.branches[-1].node.value) == (
                longest.label.length,
                longest.value(),
            )


class CountingTiles(MemoryTiles):
    reads = 0

    def read(self, prefixes: Collection[bytes], epoch: int) -> dict[bytes, Row]:
        self.reads += 1
        return super().read(prefixes, epoch)


def many(count: int, epoch: int = 1) -> list[Subtree]:
    positions = [int.from_bytes(directory.digest(b"%d" % i), "big") for i in range(count)]
    return [Subtree(Label(bits, BITS), epoch, commitment(bits)) for bits in positions]


def test_all_levels_of_all_paths_in_one_read() -> None:
    tiles = CountingTiles()
    insertion = insert(tiles, 0, many(3000))
    tiles.write(insertion.rows)
    tiles.reads = 0
    read_paths(tiles, 1, insertion.depth, [leaf.label for leaf in many(50)])
    assert insertion.depth >= 8
    assert tiles.reads == 1
    insert(tiles, 1, [leaf._replace(epoch=2) for leaf in many(3100)[3000:]])
    assert tiles.reads <= 1 + insertion.depth // 4 + 1


def test_rows_are_small_and_read_back() -> None:
    for count in (1, 16, 17, 200, 5000):
        for row in insert(MemoryTiles(), 0, many(count)).rows:
            assert len(row.prefix) + 8 + len(row.body) < 1651
            assert encode_tile(row.prefix[0], decode_tile(row)) == row.body


def test_few_leaves_are_one_bucket() -> None:
    (row,) = insert(MemoryTiles(), 0, many(16)).rows
    assert (row.prefix, row.body[:2]) == (b"\0", b"\x01\x10")
    assert insert(MemoryTiles(), 0, many(17)).depth == 4


@given(st.binary(max_size=200))
def test_a_corrupt_row_is_told(body: bytes) -> None:
    for prefix in (b"\0", b"\x04\xf0", b"\x10ab"):
        with suppress(AkdError):
            decode_tile(Row(prefix, 1, body))


def test_a_row_that_holds_no_tile_is_told() -> None:
    """Cut short or continued, of another kind, of no entries."""
    (row,) = insert(MemoryTiles(), 0, many(5)).rows
    cut = [row.body[:size] for size in range(len(row.body))]
    for other in (*cut, row.body + b"\0", row.body + bytes(32), b"\2" + row.body[1:], b"\1\0", b"\0\0"):
        with pytest.raises(AkdError, check=lambda error: error.reason == "TILE_CORRUPT"):
            decode_tile(row._replace(body=other))


def test_a_missing_tile_is_told() -> None:
    tiles = MemoryTiles()
    rows = insert(tiles, 0, many(300)).rows
    tiles.write(row for row in rows if row.prefix[0] == 0)
    for use in (lambda: insert(tiles, 1, many(400)[300:]), lambda: read_paths(tiles, 1, 8, [many(1)[0].label])):
        with pytest.raises(AkdError) as error:
            use()
        assert error.value.reason == "TILE_MISSING"


@pytest.mark.parametrize("count", [1, 10, 16, 17, 300])
def test_a_place_is_taken_once(count: int) -> None:
    tiles = MemoryTiles()
    tiles.write(insert(tiles, 0, many(count)).rows)
    with pytest.raises(AkdError) as error:
        insert(tiles, 1, [leaf._replace(epoch=2) for leaf in many(count)[-1:]])
    assert error.value.reason == "LEAF_EXISTS"
