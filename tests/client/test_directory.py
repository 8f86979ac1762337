"""What the device believes of a directory: heads by their witnesses and by what it saw before."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from ipls.client.directory import DirectoryReader
from ipls.client.errors import RefusedError
from ipls.client.events import Event, HeadChecked
from ipls.client.profile import Profile
from ipls.trust.heads import Head
from tests.trust.roots import HOUR, NOW, THIEF, WITNESSES, signed, three_of

SEEN, NEXT, FORK, BELOW = Head(5, b"5" * 32), Head(6, b"6" * 32), Head(5, b"f" * 32), Head(4, b"4" * 32)
QUORUM = WITNESSES[:2]


@pytest.fixture
def profile(tmp_path: Path) -> Iterator[Profile]:
    with closing(Profile(tmp_path / "phone")) as profile:
        yield profile


def reader(profile: Profile, events: list[Event]) -> DirectoryReader:
    nobody: Any = None  # heads are handed in
    return DirectoryReader(nobody, three_of(), profile, now_ms=lambda: NOW, report=events.append)


def test_a_head_is_remembered_with_its_signatures(profile: Profile) -> None:
    events: list[Event] = []
    for head in (SEEN, SEEN, NEXT):
        assert reader(profile, events).observe(signed(head, *QUORUM)) == head
    assert profile.head == signed(NEXT, *QUORUM)
    assert events[-1] == HeadChecked(6, NEXT.root_hash, {"w0": NOW, "w1": NOW})


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        (signed(BELOW, *QUORUM), "HEAD_BELOW_HIGHEST"),
        (signed(FORK, *QUORUM), "HEAD_FORK"),
        (signed(NEXT, QUORUM[0]), "HEAD_NO_QUORUM"),
        (signed(NEXT, QUORUM[0], THIEF), "HEAD_KEY_UNPINNED"),
        (signed(NEXT, *QUORUM, namespace="elsewhere"), "HEAD_OTHER_NAMESPACE"),
        (signed(NEXT, *QUORUM, time=NOW - HOUR - 1), "HEAD_TOO_OLD"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_head_that_does_not_hold_changes_nothing(profile: Profile, head: Any, reason: str) -> None:
    reader(profile, []).observe(signed(SEEN, *QUORUM))
    with pytest.raises(RefusedError, check=lambda error: error.reason == reason):
        reader(profile, []).observe(head)
    assert profile.head == signed(SEEN, *QUORUM)
