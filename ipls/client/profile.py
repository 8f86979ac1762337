"""What a device keeps: one account's identity key, contact keys, cards, and how far it has seen the services go.

One SQLite file in a folder of its own, both for their owner alone (0700, 0600). The keys lie in it in clear: for now
the device's protection is its disk encryption and its login.

Tested by tests/client/test_device.py and tests/client/test_broken_profile.py.
"""

import fcntl
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple, TypeVar

from ipls.client.errors import ProfileError
from ipls.proto.trust.v1.trust_pb2 import SignedTrustRoot
from ipls.proto.vault.v1.vault_pb2 import HistoryEntry
from ipls.proto.witness.v1.head_pb2 import SignedHead
from ipls.store.engine.sqlite import Schema, open_database, transaction
from ipls.store.errors import StoreError
from ipls.store.evidence import EvidenceFolder
from ipls.store.files import replace
from ipls.trust.chain import TrustRootVersion
from ipls.trust.root import parse_trust_root
from ipls.vault.history import Seen

StorageError = sqlite3.Error
"""What every method of a profile raises where it can't be read or written: a full disk, for one."""

_SCHEMA = Schema(
    "a client's profile",
    """
CREATE TABLE IF NOT EXISTS pinned (one INTEGER PRIMARY KEY CHECK (one = 1), trust_root BLOB, ca BLOB, addresses TEXT);
CREATE TABLE IF NOT EXISTS trust_root (number INTEGER PRIMARY KEY, signed BLOB);
CREATE TABLE IF NOT EXISTS registration (one INTEGER PRIMARY KEY CHECK (one = 1),
    label TEXT, seed BLOB, request_id BLOB, code TEXT, ticket BLOB);
CREATE TABLE IF NOT EXISTS code_sent (one INTEGER PRIMARY KEY CHECK (one = 1), sent_to TEXT, expires_ms INTEGER);
CREATE TABLE IF NOT EXISTS account (one INTEGER PRIMARY KEY CHECK (one = 1),
    label TEXT, seed BLOB, version INTEGER, epoch INTEGER);
CREATE TABLE IF NOT EXISTS manifest (one INTEGER PRIMARY KEY CHECK (one = 1),
    generation INTEGER, version INTEGER, contents BLOB);
CREATE TABLE IF NOT EXISTS swap (one INTEGER PRIMARY KEY CHECK (one = 1),
    generation INTEGER, version INTEGER, check_value BLOB, ciphertext BLOB, contents BLOB);
CREATE TABLE IF NOT EXISTS progress (one INTEGER PRIMARY KEY CHECK (one = 1),
    head BLOB, rotate INTEGER, tidy INTEGER);
CREATE TABLE IF NOT EXISTS bundle (one INTEGER PRIMARY KEY CHECK (one = 1), number INTEGER, digest BLOB);
CREATE TABLE IF NOT EXISTS version (version INTEGER PRIMARY KEY, epoch INTEGER, public_key BLOB, origin TEXT);
CREATE TABLE IF NOT EXISTS history (one INTEGER PRIMARY KEY CHECK (one = 1), proof BLOB);
CREATE TABLE IF NOT EXISTS key_use (number INTEGER PRIMARY KEY, entry BLOB, chain_head BLOB);
CREATE TABLE IF NOT EXISTS approver (one INTEGER PRIMARY KEY CHECK (one = 1), seed BLOB);
CREATE TABLE IF NOT EXISTS leaf (version INTEGER PRIMARY KEY, hash BLOB);
CREATE TABLE IF NOT EXISTS contact_key (
    generation INTEGER PRIMARY KEY, contact_key BLOB, store_id BLOB, confirmed INTEGER);
CREATE TABLE IF NOT EXISTS contact (
    number INTEGER PRIMARY KEY, id BLOB UNIQUE, card BLOB, generation INTEGER, digest BLOB);
INSERT OR IGNORE INTO progress VALUES (1, x'', 0, 0);
INSERT OR IGNORE INTO manifest VALUES (1, 0, 0, x'');
""",
    frozenset({"pinned", "account", "contact_key"}),
)


class Pinned(NamedTuple):
    """What the profile was made with: the trust root's first bytes and the CA's, and where the services are (JSON)."""

    trust_root: bytes
    ca: bytes
    addresses: str


class Registration(NamedTuple):
    """One under way: made before anything is sent. Code and ticket are empty until there is one."""

    label: str
    seed: bytes
    request_id: bytes
    code: str
    ticket: bytes


class CodeSent(NamedTuple):
    """The registration's code is on its way: where to, for people, and until when it holds, by this device's clock."""

    sent_to: str
    expires_ms: int


class Account(NamedTuple):
    """The device's identity: its Ed25519 seed, and the version and epoch at which the directory proved its key."""

    label: str
    seed: bytes
    version: int
    epoch: int


class ManifestSeen(NamedTuple):
    """The newest manifest that this device wrote or verified; all 0 before the first. `contents` hashes its list."""

    generation: int
    version: int
    contents: bytes


