"""The device's journeys against the real services."""

import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from ipls.client.errors import ProfileError, RefusedError
from ipls.client.events import Event, HeadChecked, HistoryChecked, IdentityChange, Step, VaultAccepted
from tests.client.deployment import Deployment, book


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with Deployment(tmp_path_factory.mktemp("deployment")).running() as world:
        yield world


async def test_a_lost_phone_is_restored_on_another(world: Deployment) -> None:
    label, cards = world.label(), book(50)
    old = await world.stored(label, cards)
    events: list[Event] = []
    new = await world.registered(label)
    async with world.device(new, events.append) as device:
        restored = await device.restore()
        assert (restored.contacts, restored.fetched, restored.generation, restored.rotated) == (50, 50, 2, True)
        restored_cards = device.cards()
        assert [item.name for item in device.contacts("person 7")] == ["Person 7"]
    async with world.device(old) as device:
        assert sorted(device.cards()) == sorted(restored_cards)
        assert sorted(device.export().split(b"END:VCARD\r\n")) == sorted(cards.split(b"END:VCARD\r\n"))
    kinds = {type(event) for event in events}
    assert {HeadChecked, HistoryChecked, VaultAccepted} <= kinds
    assert [(e.version, e.origin) for e in events if isinstance(e, IdentityChange)] == [(1, "earlier"), (2, "own")]
    names = [event.name for event in events if isinstance(event, Step)]
    assert names == [
        "key retrieved",
        "records restored",
        "key made",
        "key stored",
        "key read back",
        "records stored",
        "manifest made",
        "manifest swapped",
        "rotation finished",
        "old records dropped",
    ]
