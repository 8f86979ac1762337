"""Store and restore (the design's Journeys): the account's line and this device brought to the same, in an order in
which a crash loses nothing, resumed by running it again.

Tested by tests/client/test_device.py and tests/client/test_two_phones.py.
"""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from ipls.client.errors import ProfileError, RefusedError
from ipls.client.events import CaughtUp, Report
from ipls.client.line.kept import Draft, Kept
from ipls.client.line.line import Line
from ipls.client.line.parts import Author, Checkpoint, Parts
from ipls.client.line_store import LineStore
from ipls.client.linked_devices import LinkedDevices
from ipls.client.profile import DeviceKeys, LinkedAs, Profile
from ipls.client.vault import Vault
from ipls.client.vault_keys import VaultKeys
from ipls.client.version1 import OldContacts
from ipls.contacts import Envelope, country_of
from ipls.contacts.commits import MAX_DEVICES, ListedDevice
from ipls.contacts.envelope import Kind, kind_in
from ipls.contacts.errors import LineError
from ipls.contacts.kem import KemKey
from ipls.contacts.line import Judge, LineState, Writer
from ipls.contacts.merge import merge
from ipls.crypto.keys import SeedSigner

Recovery = Literal["give back", "follow", "anew"]


class SyncResult(NamedTuple):
    """What came of it: of `contacts` on this device so many were received and sent just now, and `unread` ones could
    not be read in the store. The line is at commit `n`, under the contact key of `generation`; a new one if `rotated`.
    """

    contacts: int
    received: int
    sent: int
    unread: int
    generation: int
    n: int
    rotated: bool