class Swap(NamedTuple):
    """A manifest on its way: these very bytes are sent again until the store has answered."""

    generation: int
    version: int
    check_value: bytes
    ciphertext: bytes
    contents: bytes


class KnownVersion(NamedTuple):
    """One version of the own identity. `origin`: `own` (made here), `earlier` (there when this device registered) or
    `foreign` (came later, not made here: a theft, unless the person knows it)."""

    version: int
    epoch: int
    public_key: bytes
    origin: str


class ContactKey(NamedTuple):
    """`confirmed` once the vault gave it back; until then `store_id` names the attempt to store it."""

    generation: int
    contact_key: bytes
    store_id: bytes
    confirmed: bool


class Contact(NamedTuple):
    """A card and the ciphertext that holds it in the store; generation 0 while none does."""

    id: bytes
    card: bytes
    generation: int
    digest: bytes


class Progress(NamedTuple):
    """`head`: the highest seen, encoded. `rotate`: a new contact key is due. `tidy`: what it replaced is to go."""

    head: bytes
    rotate: bool
    tidy: bool


class BundleSeen(NamedTuple):
    """The highest fleet bundle that this device has verified: its number, and the SHA-256 of its bytes."""

    number: int
    digest: bytes


class ProvedHistory(NamedTuple):
    """The last own history that was complete, held and agreed with what was known: an encoded LabelProof."""

    proof: bytes


class ApproverKey(NamedTuple):
    """The Ed25519 seed that this device approves other devices with. It is no identity, and outlives them."""

    seed: bytes


Row = TypeVar(
    "Row", Pinned, Registration, CodeSent, Account, ManifestSeen, Swap, Progress, BundleSeen, ProvedHistory, ApproverKey
)

_TABLES: dict[type, str] = {
    Pinned: "pinned",
    Registration: "registration",
    CodeSent: "code_sent",
    Account: "account",
    ManifestSeen: "manifest",
    Swap: "swap",
    Progress: "progress",
    BundleSeen: "bundle",
    ProvedHistory: "history",
    ApproverKey: "approver",
}


