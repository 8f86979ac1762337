"""Who has a phone's disk, a copy of it, or may write to it, and not the profile's key: they read nothing, and what they
put there is not taken for the owner's."""

import hashlib
import json
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from ipls.client.device import Device
from ipls.client.errors import ProfileError
from ipls.client.profile import Pinned, Profile
from ipls.client.profile_key import IN_FILE, Kept, KeyAccess, KeyFile
from tests.client.deployment import Deployment, book

OWNERS = KeyAccess(Kept.PASSPHRASE, passphrase=lambda new: "correct horse")
NUMBER, NAME = "+1 555 00", "Person "


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Deployment:
    return Deployment(tmp_path_factory.mktemp("deployment"))


async def made(world: Deployment, access: KeyAccess = IN_FILE) -> Path:
    """A phone with five contacts."""
    profile = world.profile()
    async with Device.open(profile, world.folder / "endpoints.json", key=access) as device:
        device.address_book.import_cards(book(5))
        device.approver_key()
    return profile


@pytest.fixture
async def phone(world: Deployment) -> Path:
    return await made(world)


def refused(reason: str) -> "pytest.RaisesExc[ProfileError]":
    return pytest.raises(ProfileError, check=lambda error: error.reason == reason)


def sql(profile: Path, statement: str, *values: object) -> list[tuple[bytes, ...]]:
    with closing(sqlite3.connect(profile / "profile.db")) as db, db:
        return db.execute(statement, values).fetchall()


async def names(profile: Path) -> list[str]:
    async with Device.open(profile, reading=True) as device:
        return [contact.name for contact in device.address_book.contacts()]


async def test_a_thief_of_the_disk_reads_nothing_and_can_not_tell_whom_the_owner_knows(
    world: Deployment, tmp_path: Path
) -> None:
    phone = await made(world, OWNERS)
    stolen = shutil.copytree(phone, tmp_path / "stolen")
    taken = b"".join(file.read_bytes() for file in stolen.rglob("*") if file.is_file())
    endpoints = json.loads((world.folder / "endpoints.json").read_text())
    known = [NUMBER, NAME, "test.ipls", "BEGIN:VCARD", *(each["address"] for each in endpoints["services"].values())]
    for text in known:
        assert text.encode() not in taken
    for guess in ("", "correct  horse"):
        with refused("PASSPHRASE_WRONG"):
            Device.open(stolen, key=KeyAccess(passphrase=lambda new, guess=guess: guess))
    # What finds a row is no hash that a guess can be tried by.
    with closing(Profile(phone, OWNERS, reading=True)) as profile:
        ids = [contact.id for contact in profile.contacts()]
    keys = {key for (key,) in sql(stolen, "SELECT key FROM edit")}
    assert not keys & {*ids, *(hashlib.sha256(id).digest()[:16] for id in ids)}


async def test_contacts_that_are_swapped_are_not_taken_for_each_other(phone: Path) -> None:
    (first,), (second,) = sql(phone, "SELECT sealed FROM edit WHERE number IN (1, 2) ORDER BY number")
    sql(phone, "UPDATE edit SET sealed = ? WHERE number = 1", second)
    sql(phone, "UPDATE edit SET sealed = ? WHERE number = 2", first)
    assert await names(phone) == ["Person 2", "Person 3", "Person 4", "", ""]


def planted_row(phone: Path, foreign: Path) -> None:
    """The row that says which deployment it is, of a profile whose key the attacker has."""
    with closing(Profile(foreign)) as profile:
        profile.put(Pinned(b"the attacker's trust root", b"the attacker's CA", "{}"))
    for key, sealed in sql(foreign, "SELECT key, sealed FROM single"):
        sql(phone, "DELETE FROM single WHERE number = 1")
        sql(phone, "INSERT INTO single (number, key, sealed) VALUES (1, ?, ?)", key, sealed)


def planted_key(phone: Path, foreign: Path) -> None:
    """A key that the attacker knows: what is written next were theirs to read."""
    Profile(foreign).close()
    shutil.copy(foreign / "key.json", phone / "key.json")


def known_key_under_the_owners_id(phone: Path, foreign: Path) -> None:
    own = KeyFile.read(phone)
    assert own
    own._replace(kept=Kept.FILE, key=bytes(32)).write(phone)


@pytest.mark.parametrize(
    ("attack", "reason"),
    [
        (planted_row, "PROFILE_DAMAGED"),
        (planted_key, "PROFILE_KEY_LOST"),
        (known_key_under_the_owners_id, "PROFILE_KEY_LOST"),
    ],
)
@pytest.mark.parametrize("reading", [True, False])
async def test_what_an_attacker_puts_into_a_profile_is_refused_and_nothing_is_written_by_it(
    phone: Path, world: Deployment, tmp_path: Path, attack: Callable[[Path, Path], None], reason: str, reading: bool
) -> None:
    whole = shutil.copytree(phone, tmp_path / "whole")
    attack(phone, tmp_path / "foreign")
    before = {file.name: file.read_bytes() for file in phone.iterdir()}
    for endpoints in (None, world.folder / "endpoints.json"):
        with refused(reason):
            Device.open(phone, endpoints, reading=reading)
    assert {file.name: file.read_bytes() for file in phone.iterdir()} == before
    for name in ("key.json", "profile.db"):  # nothing was lost: the owner puts it back
        shutil.copy(whole / name, phone / name)
    assert await names(phone) == [f"Person {n}" for n in range(5)]
