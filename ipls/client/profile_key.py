"""The key that a profile is sealed with, and how it is kept: beside the profile in `key.json`, which is all of it that
is in clear.

It is 32 random bytes, and stays the same for as long as the profile; `kept` says where it is:

    app          with the app that embeds this library, which hands it in
    file         in `key.json`, for its owner alone (0600): the machine's login protects it, and its disk encryption
    keyring      in the system's keyring, or whatever the app has in its place, under `id`
    passphrase   in `key.json`, sealed by a passphrase: AES-256-GCM-SIV under scrypt (RFC 7914; n 2^17, r 8, p 1) of it,
                 in Unicode's form NFC, and `salt`; AAD "ipls/profile/v1 key" || id

A `key.json` that was put in another's place has a key by which nothing opens, and nothing is written by it.
"""

import hashlib
import json
import os
import unicodedata
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple, Protocol, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCMSIV
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from ipls.client.errors import ProfileError
from ipls.client.rows import KEY_BYTES
from ipls.store.files import replace

NAME = "key.json"
_LARGEST = 4096
_NONCE = 12
_NOT_A_KEY = "the file that says how its key is kept (key.json) is gone, damaged, or another profile's"


class Kept(StrEnum):
    """Where a profile's key is."""

    APP = "app"
    FILE = "file"
    KEYRING = "keyring"
    PASSPHRASE = "passphrase"  # noqa: S105  # no secret


class Keyring(Protocol):
    """Keeps secrets for this person, by name. What fails is ProfileError KEYRING_UNAVAILABLE."""

    def get(self, name: str) -> str | None: ...
    def put(self, name: str, secret: str) -> None: ...
    def delete(self, name: str) -> None:
        """Nothing, where there is none."""


@dataclass(frozen=True)
class KeyAccess:
    """What a process has to open profiles with. `new`: how it keeps the key of a profile that it makes, which `told`
    hears then. `passphrase` gets one from a person, with True a new one; an empty new one is none, and the key is kept
    in the file. `opened`: the profile's key, which `open_key` gave before: nothing is asked again."""

    new: Kept = Kept.FILE
    key: bytes = b""
    opened: bytes = b""
    keyring: Keyring | None = None
    passphrase: Callable[[bool], str] | None = None
    told: Callable[[Kept, Path], None] = lambda kept, file: None


IN_FILE = KeyAccess()
"""Keys in their files, and nothing else."""


class KeyFile(NamedTuple):
    """What `key.json` has; empty where it does not apply."""

    kept: Kept
    id: bytes
    key: bytes = b""
    salt: bytes = b""
    sealed: bytes = b""

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """None where there is none. Raises ProfileError PROFILE_KEY_LOST, OSError."""
        try:
            with (folder / NAME).open("rb") as file:
                stored = json.loads(file.read(_LARGEST))
            found = cls(Kept(stored["kept"]), *(bytes.fromhex(stored[name]) for name in cls._fields[1:]))
            if stored["digest"] != found._digest():
                raise ValueError
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, RecursionError):
            raise ProfileError("PROFILE_KEY_LOST", _NOT_A_KEY) from None
        return found

    def write(self, folder: Path) -> None:
        """Put it in the place of the one before, durably."""
        stored = {"kept": self.kept.value} | {name: getattr(self, name).hex() for name in self._fields[1:]}
        replace(folder / NAME, json.dumps(stored | {"digest": self._digest()}).encode() + b"\n")

    def _digest(self) -> str:
        """By which damage is told from a wrong passphrase."""
        return hashlib.sha256("\n".join([self.kept, *(field.hex() for field in self[1:])]).encode()).hexdigest()

    def unsealed(self, passphrase: str) -> bytes:
        """The key. Raises ProfileError PASSPHRASE_WRONG."""
        try:
            return _cipher(passphrase, self.salt).decrypt(self.sealed[:_NONCE], self.sealed[_NONCE:], _aad(self.id))
        except InvalidTag:
            raise ProfileError("PASSPHRASE_WRONG", "this is not the profile's passphrase") from None

    def under(self, passphrase: str, key: bytes) -> Self:
        """With the key sealed by this passphrase."""
        salt, nonce = os.urandom(16), os.urandom(_NONCE)
        return self._replace(salt=salt, sealed=nonce + _cipher(passphrase, salt).encrypt(nonce, key, _aad(self.id)))


def make_key(folder: Path, access: KeyAccess) -> bytes:
    """A new profile's key, durably kept. Raises ProfileError PROFILE_LOCKED, KEYRING_UNAVAILABLE, OSError."""
    key, kept = os.urandom(KEY_BYTES), access.new
    file = KeyFile(kept, os.urandom(16))
    if kept is Kept.APP:
        key = _apps(access)
    elif kept is Kept.KEYRING:
        _keyring(access).put(file.id.hex(), key.hex())
    elif kept is Kept.PASSPHRASE and (passphrase := _asked(access, True)):
        file = file.under(passphrase, key)
    else:
        file = file._replace(kept=Kept.FILE, key=key)
    file.write(folder)
    access.told(file.kept, folder / NAME)
    return key


