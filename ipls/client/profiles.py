"""The profiles of one person on one machine, each in a folder of its own: what they are, and what is done with one as a
whole.

Tested by tests/cli/test_profiles.py and tests/client/test_profile_key.py.
"""

import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

from ipls.client.errors import ProfileError
from ipls.client.profile import Account, Profile, StorageError, Synced, exists, storage_error, writers_turn
from ipls.client.profile_key import (
    Kept,
    KeyAccess,
    change_passphrase,
    destroy_key,
    kept_by,
    lock_key,
    unlock_key,
)
from ipls.store.files import sync


class ProfileSummary(NamedTuple):
    """A profile as it is listed. `state` is `ready`, `new` (no account yet), `unfinished` (`store` has something to
    do), `locked`, or `damaged`; of the last two only name, `kept` and `reason` (an error's) are known."""

    name: str
    state: str
    kept: Kept | None = None
    number: str | None = None
    contacts: int = 0
    unsent: int = 0
    """Of the contacts those that are only here."""
    synced_ms: int | None = None
    """When all was last stored or restored, by this device's clock."""
    reason: str = ""


def list_profiles(folder: Path, access: KeyAccess) -> list[ProfileSummary]:
    """Those in a folder, by name; none where there is no such folder. Raises OSError."""
    if not folder.exists():
        return []
    return [summary(path, access) for path in sorted(folder.iterdir()) if path.is_dir()]


def summary(folder: Path, access: KeyAccess) -> ProfileSummary:
    """What a profile is, whatever state it is in."""
    kept = None
    try:
        kept = kept_by(folder)
        return open_summary(folder, access)
    except ProfileError as error:
        locked = error.reason in ("PROFILE_LOCKED", "PASSPHRASE_WRONG", "KEYRING_UNAVAILABLE")
        return ProfileSummary(folder.name, "locked" if locked else "damaged", kept, reason=error.reason)


def open_summary(folder: Path, access: KeyAccess) -> ProfileSummary:
    """What a profile is that can be opened. Raises ProfileError PROFILE_ABSENT, and as `Profile`."""
    if not exists(folder):
        raise ProfileError("PROFILE_ABSENT", "there is no such profile")
    with closing(Profile(folder, access, reading=True)) as profile:
        try:
            with profile.snapshot():
                account, synced = profile.get(Account), profile.get(Synced)
                counts, unfinished = profile.count(), profile.line.unfinished
        except StorageError as error:
            raise storage_error(error) from error
    return ProfileSummary(
        folder.name,
        "new" if account is None else "unfinished" if counts.unsent or unfinished else "ready",
        kept_by(folder),
        account.label if account else None,
        counts.readable + counts.unreadable,
        counts.unsent,
        synced.time_ms if synced else None,
    )


def rename_profile(folder: Path, name: str) -> None:
    """Give it another name, durably. Raises ProfileError PROFILE_ABSENT, PROFILE_EXISTS, PROFILE_BUSY,
    PROFILE_STORAGE."""
    target = folder.with_name(name)
    with _changing(folder):
        check_free(target)
        folder.rename(target)
        sync(target.parent)


def check_free(folder: Path) -> None:
    """That no profile has this name. Raises ProfileError PROFILE_EXISTS."""
    if folder.exists():
        raise ProfileError("PROFILE_EXISTS", "there is a profile of this name")


def lock_profile(folder: Path, access: KeyAccess) -> None:
    """Take its key out of the keyring, or of its file: from now on it takes the passphrase, which is asked for if it
    has none yet. One that is locked already stays so, and is not opened.

    Raises ProfileError PROFILE_ABSENT, PASSPHRASE_EMPTY, and as `Profile`.
    """
    key = b"" if kept_by(folder) is Kept.PASSPHRASE else _key(folder, access)
    with _changing(folder):
        lock_key(folder, access, key)


def unlock_profile(folder: Path, access: KeyAccess, to: Kept = Kept.KEYRING) -> None:
    """Take the passphrase once, and have the keyring open the profile from now on, or its key's file.

    Raises ProfileError PROFILE_ABSENT, and as `unlock_key`.
    """
    with _changing(folder):
        unlock_key(folder, access, to)


def change_profile_passphrase(folder: Path, access: KeyAccess) -> None:
    """Give it a new passphrase. Raises ProfileError PROFILE_ABSENT, and as `Profile` and `change_passphrase`."""
    key = _key(folder, access)
    with _changing(folder):
        change_passphrase(folder, access, key)


def _key(folder: Path, access: KeyAccess) -> bytes:
    """The key that opens what is there: another one would be no use under a passphrase."""
    _check_there(folder)
    with closing(Profile(folder, access, reading=True)) as profile:
        return profile.key


def remove_profile(folder: Path, access: KeyAccess) -> bool:
    """Delete a profile for good, whatever state it is in: its key first, so that after a crash nothing opens; then it
    is run again. False if a keyring that is not here still has the key.

    Raises ProfileError PROFILE_ABSENT, PROFILE_BUSY, PROFILE_STORAGE, KEYRING_UNAVAILABLE.
    """
    with _changing(folder):
        gone = destroy_key(folder, access)
        shutil.rmtree(folder)
        sync(folder.parent)
        return gone


def _check_there(folder: Path) -> None:
    if not folder.is_dir():
        raise ProfileError("PROFILE_ABSENT", "there is no such profile")


@contextmanager
def _changing(folder: Path) -> Iterator[None]:
    """Nobody writes to it meanwhile."""
    _check_there(folder)
    try:
        with writers_turn(folder):
            yield
    except OSError as error:
        raise storage_error(error) from error
