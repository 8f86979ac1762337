"""From an edit on one device to when another one has it: `python -m bench.live [EDITS [CONTACTS]]` (100 and 1,000).

A whole deployment on loopback, a phone and a linked laptop, each followed by its own `ipls client background`; the
edits are made by this process. The clock runs from before the edit, on a profile that is open, until the laptop's
`background` says that it has the contact, which can be read then. Most of it is the wait for the next look at the
profile, 0.2 s apart.
"""

import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from ipls.client.device import Device
from ipls.contacts.cards.editing import Changes
from tests.client.deployment import Deployment, book
from tests.client.test_linked_devices import link
from tests.e2e.running import IPLS


@contextmanager
def background(profile: Path) -> Iterator[Iterator[dict[str, object]]]:
    """What it says, once it is in step."""
    options = ["--json", "--home", profile.parent.parent, "--profile", profile.name]
    with subprocess.Popen([*IPLS, "client", "background", *map(str, options)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        said = (json.loads(line) for line in iter(process.stdout.readline, b""))
        try:
            for _ in range(2):  # the first sync, and the check
                next(line for line in said if line["event"] == "synced")
            yield said
        finally:
            process.terminate()


async def linked(world: Deployment, contacts: int) -> tuple[Path, Path]:
    phone, laptop = await world.stored(world.label(), book(contacts)), world.profile()
    async with world.device(phone) as device:
        await link(world, device, laptop)
    return phone, laptop


async def edit(phone: Path, number: int) -> float:
    """When it began."""
    async with Device.open(phone) as device:
        began = time.perf_counter()
        device.address_book.add(Changes(name=f"Edit {number}"))
    return began


def main(edits: int, contacts: int) -> None:
    with tempfile.TemporaryDirectory() as home, tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        world = stack.enter_context(Deployment(Path(folder), Path(home) / "profiles").running())
        phone, laptop = asyncio.run(linked(world, contacts))
        stack.enter_context(background(phone))
        said = stack.enter_context(background(laptop))
        took = []
        for number in range(edits):
            began = asyncio.run(edit(phone, number))
            next(line for line in said if line.get("received"))
            took.append(1000 * (time.perf_counter() - began))
    took.sort()
    median, p99 = statistics.median(took), took[min(len(took) - 1, len(took) * 99 // 100)]
    print(
        f"{edits} edits, {contacts:,} contacts: median {median:.0f} ms, 99% within {p99:.0f} ms, longest {took[-1]:.0f}"
    )


if __name__ == "__main__":
    given = [*map(int, sys.argv[1:])]
    main(*given, *(100, 1000)[len(given) :])
