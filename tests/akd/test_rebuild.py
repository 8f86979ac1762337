"""The tree made again from its leaves: the very rows that publishing wrote, and of them those that kept epochs need."""

from hypothesis import given, settings
from hypothesis import strategies as st

from ipls.akd import EMPTY_ROOT, MemoryTiles
from ipls.akd.rebuild import Kept, decode_grown, grow_children, grow_leaves, rebuilt_root
from ipls.akd.tiles import STEP, Row, by_slot, decode_tile, tile_prefix
from ipls.akd.tree import Insertion
from tests.akd.test_tree import STORIES, epochs_of, grow


def left_by_the_rule(tiles: MemoryTiles, insertions: list[Insertion], kept: Kept) -> list[Row]:
    """The rows that the rule leaves: gone are those superseded by the floor that no pinned epoch needs."""
    gone = {
        key
        for a, insertion in enumerate(insertions, 1)
        for key in insertion.superseded
        if a <= kept.floor and not any(key[1] <= pin < a for pin in kept.pins)
    }
    return [row for row in tiles.rows() if (row.prefix, row.epoch) not in gone]


def read_by(tiles: MemoryTiles, epoch: int) -> set[Row]:
    """Every row that a path from the root can lead to."""
    found, wanted = set[Row](), {b"\0"}
    while rows := tiles.read(wanted, epoch).values():
        found.update(rows)
        wanted = {
            tile_prefix(entry.label.bits, row.prefix[0] + STEP)
            for row in rows
            for entry in decode_tile(row).entries
            if not entry.is_leaf
        }
    return found


@settings(max_examples=150, deadline=None)
@given(STORIES, st.integers(0, 6), st.sets(st.integers(0, 6), max_size=2))
def test_the_rows_of_the_kept_epochs_come_out_as_published(story: list[list[int]], floor: int, pins: set[int]) -> None:
    epochs = epochs_of(story)
    tiles, insertions = grow(epochs)
    kept = Kept(min(floor, len(epochs)), len(epochs), tuple(sorted(pin for pin in pins if pin <= len(epochs))))
    leaves = sorted(leaf for epoch in epochs for leaf in epoch)
    below: dict[tuple[bytes, int], bytes] = {}
    grown = grow_leaves(0, leaves, kept, below)
    rows = sorted(Row(*key, body) for key, body in below.items())
    read = sorted({row for epoch in {*range(kept.floor, kept.head + 1), *kept.pins} for row in read_by(tiles, epoch)})
    assert [Row(b"\0", state.epoch, state.encode(0)) for state in grown] + rows == read
    assert set(read) <= set(left_by_the_rule(tiles, insertions, kept))
    roots = [EMPTY_ROOT, *(insertion.new_root for insertion in insertions)]
    for epoch in {*range(kept.floor, kept.head + 1), *kept.pins}:
        assert rebuilt_root(grown, epoch) == roots[epoch]

    parts: dict[tuple[bytes, int], bytes] = {}  # the same by parts that were put down in between
    children = []
    for start, end in by_slot(0, leaves):
        part = grow_leaves(STEP, leaves[start:end], kept, parts)
        prefix = tile_prefix(leaves[start].label.bits, STEP)
        children.append([decode_grown(Row(prefix, state.epoch, state.encode(STEP))) for state in part])
    again = grow_children(0, children, kept, parts)
    assert [(state.epoch, state.encode(0)) for state in again] == [(state.epoch, state.encode(0)) for state in grown]
    assert parts == below
