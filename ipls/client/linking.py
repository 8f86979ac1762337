"""Linking a device by the contact store's slots: both sides' way through `ipls.contacts.linking`.

Tested by tests/client/test_linked_devices.py.
"""

import asyncio
import os
from collections.abc import Callable
from typing import Literal, NamedTuple

from ipls.client.directory import History
from ipls.client.errors import RefusedError
from ipls.client.line.parts import Checkpoint
from ipls.client.line_store import LineStore, unlisted
from ipls.client.link_slot import LinkSlot, Said
from ipls.client.linked_devices import LinkedDevices
from ipls.client.profile import Account, DeviceKeys, KnownDevice, LinkedAs, Profile, ProvedHistory
from ipls.client.registration import known_version
from ipls.client.sync import Sync
from ipls.contacts.commits import Commit, ListedDevice, line_id
from ipls.contacts.device_record import DeviceRecord
from ipls.contacts.errors import LinkError
from ipls.contacts.kem import SECRET_BYTES
from ipls.contacts.linking import Hello, Inviter, Joiner, LinkCode, Package
from ipls.contacts.listing import Listing
from ipls.contacts.sealing import ContactKey, name_of
from ipls.crypto.keys import SeedSigner, public_key

CODE_MS = 10 * 60 * 1000
"""For so long a link code is good, whatever the contact store says."""

_PAUSE_S = 0.2

Kind = Literal["hello", "answer", "opening", "package"]


class NewDevice(NamedTuple):
    """Who asks to be linked, to be named to the person: its Ed25519 key, and what it calls itself and runs on."""

    key: bytes
    name: str
    platform: str


class Linking:
    """A device is being linked, by the phone that has the number: show `code` to it, and to nobody else; `arrived` says
    which one has read it; then the person types into `confirm` the six digits that the new one shows.

    Raises LinkError for what does not hold up, RefusedError LINK_SLOT_ABSENT when the time is over, and ClientError's
    kinds. One object links one device or none; after a refusal that is not SHORT_CODE_WRONG another is made.
    """

    def __init__(
        self, profile: Profile, sync: Sync, store: LineStore, slot: LinkSlot, code: LinkCode, now_ms: Callable[[], int]
    ) -> None:
        self._profile = profile
        self._sync = sync
        self._store = store
        self._slot = slot
        self._inviter = Inviter(code)
        self._now_ms = now_ms
        self._until_ms = now_ms() + CODE_MS
        self._hello: Hello | None = None

    @property
    def code(self) -> str:
        """For the new device alone: as a QR, or to be pasted there."""
        return self._inviter.code.text

    async def arrived(self) -> NewDevice:
        """The device that has read the code, once there is one."""
        hello = self._hello = self._inviter.admit(await self._said("hello"))
        await self._store.answer(self._inviter.code.slot, self._inviter.answer)
        return NewDevice(hello.key, hello.name, hello.platform)

    async def confirm(self, typed: str) -> None:
        """Link the device, if these are the digits that it shows; else LinkError SHORT_CODE_WRONG, and it may be called
        again, or LINK_CODE_BURNT: three were wrong."""
        if self._hello is None:
            raise LinkError("LINK_NOT_CONFIRMED", "no device has used this link code yet")
        self._inviter.on_opening(await self._said("opening"))
        try:
            self._inviter.confirm(typed)
        except LinkError as error:
            if error.reason == "LINK_CODE_BURNT":  # the new device need not wait for the rest of the ten minutes
                await self._store.open_link(os.urandom(32))
            raise
        await self._link(self._hello)

    async def _link(self, hello: Hello) -> None:
        self._profile.put_known_device(KnownDevice(hello.key, hello.kem_key))
        record = DeviceRecord(hello.key, hello.kem_key, hello.name, hello.platform)
        LinkedDevices(self._profile).put(record, self._now_ms())
        state = await self._sync.list_device(ListedDevice(hello.key, name_of(hello.kem_key)))
        account = self._profile.account
        package = Package(
            self._profile.trust_roots()[-1],
            public_key(account.seed),
            account.version,
            state.seed,
            state.n,
            state.chain,
            state.generation,
            self._profile.line.keys[state.generation].secret,
        )
        sealed = self._inviter.package(SeedSigner(account.seed), package)
        await self._store.give_package(self._inviter.code.slot, sealed)

    async def _said(self, kind: Kind) -> bytes:
        return await _said(self._slot, kind, self._now_ms, self._until_ms)