class Profile:
    """The file, held by one command at a time. A method that changes something is durable when it returns."""

    def __init__(self, folder: Path) -> None:
        """Open, or create, the profile in `folder`. Raises ProfileError PROFILE_BUSY, PROFILE_STORAGE."""
        self.ca_file = folder / "ca.pem"
        self.evidence = EvidenceFolder(folder / "evidence")
        with ExitStack() as stack:
            try:
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                stack.callback(os.close, lock)
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._db = stack.enter_context(closing(open_database(folder / "profile.db", _SCHEMA, alone=True)))
                self._db.execute("PRAGMA secure_delete=ON")
            except BlockingIOError:
                busy = "another command is using this profile; wait for it to end"
                raise ProfileError("PROFILE_BUSY", busy) from None
            except (sqlite3.Error, StoreError, OSError) as error:
                raise storage_error(error) from error
            self._stack = stack.pop_all()

    def close(self) -> None:
        """Let the next command in."""
        self._stack.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All changes of the block or none of them. Blocks don't nest."""
        with transaction(self._db):
            yield

    def get(self, kind: type[Row]) -> Row | None:
        """The one row of this kind, if there is one."""
        sql = f"SELECT * FROM {_TABLES[kind]}"  # noqa: S608  # a name of ours
        row = self._db.execute(sql).fetchone()
        return kind(*row[1:]) if row else None

    def put(
        self,
        row: Pinned
        | Registration
        | CodeSent
        | Account
        | ManifestSeen
        | Swap
        | Progress
        | BundleSeen
        | ProvedHistory
        | ApproverKey,
    ) -> None:
        """Write the one row of its kind."""
        marks = ", ?" * len(row)
        self._db.execute(f"INSERT OR REPLACE INTO {_TABLES[type(row)]} VALUES (1{marks})", row)  # noqa: S608  # ours too

    def remove(self, kind: type[Row]) -> None:
        """Remove the one row of this kind."""
        self._db.execute(f"DELETE FROM {_TABLES[kind]}")  # noqa: S608  # ours too

    def pin(self, pinned: Pinned) -> None:
        """Bind the profile; the CA also goes to `ca_file`, where channels read it."""
        self.write_ca(pinned)
        self.put(pinned)

    def write_ca(self, pinned: Pinned) -> None:
        """Have it there, byte for byte: from a file that was lost or damaged no service could be reached. Raises
        OSError."""
        with suppress(OSError):
            if self.ca_file.read_bytes() == pinned.ca:
                return
        replace(self.ca_file, pinned.ca)

    def trust_roots(self) -> list[bytes]:
        """The files of all versions of the trust root that this profile knows, the pinned one first."""
        pinned = self.get(Pinned)
        assert pinned is not None
        later = self._db.execute("SELECT signed FROM trust_root ORDER BY number")
        return [pinned.trust_root, *(SignedTrustRoot.FromString(signed).file for (signed,) in later)]

    @property
    def trust_root(self) -> TrustRootVersion:
        """The newest version known: no lower one counts any more."""
        return TrustRootVersion.parse(self.trust_roots()[-1])

    def add_trust_roots(self, versions: Iterable[SignedTrustRoot]) -> None:
        """Keep versions that were found to follow the newest, all or none."""
        with self.transaction():
            self._db.executemany(
                "INSERT INTO trust_root VALUES (?, ?)",
                ((parse_trust_root(signed.file).number, signed.SerializeToString()) for signed in versions),
            )

    @property
    def progress(self) -> Progress:
        """How far things are."""
        progress = self.get(Progress)
        assert progress is not None
        return progress

    @property
    def manifest(self) -> ManifestSeen:
        """The newest manifest known."""
        manifest = self.get(ManifestSeen)
        assert manifest is not None
        return manifest

    @property
    def head(self) -> SignedHead | None:
        """The highest head that this device has verified."""
        encoded = self.progress.head
        return SignedHead.FromString(encoded) if encoded else None

    @property
    def account(self) -> Account:
        """The registered account. Raises ProfileError NOT_REGISTERED."""
        account = self.get(Account)
        if account is None:
            raise ProfileError("NOT_REGISTERED", "this profile has no account yet; register it first")
        return account

    @property
    def unfinished(self) -> bool:
        """A store or a rotation is due or was cut off."""
        generation = max((key.generation for key in self.contact_keys()), default=0)
        return self.progress.rotate or self.progress.tidy or generation > self.manifest.generation

    def versions(self) -> list[KnownVersion]:
        """The own identity's known versions, oldest first."""
        return [KnownVersion(*row) for row in self._db.execute("SELECT * FROM version ORDER BY version")]

    def add_versions(self, versions: Iterable[KnownVersion]) -> None:
        """Remember versions; one known already gets the new origin."""
        self._db.executemany("INSERT OR REPLACE INTO version VALUES (?, ?, ?, ?)", versions)

    def leaves(self) -> dict[int, bytes]:
        """The leaf hash of each own version whose value was shown: an erased one must still have it."""
        return dict(self._db.execute("SELECT version, hash FROM leaf"))

    def add_leaves(self, leaves: Mapping[int, bytes]) -> None:
        """Remember leaf hashes by version."""
        self._db.executemany("INSERT OR REPLACE INTO leaf VALUES (?, ?)", leaves.items())

    def uses(self) -> list[HistoryEntry]:
        """All uses of the account that the vault has shown, oldest first."""
        return [HistoryEntry.FromString(entry) for (entry,) in self._db.execute("SELECT entry FROM key_use")]

    @property
    def uses_seen(self) -> Seen:
        """How far the vault's access history is known: it may only grow."""
        row = self._db.execute("SELECT number, chain_head FROM key_use ORDER BY number DESC LIMIT 1").fetchone()
        return Seen(*row) if row else Seen()

    def add_uses(self, uses: Iterable[tuple[HistoryEntry, Seen]]) -> None:
        """Remember uses that continue those known, each with what is seen after it; all or none."""
        with self.transaction():
            self._db.executemany(
                "INSERT INTO key_use VALUES (?, ?, ?)",
                ((seen.length, entry.SerializeToString(), seen.chain_head) for entry, seen in uses),
            )

    def contact_keys(self) -> list[ContactKey]:
        """The contact keys held, oldest generation first."""
        rows = self._db.execute("SELECT * FROM contact_key ORDER BY generation")
        return [ContactKey(generation, key, store_id, bool(done)) for generation, key, store_id, done in rows]

    def put_key(self, key: ContactKey) -> None:
        """Write a key."""
        self._db.execute("INSERT OR REPLACE INTO contact_key VALUES (?, ?, ?, ?)", key)

    def drop_key(self, generation: int) -> None:
        """Forget one key."""
        self._db.execute("DELETE FROM contact_key WHERE generation = ?", (generation,))

    def drop_keys_below(self, generation: int) -> None:
        """Forget the keys that a rotation replaced."""
        self._db.execute("DELETE FROM contact_key WHERE generation < ?", (generation,))

    def contacts(self) -> list[Contact]:
        """All contacts, in the order in which they came."""
        return [
            Contact(*row)
            for row in self._db.execute("SELECT id, card, generation, digest FROM contact ORDER BY number")
        ]

    def put_contacts(self, contacts: Iterable[Contact]) -> None:
        """Add contacts, or rewrite those whose id is there."""
        self._db.executemany(
            "INSERT INTO contact (id, card, generation, digest) VALUES (?, ?, ?, ?) ON CONFLICT (id) DO UPDATE"
            " SET card = excluded.card, generation = excluded.generation, digest = excluded.digest",
            contacts,
        )


def storage_error(error: StorageError | StoreError | OSError) -> ProfileError:
    """The same to whoever uses the device, or a file that is no profile, or is not there. It quotes no contents."""
    return ProfileError("PROFILE_STORAGE", f"the profile can't be read or written: {error}")


def exists(folder: Path) -> bool:
    """Whether a profile was made in this folder."""
    return (folder / "profile.db").exists()
