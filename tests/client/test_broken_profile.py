"""A profile that the disk does not give or take ends in one line, not in a traceback."""

import asyncio
import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from ipls.client.device import Device
from ipls.client.errors import ProfileError
from tests.client.deployment import Deployment, book
from tests.faults.disks import nothing_is_written


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Deployment:
    return Deployment(tmp_path_factory.mktemp("deployment"))


async def test_a_file_that_is_no_profile_is_refused(world: Deployment) -> None:
    profile = world.profile()
    profile.mkdir()
    (profile / "profile.db").write_bytes(b"no database " * 100)
    for _ in range(2):  # not busy the second time
        with pytest.raises(ProfileError, check=lambda error: error.reason == "PROFILE_STORAGE"):
            async with world.device(profile):
                pass


async def test_what_the_disk_refuses_is_a_profile_error_and_changes_nothing(world: Deployment) -> None:
    profile = world.profile()

    def import_onto_full_disk(device: Device) -> None:
        with nothing_is_written():
            device.address_book.import_cards(book(4))

    async with world.device(profile) as device:
        device.address_book.import_cards(book(2))
    with pytest.raises(ProfileError, check=lambda error: error.reason == "PROFILE_STORAGE"):
        async with world.device(profile) as device:
            import_onto_full_disk(device)
    async with world.device(profile) as device:
        assert len(device.address_book.cards()) == 2


async def test_a_profile_may_be_opened_in_a_thread(world: Deployment) -> None:
    async with await asyncio.to_thread(Device.open, world.profile(), world.folder / "endpoints.json") as device:
        assert device.address_book.import_cards(book(2))[0].new == 2


def test_endpoints_with_a_ca_that_is_none_are_refused(world: Deployment, tmp_path: Path) -> None:
    endpoints = json.loads((world.folder / "endpoints.json").read_text())
    endpoints["ca_file"] = endpoints["trust_root"]
    file = tmp_path / "endpoints.json"
    file.write_text(json.dumps(endpoints))
    with pytest.raises(ProfileError, check=lambda error: error.reason == "ENDPOINTS_INVALID"):
        Device.open(tmp_path / "phone", file)
    assert not (tmp_path / "phone").exists()


@pytest.mark.parametrize("name", ["lock", "profile.db", "key.json"])
async def test_what_can_not_be_opened_is_let_go_of(world: Deployment, name: str) -> None:
    profile = world.profile()
    (profile / name).mkdir(parents=True)
    for _ in range(2):
        with pytest.raises(ProfileError, check=lambda error: error.reason == "PROFILE_STORAGE"):
            async with world.device(profile):
                pass
    (profile / name).rmdir()
    async with world.device(profile) as device:
        assert device.address_book.cards() == []


async def test_a_profile_that_has_no_place_is_refused(world: Deployment) -> None:
    with pytest.raises(ProfileError, check=lambda error: error.reason == "PROFILE_STORAGE"):
        Device.open(world.folder / "trust.toml/phone", world.folder / "endpoints.json")


async def test_a_profile_of_another_schema_is_refused_and_let_go_of(world: Deployment) -> None:
    profile = world.profile()
    profile.mkdir()
    execute(profile, "CREATE TABLE pinned (one INTEGER)")
    for _ in range(2):
        with pytest.raises(ProfileError, check=lambda error: error.reason == "PROFILE_STORAGE"):
            Device.open(profile, world.folder / "endpoints.json")


def execute(profile: Path, sql: str) -> None:
    with closing(sqlite3.connect(profile / "profile.db", isolation_level=None)) as db:
        db.execute(sql)


@pytest.mark.parametrize("address", ["localhost", "::1:7400", "", None])
def test_endpoints_with_an_address_that_is_none_are_refused(
    world: Deployment, tmp_path: Path, address: str | None
) -> None:
    endpoints = json.loads((world.folder / "endpoints.json").read_text())
    endpoints["services"]["vault"]["address"] = address
    file = tmp_path / "endpoints.json"
    file.write_text(json.dumps(endpoints))
    with pytest.raises(ProfileError, check=lambda error: error.reason == "ENDPOINTS_INVALID"):
        Device.open(tmp_path / "phone", file)
    assert not (tmp_path / "phone").exists()
