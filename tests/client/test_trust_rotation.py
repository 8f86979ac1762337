"""A running deployment gets a new version of the trust root, by the commands of docs/operations.md."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from ipls.client.events import Event, HeadChecked, TrustRootFollowed
from tests.client.deployment import Deployment, book
from tests.e2e.running import ipls


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with Deployment(tmp_path_factory.mktemp("deployment")).running() as world:
        yield world


def run(*arguments: object) -> str:
    ended = ipls(*arguments)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.strip()


def new_version(folder: Path) -> None:
    """Another key for the witness, and another operator."""
    config = ("--config", folder / "ipls.toml")
    witness = run("keys", "new", folder / "keys/witness-new.key")
    operator = run("keys", "new", folder / "keys/operator-new.key")
    changes = ("--new-key", f"witness={witness}", "--operator-key", operator)
    run("keys", "trust", "next", folder / "trust-2.toml", *changes, *config)
    run("keys", "trust", "sign", folder / "trust-2.toml", "--yes", *config)
    run("keys", "trust", "publish", folder / "trust-2.toml", *folder.glob("trust-2.toml.*.sig"), *config)
    file = folder / "ipls.toml"
    file.write_text(file.read_text().replace('"keys/witness.key"', '["keys/witness.key", "keys/witness-new.key"]'))
    renewed = folder / "bundle-2.pb"
    run("keys", "bundle", "next", renewed, "--operator-key", folder / "keys/operator-new.key", *config)
    run("keys", "bundle", "sign", renewed, "--yes", *config)
    run("keys", "bundle", "publish", renewed, *folder.glob("bundle-2.pb.*.sig"), *config)


async def test_devices_follow_a_new_version_and_go_on_under_it(world: Deployment) -> None:
    label, cards = world.label(), book(5)
    profile, other = await world.stored(label, cards), await world.registered(world.label())
    new_version(world.folder)
    for name in ("witness", "vault", "directory", "contacts"):
        world.kill(name)
    events: list[Event] = []
    async with world.device(profile, events.append) as device:
        assert device.status().trust_root == 1
        device.address_book.import_cards(book(2, "Friend"))
        assert (await device.store()).contacts == 7
        assert device.status().trust_root == 2
    # It is followed before anything is believed, and said once.
    assert isinstance(events[0], TrustRootFollowed)
    assert isinstance(events[1], HeadChecked)
    assert events.count(TrustRootFollowed(2)) == 1

    # A lookup is by a head that the witness signed with its new key.
    await world.registered(world.label())
    async with world.device(other) as device:
        version, _ = await device.lookup(label)
        assert (version.version, device.status().trust_root) == (1, 2)

    # A later file may be named to who has followed to it, and to a new phone.
    endpoints = world.folder / "endpoints.json"
    endpoints.write_text(endpoints.read_text().replace("trust.toml", "trust-2.toml"))
    async with world.device(profile) as device:
        assert (device.status().trust_root, len(await device.monitor())) == (2, 1)
    async with world.device(await world.registered(label)) as device:
        await device.restore()
        assert len(device.address_book.cards()) == 7
