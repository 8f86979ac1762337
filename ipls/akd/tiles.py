"""Tiles: how the tree is stored (the storage spec). Rows are a pure function of the leaves and their epochs.

A tile at level j (0, 4, 8, ...) holds the trie under a prefix of j bits down to depth j + 4: one entry for each
4-bit step that leads to anything, a lone leaf or a subtree with a tile of its own at j + 4. A subtree of at most 16
leaves is one *bucket* tile of leaves with nothing beneath it. Body:

    kind u8 (0 split, 1 bucket)   n u8
    n times (label length u16, epoch u48)
    n label suffixes, from byte j/8 to the label's last
    n times 32 bytes: a leaf's commitment, a subtree's value
    n - 1 times 32 bytes: the interior values, in the order of the gaps between neighbours

Tested by tests/akd/test_tree.py and tests/akd/test_rebuild.py.
"""

import struct
from bisect import bisect_left, insort
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol

from ipls.akd.errors import AkdError
from ipls.akd.hashing import fold, leaf_value
from ipls.akd.labels import BITS, Label, Node

STEP = 4
BUCKET_LEAVES = 16
_EPOCH_BITS = 48


class Row(NamedTuple):
    """One stored version of a tile; (prefix, epoch) is its key, `epoch` the newest insertion beneath the prefix."""

    prefix: bytes
    epoch: int
    body: bytes


class TileReader(Protocol):
    """Where tiles are read from. A row, once readable, never changes."""

    def read(self, prefixes: Collection[bytes], epoch: int) -> dict[bytes, Row]:
        """For each prefix its newest row with `row.epoch <= epoch`; prefixes without one are left out."""
        ...


class Subtree(NamedTuple):
    """A leaf (label of 256 bits; insertion epoch, commitment) or a subtree (its node; epoch of its tile, value)."""

    label: Label
    epoch: int
    stored: bytes

    @property
    def is_leaf(self) -> bool:
        return self.label.length == BITS

    def node(self) -> Node:
        return Node(self.label, leaf_value(self.stored, self.epoch) if self.is_leaf else self.stored)


class Tile(NamedTuple):
    """A decoded tile: entries sorted by label, and the interior value at each gap between neighbours."""

    is_bucket: bool
    entries: list[Subtree]
    gaps: list[bytes]


EMPTY_TILE = Tile(True, [], [])


def tile_prefix(bits: int, level: int) -> bytes:
    """The key of the tile at `level` on the path of a label: `u8(level) || first ceil(level/8) bytes`, cut to bits."""
    size = (level + 7) // 8
    return bytes((level,)) + (bits >> BITS - level << size * 8 - level).to_bytes(size, "big")


def slot(bits: int, level: int) -> int:
    """The 4 bits that a label has from `level` on."""
    return bits >> BITS - STEP - level & (1 << STEP) - 1


def by_slot(level: int, entries: Sequence[Subtree]) -> Iterator[tuple[int, int]]:
    """The (start, end) of each run of sorted entries that take the same 4-bit step from `level`."""
    start = 0
    for end in range(1, len(entries) + 1):
        if end == len(entries) or slot(entries[end].label.bits, level) != slot(entries[start].label.bits, level):
            yield start, end
            start = end


def top_node(tile: Tile) -> Node:
    """The node over all of a tile's entries."""
    return fold([entry.node() for entry in tile.entries], tile.gaps)[1]


def encode_tile(level: int, tile: Tile) -> bytes:
    """The body of a tile's row."""
    first = level // 8
    entries = tile.entries
    heads = [entry.label.length << _EPOCH_BITS | entry.epoch for entry in entries]
    suffixes = [entry.label.bits.to_bytes(32, "big")[first : (entry.label.length + 7) // 8] for entry in entries]
    return b"".join(
        (
            struct.pack(f">BB{len(heads)}Q", tile.is_bucket, len(heads), *heads),
            *suffixes,
            *(entry.stored for entry in entries),
            *tile.gaps,
        )
    )


def decode_tile(row: Row) -> Tile:
    """The tile in a row. Raises AkdError TILE_CORRUPT."""
    body, above = row.body, row.prefix[1 : 1 + row.prefix[0] // 8]
    try:
        kind, count = body[0], body[1]
        heads = struct.unpack_from(f">{count}Q", body, 2)
    except (IndexError, struct.error):
        raise AkdError("TILE_CORRUPT", "a stored tile is cut short") from None
    at = 2 + 8 * count
    labels = []
    for head in heads:
        length = head >> _EPOCH_BITS
        size = (length + 7) // 8 - len(above)
        labels.append(Label(int.from_bytes((above + body[at : at + size]).ljust(32, b"\0"), "big"), length))
        at += size
    if kind > 1 or len(body) != at + 32 * (2 * count - 1):
        raise AkdError("TILE_CORRUPT", "a stored tile does not have the length of its contents")
    values = [body[i : i + 32] for i in range(at, len(body), 32)]
    epoch_mask = (1 << _EPOCH_BITS) - 1
    entries = [
        Subtree(label, head & epoch_mask, value) for label, head, value in zip(labels, heads, values, strict=False)
    ]
    if max(entry.epoch for entry in entries) != row.epoch:
        raise AkdError("TILE_CORRUPT", "a stored tile is not of the epoch of its newest entry")
    return Tile(kind == 1, entries, values[count:])


class MemoryTiles:
    """Tiles in memory: a TileReader for conformance files and tests."""

    def __init__(self) -> None:
        self._rows: dict[bytes, list[Row]] = {}

    def read(self, prefixes: Collection[bytes], epoch: int) -> dict[bytes, Row]:
        found = {}
        for prefix in prefixes:
            rows = self._rows.get(prefix, [])
            newer = bisect_left(rows, epoch + 1, key=lambda row: row.epoch)
            if newer:
                found[prefix] = rows[newer - 1]
        return found

    def write(self, rows: Iterable[Row]) -> None:
        """Adds rows; one that is there already is left alone."""
        for row in rows:
            versions = self._rows.setdefault(row.prefix, [])
            if row.epoch not in (version.epoch for version in versions):
                insort(versions, row, key=lambda version: version.epoch)

    def rows(self) -> list[Row]:
        """Every row, sorted by key."""
        return sorted(row for versions in self._rows.values() for row in versions)
