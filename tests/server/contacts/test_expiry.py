"""What is hidden goes when its time has come by the witnesses' clock, not by this machine's alone."""

from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest

from ipls.rpc.errors import ServiceError
from ipls.server.contacts import expiry
from ipls.store.contacts import open_contacts_store
from ipls.store.line import LineStore
from tests.server.contact_stores import World
from tests.store.line.lines import DAY, Line
from tests.trust.roots import NOW


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = World(tmp_path)
    async with world.running():
        yield world


async def test_a_clock_that_runs_ahead_ends_nothing(world: World) -> None:
    with closing(open_contacts_store(world.folder / "contacts.db")) as store:
        line = Line(store.lines)
        line.begin()
        made = line.edit(line.writer.record("a"))
        line.edit(drops=made.records)
        world.identities.accept(world.directory.head(time=NOW))
        world.now_ms = NOW + 40 * DAY
        with pytest.raises(ServiceError, check=lambda error: error.reason == "DIRECTORY_UNAVAILABLE"):
            await expiry.let_go(store.lines, world.identities, lambda: world.now_ms)
        assert line.read(*made.records) == [True]
        world.identities.accept(world.directory.head(time=world.now_ms))
        await expiry.let_go(store.lines, world.identities, lambda: world.now_ms)
        assert line.read(*made.records) == [False]


async def test_it_goes_on_after_a_directory_that_was_away(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    rounds: list[str] = []

    class Ended(BaseException):
        pass

    async def let_go(store: LineStore, identities: object) -> None:
        rounds.append("")
        if len(rounds) > 1:
            raise Ended
        raise ServiceError("DIRECTORY_UNAVAILABLE", "away")

    monkeypatch.setattr(expiry, "let_go", let_go)
    monkeypatch.setattr(expiry, "EVERY_S", 0)
    with closing(open_contacts_store(world.folder / "contacts.db")) as store, pytest.raises(Ended):
        await expiry.run(store.lines, world.identities)
    assert len(rounds) == 2
