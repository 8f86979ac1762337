"""Changes of a profile that are killed in their middle (`tests.faults.deaths`), and what they are made with."""

import hashlib
from pathlib import Path
from unittest.mock import patch

from ipls.client import profile_key
from ipls.client.line.kept import KEYS
from ipls.client.profile import Account, Contact, Profile
from ipls.client.profile_key import IN_FILE, Kept, KeyAccess
from ipls.client.profiles import lock_profile, remove_profile, unlock_profile
from ipls.contacts.envelope import Envelope
from ipls.store.files import replace

LABEL, SEED = "+4915112345678", bytes(range(100, 132))
CONTACTS = [
    Contact(bytes([n]) * 16, Envelope(b"BEGIN:VCARD\r\nFN:Zsofia %d\r\nTEL:+44770090%04d\r\nEND:VCARD" % (n, n)))
    for n in range(40)
]


def opened(folder: Path) -> None:
    Profile(folder).close()


def rewritten(folder: Path) -> None:
    profile = Profile(folder)
    with profile.transaction():
        profile.put(Account(LABEL, SEED, 3, 4))
        profile.put_contacts(contact._replace(envelope=Envelope(b"changed")) for contact in CONTACTS)
        profile.line.rows.delete(KEYS, [1])
    profile.close()


class Files:
    """A keyring that outlives the process."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(exist_ok=True)

    def get(self, name: str) -> str | None:
        file = self._folder / name
        return file.read_text() if file.exists() else None

    def put(self, name: str, secret: str) -> None:
        replace(self._folder / name, secret.encode())

    def delete(self, name: str) -> None:
        (self._folder / name).unlink(missing_ok=True)


def with_ring(home: Path) -> KeyAccess:
    return KeyAccess(Kept.KEYRING, keyring=Files(home / "ring"), passphrase=lambda new: "one")


class Quick:
    """For scrypt, where the passphrase is not what matters."""

    def __init__(self, salt: bytes, length: int, **_: int) -> None:
        self._salt = salt

    def derive(self, passphrase: bytes) -> bytes:
        return hashlib.sha256(self._salt + passphrase).digest()


def unlocked(home: Path) -> None:
    with patch.object(profile_key, "Scrypt", Quick):
        unlock_profile(home / "phone", with_ring(home))


def locked(home: Path) -> None:
    with patch.object(profile_key, "Scrypt", Quick):
        lock_profile(home / "phone", with_ring(home))


def removed(folder: Path) -> None:
    remove_profile(folder, IN_FILE)
