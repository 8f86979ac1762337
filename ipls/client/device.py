"""The device: one account's profile and the services that it talks to. The API of `ipls client` and of the demo."""

import json
import os
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from copy import copy
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from cryptography.x509 import load_pem_x509_certificates

from ipls._grpc import grpc
from ipls.address import parse_address
from ipls.akd import Version
from ipls.client.address_book import PLACED, AddressBook, Listed
from ipls.client.approvals import Approval, ApprovalRequest
from ipls.client.calls import RETRY_FOR_S
from ipls.client.contact_identities import PATIENCE_S, ContactIdentities
from ipls.client.directory import DirectoryReader, History
from ipls.client.errors import ProfileError, RefusedError
from ipls.client.events import AccessEntry, CaughtUp, IdentityChange, JourneyStep, Report, silent
from ipls.client.line.parts import NO_LINE
from ipls.client.line_store import LineStore, unlisted
from ipls.client.link_slot import LinkSlot
from ipls.client.linked_devices import AccountDevice, LinkedDevices
from ipls.client.linking import Linking, adopt, find_listing, join, own_keys
from ipls.client.number import NumberChanged, follow, go_over, still_needed
from ipls.client.profile import (
    PEOPLE,
    Account,
    ApproverKey,
    DeviceKeys,
    KnownVersion,
    Pinned,
    Profile,
    ProvedHistory,
    Registration,
    StorageError,
    Synced,
    exists,
    storage_error,
)
from ipls.client.profile_key import IN_FILE, KeyAccess
from ipls.client.registration import CodeSource, Registrar
from ipls.client.sync import Recovery, Sync, SyncResult, line_moved
from ipls.client.takeout import Takeout, take_out
from ipls.client.trust import TrustRoots
from ipls.client.vault import Vault, VaultSession
from ipls.client.version1 import OldContacts
from ipls.clock import system_now_ms
from ipls.contacts.cards.numbers import comparable_number, country_of
from ipls.contacts.cards.reading import read_card
from ipls.contacts.commits import chain_digits
from ipls.contacts.errors import LineError, LinkError
from ipls.contacts.linking import LinkCode
from ipls.crypto.errors import VerificationError
from ipls.crypto.keys import SeedSigner, public_key
from ipls.errors import IplsError
from ipls.proto.contacts.v1 import contacts_pb2_grpc as contacts_v1
from ipls.proto.contacts.v2 import contacts_pb2_grpc as contacts_v2
from ipls.proto.directory.v1.directory_pb2_grpc import DirectoryServiceStub
from ipls.proto.registration.v1.registration_pb2_grpc import RegistrationServiceStub
from ipls.proto.vault.v1.vault_pb2 import ListAnswer
from ipls.proto.vault.v1.vault_pb2_grpc import VaultServiceStub
from ipls.proto.witness.v1.head_pb2 import SignedHead
from ipls.rpc.channel import open_channel
from ipls.trust.errors import HeadRefused
from ipls.trust.heads import signers
from ipls.trust.identity import check_label
from ipls.trust.root import TrustRoot, parse_trust_root

SERVICES = ("directory", "registration", "vault", "contacts")
Channels = Mapping[str, grpc.aio.Channel]
"""By their services' names."""


class Status(NamedTuple):
    """What the profile knows by itself, without asking anybody."""

    namespace: str
    trust_root: int
    """The number of the newest version that was followed."""
    label: str | None
    identity: KnownVersion | None
    foreign: list[KnownVersion]
    devices: int
    """That share the contacts, this one and those that wait to be confirmed too; 0 without an account."""
    head_epoch: int
    head_ms: int
    """When the newest of the signatures on that head was made; 0 without one."""
    signers: list[str]
    """The witnesses whose signatures on it count."""
    synced_ms: int | None
    """When all was stored or restored last."""
    contacts: int
    unsent: int
    unreadable: int
    """Contacts that are damaged here; of these the next `store` brings back what is stored."""
    generation: int
    commit: int
    """The newest of the account's line that this device has followed."""
    commit_digits: str
    """Of that commit, `1234 5678`: the same on each device of the account that is there; empty without one."""
    unfinished: bool
    """A store or a rotation was cut off; `store` goes on with it."""
    new_contacts: str
    """Where they are, in words: only in IPLS, or also in the phone's address book."""


class Difference(NamedTuple):
    """A contact that the contact store has otherwise than this device: its id, and the cards; None where there is
    none."""

    id: str
    here: bytes | None
    there: bytes | None


