"""`kill -9` in the middle of the journey: all goes on without a hand on it, and nothing acknowledged is lost.
For longer: `scripts/soak`."""

import random

import pytest

from ipls.client.events import Event
from tests.client.deployment import book
from tests.e2e.running import Deployment, kill

PROCESSES = ("directory", "witness", "vault", "core", "contacts")
EVENTS = 40
"""The whole journey reports some more than this many events."""


class Killer:
    """Kills a process at the event of this number."""

    def __init__(self, deployment: Deployment, process: str, at: int) -> None:
        self._deployment = deployment
        self._process = process
        self._left = at
        self.killed = False

    def __call__(self, event: Event) -> None:
        self._left -= 1
        if self._left == 0:
            kill(self._deployment.pid(self._process))
            self.killed = True


async def journey(deployment: Deployment, number: str, killer: Killer, cards: bytes) -> None:
    async with deployment.device(f"old{number}", killer) as phone:
        await deployment.register(phone, number)
        phone.address_book.import_cards(cards)
        await phone.store()
        stored = phone.address_book.cards()
    async with deployment.device(f"new{number}", killer) as phone:
        await deployment.register(phone, number)
        await phone.restore()
        assert sorted(phone.address_book.cards()) == sorted(stored)


@pytest.mark.parametrize("process", PROCESSES)
async def test_the_journey_outlives_the_death_of_any_process(deployment: Deployment, process: str) -> None:
    cards = book(40)
    numbers = []
    for seed in range(2):
        at = random.Random(f"{process} {seed}").randint(1, EVENTS)
        number = f"+4930{PROCESSES.index(process)}{seed:06}"
        killer = Killer(deployment, process, at)
        await journey(deployment, number, killer, cards)
        assert killer.killed
        numbers.append(number)
    # What was acknowledged before the later kills is all there, for yet another phone.
    for number in numbers:
        async with deployment.device(f"third{number}") as phone:
            await deployment.register(phone, number)
            await phone.restore()
            assert len(phone.address_book.cards()) == 40
