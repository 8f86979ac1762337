"""Markers: the directory spec's examples."""

import pytest

from ipls.akd.versions import future_markers, marker, past_markers
from tests.attack import directory


@pytest.mark.parametrize(
    ("start", "markers"),
    [(85, [16, 64, 80, 84]), (1, []), (2, []), (3, [2]), (6, [4]), (7, [4, 6]), (300, [256, 288, 296])],
)
def test_past_markers(start: int, markers: list[int]) -> None:
    assert past_markers(start) == markers


@pytest.mark.parametrize(
    ("end", "epoch", "markers"),
    [
        (85, 65537, [86, 88, 96, 128, 256, 65536]),
        (85, 65535, [86, 88, 96, 128, 256]),
        (85, 86, [86]),
        (5, 33, [6, 8, 16]),
        (12, 256, [13, 14, 16, 256]),
        (1, 1, []),
        (1, 10, [2, 4]),
        (2**32, 2**33, [*(2**32 + 2**i for i in range(32)), 2**33]),
    ],
)
def test_future_markers(end: int, epoch: int, markers: list[int]) -> None:
    assert future_markers(end, epoch) == markers


def test_against_the_other_writing() -> None:
    for version in range(1, 600):
        assert past_markers(version) == directory.past_markers(version)
        assert marker(version) == directory.pow2_below(version)
        for epoch in (version, version + 1, 600, 70000):
            assert future_markers(version, epoch) == directory.future_markers(version, epoch)
