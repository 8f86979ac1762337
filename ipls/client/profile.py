"""What a device keeps: one account's identity key, contact keys, cards, and how far it has seen the services go.

One SQLite file in a folder of its own, both for their owner alone (0700, 0600), each row sealed (`ipls.client.rows`)
under a key that is kept apart (`ipls.client.profile_key`). One process at a time writes; any number read meanwhile.

Tested by tests/client/test_profile.py and tests/client/test_broken_profile.py.
"""

import fcntl
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, suppress
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from ipls.client.addressbook.dav.access import CLIENTS
from ipls.client.addressbook.dav.book import BOOK, RESOURCES, UIDS
from ipls.client.addressbook.shadows import SHADOWS, SIDES
from ipls.client.clear_profile import seal
from ipls.client.errors import ProfileError
from ipls.client.line.kept import CARRIED, Kept, Present
from ipls.client.line.kept import TABLES as LINE_TABLES
from ipls.client.profile_key import IN_FILE, KeyAccess, make_key, not_the_key, open_key
from ipls.client.profile_key import NAME as KEY_FILE
from ipls.client.rows import Rows, Table, Unreadable, empty, schema, single
from ipls.contacts import envelope
from ipls.contacts.envelope import Envelope, Verified, kind_in, verified_in
from ipls.contacts.listing import Listing
from ipls.contacts.sealing import SETTINGS_ID
from ipls.crypto.keys import public_key
from ipls.proto.trust.v1.trust_pb2 import SignedTrustRoot
from ipls.proto.vault.v1.vault_pb2 import HistoryEntry
from ipls.proto.witness.v1.head_pb2 import SignedHead
from ipls.store.engine.sqlite import Connection, Schema, open_database
from ipls.store.errors import StoreDamaged, StoreError, StoreUnavailable
from ipls.store.evidence import EvidenceFolder
from ipls.trust.chain import TrustRootVersion
from ipls.trust.root import parse_trust_root
from ipls.vault.history import Seen

StorageError = sqlite3.Error
"""What every method of a profile raises where it can't be read or written: a full disk, for one."""

PEOPLE = (envelope.Kind.CONTACT, envelope.Kind.GROUP)
"""The kinds of what people see in a list."""

_FILE = "profile.db"
WAIT_S = 2.0
"""For another one's turn to write to end."""


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


class DeviceKeys(NamedTuple):
    """This device's own, as a linked one of the number: an Ed25519 seed and a KEM secret. They are made before it is
    linked, and stay when it is confirmed again."""

    label: str
    seed: bytes
    kem_secret: bytes


class LinkedAs(NamedTuple):
    """Of a linked device: whose list it is in, the commit that has the list, and the list (see `Listing`); and how far
    the account's line went when it was linked."""

    identity_key: bytes
    listed_n: int
    devices: bytes
    line: bytes
    n: int
    chain: bytes


class KnownDevice(NamedTuple):
    """A device that was linked from here: its Ed25519 key, and the KEM key that it said then."""

    key: bytes
    kem_key: bytes


class CodeSent(NamedTuple):
    """The registration's code is on its way: where to, for people, and until when it holds, by this device's clock."""

    sent_to: str
    expires_ms: int


class Account(NamedTuple):
    """The device's identity: its Ed25519 seed, and the version and epoch at which the directory proved its key. Of a
    linked device (LinkedAs) the seed is its own, the version that of the identity which lists it."""

    label: str
    seed: bytes
    version: int
    epoch: int


class KnownVersion(NamedTuple):
    """One version of the own identity. `origin`: `own` (made here), `earlier` (there when this device registered),
    `foreign` (came later, not made here: a theft, unless the person knows it) or `acknowledged` (she does)."""

    version: int
    epoch: int
    public_key: bytes
    origin: str


class OldContact(NamedTuple):
    """A contact as profiles had it before the line of commits; it becomes an edit at the first opening."""

    id: bytes
    card: bytes
    generation: int
    digest: bytes


