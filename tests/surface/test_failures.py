"""Exit statuses and reasons of what goes wrong on the command line."""

from pathlib import Path

from tests.surface.failures import provoke
from tests.surface.snapshot import recorded


def test_each_failure_ends_with_the_same_status_and_reason(tmp_path: Path) -> None:
    assert provoke(tmp_path) == recorded("failures")
