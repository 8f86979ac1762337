"""What is done in a process that is killed (`tests.faults.deaths`)."""

import asyncio
from contextlib import suppress
from pathlib import Path

from ipls.client.events import CaughtUp, Event
from ipls.client.following import follow


class _Sent(Exception):
    pass


def follow_until_sent(folder: Path) -> None:
    """Follow the profile until there is nothing more to be sent."""

    def report(event: Event) -> None:
        if isinstance(event, CaughtUp):
            raise _Sent

    with suppress(_Sent):
        asyncio.run(follow(folder, report=report))