def open_key(folder: Path, access: KeyAccess) -> bytes | None:
    """The key of the profile in this folder; None where none was ever made.

    Raises ProfileError PROFILE_LOCKED (what it takes is not here), PASSPHRASE_WRONG, PROFILE_KEY_LOST,
    KEYRING_UNAVAILABLE; OSError.
    """
    if access.opened:
        return access.opened
    file = KeyFile.read(folder)
    if file is None:
        return None
    match file.kept:
        case Kept.FILE:
            return file.key
        case Kept.PASSPHRASE:
            return file.unsealed(_asked(access, False))
        case Kept.KEYRING:
            secret = _keyring(access).get(file.id.hex())
            if secret is None:
                raise _locked("its key is not in this keyring")
            return _hex(secret)
        case Kept.APP:
            return _apps(access)


def _present(folder: Path) -> KeyFile:
    file = KeyFile.read(folder)
    if file is None:
        raise not_the_key()
    return file


def _new_passphrase(access: KeyAccess) -> str:
    passphrase = _asked(access, True)
    if not passphrase:
        raise ProfileError("PASSPHRASE_EMPTY", "without a passphrase there is nothing to lock the profile with")
    return passphrase


def _hex(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise _locked("the keyring has something else in its key's place") from None


def lock_key(folder: Path, access: KeyAccess, key: bytes) -> None:
    """Have only the passphrase open the profile: the one that it had before, or else a new one, which is asked for.

    `key`: the profile's; where a passphrase seals it already it is not needed. Raises as `change_passphrase`.
    """
    file = _present(folder)
    if not file.sealed:
        file = file.under(_new_passphrase(access), key)
    file._replace(kept=Kept.PASSPHRASE, key=b"").write(folder)
    if access.keyring:  # last, and again where it did not come to that: a profile is never without a key
        access.keyring.delete(file.id.hex())


def unlock_key(folder: Path, access: KeyAccess, to: Kept) -> None:
    """Have the keyring, or the key's own file, open a profile that took a passphrase, which is kept for the next lock.

    Raises ProfileError PROFILE_LOCKED, PASSPHRASE_WRONG, PROFILE_KEY_LOST, KEYRING_UNAVAILABLE; OSError.
    """
    file = _present(folder)
    key = file.unsealed(_asked(access, False))
    if to is Kept.KEYRING:
        _keyring(access).put(file.id.hex(), key.hex())
    file._replace(kept=to, key=key if to is Kept.FILE else b"").write(folder)


def change_passphrase(folder: Path, access: KeyAccess, key: bytes) -> None:
    """Ask for a new one, which takes the old one's place. Where the keyring has the key that stays so; where its file
    has it in clear it has not any more.

    Raises ProfileError PASSPHRASE_EMPTY, PROFILE_LOCKED, PROFILE_KEY_LOST, KEYRING_UNAVAILABLE; OSError.
    """
    file = _present(folder).under(_new_passphrase(access), key)
    kept = file.kept if file.kept is Kept.KEYRING else Kept.PASSPHRASE
    file._replace(kept=kept, key=b"").write(folder)


def destroy_key(folder: Path, access: KeyAccess) -> bool:
    """Leave nothing here by which the profile could be opened; False if a keyring has the key that is not here. Raises
    ProfileError KEYRING_UNAVAILABLE, OSError: then it is still there."""
    try:
        file = KeyFile.read(folder)
    except ProfileError:  # of a damaged one there is nothing to be known
        file = None
    if file and access.keyring:
        access.keyring.delete(file.id.hex())
    path = folder / NAME
    with suppress(FileNotFoundError), path.open("r+b") as stream:
        stream.write(bytes(path.stat().st_size))  # where the disk writes in place, a key is gone from it
        os.fsync(stream.fileno())
        path.unlink()
    return not file or file.kept is not Kept.KEYRING or access.keyring is not None


def kept_by(folder: Path) -> Kept | None:
    """How the key of the profile in this folder is kept, if one was made. Raises ProfileError PROFILE_KEY_LOST."""
    file = KeyFile.read(folder)
    return file.kept if file else None


def not_the_key() -> ProfileError:
    """Where nothing opens by the key that is kept."""
    return ProfileError("PROFILE_KEY_LOST", _NOT_A_KEY)


def _locked(why: str) -> ProfileError:
    return ProfileError("PROFILE_LOCKED", f"the profile is locked: {why}")


def _keyring(access: KeyAccess) -> Keyring:
    if access.keyring is None:
        raise ProfileError("KEYRING_UNAVAILABLE", "the profile's key is in the system's keyring, which is not here")
    return access.keyring


def _apps(access: KeyAccess) -> bytes:
    if not access.key:
        raise _locked("the app that made it keeps its key")
    return access.key


def _asked(access: KeyAccess, new: bool) -> str:
    if access.passphrase is None:
        raise _locked("it takes a passphrase, and there is nobody to ask")
    return unicodedata.normalize("NFC", access.passphrase(new))


def _cipher(passphrase: str, salt: bytes) -> AESGCMSIV:
    return AESGCMSIV(Scrypt(salt, KEY_BYTES, n=2**17, r=8, p=1).derive(passphrase.encode(errors="surrogateescape")))


def _aad(id: bytes) -> bytes:
    return b"ipls/profile/v1 key" + id