@asynccontextmanager
async def open_channels(pinned: Pinned) -> AsyncIterator[Channels]:
    """To the services of a profile. Raises IplsError TLS_UNGUARDED."""
    addresses: dict[str, str] = json.loads(pinned.addresses)
    async with AsyncExitStack() as stack:
        yield {name: await stack.enter_async_context(open_channel(addresses[name], pinned.ca)) for name in SERVICES}


class Device:
    """One profile, open: `async with Device.open(folder) as device`. One at a time, also across processes, but for
    those that only read.

    Methods raise ClientError (see `ipls.client.errors`), CardError where a contact can't be sealed or what the contact
    store gave can't be opened, and nothing else; one that was cut off is run again. What the disk refuses becomes a
    ClientError at the end of the block.
    """

    def __init__(
        self,
        profile: Profile,
        pinned: Pinned,
        *,
        report: Report,
        now_ms: Callable[[], int],
        retry_for_s: float,
        channels: Channels | None = None,
    ) -> None:
        """`channels`: as `open_channels` gives them, where they are to outlast this object."""
        self._profile = profile
        self._root = profile.trust_root.root
        self._pinned = pinned
        self._channels: Channels = channels or {}
        self._report = report
        self._now_ms = now_ms
        self._retry_for_s = retry_for_s
        self.contact_identities = ContactIdentities(
            profile, self._root.namespace, self._contact_reader, now_ms=now_ms, report=report
        )

    @classmethod
    def open(
        cls,
        folder: Path,
        endpoints: Path | None = None,
        *,
        key: KeyAccess = IN_FILE,
        reading: bool = False,
        report: Report = silent,
        now_ms: Callable[[], int] = system_now_ms,
        retry_for_s: float = RETRY_FOR_S,
    ) -> Self:
        """The profile in `folder`. `endpoints` (a deployment's endpoints.json) makes it, pinning the trust root; later
        it only says anew where the services are. `key`: what there is to open the profile with, and how a new one's key
        is kept. `reading`: only what asks nobody and changes nothing, also while another process writes.

        Raises ProfileError: PROFILE_ABSENT, PROFILE_BUSY, PROFILE_STORAGE, PROFILE_DAMAGED, PROFILE_LOCKED,
        PASSPHRASE_WRONG, PROFILE_KEY_LOST, KEYRING_UNAVAILABLE, ENDPOINTS_INVALID, TRUST_ROOT_CHANGED.
        """
        given = None if endpoints is None else _read_endpoints(endpoints)
        if given is None and not exists(folder):
            raise ProfileError("PROFILE_ABSENT", "there is no such profile")
        profile = Profile(folder, key, reading=reading)
        try:
            pinned = _pin(profile, given)
            return cls(profile, pinned, report=report, now_ms=now_ms, retry_for_s=retry_for_s)
        except BaseException as error:  # Ctrl-C and cancellation too
            profile.close()
            if isinstance(error, StorageError | OSError):
                raise storage_error(error) from error
            raise

    async def __aenter__(self) -> Self:
        """Raises IplsError TLS_UNGUARDED; the profile is closed then."""
        async with AsyncExitStack() as stack:
            stack.callback(self._profile.close)
            if not self._channels:
                self._channels = await stack.enter_async_context(open_channels(self._pinned))
            self._judge_by(self._root)
            self._stack = stack.pop_all()
        return self

    def _judge_by(self, root: TrustRoot) -> None:
        """Make what talks to the services, anew when there is another version of the trust root."""
        self._root = root
        timed: dict[str, Any] = {"retry_for_s": self._retry_for_s, "report": self._report, "now_ms": self._now_ms}
        profile, channels = self._profile, self._channels
        directory = DirectoryServiceStub(channels["directory"])
        self._trust_roots = TrustRoots(directory, profile, **timed)
        self._directory = DirectoryReader(directory, root, profile, **timed)
        patience_s = min(self._retry_for_s, PATIENCE_S)
        self._contact_directory = DirectoryReader(directory, root, profile, **timed | {"retry_for_s": patience_s})
        self._registrar = Registrar(
            RegistrationServiceStub(channels["registration"]), root.namespace, profile, self._directory, **timed
        )
        self._vault = Vault(VaultServiceStub(channels["vault"]), root, profile, self._directory, **timed)

    async def _follow_trust_root(self) -> None:
        """Before anything that the directory says is believed."""
        newest = await self._trust_roots.follow()
        if newest.number != self._root.number:
            self._judge_by(newest)

    async def _contact_reader(self) -> DirectoryReader:
        await self._follow_trust_root()
        return self._contact_directory

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()
        if isinstance(error, StorageError):
            raise storage_error(error) from error

    async def register(self, label: str, code_source: CodeSource, *, continuing: bool = False) -> Account:
        """Register the number (E.164); returns when the device's own complete history, at a head that it verified,
        ends in its key. A profile whose key was superseded gets a new one; one that holds the newest is left alone.

        A code that was sent is asked for again until it is over, by a later call too; with `continuing` none is sent.
        Raises RefusedError CODE_WRONG, after which it may be called again; ProfileError CODE_NOT_REQUESTED.
        """
        account = self._profile.get(Account)
        if account is not None and account.label != label:
            raise ProfileError("OTHER_ACCOUNT", "this profile is another number's; name a new profile")
        if self._profile.listing:
            raise ProfileError(
                "OTHER_ACCOUNT", "this profile is a linked device's; the number is registered in another"
            )
        await self._follow_trust_root()
        if account is not None and await self._is_newest(account, believing=True):
            return account
        account = await self._registrar.register(label, code_source, continuing=continuing)
        self._tell_versions()
        return account

    async def _is_newest(self, account: Account, *, believing: bool) -> bool:
        """Whether the proved history ends in this device's key. Where nothing is lost by it, `believing` that it does
        not if the directory knows nothing of the key, which no proof shows; else raises RefusedError READER_UNKNOWN.
        """
        try:
            return self._watch(await self._directory.own_history(account.label, account.seed))
        except RefusedError as error:
            if not believing or error.reason != "READER_UNKNOWN":  # it was lost with a database, or erased
                raise
            return False

    async def monitor(self) -> list[KnownVersion]:
        """Follow the trust root, check the own complete history and return it, oldest first; a version with the origin
        `foreign` is not this device's doing.

        Raises RefusedError TRUST_ROOT_… and HISTORY_REWRITTEN; ProfileError IDENTITY_SUPERSEDED, of a linked device
        DEVICE_UNLISTED.
        """
        account, listing = self._profile.account, self._profile.listing
        await self._follow_trust_root()
        if not self._watch(await self._directory.own_history(account.label, account.seed, listing)):
            self._tell_versions()
            if listing:
                raise unlisted()
            raise ProfileError(
                "IDENTITY_SUPERSEDED",
                "the number was registered anew, with another key than this device's: if that was not you, register it"
                " again here, then restore",
            )
        return self._profile.versions()

    async def _as_phone(self) -> None:
        """As `monitor`. Raises as `_is_phone`."""
        self._is_phone()
        await self.monitor()

    def _is_phone(self) -> None:
        """Raises ProfileError IDENTITY_ONLY where the account's phone alone may: of a linked device nothing is asked
        then."""
        if self._profile.listing:
            raise ProfileError(
                "IDENTITY_ONLY", "this is a linked device: only the phone that holds the number does this"
            )

    async def _holds_number(self, *, believing: bool = False) -> bool:
        """Whether the account's number is this phone's still. Raises as `_is_phone` and `_is_newest`."""
        self._is_phone()
        await self._follow_trust_root()
        return await self._is_newest(self._profile.account, believing=believing)

    @property
    def _gone_to(self) -> str | None:
        """The number that the account is on its way to, as its line says: nothing more goes into that."""
        state = self._profile.line.state
        return state.moved.label if state and state.moved else None

    @property
    def account(self) -> Account:
        """Raises ProfileError NOT_REGISTERED."""
        return self._profile.account

    def versions(self) -> list[KnownVersion]:
        """The own identity's, as they were proved last, oldest first."""
        return self._profile.versions()

    def number_of(self, who: str) -> str:
        """The number that this is, or that the one contact has whom it finds, in E.164.

        Raises ProfileError CONTACT_UNKNOWN, CONTACT_AMBIGUOUS.
        """
        if who.startswith("+"):
            return _checked("".join(who.split()))
        country = country_of(self._profile.account.label)
        found = self.address_book.find(who)
        numbers = {comparable_number(number, country) for contact in found for number in contact.numbers}
        if not numbers:
            raise ProfileError("CONTACT_UNKNOWN", "no contact with a number is found by this")
        if len(numbers) > 1:
            raise ProfileError("CONTACT_AMBIGUOUS", "several numbers are found by this; give the one that is meant")
        return _checked(numbers.pop())

    def on_service(self, contacts: Iterable[Listed]) -> dict[str, int]:
        """By id, those of whom a number is known here to be on the service, and the epoch of its key."""
        known = {each.label: each.epoch for each in self.contact_identities.known() if each.version}
        found = dict[str, int]()
        country = country_of(self._profile.account.label) if known else None
        for contact in contacts if known else ():
            epochs = [known.get(comparable_number(number, country), 0) for number in contact.numbers]
            if any(epochs):
                found[contact.id] = max(epochs)
        return found

    def acknowledge_version(self, version: int) -> None:
        """Of a version that was not made here, "that was me": it is told no more.

        Raises ProfileError VERSION_UNKNOWN.
        """
        self._profile.add_versions([self._version(version, "foreign", "acknowledged")._replace(origin="acknowledged")])

    def disown_version(self, version: int) -> str:
        """Of a version that was not made here, "that was not me": the next `store` makes the contact key anew.

        What is to be called now: `register`, where the number is somebody else's, or `store`. Raises ProfileError
        VERSION_UNKNOWN.
        """
        disowned = self._version(version, "foreign", "acknowledged", "earlier")
        with self._profile.transaction():
            self._profile.add_versions([disowned._replace(origin="foreign")])
            self._profile.line.note(rotate=True)
        return "store" if self._profile.account.version > disowned.version else "register"

    def _version(self, number: int, *origins: str) -> KnownVersion:
        for version in self._profile.versions():
            if version.version == number and version.origin in origins:
                return version
        raise _unknown_version()

    async def lookup(self, label: str) -> tuple[Version, bytes]:
        """Follow the trust root; the version of any account that a lookup shows, and the proof as a file for
        `ipls verify lookup`."""
        checked = _checked(label)
        _ = self._profile.account  # without one the directory is not asked at all
        await self._follow_trust_root()
        return await self._directory.lookup(checked)

    def history_proof(self) -> bytes:
        """The last own history that held, as a file for `ipls verify history`. Raises ProfileError NOT_REGISTERED."""
        kept = self._profile.get(ProvedHistory)
        if kept is None:
            raise ProfileError("NOT_REGISTERED", "this profile has proved no history yet; register or monitor first")
        return kept.proof

    async def store(self) -> SyncResult:
        """Bring the account's line and this device to the same; also finishes what was cut off.

        A linked device goes along where the account went over to another number. Raises LineError MOVE_UNPROVED, and
        what `ipls.client.line.line.Line` does, where the contact store shows another line than it did.
        """
        await self.monitor()
        try:
            stored = await self._sync().push()
        except LineError as error:
            if not await self._follow_number_after(error):
                raise
            stored = await self._sync().push()
        self._profile.put(Synced(self._now_ms()))
        await self.contact_identities.check(self._numbers)
        return stored

    async def catch_up(self) -> CaughtUp:
        """What `store` does for the contacts, in as little as what changed takes.

        A commit is judged by the own history as it was proved last. Where one does not hold by that, or the store
        refuses this device, the history is proved anew first. Raises as `store`.
        """
        if self._profile.line.state is None:
            await self.store()
        try:
            return await self._sync().catch_up()
        except (LineError, RefusedError) as error:  # by an identity of the account that is not known yet, perhaps
            await self.monitor()
            await self._follow_number_after(error)
            return await self._sync().catch_up()

    async def restore(self) -> SyncResult:
        """Bring back what is stored, checked as its line; then rotate the key if another identity stored it."""
        await self._as_phone()
        self._tell_versions()
        restored = await self._sync().restore()
        self._profile.put(Synced(self._now_ms()))
        for use in await self._new_uses():
            if use.operation == "retrieve":
                self._report(use)
        await self.contact_identities.check(self._numbers)
        return restored

    def _numbers(self) -> Iterator[str]:
        """The contacts', in E.164 where they are numbers."""
        country = country_of(self._profile.account.label)
        for contact in self._profile.contacts():
            for number in read_card(contact.card).numbers:
                yield comparable_number(number, country)

    async def link(self) -> Linking:
        """Begin to link another device to this account: what the object that this gives is for. `store` comes first.

        Raises ProfileError IDENTITY_ONLY, DEVICES_TOO_MANY; as `store`.
        """
        await self._as_phone()
        sync, account = self._sync(), self._profile.account
        await sync.check_room()
        code = LinkCode.new(account.label)
        store = self._line_store(account.label, account.seed)
        await store.open_link(code.slot)
        return Linking(self._profile, sync, store, self._link_slot(code), code, self._now_ms)

    async def join(self, code: str, name: str, platform: str, show: Callable[[str], None]) -> SyncResult:
        """Have the phone link this device by the code that it shows, under this name; `show` is told the six digits to
        be typed there. Returns when all of the account's contacts are here.

        What was added here before is kept, and sent. A device that waits to be confirmed joins once more. Raises
        LinkError; ProfileError OTHER_ACCOUNT; RefusedError LINK_SLOT_ABSENT, LINK_SLOT_TAKEN.
        """
        read, account = LinkCode.parse(code), self._profile.get(Account)
        if account is not None and (account.label != read.label or self._profile.listing is None):
            raise ProfileError("OTHER_ACCOUNT", "this profile has an account of its own; name a new profile")
        await self._follow_trust_root()
        keys = own_keys(self._profile, read.label)
        package = await join(self._link_slot(read), read, keys, (name, platform), show, self._now_ms)
        if package.trust_root not in self._profile.trust_roots():
            raise LinkError("LINK_PACKAGE_INVALID", "the phone goes by another trust root than this device")
        listing = await find_listing(self._line_store(read.label, keys.seed), package.identity_key, keys)
        history = await self._directory.own_history(read.label, keys.seed, listing)
        if account is not None:
            self._watch(history)
        adopt(self._profile, self._root.namespace, package, keys, listing, history)
        joined = await self.recover("follow")
        self._profile.put(Synced(self._now_ms()))
        return joined

    @property
    def linked_devices(self) -> LinkedDevices:
        """The account's devices, as they are known here."""
        return LinkedDevices(self._profile)

    def rename_device(self, device: AccountDevice, name: str) -> None:
        """Have it called so on all devices; the next `store` sends it. Raises LinkError DEVICE_NAME_INVALID."""
        self.linked_devices.rename(device, name, self._now_ms())

    async def remove_device(self, device: AccountDevice) -> SyncResult:
        """Have the account list a linked device no more, and make a new contact key: it reads nothing that is written
        from then on, and keeps what it has. Cut off, `store` goes on with it. Raises ProfileError IDENTITY_ONLY."""
        await self._as_phone()
        return await self._sync().remove_device(device.key)

    async def recover(self, how: Recovery, before: int | None = None) -> SyncResult:
        """Where `store` was refused because of what the contact store shows: see `ipls.client.sync.Sync.recover`.

        Raises ProfileError VERSION_UNKNOWN: `before` is not a version that the person said is not hers.
        """
        if before is not None and before not in {v.version for v in self.versions() if v.origin == "foreign"}:
            raise _unknown_version()
        await self.monitor()
        if before is None:
            return await self._sync().recover(how)
        contacts = self._profile.contacts()
        recovered = await self._sync().recover(how, before)
        self.address_book.note_recovery(contacts)
        return recovered

    async def differences(self) -> list[Difference]:
        """What the contact store has otherwise than this device, whoever of the account wrote it; nothing of it is
        taken over."""
        await self.monitor()
        return [
            Difference(id.hex(), here.card if here else None, there.card if there else None)
            for id, (here, there) in (await self._sync().differences()).items()
            if any(side and side.kind in PEOPLE for side in (here, there))
        ]

    async def uses(self) -> list[AccessEntry]:
        """Every use of the account in the vault, oldest first, checked to continue what was shown before.

        Raises RefusedError VAULT_HISTORY_REWRITTEN.
        """
        await self._as_phone()
        await self._new_uses()
        return self._known_uses()

    async def _new_uses(self) -> list[AccessEntry]:
        seen = self._profile.uses_seen
        self._profile.add_uses(await self._vault.run(lambda session: session.history(seen)))
        return self._known_uses()[seen.length :]

    def _known_uses(self) -> list[AccessEntry]:
        origins = {version.version: version.origin for version in self._profile.versions()}
        return [
            AccessEntry(
                use.number,
                use.time_ms,
                use.operation,
                use.generation,
                use.identity_version,
                use.epoch,
                use.delay_ms,
                use.approver,
                origins.get(use.identity_version, "foreign"),
            )
            for use in self._profile.uses()
        ]

    async def vault_settings(self) -> ListAnswer:
        """What the vault holds of this account: generations, change delay, approvers, until when this device waits."""
        await self._as_phone()
        return await self._vault.run(VaultSession.list)

    async def delete_keys(self) -> None:
        """Have the vault let all contact keys go: no phone restores what is stored now. The next `store` makes another.

        What an earlier identity stored the vault keeps for 90 days. Raises RefusedError VAULT_CHANGE_DELAYED.
        """
        await self._as_phone()
        self._profile.line.forget_unused_keys()  # before the keys go: none is used after
        await self._vault.run(VaultSession.delete)

    async def delete_account(self) -> None:
        """Have vault and contact store let go of all that this identity has there, and of what a number that is kept
        beside it has; what is here, the caller removes last (`ipls.client.profiles.remove_profile`). Cut off, it is
        run again.

        What an earlier identity of the number stored both keep for 90 days; the directory and its log keep that there
        was a key. Raises RefusedError VAULT_CHANGE_DELAYED, and as `let_number_go`.
        """
        if self._profile.aside().get(Account) is not None:
            await self.let_number_go()
        await self._delete_account()

    async def _delete_account(self) -> None:
        await self._as_phone()
        self._profile.line.forget_unused_keys()  # before the keys go: none is used after

        async def let_go(session: VaultSession) -> None:
            await session.checkpoint(*NO_LINE)
            await session.delete()

        await self._vault.run(let_go)
        self._report(JourneyStep("keys let go"))
        await self._line_store(self.account.label, self.account.seed).delete_account()
        self._report(JourneyStep("account deleted"))

    async def change_number(self, label: str, code_source: CodeSource, *, continuing: bool = False) -> NumberChanged:
        """Go over to another number (E.164) with all contacts; see `register` for the code. The old number's account
        is deleted where nothing needs it any more; else `let_number_go` does it, before the number is given up.

        Cut off, it is run again. Raises ProfileError NUMBER_SAME, NUMBER_KEPT (another number's account is kept beside
        this one's); LineError LINE_MOVED where the account's line has ended for a number that was let go.
        """
        second = self._second()
        kept = second._profile.get(Account)
        if self.account.label != label:
            beside = kept.label if kept else None
            if beside not in (None, label):
                raise ProfileError("NUMBER_KEPT", "this profile still keeps another number's account")
            if self._gone_to not in (None, beside):
                raise line_moved()
            taken = None if await self._holds_number() else self.account.label
            await second.register(label, code_source, continuing=continuing)
            await go_over(self._profile, None if taken else self._sync(), second._sync(), self._report)
            await self._sync().push()
            self._profile.put(Synced(self._now_ms()))
        elif kept is None:
            raise ProfileError("NUMBER_SAME", "this is the account's number already")
        else:
            taken = None if await second._holds_number() else kept.label
        devices, unread = still_needed(second._profile)
        untold = devices if taken else 0
        if devices == untold and not unread:
            await self.let_number_go()
        return self.number_changed()._replace(devices=devices - untold, taken=taken, untold=untold)

    async def let_number_go(self) -> bool:
        """Delete the account of the number that was the account's before, or of one to which the change was not made.
        False where another has that number by now: then what was stored under it stays, encrypted. So it does where the
        directory knows nothing of the account's key any more. An account whose line has ended for it goes on by
        `recover("anew")`, with what other devices wrote under it, as far as that came here.

        Raises ProfileError NUMBER_CHANGING (the account is on its way to it), NUMBER_ALONE (there is none);
        RefusedError READER_UNKNOWN where the account is on its way to it and the directory knows nothing of the key.
        """
        second = self._second()
        if second._profile.get(Account) is None:
            raise ProfileError("NUMBER_ALONE", "this profile keeps no other number's account")
        if self._profile.line.pending and await self._holds_number():  # that may be the line's end
            await self._sync().settle()
        on_its_way, line = self._gone_to == second.account.label, second._profile.line
        held = await second._holds_number(believing=not on_its_way)
        if held and on_its_way:
            raise ProfileError("NUMBER_CHANGING", "the account is on its way to the other number")
        if held:
            await second._delete_account()
        with self._profile.transaction():
            if on_its_way:
                self._sync().carry(line, line.carried())
            second._profile.forget()
        return held

    async def _follow_number_after(self, error: IplsError) -> bool:
        """Where a sync ended so because the account went over to another number, a linked device goes along, with what
        it did not send; whether it did.

        Raises LineError MOVE_UNPROVED, ProfileError DEVICE_UNLISTED; nothing has changed then.
        """
        if error.reason != "LINE_MOVED" or self._profile.listing is None:
            return False
        state, own = self._profile.line.state, self._profile.get(DeviceKeys)
        assert state
        assert state.moved
        assert own
        moved, keys, second = state.moved, own._replace(label=state.moved.label), self._second()
        listing = await find_listing(self._line_store(moved.label, keys.seed), moved.identity_key, keys)
        history = await second._directory.own_history(moved.label, keys.seed, listing)
        follow(self._profile, moved, keys, listing, history)
        new = second._sync()
        await new.pull()
        with self._profile.transaction():
            old = self._profile.line
            new.carry(old, {id: row.envelope for id, row in old.contacts().items()})
            self._profile.swap()
            self._profile.aside().forget()
        self._report(JourneyStep("number changed"))
        return True

    def number_changed(self) -> NumberChanged:
        """The account's number, and the other one that is kept beside it. Raises ProfileError NOT_REGISTERED."""
        account, second = self.account, self._profile.aside()
        other = second.get(Account)
        devices, unread = still_needed(second)
        return NumberChanged(
            account.label,
            account.version,
            account.epoch,
            len(self._profile.contacts()),
            other.label if other else None,
            devices,
            unread,
        )

    def _second(self) -> Self:
        """The device as the profile's second account."""
        other = copy(self)
        other._profile = self._profile.aside()
        other._judge_by(self._root)
        return other

    async def set_change_delay(self, delay_ms: int) -> int:
        """Have a new identity of this number wait so long before the vault gives it a key; when that takes effect, ms.

        Longer is at once, shorter takes the present delay. Raises RefusedError VAULT_CHANGE_DELAYED.
        """
        await self._as_phone()
        return await self._vault.run(lambda session: session.set_change_delay(delay_ms))

    async def add_approver(self, key: bytes) -> None:
        """Name a device, by its `approver_key`, that may let a later identity of this number in without the delay."""
        await self._as_phone()
        await self._vault.run(lambda session: session.add_approver(key))

    async def remove_approver(self, key: bytes) -> None:
        """Take that back."""
        await self._as_phone()
        await self._vault.run(lambda session: session.remove_approver(key))

    async def approval_request(self) -> ApprovalRequest:
        """What another device is to sign for this one's identity."""
        await self._as_phone()
        account = self._profile.account
        return ApprovalRequest(account.label, account.version, public_key(account.seed))

    async def approve(self, approval: Approval) -> None:
        """Hand in what it signed: this device need not wait any longer."""
        await self._as_phone()
        await self._vault.run(lambda session: session.approve(approval))

    def approver_key(self) -> bytes:
        """The Ed25519 key that this device approves others with; made where there is none yet."""
        return public_key(self._approver_seed())

    def sign_approval(self, request: ApprovalRequest) -> Approval:
        """This device's approval of another one. Whose request it is, the person has to know."""
        return Approval.make(self._approver_seed(), self._root.namespace, request)

    def _approver_seed(self) -> bytes:
        key = self._profile.get(ApproverKey)
        if key is None:
            key = ApproverKey(os.urandom(32))
            self._profile.put(key)
        return key.seed

    @property
    def address_book(self) -> AddressBook:
        """The contacts, for people: local, and sent by the next `store`."""
        return AddressBook(self._profile, self._now_ms)

    def take_out(self, *, keys: bool = False) -> Takeout:
        """All that is held of the account here, for its owner; the secret `keys` where they are wanted. Local.

        Raises ProfileError NOT_REGISTERED, PROFILE_DAMAGED.
        """
        with self._profile.snapshot():
            return take_out(self._profile, self._root.namespace, self.address_book, self._known_uses(), keys=keys)

    def copy_contacts(self, ids: list[str], to: "Device") -> list[Listed]:
        """Have contacts in another account, too; its next `store` sends them. See `AddressBook.copy_to`.

        Raises ProfileError ACCOUNT_SAME.
        """
        mine, theirs = self._profile.get(Account), to._profile.get(Account)
        if mine and theirs and (mine.label, self._root.namespace) == (theirs.label, to._root.namespace):
            raise ProfileError("ACCOUNT_SAME", "both profiles are of one account, whose contacts are the same")
        return self.address_book.copy_to(to.address_book, ids)

    async def move_contacts(self, ids: list[str], to: "Device") -> list[Listed]:
        """Have contacts in another account, and not in this one: they are removed here once that one's line has them.
        What was cut off is run again. This account's next `store` sends the removal.

        Raises as `copy_contacts`, and as `store` of the other one; ProfileError MOVE_UNFINISHED.
        """
        self.copy_contacts(ids, to)
        await to.store()
        return self.address_book.remove_moved(to.address_book, ids)

    @property
    def head(self) -> SignedHead | None:
        """The highest head of the directory that this device has verified."""
        return self._profile.head

    def status(self) -> Status:
        """How far this device is."""
        with self._profile.snapshot():
            return self._status()

    def _status(self) -> Status:
        profile = self._profile
        account, head = profile.get(Account), profile.head
        versions, kept, counts, synced = profile.versions(), profile.line, profile.count(), profile.get(Synced)
        signed = self._signed(head) if head else {}
        return Status(
            namespace=self._root.namespace,
            trust_root=self._root.number,
            label=account.label if account else None,
            identity=next((v for v in versions if account and v.version == account.version), None),
            foreign=[v for v in versions if v.origin == "foreign"],
            devices=len(self.linked_devices.all()) if account else 0,
            head_epoch=head.epoch if head else 0,
            head_ms=max(signed.values(), default=0),
            signers=sorted(signed),
            synced_ms=synced.time_ms if synced else None,
            contacts=counts.readable,
            unsent=counts.unsent,
            unreadable=counts.unreadable,
            generation=kept.state.generation if kept.state else 0,
            commit=kept.state.n if kept.state else 0,
            commit_digits=chain_digits(kept.state.chain) if kept.state else "",
            unfinished=kept.unfinished,
            new_contacts=PLACED[self.address_book.placement],
        )

    def _signed(self, head: SignedHead) -> Mapping[str, int]:
        try:
            return signers(self._root, head, now_ms=self._now_ms(), check_age=False)
        except HeadRefused:  # by witnesses of an earlier trust root, or ahead of a clock that was put back
            return {}

    def _sync(self) -> Sync:
        profile, account, namespace = self._profile, self._profile.account, self._root.namespace
        stub, signer = contacts_v1.ContactsServiceStub(self._channels["contacts"]), SeedSigner(account.seed)
        old = OldContacts(stub, namespace, account.label, signer, profile.line, report=self._report, **self._timed)
        store = self._line_store(account.label, account.seed)
        return Sync(profile, namespace, self._vault, store, old, now_ms=self._now_ms, report=self._report)

    @property
    def _timed(self) -> dict[str, Any]:
        return {"now_ms": self._now_ms, "retry_for_s": self._retry_for_s}

    def _line_store(self, label: str, seed: bytes) -> LineStore:
        return LineStore(
            contacts_v2.ContactsServiceStub(self._channels["contacts"]),
            self._root.namespace,
            label,
            SeedSigner(seed),
            **self._timed,
            linked=self._profile.get(Account) is None or self._profile.listing is not None,
        )

    def _link_slot(self, code: LinkCode) -> LinkSlot:
        stub = contacts_v2.ContactsServiceStub(self._channels["contacts"])
        return LinkSlot(stub, code.slot, retry_for_s=self._retry_for_s)

    def _watch(self, history: History) -> bool:
        """Compare the proved history with the versions known; new ones are foreign. Whether it ends in this key."""
        known = {version.version: version for version in self._profile.versions()}
        proved = {identity.version: identity for identity in history.identities}
        for version in known.values():
            identity = proved.get(version.version)
            if identity is None or (identity.epoch, identity.public_key) != (version.epoch, version.public_key):
                self._directory.rewritten(history)
                raise RefusedError(
                    "HISTORY_REWRITTEN", f"the directory's history changed at version {version.version}, once proved"
                )
        pending = self._profile.get(Registration)
        made_here = public_key(pending.seed) if pending else None
        foreign = [
            KnownVersion(i.version, i.epoch, i.public_key, "foreign")
            for i in proved.values()
            if i.version not in known and i.public_key != made_here
        ]
        with self._profile.transaction():
            self._profile.add_versions(foreign)
            self._profile.add_leaves(history.leaves)
            self._profile.put(ProvedHistory(history.proof))
        for version in foreign:
            self._report(IdentityChange(*version))
        return history.identities[0].public_key == self._profile.identity_key

    def _tell_versions(self) -> None:
        for version in self._profile.versions():
            self._report(IdentityChange(*version))