class Sync:
    """The journeys of one registered device. Raises ClientError's kinds and ContactsError's; what raised can be run
    again."""

    def __init__(
        self,
        profile: Profile,
        namespace: str,
        vault: Vault,
        store: LineStore,
        old: OldContacts,
        *,
        now_ms: Callable[[], int],
        report: Report,
    ) -> None:
        account = profile.account
        self._profile = profile
        self._namespace = namespace
        self._label = account.label
        self._kept = profile.line
        self._old = old
        self._devices = LinkedDevices(profile)
        author = Author(namespace, account.label, SeedSigner(account.seed), None)
        linked, keys = profile.get(LinkedAs), profile.get(DeviceKeys)
        if linked and keys:
            kem_key, linked_at = KemKey(keys.kem_secret), Checkpoint(linked.line, linked.n, linked.chain)
            author = author._replace(open_key=lambda sealed, info: kem_key.open(info, sealed), linked_at=linked_at)
        else:
            self._keys = VaultKeys(self._kept, vault, account.label, account.version, report)
            author = author._replace(vault=self._keys)
        self._line = Line(
            Parts(self._kept, store, author, self._judge, self._devices.sealing, self._merge, now_ms, report)
        )

    async def push(self) -> SyncResult:
        """Send what was done here, and take in what others did; the account's line is begun where there is none.

        Raises LineError LINE_MOVED.
        """
        await self._find_line()
        return await self._sync()

    async def catch_up(self) -> CaughtUp:
        """As `push`, where there is a line, without looking at what did not change. Raises as `push`."""
        line = self._line
        await line.catch_up()
        state = self._standing()
        return CaughtUp(state.n, state.chain, line.received, line.sent, len(line.unread), line.upkeep_is_due)

    async def settle(self) -> bool:
        """The same, also where the line has ended: then nothing is sent. Whether it has."""
        await self._find_line()
        await self._to_the_head()
        return self._kept.state is not None and self._kept.state.moved is not None

    async def pull(self) -> None:
        """Follow the line to its head, and send nothing."""
        await self._line.pull()

    async def continue_from(self, other: Kept, *, devices: bool) -> None:
        """Have this account's line say what another one says here, of its `devices` too or without any. Where this
        device has none yet it is begun: what stands under this number is its former holder's."""
        self.carry(other, self._kept.carried(), devices=devices)
        listed = self._devices.sealing(other.state.devices if devices and other.state else ())
        if self._has_no_line:
            await self._line.begin(listed)
        await self._line.sync()
        if {device.key for device in self._standing().devices} != {each.device.key for each in listed}:
            await self._line.set_devices(listed)
            await self._line.sync()  # under a new key, where one was removed

    def carry(self, other: Kept, base: dict[bytes, bytes], *, devices: bool = True) -> None:
        """Merge into this account's list what another one says on this device, whose `base` is what that said when it
        was carried over last: what others did here since stays, and so does what can't be read there any more. Without
        `devices` nothing is known here of those that it had."""
        kept, draft = self._kept, Draft(self._kept)
        there = {id: data for id, data in other.entries().items() if devices or kind_in(data) != Kind.DEVICE}
        changed = {
            id: there.get(id)
            for id in there | base
            if there.get(id) != base.get(id) and not (id in base and other.is_damaged(id))
        }
        for id, now in changed.items():
            merged = self._merge(base.get(id), now, kept.entry(id), Writer(b"", 0))
            draft.beside.pop(id, None)
            draft.put_merged(id, merged, kept.listed(id) or other.listed(id))
        with kept.rows.transaction():
            kept.note_carried(changed)
            draft.commit()

    async def end(self, label: str, line: bytes, identity_key: bytes) -> bool:
        """See `Line.move`."""
        return await self._line.move(label, line, identity_key)

    async def restore(self) -> SyncResult:
        """Bring back what is stored, checked as the line of its commits; then a new key, where this device's identity
        is a new one.

        Raises RefusedError NOTHING_STORED.
        """
        await self._find_line()
        if self._kept.state is None and not await self._old.are_there():
            raise RefusedError("NOTHING_STORED", "the contact store has nothing for this account")
        return await self._sync()

    async def differences(self) -> dict[bytes, tuple[Envelope | None, Envelope | None]]:
        """What the line has otherwise than this device, whichever identity wrote it, by the contacts' ids: as it is
        here, and there."""
        pairs = await self._line.differences()
        return {id: (_decoded(here), _decoded(there)) for id, (here, there) in pairs.items()}

    async def recover(self, how: Recovery, before: int | None = None) -> SyncResult:
        """`give back` to the contact store what it lost of the line; `follow` another line, which the person says is
        hers; or begin one `anew`, from this device's contacts or from those that the line had `before` an identity
        version wrote that is not hers. A device that has followed no line takes the last that none of those wrote into.

        Raises as `push`.
        """
        foreign = any(version.origin == "foreign" for version in self._profile.versions())
        match how:
            case "give back":
                await self._line.heal()
            case "follow":
                await self._line.pull(confirmed=True)
            case "anew":
                if before is not None or (foreign and self._kept.state is None):
                    await self._line.go_back(before)
                await self._line.begin()
        return await self._sync()

    async def check_room(self) -> None:
        """That one more device can be linked. Raises ProfileError DEVICES_TOO_MANY; as `push`."""
        if len(await self._devices_now()) >= MAX_DEVICES:
            raise ProfileError("DEVICES_TOO_MANY", f"an account has {MAX_DEVICES} linked devices at most")

    async def list_device(self, device: ListedDevice) -> LineState:
        """Have the account's line list a device besides the others; where the line stands with that.

        Raises as `push`.
        """
        listed = {each.key: each for each in (await self._devices_now())} | {device.key: device}
        await self._line.set_devices(self._devices.sealing(list(listed.values())))
        assert self._kept.state
        return self._kept.state

    async def remove_device(self, key: bytes) -> SyncResult:
        """Have it listed no more, and make a new contact key, which it does not get. Raises as `push`."""
        listed = await self._devices_now()
        staying = [device for device in listed if device.key != key]
        if len(staying) < len(listed):
            await self._line.set_devices(self._devices.sealing(staying))
        self._devices.drop(key)
        return await self._sync()

    async def _devices_now(self) -> Sequence[ListedDevice]:
        """Those that this identity lists."""
        await self.push()
        state = self._kept.state
        return state.devices if state else ()

    @property
    def _has_no_line(self) -> bool:
        return self._kept.state is None and self._kept.pending is None

    async def _find_line(self) -> None:
        if self._has_no_line:
            await self._line.pull()

    async def _to_the_head(self) -> None:
        if self._has_no_line:  # which a linked device has, or did not believe
            await self._old.bring(self._keys)
            await self._line.begin()
        await self._line.sync()

    async def _sync(self) -> SyncResult:
        before = self._kept.state
        await self._to_the_head()
        state = self._standing()
        return SyncResult(
            self._profile.count().readable,
            self._line.received,
            self._line.sent,
            len(self._line.unread),
            state.generation,
            state.n,
            before is not None and state.generation != before.generation,
        )

    def _standing(self) -> LineState:
        state = self._kept.state
        assert state is not None
        if state.moved:
            raise line_moved()
        return state

    def _judge(self) -> Judge:
        identities = {version.version: version.public_key for version in self._profile.versions()}
        return Judge(self._namespace, self._label, identities, self._profile.accepted_versions)

    def _merge(self, base: bytes | None, mine: bytes | None, theirs: bytes | None, writer: Writer) -> bytes | None:
        sides = map(_decoded, (base, mine, theirs))
        merged = merge(*sides, device=writer.key, ms=writer.ms, country=country_of(self._label))
        return None if merged is None else merged.encode()


def line_moved() -> LineError:
    """Nothing more goes into the account's line."""
    return LineError("LINE_MOVED", "the account has another number now: this line of its contacts has ended")


def _decoded(data: bytes | None) -> Envelope | None:
    return None if data is None else Envelope.decode(data)