class Contact(NamedTuple):
    """A contact or group as people have it; `sent`: the account's line has it so."""

    id: bytes
    envelope: Envelope
    sent: bool = False

    @property
    def card(self) -> bytes:
        """Its vCard, byte for byte."""
        return self.envelope.card


class Counts(NamedTuple):
    """How many contacts and groups can be read, how many changes were not sent, and how many contacts can't be read."""

    readable: int
    unsent: int
    unreadable: int


class Gone(NamedTuple):
    """What version 2 kept, and nobody reads any more."""

    key: bytes


class ImportedCard(NamedTuple):
    """What an import gave a contact: `key` names its card in any file, `digest` is the SHA-256 of what was imported,
    `card` that itself, empty while the contact still has it. It outlives the contact."""

    key: bytes
    id: bytes
    digest: bytes
    card: bytes


class Step(NamedTuple):
    """What a person did to contacts, and what takes it back (`ipls.client.address_book`)."""

    number: int
    ms: int
    what: str
    changes: bytes


class Apart(NamedTuple):
    """Two contacts that a person said are two people: their ids, the lower one first."""

    pair: bytes


class HeadSeen(NamedTuple):
    """The highest head that this device has verified, an encoded SignedHead."""

    head: bytes


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


class Synced(NamedTuple):
    """All was stored, or restored, at this time by this device's clock."""

    time_ms: int


class LaterTrustRoot(NamedTuple):
    """A version of the trust root that was followed from the pinned one: an encoded SignedTrustRoot."""

    number: int
    signed: bytes


class Leaf(NamedTuple):
    """The leaf hash of an own version whose value was shown."""

    version: int
    hash: bytes


class KeyUse(NamedTuple):
    """A use of the account that the vault has shown, an encoded HistoryEntry, and its history's chain head there."""

    number: int
    entry: bytes
    chain_head: bytes


class ContactIdentity(NamedTuple):
    """What the directory proved last of another account: its newest key, or version 0 and no key where there was none,
    at the head of `head_epoch`.

    `since_ms`: when this device first saw that, or first asked; `asked_ms`, `proved_ms`: when it asked, and had an
    answer that held, last. `acknowledged`: up to which version the person knows. `in_use`: each sync asks. `proof`: the
    last one, an encoded LabelProof.
    """

    label: str
    since_ms: int
    asked_ms: int = 0
    proved_ms: int = 0
    public_key: bytes = b""
    version: int = 0
    epoch: int = 0
    head_epoch: int = 0
    acknowledged: int = 0
    in_use: bool = False
    proof: bytes = b""

    @property
    def changed(self) -> bool:
        """The person does not know of this key yet."""
        return self.version > self.acknowledged


class Discovery(NamedTuple):
    """Whether syncs find out who of all contacts is on the service."""

    on: bool


Kind = TypeVar(
    "Kind",
    Pinned,
    Registration,
    CodeSent,
    Account,
    HeadSeen,
    BundleSeen,
    ProvedHistory,
    ApproverKey,
    Synced,
    Discovery,
    DeviceKeys,
    LinkedAs,
)

