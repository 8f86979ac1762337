"""The directory's database is lost, and made again from the log and the witnesses: phones go on by themselves."""

from collections.abc import Iterator
from contextlib import closing

import pytest

from ipls.config import load_trust_root
from ipls.store.directory import open_directory_store
from tests.client.deployment import Deployment, book


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with Deployment(tmp_path_factory.mktemp("deployment")).running() as world:
        yield world


async def test_a_phone_goes_on_and_the_next_one_restores(world: Deployment) -> None:
    label = world.label()
    phone = await world.stored(label, book(3))
    world.lose("directory", world.config.directory.database)
    async with world.device(phone, retry_for_s=240) as device:  # a new process starts, on whatever machine
        assert [version.origin for version in await device.monitor()] == ["own"]
        device.address_book.import_cards(book(2, "More"))
        assert (await device.store()).contacts == 5
        assert (await device.register(label, world.code)).version == 1  # it is registered
    async with world.device(await world.registered(label)) as device:
        assert (await device.restore()).contacts == 5


async def test_a_phone_whose_key_the_directory_no_longer_knows_registers_again(world: Deployment) -> None:
    label = world.label()
    old = await world.registered(label)
    await world.registered(label)
    root = load_trust_root(world.config.trust_root)
    with closing(
        open_directory_store(world.config.directory.database, root.namespace, root.vrf_public_key)
    ) as directory:
        assert directory.erase_values(label.encode(), 1) == 1
    async with world.device(old) as device:
        assert (await device.register(label, world.code)).version == 3
        assert [version.origin for version in await device.monitor()] == ["own", "foreign", "own"]