def own_keys(profile: Profile, label: str) -> DeviceKeys:
    """This device's own, for the number; made where there are none."""
    keys = profile.get(DeviceKeys)
    if keys is None or keys.label != label:
        keys = DeviceKeys(label, os.urandom(32), os.urandom(SECRET_BYTES))
        profile.put(keys)
    return keys


async def join(
    slot: LinkSlot,
    code: LinkCode,
    keys: DeviceKeys,
    device: tuple[str, str],
    show: Callable[[str], None],
    now_ms: Callable[[], int],
) -> Package:
    """The new device's side, until the phone has given it what it begins with. `device`: its name and platform; `show`
    is told the six digits.

    Raises LinkError, RefusedError LINK_SLOT_ABSENT, LINK_SLOT_TAKEN.
    """
    joiner, until_ms = Joiner(code, *device, keys.seed, keys.kem_secret), now_ms() + CODE_MS
    await slot.put_hello(joiner.hello)
    short_code = joiner.on_answer(await _said(slot, "answer", now_ms, until_ms))
    await slot.put_opening(joiner.opening)
    show(short_code)
    return joiner.on_package(await _said(slot, "package", now_ms, until_ms))


async def _said(slot: LinkSlot, kind: Kind, now_ms: Callable[[], int], until_ms: int) -> bytes:
    while now_ms() < until_ms:
        said = await slot.collect(Said._fields.index(kind))
        if message := getattr(said, kind):
            return bytes(message)
        await asyncio.sleep(_PAUSE_S)  # a store that does not wait itself is not asked without end
    raise RefusedError("LINK_SLOT_ABSENT", "the ten minutes of this link code are over")


async def find_listing(store: LineStore, identity_key: bytes, keys: DeviceKeys) -> Listing:
    """This identity's newest list that has this device. Raises ProfileError DEVICE_UNLISTED where the store does not
    show it."""
    read, own = await store.read(0), public_key(keys.seed)
    for n, signed in sorted(read.commits.items(), reverse=True) if read else ():
        devices = Commit.decode(signed.commit).devices
        if devices is not None and own in {device.key for device in devices.devices}:
            return Listing(identity_key, n, devices.encode())
    raise unlisted()


def adopt(
    profile: Profile, namespace: str, package: Package, keys: DeviceKeys, listing: Listing, history: History
) -> None:
    """From here on the profile is a linked device's, all at once. Raises LinkError LINK_PACKAGE_INVALID where the
    number's history does not end in the identity that linked it."""
    newest = history.identities[0]
    if (newest.public_key, newest.version) != (package.identity_key, package.identity_version):
        raise LinkError(
            "LINK_PACKAGE_INVALID", "the number's history does not end in the identity that linked this device"
        )
    line = line_id(namespace, keys.label, package.line_seed)
    with profile.transaction():
        if newest.version in {version.version for version in profile.versions()}:  # it waited to be confirmed
            profile.add_versions([known_version(newest, "acknowledged")])
        be_listed(profile, keys, listing, Checkpoint(line, package.n, package.chain), history)
        profile.line.add_key(ContactKey(package.contact_key, keys.label, package.generation))


def be_listed(profile: Profile, keys: DeviceKeys, listing: Listing, place: Checkpoint, history: History) -> None:
    """The profile's account is that of a device which the newest identity lists; its line is known to come to
    `place`."""
    newest, known = history.identities[0], {version.version for version in profile.versions()}
    with profile.transaction():
        profile.add_versions(known_version(each, "earlier") for each in history.identities if each.version not in known)
        profile.add_leaves(history.leaves)
        profile.put(ProvedHistory(history.proof))
        profile.put(keys)
        profile.put(Account(keys.label, keys.seed, newest.version, newest.epoch))
        profile.put(LinkedAs(*listing, *place))