_SINGLES: dict[type, Table[Any]] = {
    kind: single(kind, name)
    for kind, name in {
        Pinned: "pinned",
        Registration: "registration",
        CodeSent: "code_sent",
        Account: "account",
        HeadSeen: "progress",
        BundleSeen: "bundle",
        ProvedHistory: "history",
        ApproverKey: "approver",
        Synced: "synced",
        Discovery: "discovery",
        DeviceKeys: "device_keys",
        LinkedAs: "linked_as",
    }.items()
}
TRUST_ROOTS = Table("trust_root", LaterTrustRoot, "number")
VERSIONS = Table("version", KnownVersion, "version")
LEAVES = Table("leaf", Leaf, "version")
USES = Table("key_use", KeyUse, "number")
OLD_CONTACTS = Table("contact", OldContact, "id")
IMPORTED = Table("imported", ImportedCard, "key")
STEPS = Table("undo", Step, "number")
APART = Table("apart", Apart, "pair")
IDENTITIES = Table("contact_identity", ContactIdentity, "label")
VERIFIED = Table("verified", Verified, "label")
KNOWN_DEVICES = Table("known_device", KnownDevice, "key")
_SINGLE_OF_ACCOUNT = (Registration, CodeSent, Account, ProvedHistory, Synced, DeviceKeys, LinkedAs)
_ASIDE: dict[Table[Any], Table[Any]] = {
    table: table._replace(key=b"aside " + table.key)
    if isinstance(table.key, bytes)
    else table._replace(name=f"aside_{table.name}")
    for table in (*(_SINGLES[kind] for kind in _SINGLE_OF_ACCOUNT), VERSIONS, LEAVES, USES, *LINE_TABLES)
}
"""What belongs to one account, and where a second one has it, while a number is changed for another."""
_OF_VERSION_2: tuple[Table[Any], ...] = (
    *_SINGLES.values(),
    *(TRUST_ROOTS, VERSIONS, LEAVES, USES, OLD_CONTACTS, IMPORTED, APART, IDENTITIES, VERIFIED),
    *(SHADOWS, SIDES, RESOURCES, UIDS, BOOK, CLIENTS),
)
_GONE = (Table("contact_key", Gone, "key"), Table("step", Gone, "key"))
"""They were in version 2 besides."""
TABLES: list[Table[Any]] = [
    *_OF_VERSION_2,
    *(single(Gone, name) for name in ("manifest", "swap")),
    STEPS,
    *LINE_TABLES,
    *_ASIDE.values(),
    KNOWN_DEVICES,
    CARRIED,
]
"""A new one goes to the end (`ipls.client.rows`)."""

_SCHEMA = Schema(
    "a client's profile",
    schema([*_OF_VERSION_2, *_GONE]) + "".join(f"DROP TABLE {table.name};\n" for table in _GONE) + schema(TABLES),
    frozenset({"single", "trust_root", "contact"}),
    version=3,
)


