"""Versions of a label's value, and the markers that proofs show beside them or in their place."""

from typing import NamedTuple

_SKIP_LIST = (1, 2, 4, 16, 256, 65536, 2**32)


class Version(NamedTuple):
    """One version of a label: its number from 1, the epoch that inserted it, its value."""

    version: int
    epoch: int
    value: bytes


def marker(version: int) -> int:
    """The largest power of two that is not above `version` (>= 1)."""
    return 1 << version.bit_length() - 1


def absence_markers(epoch: int) -> list[int]:
    """The versions that an absence proof shows not to be there: every power of two up to `epoch`."""
    return [1 << bit for bit in range(epoch.bit_length())]


def past_markers(start: int) -> list[int]:
    """The past markers of a history that begins at version `start` (85 -> 16, 64, 80, 84)."""
    markers = {max(step for step in _SKIP_LIST if step <= start), marker(start)}
    rest = start
    while rest:
        markers.add(rest)
        rest &= rest - 1
    return sorted(markers - {start})


def future_markers(end: int, epoch: int) -> list[int]:
    """The future markers of a history that ends at version `end`, asked at `epoch` (85, 65537 -> 86, 88, ... 65536)."""
    markers = {(end >> bit | 1) << bit for bit in range(end.bit_length()) if not end >> bit & 1}
    limit = next((step for step in _SKIP_LIST if step > end), epoch)
    power = 2 * marker(end)
    while power <= limit:
        markers.add(power)
        power *= 2
    markers.update(step for step in _SKIP_LIST if step > end)
    return sorted(number for number in markers if number <= epoch)
