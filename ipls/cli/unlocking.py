"""What the command line has to open profiles with: the system's keyring, a passphrase from a file or from whoever sits
at the terminal; and where there is nothing of these, the key's own file.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from getpass import getpass
from pathlib import Path

import keyring

from ipls.client.errors import ProfileError
from ipls.client.profile_key import Kept, KeyAccess, Keyring
from ipls.config import check_private
from ipls.store.files import read_bounded

PASSPHRASE_FILE = "IPLS_PASSPHRASE_FILE"  # noqa: S105  # a variable's name
_SERVICE = "ipls"
_LONGEST = 4096


class SystemKeyring:
    """That of the desktop that the person is logged in to (Secret Service), or what `keyring` is set up for."""

    def get(self, name: str) -> str | None:
        with _translated():
            return keyring.get_password(_SERVICE, name)

    def put(self, name: str, secret: str) -> None:
        with _translated():
            keyring.set_password(_SERVICE, name, secret)

    def delete(self, name: str) -> None:
        with _translated():
            if keyring.get_password(_SERVICE, name) is not None:
                keyring.delete_password(_SERVICE, name)


def key_access(*, asking: bool = True, new_passphrase: Path | None = None) -> KeyAccess:
    """A passphrase's file counts before the keyring, that before a person (if there is `asking`), and whoever is asked
    before the key's own file. Raises nothing: what lacks shows when it is needed.

    `new_passphrase`: a file with the one that a profile is to get.
    """
    file = os.environ.get(PASSPHRASE_FILE)
    system = _system_keyring()
    person = asking and sys.stdin.isatty()

    def passphrase(new: bool) -> str:
        if new and new_passphrase:
            return _read(new_passphrase)
        if file:
            return _read(Path(file))
        if not person:
            raise ProfileError("PROFILE_LOCKED", "the profile takes a passphrase, and there is nobody to ask")
        return _ask(new)

    new = Kept.PASSPHRASE if file else Kept.KEYRING if system else Kept.PASSPHRASE if person else Kept.FILE
    return KeyAccess(new, keyring=system, passphrase=passphrase, told=_tell)


def _system_keyring() -> Keyring | None:
    """None where `keyring` finds nothing that keeps secrets."""
    return SystemKeyring() if keyring.get_keyring().priority > 0 else None


def _tell(kept: Kept, file: Path) -> None:
    if kept is Kept.FILE:
        line = f"the profile's key is kept in {file}: whoever can read that file can read the profile"
        print(line, file=sys.stderr)


def _read(file: Path) -> str:
    check_private(file)
    passphrase = read_bounded(file, _LONGEST).decode(errors="surrogateescape").rstrip("\r\n")
    if not passphrase:
        raise ProfileError("PASSPHRASE_EMPTY", f"{file}: there is no passphrase in it")
    return passphrase


def _ask(new: bool) -> str:
    if not new:
        return getpass("passphrase of the profile: ")
    passphrase = getpass("a new passphrase for the profile, or nothing for none: ")
    if getpass("the same again: ") != passphrase:
        raise ProfileError("PASSPHRASE_DIFFERS", "the two passphrases are not the same")
    return passphrase


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except Exception as error:  # its own, and whatever the system's raises
        why = f"the system's keyring is locked or away ({type(error).__name__})"
        raise ProfileError("KEYRING_UNAVAILABLE", why) from error