class Profile:
    """The file, open. A method that changes something is durable when it returns; on a profile that was opened for
    reading it raises StorageError."""

    def __init__(
        self, folder: Path, key: KeyAccess = IN_FILE, *, reading: bool = False, wait_s: float = WAIT_S
    ) -> None:
        """Open, or create, the profile in `folder`. `reading` waits for nobody, and sees what others write meanwhile;
        otherwise this is the one that may write, until it is closed.

        Raises ProfileError: PROFILE_BUSY if another one goes on writing for `wait_s`, PROFILE_STORAGE, and as
        `open_key`.
        """
        self._folder = folder
        self.evidence = EvidenceFolder(folder / "evidence")
        with ExitStack() as stack:
            try:
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                opened = open_key(folder, key)  # before anybody waits for this: it may ask a person
                db, self.key = _open(stack, folder, opened, key, reading, wait_s)
                self._rows = Rows(db, self.key, TABLES)
                if not self._rows.fit:
                    raise not_the_key()
                self._line, self._line_as_of = None, 0
                self._move_old_contacts()  # whoever only reads has none: see `_open`
            except (sqlite3.Error, StoreError, OSError) as error:
                raise storage_error(error) from error
            self._stack = stack.pop_all()

    _line: Kept | None

    def for_writing(self) -> "Profile":
        """This one, which only reads, opened by the same key in nobody else's turn. Raises ProfileError PROFILE_BUSY,
        at once, PROFILE_STORAGE; PROFILE_ABSENT where it was removed."""
        if not exists(self._folder):
            raise ProfileError("PROFILE_ABSENT", "the profile was removed, or has another name now")
        return Profile(self._folder, KeyAccess(opened=self.key), wait_s=0)

    @property
    def turn_is_wanted(self) -> bool:
        """Whether another process waits to write. Raises OSError."""
        return turn_is_wanted(self._folder)

    def close(self) -> None:
        """Let the next one write."""
        self._stack.close()

    def aside(self) -> "Profile":
        """The second account in this profile, which is made while a number is changed, or was left then; it is closed
        with this."""
        other = copy(self)
        other._rows, other._line = self._rows.aside(_ASIDE), None
        return other

    def swap(self) -> None:
        """The second account is the profile's from now on, and the one that was is the second."""
        second = self.aside()._rows
        with self.transaction():
            there = [(table, _readable(self._rows, table), _readable(second, table)) for table in _ASIDE]
            for table, mine, others in there:
                _replace_rows(self._rows, table, others)
                _replace_rows(second, table, mine)
            self._rows.clear(CARRIED)
        self._line = None

    def forget(self) -> None:
        """Let all go that belongs to the account alone."""
        with self.transaction():
            for table in _ASIDE:
                _replace_rows(self._rows, table, [])
            self._rows.clear(CARRIED)
        self._line = None

    @property
    def changes(self) -> int:
        """Another number once another object has changed the profile. Raises StorageError."""
        return self._rows.version

    @property
    def files(self) -> list[int]:
        """Others once the profile was removed or renamed, or another file keeps its key."""
        return [path.stat().st_ino for path in (self._folder / _FILE, self._folder / KEY_FILE) if path.exists()]

    @property
    def rows(self) -> Rows:
        """For what keeps tables of its own in here."""
        return self._rows

    def transaction(self) -> AbstractContextManager[None]:
        """All changes of the block or none of them."""
        return self._rows.transaction()

    def snapshot(self) -> AbstractContextManager[None]:
        """What is read in the block is of one moment."""
        return self._rows.snapshot()

    def get(self, kind: type[Kind]) -> Kind | None:
        """The one row of this kind, if there is one. Raises ProfileError PROFILE_DAMAGED, as all that reads here."""
        row: Kind | None = self._rows.only(_SINGLES[kind])
        return row

    def put(
        self,
        row: Pinned
        | Registration
        | CodeSent
        | Account
        | HeadSeen
        | BundleSeen
        | ProvedHistory
        | ApproverKey
        | Synced
        | Discovery
        | DeviceKeys
        | LinkedAs,
    ) -> None:
        """Write the one row of its kind."""
        self._rows.put(_SINGLES[type(row)], row)

    def remove(self, kind: type[Kind]) -> None:
        """Remove the one row of this kind."""
        table = _SINGLES[kind]
        self._rows.delete(table, [table.key])

    def trust_roots(self) -> list[bytes]:
        """The files of all versions of the trust root that this profile knows, the pinned one first."""
        pinned = self.get(Pinned)
        assert pinned is not None
        later = sorted(self._rows.all(TRUST_ROOTS))
        return [pinned.trust_root, *(SignedTrustRoot.FromString(root.signed).file for root in later)]

    @property
    def trust_root(self) -> TrustRootVersion:
        """The newest version known: no lower one counts any more."""
        return TrustRootVersion.parse(self.trust_roots()[-1])

    def add_trust_roots(self, versions: Iterable[SignedTrustRoot]) -> None:
        """Keep versions that were found to follow the newest, all or none."""
        self._rows.put_many(
            TRUST_ROOTS,
            (LaterTrustRoot(parse_trust_root(signed.file).number, signed.SerializeToString()) for signed in versions),
        )

    @property
    def head(self) -> SignedHead | None:
        """The highest head that this device has verified."""
        seen = self.get(HeadSeen)
        return SignedHead.FromString(seen.head) if seen and seen.head else None

    @property
    def account(self) -> Account:
        """The registered account. Raises ProfileError NOT_REGISTERED."""
        account = self.get(Account)
        if account is None:
            raise ProfileError("NOT_REGISTERED", "this profile has no account yet; register it first")
        return account

    @property
    def listing(self) -> Listing | None:
        """Of a linked device: that it is one."""
        linked = self.get(LinkedAs)
        return None if linked is None else Listing(linked.identity_key, linked.listed_n, linked.devices)

    @property
    def identity_key(self) -> bytes:
        """The account's identity key, as this device has it or is listed by it. Raises ProfileError NOT_REGISTERED."""
        listing = self.listing
        return public_key(self.account.seed) if listing is None else listing.identity_key

    def known_devices(self) -> list[KnownDevice]:
        """Those that were linked from here, as far as they can be read."""
        return list(self._rows.readable(KNOWN_DEVICES))

    def put_known_device(self, device: KnownDevice) -> None:
        """Remember one."""
        self._rows.put(KNOWN_DEVICES, device)

    def versions(self) -> list[KnownVersion]:
        """The own identity's known versions, oldest first."""
        return sorted(self._rows.all(VERSIONS))

    def add_versions(self, versions: Iterable[KnownVersion]) -> None:
        """Remember versions; one known already gets the new origin."""
        self._rows.put_many(VERSIONS, versions)

    @property
    def accepted_versions(self) -> set[int]:
        """The own identity's versions that the person stands by, whose edits of the contacts count: made here, there
        before, or acknowledged."""
        return {version.version for version in self.versions() if version.origin != "foreign"}

    def leaves(self) -> dict[int, bytes]:
        """The leaf hash of each own version whose value was shown: an erased one must still have it."""
        return {leaf.version: leaf.hash for leaf in self._rows.all(LEAVES)}

    def add_leaves(self, leaves: Mapping[int, bytes]) -> None:
        """Remember leaf hashes by version."""
        self._rows.put_many(LEAVES, (Leaf(*leaf) for leaf in leaves.items()))

    def uses(self) -> list[HistoryEntry]:
        """All uses of the account that the vault has shown, oldest first."""
        return [HistoryEntry.FromString(use.entry) for use in sorted(self._rows.all(USES))]

    @property
    def uses_seen(self) -> Seen:
        """How far the vault's access history is known: it may only grow."""
        last = max(self._rows.all(USES), default=None)
        return Seen(last.number, last.chain_head) if last else Seen()

    def add_uses(self, uses: Iterable[tuple[HistoryEntry, Seen]]) -> None:
        """Remember uses that continue those known, each with what is seen after it; all or none."""
        self._rows.put_many(
            USES, (KeyUse(seen.length, entry.SerializeToString(), seen.chain_head) for entry, seen in uses)
        )

    @property
    def line(self) -> Kept:
        """The account's line and contacts on this device; before there is an account, those that wait for it."""
        account = None
        with suppress(ProfileError):  # damaged: the contacts can be read without it
            account = self.get(Account)
        label, changes = account.label if account else "", self.changes
        if self._line is None or self._line.label != label or self._line_as_of != changes:  # others write meanwhile
            self._line, self._line_as_of = Kept(self._rows, label), changes
        return self._line

    def _move_old_contacts(self) -> None:
        old = list(self._rows.readable(OLD_CONTACTS))
        if old:
            with self._rows.transaction():
                self.line.put({row.id: Envelope(row.card).encode() for row in old})
                self._rows.clear(OLD_CONTACTS)

    def contacts(self) -> list[Contact]:
        """The contacts and groups that can be read, in the list's order."""
        return _people(self.line.look())

    def contact(self, id: bytes) -> Contact | None:
        """One of them."""
        kept = self.line
        data, unsent = kept.entry(id), kept.edit(id) is not None
        return Contact(id, Envelope.decode(data), not unsent) if data and kind_in(data) in PEOPLE else None

    def all_contacts(self) -> list[Contact | Unreadable]:
        """Then those that can't be read."""
        present = self.line.look()
        return [*_people(present), *(Unreadable(id) for id in sorted(present.unreadable))]

    def count(self) -> Counts:
        """How many there are."""
        present = self.line.look()
        people = sum(kind_in(each) in PEOPLE for each in present.entries.values())
        return Counts(people, len(present.unsent), len(present.unreadable))

    def put_contacts(self, contacts: Iterable[Contact]) -> None:
        """Add contacts, or have those whose id is there say this; they are sent later."""
        self.line.put({contact.id: contact.envelope.encode() for contact in contacts})

    def remove_contacts(self, ids: Iterable[bytes]) -> None:
        """Take contacts out; that is sent later."""
        self.line.put(dict.fromkeys(ids))

    @property
    def settings(self) -> Envelope:
        """What the account's devices share besides contacts: `placement` is that of new ones, `verified` are keys of
        numbers that no contact has. While they can't be read nothing new goes out."""
        data = self.line.entry(SETTINGS_ID)
        settings = Envelope.decode(data) if data else Envelope(kind=envelope.Kind.SETTINGS)
        if self.line.is_damaged(SETTINGS_ID):
            settings = replace(settings, placement=envelope.Placement.IPLS_ONLY)
        return settings

    def put_settings(self, settings: Envelope) -> None:
        """Have other settings; they are sent later."""
        self.line.put({SETTINGS_ID: settings.encode()})

    def imported(self) -> list[ImportedCard]:
        """What was imported, as far as it can be read: the rest is not known any more."""
        return list(self._rows.readable(IMPORTED))

    def imported_as(self, key: bytes) -> ImportedCard | None:
        """What was imported under this key, likewise."""
        return self._rows.find(IMPORTED, key)

    def put_imported(self, rows: Iterable[ImportedCard]) -> None:
        """Remember what was imported."""
        self._rows.put_many(IMPORTED, rows)

    def remove_imported(self, keys: Iterable[bytes]) -> None:
        """Forget it."""
        self._rows.delete(IMPORTED, keys)

    def steps(self) -> list[Step]:
        """What can be taken back, oldest first, as far as it can be read."""
        return sorted(self._rows.readable(STEPS))

    def put_step(self, step: Step) -> None:
        """Remember one."""
        self._rows.put(STEPS, step)

    def remove_steps(self, numbers: Iterable[int]) -> None:
        """Forget steps."""
        self._rows.delete(STEPS, numbers)

    def apart(self) -> set[bytes]:
        """The pairs who are two people."""
        return {row.pair for row in self._rows.readable(APART)}

    def put_apart(self, pair: Apart) -> None:
        """Remember that two are."""
        self._rows.put(APART, pair)

    def contact_identities(self) -> list[ContactIdentity]:
        """All that were asked for; one that can't be read is as if it never was."""
        return list(self._rows.readable(IDENTITIES))

    def contact_identity(self, label: str) -> ContactIdentity | None:
        """What is known of this number."""
        return self._rows.find(IDENTITIES, label)

    def put_contact_identity(self, identity: ContactIdentity) -> None:
        """Write what is known of a number."""
        self._rows.put(IDENTITIES, identity)

    def verified_in_list(self) -> Iterator[Verified]:
        """The keys that contacts, and the settings, have as compared: here or on another device of the account."""
        for data in self.line.entries().values():
            if kind_in(data) in PEOPLE:
                yield from verified_in(data)
        yield from self.settings.verified

    def drop_contact_identity(self, label: str) -> None:
        """Forget what was known of a number, and what a person compared."""
        with self.transaction():
            self._rows.delete(IDENTITIES, [label])
            self._rows.delete(VERIFIED, [label])

    def verified(self, label: str) -> Verified | None:
        """The key of this number that a person compared."""
        return self._rows.find(VERIFIED, label)

    def put_verified(self, verified: Verified) -> None:
        """Write that a person compared a key."""
        self._rows.put(VERIFIED, verified)


