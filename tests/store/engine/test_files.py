"""A file of SQLite belongs to one role: it says whose it is, and no other takes it for its own."""

import sqlite3
from collections.abc import Callable
from contextlib import AbstractContextManager, closing
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest

from ipls.client.errors import ProfileError
from ipls.client.profile import Profile
from ipls.store.contacts import open_contacts_store
from ipls.store.directory import open_directory_store
from ipls.store.errors import StoreDamaged
from ipls.store.readers import open_readers_store
from ipls.store.registration import open_registration_store
from ipls.store.vault import open_vault_store
from ipls.store.witness import init_witness_state, open_witness_store
from tests.trust.roots import NAMESPACE, make_root

Open = Callable[[Path], AbstractContextManager[Any]]


def open_profile(path: Path) -> AbstractContextManager[Any]:
    return closing(Profile(path.parent))


def open_witness(path: Path) -> AbstractContextManager[Any]:
    init_witness_state(path, make_root())
    return closing(open_witness_store(path, NAMESPACE, path.with_suffix(".mark")))


ROLES: dict[str, Open] = {
    "the directory": lambda path: closing(open_directory_store(path, NAMESPACE, bytes(32))),
    "the directory's readers": lambda path: closing(open_readers_store(path)),
    "a witness": open_witness,
    "the vault": lambda path: closing(open_vault_store(path)),
    "the contact store": lambda path: closing(open_contacts_store(path)),
    "the registration service": lambda path: closing(open_registration_store(path)),
    "a client's profile": open_profile,
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "profile.db"  # a profile's name is not to be chosen


def content(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as db:
        return [str(db.execute(f"PRAGMA {name}").fetchone()[0]) for name in MARK] + list(db.iterdump())


MARK = ("application_id", "user_version")


def unmark(path: Path) -> None:
    """As files were before they said what they are."""
    with closing(sqlite3.connect(path)) as db:
        for name in MARK:
            db.execute(f"PRAGMA {name}=0")


def refused(role: str, path: Path) -> tuple[str, str]:
    """Reason and message, of one line."""
    with pytest.raises((StoreDamaged, ProfileError)) as refusal, ROLES[role](path):
        pass
    assert "\n" not in str(refusal.value)
    return refusal.value.reason, str(refusal.value)


@pytest.mark.parametrize("old", [False, True], ids=["marked", "old"])
@pytest.mark.parametrize(("owner", "other"), [*permutations(ROLES, 2)])
def test_a_file_of_one_role_is_refused_by_every_other_and_stays_as_it_was(
    path: Path, owner: str, other: str, old: bool
) -> None:
    with ROLES[owner](path):
        pass
    if old:
        unmark(path)
    before = content(path)
    reason, message = refused(other, path)
    assert reason == ("PROFILE_STORAGE" if "profile" in other else "DATABASE_OTHER_ROLE")
    assert f"not {'' if old else 'of '}" in message
    assert other in message
    assert old or owner in message
    assert content(path) == before
    with ROLES[owner](path):
        pass


@pytest.mark.parametrize("role", ROLES)
def test_an_old_file_is_marked_once_and_keeps_what_is_in_it(path: Path, role: str) -> None:
    with ROLES[role](path):
        pass
    before = content(path)
    assert before[0] != "0"
    unmark(path)
    for _ in range(2):
        with ROLES[role](path):
            pass
        assert content(path) == before


@pytest.mark.parametrize("role", ROLES)
def test_a_file_of_a_later_version_is_refused(path: Path, role: str) -> None:
    with ROLES[role](path):
        pass
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version=9")
    assert refused(role, path)[0] == ("PROFILE_STORAGE" if "profile" in role else "DATABASE_NEWER")


@pytest.mark.parametrize("role", ROLES)
def test_a_file_that_is_no_database_is_refused_and_an_empty_one_is_new(path: Path, role: str) -> None:
    path.write_bytes(b"no database" * 500)
    reason, message = refused(role, path)
    assert reason == ("PROFILE_STORAGE" if "profile" in role else "DATABASE_UNREADABLE")
    assert str(path) in message
    assert path.read_bytes() == b"no database" * 500
    path.write_bytes(b"")
    with ROLES[role](path):
        pass


def test_another_programs_database_is_refused(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA application_id=5")
    assert "another program" in refused("the vault", path)[1]
