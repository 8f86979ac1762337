"""What is done in a process that is killed (`tests.faults.deaths`)."""

import asyncio
from contextlib import suppress
from pathlib import Path

from ipls.client.events import CaughtUp, Event
from ipls.client.following import follow


class _Checked(Exception):
    pass


def follow_until_checked(folder: Path) -> None:
    """Follow the profile until all is sent and taken in, and was checked once."""
    syncs = 0

    def report(event: Event) -> None:
        nonlocal syncs
        syncs += isinstance(event, CaughtUp)
        if syncs == 2:  # the second is the check's
            raise _Checked

    with suppress(_Checked):
        asyncio.run(follow(folder, report=report))