def _people(present: Present) -> list[Contact]:
    entries = present.entries
    # As one is decoded, its bytes go: no two of each are here.
    decoded = ((id, Envelope.decode(entries.pop(id))) for id in list(entries))
    return [Contact(id, each, id not in present.unsent) for id, each in decoded if each.kind in PEOPLE]


def _readable(rows: Rows, table: Table[Any]) -> list[Any]:
    if isinstance(table.key, bytes):
        row = rows.only(table)
        return [] if row is None else [row]
    return list(rows.readable(table))


def _replace_rows(rows: Rows, table: Table[Any], new: list[Any]) -> None:
    """One that can't be read is not kept: what it said is fetched again, or was for the account that goes."""
    if isinstance(table.key, bytes):
        rows.remove(table)
    else:
        rows.clear(table)
    rows.put_many(table, new)


def _open(
    stack: ExitStack, folder: Path, key: bytes | None, access: KeyAccess, reading: bool, wait_s: float
) -> tuple[Connection, bytes]:
    """The database, opened by whoever reads or, in his turn, writes, and its key; both are made where there is none."""
    path = folder / _FILE

    def connect(*, alone: bool = False) -> Connection:
        return stack.enter_context(closing(open_database(path, _SCHEMA, alone=alone)))

    if reading and key:
        with suppress(StoreError):  # what is to be made, sealed or said of it takes the writer's turn
            db = connect()
            if not db.execute("SELECT 1 FROM contact LIMIT 1").fetchone():
                db.execute("PRAGMA query_only=ON")
                return db, key
    stack.enter_context(writers_turn(folder, wait_s))
    try:
        db = connect()
    except StoreUnavailable:  # the disk takes nothing, not even what readers share: alone, what is there can be read
        db = connect(alone=True)
    except StoreDamaged:
        if not seal(path, lambda: key or open_key(folder, access) or make_key(folder, access), _SCHEMA, TABLES):
            raise
        (folder / "ca.pem").unlink(missing_ok=True)  # such a profile had it beside
        db = connect()
    db.execute("PRAGMA secure_delete=ON")
    key = key or open_key(folder, access)
    if key is None:
        if not empty(db, TABLES):
            raise not_the_key()
        key = make_key(folder, access)
    return db, key