def _unknown_version() -> ProfileError:
    return ProfileError("VERSION_UNKNOWN", "the identity has no such version that was not made here")


def _checked(label: str) -> str:
    try:
        return check_label(label)
    except VerificationError as error:
        raise ProfileError(error.reason, error.message) from error


def _pin(profile: Profile, given: Pinned | None) -> Pinned:
    """What the profile is bound to: its first trust root for good, CA and addresses as given last.

    The trust root given must be that one or a version that was followed from there: a later one comes by the directory.
    """
    pinned = profile.get(Pinned)
    if given is None:
        if pinned is None:
            raise ProfileError("PROFILE_ABSENT", "this profile was never made; name the endpoints.json to make it")
        return pinned
    if pinned is not None:
        if given.trust_root not in profile.trust_roots():
            raise ProfileError(
                "TRUST_ROOT_CHANGED", "this profile has not followed its own trust root to the one that is named"
            )
        given = given._replace(trust_root=pinned.trust_root)
    profile.put(given)
    return given


def _read_endpoints(path: Path) -> Pinned:
    try:
        endpoints = json.loads(path.read_bytes())
        addresses = {name: str(endpoints["services"][name]["address"]) for name in SERVICES}
        for address in addresses.values():
            parse_address(address)
        trust_root = (path.parent / endpoints["trust_root"]).read_bytes()
        ca = (path.parent / endpoints["ca_file"]).read_bytes()
        parse_trust_root(trust_root)
        load_pem_x509_certificates(ca)
    except OSError as error:
        raise ProfileError("ENDPOINTS_INVALID", f"{error.filename}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ProfileError(
            "ENDPOINTS_INVALID", f"{path}: not a deployment's endpoints.json, or its ca_file no certificate"
        ) from error
    except VerificationError as error:
        raise ProfileError(error.reason, f"{endpoints['trust_root']}: {error.message}") from error
    return Pinned(trust_root, ca, json.dumps(addresses))
