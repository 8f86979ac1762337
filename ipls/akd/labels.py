"""Node labels: bit strings of up to 256 bits, the tree's coordinates.

Tested by tests/akd/test_tree.py.
"""

from typing import NamedTuple

BITS = 256
MASKS = [((1 << length) - 1) << (BITS - length) for length in range(BITS + 1)]


class Label(NamedTuple):
    """A bit string, left-aligned in a 256-bit integer: bit 0 is the most significant, bits past `length` are zero."""

    bits: int
    length: int

    def encode(self) -> bytes:
        """`u32(length) || value`, 36 bytes."""
        return (self.length << BITS | self.bits).to_bytes(36, "big")

    def bit(self, index: int) -> int:
        return self.bits >> (BITS - 1 - index) & 1

    def extends(self, prefix: "Label") -> bool:
        """Whether `prefix` is a proper prefix of this label."""
        return prefix.length < self.length and (self.bits ^ prefix.bits) >> (BITS - prefix.length) == 0

    def cut(self, length: int) -> "Label":
        """The first `length` bits; `length` is not above the label's own."""
        return Label(self.bits & MASKS[length], length)


class Node(NamedTuple):
    """A node as its parent sees it: a label, and an interior value or a leaf's hash (32 bytes)."""

    label: Label
    value: bytes


ROOT = Label(0, 0)
EMPTY = Label(int.from_bytes(b"\x01" * 32, "big"), 0)
"""Stands in for a child of the root that is not there."""


def leaf_label(position: bytes) -> Label:
    """The label of a leaf at a VRF output's first 32 bytes."""
    return Label(int.from_bytes(position, "big"), BITS)


def common_length(a: int, b: int) -> int:
    """How many leading bits two left-aligned 256-bit strings share."""
    return BITS - (a ^ b).bit_length()