@contextmanager
def writers_turn(folder: Path, wait_s: float = WAIT_S) -> Iterator[None]:
    """In the block nobody else changes the profile. Who has to wait, `turn_is_wanted` tells the one who has the turn.

    Raises ProfileError PROFILE_BUSY where that takes longer than `wait_s`, OSError.
    """
    with locked(folder / "lock") as mine, ExitStack() as waiting:
        if not mine() and wait_s:
            waiting.enter_context(_waiting(folder))
        until = time.monotonic() + wait_s
        while not mine():
            if time.monotonic() >= until:
                raise ProfileError("PROFILE_BUSY", "another command is changing this profile; wait for it to end")
            time.sleep(0.02)  # flock has no deadline, and a thread that is in it can't be ended
        waiting.close()
        yield


@contextmanager
def locked(file: Path) -> Iterator[Callable[[], bool]]:
    """Gives what tries to lock the file, until the block ends, and says whether that went. Raises OSError."""
    lock = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        yield lambda: _is_locked(lock)
    finally:
        os.close(lock)


def _is_locked(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def _waiting(folder: Path) -> Iterator[None]:
    """The folder itself is locked, by all who wait: a full disk has room for that."""
    sign = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(sign, fcntl.LOCK_SH)
        yield
    finally:
        os.close(sign)


def turn_is_wanted(folder: Path) -> bool:
    """Whether anybody waits for the `writers_turn`. Raises OSError."""
    sign = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return not _is_locked(sign)
    finally:
        os.close(sign)


def storage_error(error: StorageError | StoreError | OSError) -> ProfileError:
    """The same to whoever uses the device, or a file that is no profile, or is not there. It quotes no contents."""
    return ProfileError("PROFILE_STORAGE", f"the profile can't be read or written: {error}")


def exists(folder: Path) -> bool:
    """Whether a profile was made in this folder."""
    return (folder / _FILE).exists()
