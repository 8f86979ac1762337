"""The vault's access history in plain words."""

import time
from collections.abc import Iterator

import pytest

from ipls.client.access import days, describe, when
from ipls.client.events import AccessEntry
from ipls.units import DAY_MS


@pytest.fixture(autouse=True)
def in_berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patched:
        patched.setenv("TZ", "Europe/Berlin")
        time.tzset()
        yield
    time.tzset()


BY = "by identity version 2, published in epoch 7"


@pytest.mark.parametrize(
    ("operation", "origin", "said"),
    [
        ("retrieve", "foreign", f"your key was released (generation 3) {BY} (NOT OURS)"),
        ("set_change_delay", "own", f"a new identity was set to wait 1.5 days {BY} (this device)"),
        (
            "add_approver",
            "earlier",
            f"a device was allowed to approve, key {'ab' * 8}… {BY} (from before this device)",
        ),
        ("something new", "other", f"something new {BY} (other)"),
    ],
)
def test_an_entry_says_when_what_and_by_whom(operation: str, origin: str, said: str) -> None:
    entry = AccessEntry(1, 1_800_000_000_000, operation, 3, 2, 7, 3 * DAY_MS // 2, b"\xab" * 32, origin)
    assert describe(entry) == f"2027-01-15 09:00:00 CET: {said}"


def test_times_and_delays_as_people_read_them() -> None:
    assert [when(0), when(1_780_000_000_000)] == ["1970-01-01 01:00:00 CET", "2026-05-28 22:26:40 CEST"]
    assert [days(0), days(DAY_MS), days(DAY_MS // 3)] == ["no time", "1 days", "0.3333 days"]
