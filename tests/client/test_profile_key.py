"""How a profile's key is kept, and that nothing but that key opens it."""

import itertools
import json
import shutil
import stat
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from ipls.client import profile_key
from ipls.client.errors import ProfileError
from ipls.client.profile import Account, Profile
from ipls.client.profile_key import IN_FILE, Kept, KeyAccess, make_key, open_key
from ipls.client.profiles import remove_profile, summary
from tests.client.changes import Quick, locked, removed, unlocked, with_ring
from tests.faults.deaths import killed


class Ring(dict[str, str]):
    """A keyring of an app's own."""

    put = dict.__setitem__


def passphrase(text: str) -> KeyAccess:
    return KeyAccess(Kept.PASSPHRASE, passphrase=lambda new: text)


def refused(reason: str) -> "pytest.RaisesExc[ProfileError]":
    return pytest.raises(ProfileError, check=lambda error: error.reason == reason)


def in_clear(folder: Path, key: bytes) -> bool:
    return key.hex() in (folder / "key.json").read_text()


def test_a_key_in_its_file_is_told_of_once_and_is_its_owners_alone(tmp_path: Path) -> None:
    told: list[tuple[Kept, Path]] = []
    access = KeyAccess(told=lambda kept, file: told.append((kept, file)))
    key = make_key(tmp_path, access)
    assert open_key(tmp_path, access) == open_key(tmp_path, IN_FILE) == key
    assert len(key) == 32
    assert told == [(Kept.FILE, tmp_path / "key.json")]
    assert stat.S_IMODE((tmp_path / "key.json").stat().st_mode) == 0o600


def test_a_key_in_a_keyring_is_only_there(tmp_path: Path) -> None:
    ring = Ring()
    access = KeyAccess(Kept.KEYRING, keyring=ring)
    key = make_key(tmp_path, access)
    assert (open_key(tmp_path, access), [*ring.values()]) == (key, [key.hex()])
    assert not in_clear(tmp_path, key)
    with refused("KEYRING_UNAVAILABLE"):
        open_key(tmp_path, IN_FILE)
    (id,) = ring
    for others in ({}, {id: "something else"}):
        with refused("PROFILE_LOCKED"):
            open_key(tmp_path, KeyAccess(keyring=Ring(others)))


def test_an_app_keeps_its_key_itself(tmp_path: Path) -> None:
    key = bytes(range(32))
    access = KeyAccess(Kept.APP, key=key)
    assert make_key(tmp_path, access) == open_key(tmp_path, access) == key
    assert not in_clear(tmp_path, key)
    with refused("PROFILE_LOCKED"):
        open_key(tmp_path, IN_FILE)


def test_only_the_passphrase_opens_what_it_sealed(tmp_path: Path) -> None:
    key = make_key(tmp_path, passphrase("Gruße 1"))
    before = (tmp_path / "key.json").read_bytes()
    assert open_key(tmp_path, passphrase("Gruße 1")) == key
    assert not in_clear(tmp_path, key)
    with refused("PASSPHRASE_WRONG"):
        open_key(tmp_path, passphrase("Grusse 1"))
    with refused("PROFILE_LOCKED"):
        open_key(tmp_path, IN_FILE)
    assert (tmp_path / "key.json").read_bytes() == before


def test_a_passphrase_is_the_same_however_its_letters_are_composed(tmp_path: Path) -> None:
    key = make_key(tmp_path, passphrase("caf\u00e9 \udcff"))
    assert open_key(tmp_path, passphrase("cafe\u0301 \udcff")) == key


def test_two_profiles_of_one_passphrase_have_nothing_in_common(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    assert make_key(tmp_path, passphrase("same")) != make_key(tmp_path / "other", passphrase("same"))
    mine, other = (json.loads((folder / "key.json").read_text()) for folder in (tmp_path, tmp_path / "other"))
    assert all(mine[name] != other[name] for name in ("id", "salt", "sealed"))
    # A passphrase that opens one opens no key of the other under it.
    (tmp_path / "key.json").write_text(json.dumps(mine | {"sealed": other["sealed"]}))
    with refused("PROFILE_KEY_LOST"):
        open_key(tmp_path, passphrase("same"))


def test_no_passphrase_is_the_keys_own_file(tmp_path: Path) -> None:
    key = make_key(tmp_path, passphrase(""))
    assert open_key(tmp_path, IN_FILE) == key


@pytest.mark.parametrize("access", [IN_FILE, passphrase("one")], ids=lambda access: access.new)
def test_a_file_that_is_damaged_anywhere_is_known_from_a_wrong_passphrase(tmp_path: Path, access: KeyAccess) -> None:
    make_key(tmp_path, access)
    whole = (tmp_path / "key.json").read_bytes()
    for at in range(len(whole) - 1):
        (tmp_path / "key.json").write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with refused("PROFILE_KEY_LOST"):
            open_key(tmp_path, access)
    for cut in (whole[:-2], b"", b"null", b"[" * 4000, b"x" * 5000):
        (tmp_path / "key.json").write_bytes(cut)
        with refused("PROFILE_KEY_LOST"):
            open_key(tmp_path, access)


def test_where_there_is_no_file_there_is_no_key(tmp_path: Path) -> None:
    assert open_key(tmp_path, IN_FILE) is None


@pytest.mark.parametrize("change", [locked, unlocked])
def test_a_change_of_where_the_key_is_that_is_killed_at_any_step_leaves_a_key_and_is_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None]
) -> None:
    monkeypatch.setattr(profile_key, "Scrypt", Quick)
    first = tmp_path / "first"
    first.mkdir()
    with closing(Profile(first / "phone", with_ring(first))) as profile:
        profile.put(Account("+49", bytes(32), 1, 1))
        key = profile.key
    if change is unlocked:
        locked(first)
    for at in itertools.count():
        home = shutil.copytree(first, tmp_path / str(at))
        dead = killed(change, home, at)
        assert open_key(home / "phone", with_ring(home)) == key
        if dead or change is locked:
            change(home)
        ring = [*(home / "ring").glob("[0-9a-f]*")]
        assert len(ring) == (change is unlocked)
        assert not in_clear(home / "phone", key)
        with closing(Profile(home / "phone", with_ring(home), reading=True)) as profile:
            assert profile.account.label == "+49"
        if not dead:
            break
    assert at > 3


def test_a_removal_that_is_killed_at_any_step_leaves_all_or_what_does_not_open_and_is_run_again(tmp_path: Path) -> None:
    first = tmp_path / "first"
    with closing(Profile(first)) as profile:
        profile.put(Account("+49", bytes(32), 1, 1))
    left = set()
    for at in itertools.count():
        folder = shutil.copytree(first, tmp_path / str(at))
        if not killed(removed, folder, at):
            break
        if folder.exists():
            left.add(summary(folder, IN_FILE).reason)
            assert remove_profile(folder, IN_FILE)
        assert not folder.exists()
    assert left <= {"", "PROFILE_KEY_LOST", "PROFILE_ABSENT"}
    assert {"", "PROFILE_KEY_LOST"} <= left
