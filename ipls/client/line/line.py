"""An account's line on this device.

Tested by tests/client/line/test_line.py.
"""

import os
from collections.abc import Collection, Sequence

from ipls.client.errors import ProfileError, TryLaterError
from ipls.client.events import JourneyStep, Progress
from ipls.client.line.parts import Checkpoint, KeyVault, Linked, Parts
from ipls.client.line.reader import Reader
from ipls.client.line.writer import Writer
from ipls.contacts import commits
from ipls.contacts.commits import Base, DeviceList, Edit, Left, Moved
from ipls.contacts.line import LineState
from ipls.contacts.sealing import ContactKey, name_of
from ipls.contacts.whole import split
from ipls.units import DAY_MS

ROUNDS = 8
"""Others may be first so often before a call gives up."""
COMPACT_COMMITS = 256
"""Behind a base, or as many entries and a quarter of the list: then another base is made."""
CHECKPOINT_COMMITS = 64
"""Behind a checkpoint: then another one is set."""


class Line:
    """One account's line. Raises LineError for what does not hold up, which changes nothing, and ClientError's kinds
    for refused and failed calls. Whatever was cut off is run again."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._kept = parts.kept
        self._store = parts.store
        self._reader = Reader(parts)
        self._writer = Writer(parts)

    @property
    def state(self) -> LineState | None:
        """Where the line stands, as far as this device has followed it."""
        return self._kept.state

    @property
    def received(self) -> int:
        """How many contacts others changed or removed, as far as this object has seen."""
        return self._reader.received

    @property
    def sent(self) -> int:
        """How many contacts' changes it has sent."""
        return self._writer.sent

    @property
    def unread(self) -> set[bytes]:
        """The contacts whose records were absent or unreadable: shown as they were last read."""
        return self._kept.unread()

    @property
    def unsent(self) -> set[bytes]:
        """The contacts that were changed here and not sent yet."""
        return self._kept.unsent()

    async def sync(self) -> None:
        """Finish what was under way, pull, merge, send, and do what is due for the line itself.

        Raises TryLaterError LINE_BUSY.
        """
        self._kept.ask_again()
        await self.catch_up()
        await self._keep_up()

    async def catch_up(self) -> None:
        """The person's part of it alone, which takes no longer than what changed, and needs the vault for a rotation
        only. Raises as `sync`."""
        await self._writer.finish()
        await self._reader.pull()
        await self.send()

    async def send(self) -> None:
        """Send what was done here: one call, where no other device was first. Into a line that has ended nothing goes.
        Raises TryLaterError LINE_BUSY."""
        rounds = 0
        while rounds < ROUNDS:
            if not await self._writer.finish():
                await self._reader.pull()
                rounds += 1
            elif self._kept.state is not None and self._kept.state.moved:
                return
            elif self._rotation_is_due():
                await self._rotate()
            elif not self._writer.make_edit():
                return
        raise _busy()

    async def pull(self, *, confirmed: bool = False) -> None:
        """Follow the line to its head, and send nothing. `confirmed`: the person says that a new line is hers."""
        await self._reader.pull(confirmed=confirmed)

    async def differences(self) -> dict[bytes, tuple[bytes | None, bytes | None]]:
        """What the line has otherwise than this device, an identity's too that is not known as the owner's: see
        `Reader.differences`."""
        return await self._reader.differences()

    async def go_back(self, before: int | None = None) -> None:
        """Have the list as it was before a thief wrote, to begin anew from: see `Reader.go_back`."""
        _ = self._vault
        await self._reader.go_back(before)
        self._kept.forget_unused_keys()  # they came after: others may have them

    def _rotation_is_due(self) -> bool:
        """After a restore under a new identity, a theft of the number, the removal of a device."""
        state, kept = self._kept.state, self._kept
        if state is None or self._parts.author.vault is None or kept.pending is not None:
            return False
        return kept.rotation_due or state.identity_version < self._writer.version()

    @property
    def upkeep_is_due(self) -> bool:
        """There is something that `sync` does for the line itself."""
        if self._kept.state is None or self._kept.state.moved:
            return False
        by_vault = self._compaction_is_due() or self._kept.upkeep.finish > 0 or self._checkpoint_is_due()
        return self._mending_is_due() or (self._parts.author.vault is not None and by_vault)

    async def _keep_up(self) -> None:
        """What is due besides the person's edits."""
        if self._kept.state is None or self._kept.state.moved:
            return
        if self._mending_is_due():
            await self.mend()
        if self._parts.author.vault is None:
            return
        if self._compaction_is_due():
            await self._base_here(self._kept.keys[self._kept.state.generation])
        if self._kept.upkeep.finish:
            await self._vault.finish(self._kept.upkeep.finish)
            self._kept.note(finish=0)
        if self._checkpoint_is_due():
            await self.checkpoint()

    def _mending_is_due(self) -> bool:
        state, upkeep = self._standing(), self._kept.upkeep
        mended = (upkeep.mended_line, upkeep.mended_base)
        return (state.line, state.base_n) != mended or self._is_a_day_ago(upkeep.mended_ms)

    def _compaction_is_due(self) -> bool:
        state = self._standing()
        edited = state.edited >= max(COMPACT_COMMITS, len(state.entries) // 4)
        return edited or state.n - state.base_n >= COMPACT_COMMITS

    def _is_a_day_ago(self, then_ms: int) -> bool:
        """Or later than now, by a clock that was set back since."""
        return not then_ms <= self._parts.now_ms() < then_ms + DAY_MS

    def _checkpoint_is_due(self) -> bool:
        state, upkeep = self._standing(), self._kept.upkeep
        behind = state.n - upkeep.checkpoint_n
        if state.line != upkeep.checkpoint_line or state.base_n > upkeep.checkpoint_n or behind >= CHECKPOINT_COMMITS:
            return True
        return behind > 0 and self._is_a_day_ago(upkeep.checkpoint_ms)

    # Only the identity

    async def set_devices(self, devices: Sequence[Linked]) -> None:
        """Those that are listed from now on. Where one is removed, the next `sync` makes a new key."""
        _ = self._vault
        await self.catch_up()
        removed = {device.key for device in self._standing().devices} - {each.device.key for each in devices}
        for _ in range(ROUNDS):
            state = self._standing()
            listed = self._sign_devices(state.n + 1, devices)
            key = self._kept.keys[state.generation]
            self._writer.pend(Edit(self._parts.now_ms(), ()), key, devices=listed, rotate=bool(removed))
            if await self._writer.finish():
                await self.checkpoint()
                return
            await self._reader.pull()
        raise _busy()

    async def begin(self, devices: Sequence[Linked] = ()) -> None:
        """The account's first line, with these devices; or, where the person wants that, a new one from this device's
        list, with those that this identity lists."""
        state = self._kept.state
        key = await self._vault.make(state.generation if state else 0)
        seed = os.urandom(commits.SEED_BYTES)
        left = Left(self._parts.now_ms())
        if state is not None:
            before = (*(state.left.lines if state.left else ()), state.line)[-commits.MAX_LINES :]
            # Of what can't be read this list has less than its place says: so nobody's absence may mean removed.
            n, chain = (0, bytes(32)) if self.unread else (state.n, state.chain)
            left = Left(left.time_ms, before, n, chain)
        line = commits.line_id(self._parts.author.namespace, self._parts.author.label, seed)
        await self._base(key, devices or self._listed(), left, 1, line, seed)
        await self._writer.finish()
        await self._keep_up()

    async def move(self, label: str, line: bytes, identity_key: bytes) -> bool:
        """End the line: the account goes on under another number. False where others wrote meanwhile: that is followed
        now, and is to go along first."""
        _ = self._vault
        state = self._standing()
        if state.moved is None:
            moved = Moved(self._parts.now_ms(), label, line, identity_key)
            self._writer.pend(moved, self._kept.keys[state.generation])
            if not await self._writer.finish():
                await self._reader.pull()
                return False
        await self.checkpoint()
        return True

    async def rotate(self) -> None:
        """A new contact key, which none but the identity and the listed devices gets; contents stay."""
        _ = self._vault
        self._kept.note(rotate=True)
        await self.sync()

    async def checkpoint(self) -> None:
        """Tell the vault how far the line goes: a phone that is restored later finds it there, or refuses."""
        state = self._standing()
        await self._vault.set_checkpoint(Checkpoint(state.line, state.n, state.chain))
        self._parts.report(JourneyStep("checkpoint set", state.generation))
        self._kept.note(checkpoint_line=state.line, checkpoint_n=state.n, checkpoint_ms=self._parts.now_ms())

    async def _rotate(self) -> None:
        await self._base_here(await self._vault.make(self._standing().generation))

    async def _base_here(self, key: ContactKey) -> None:
        """A base under this key at the head. Where another commit is first, nothing: the next round sees."""
        state = self._standing()
        left = (state.left or Left(0))._replace(time_ms=self._parts.now_ms())
        await self._base(key, self._listed(), left, state.n + 1, state.chain)
        await self._writer.finish()

    def _listed(self) -> Sequence[Linked]:
        """The devices of this identity: a new one has none until it confirms them."""
        state = self._kept.state
        return self._parts.linked(state.devices) if state and state.identity_version == self._writer.version() else ()

    async def _base(
        self, key: ContactKey, devices: Sequence[Linked], left: Left, n: int, before: bytes, seed: bytes = b""
    ) -> None:
        """Stage the records that have other names under the key, then put the base on its way."""
        state, contents, unread = self._kept.state, self._kept.contents(), self.unread
        entries, staged, sent = dict[bytes, bytes](), list[bytes](), dict[bytes, bytes | None]()
        if state is None:  # the account's first: all that there is here
            for row in self._kept.edits():
                if row.contents is not None:
                    sent[row.id] = row.contents
                    for id, data in split(row.id, row.contents).items():
                        staged.append(key.seal_record(id, data))
                        entries[id] = name_of(staged[-1])
        else:
            anew = seed or key.generation != state.generation
            for id, name in state.entries.items():
                if id in contents and (seed or self._kept.parts.get(id, id) not in unread):
                    if anew:
                        staged.append(key.seal_record(id, contents[id]))
                    entries[id] = name_of(staged[-1]) if anew else name
                elif not seed:  # one that can't be read keeps its name: a device that has it commits it anew
                    entries[id] = name
        await self._stage(key, staged)
        snapshot = key.seal(commits.snapshot_aad(n, before), commits.encode_snapshot(entries))
        info = commits.key_info(before, key.generation)
        keys = tuple((each.device.key, each.seal(key.secret, info)) for each in sorted(devices, key=_key_of))
        base = Base(name_of(snapshot), len(snapshot), key.writer.public_key, keys)
        listed = self._sign_devices(n, devices)
        self._writer.pend(left, key, sent=sent, devices=listed, base=base, snapshot=snapshot, seed=seed)

    async def _stage(self, key: ContactKey, records: Sequence[bytes]) -> None:
        """What is there from a try before is not sent again."""
        there = await self._store.have([name_of(record) for record in records], staged=True) if records else set()
        left = [record for record in records if name_of(record) not in there]
        done = len(records) - len(left)
        for at in range(0, len(left), commits.MAX_ENTRIES):
            batch = left[at : at + commits.MAX_ENTRIES]
            await self._store.put_records(batch)
            done += len(batch)
            self._parts.report(Progress("storing", done, len(records)))
        if left:
            self._parts.report(JourneyStep("records staged", key.generation, len(left)))

    def _sign_devices(self, n: int, devices: Sequence[Linked]) -> DeviceList:
        author, listed = self._parts.author, tuple(sorted(each.device for each in devices))
        digest = commits.devices_digest(author.namespace, author.label, n, author.signer.public_key, listed)
        return DeviceList(listed, author.signer.sign(digest))

    # What a store lost

    async def mend(self) -> None:
        """Put again what the list needs and the store does not have, or was told to drop; commit anew, with the next
        sync, what is in the list in part only."""
        state = self._kept.state
        if state is None:
            return
        there = await self._store.have(list(dict.fromkeys(state.entries.values())))  # a device may have used one twice
        lost = self._records(state, {id for id, name in state.entries.items() if name not in there})
        if lost:
            await self._store.put_records(lost)
        self._kept.send_again(self._torn(state))
        self._kept.note(mended_line=state.line, mended_base=state.base_n, mended_ms=self._parts.now_ms())

    async def heal(self) -> None:
        """Give a store back the line that it does not show any more, with what this device has of it."""
        state = self._standing()
        records = self._records(state, state.entries.keys())
        links = [commits.Link(*row[1:]) for row in self._kept.links()]
        await self._store.heal(state.line, state.seed, links, self._kept.commits(), records, self._kept.snapshot)

    def _records(self, state: LineState, ids: Collection[bytes]) -> list[bytes]:
        """Those of these contacts' records that this device can make again."""
        key, contents, kept = self._kept.keys[state.generation], self._kept.contents(), self._kept
        return [
            key.seal_record(id, contents[id])
            for id in state.entries
            if id in ids and id in contents and kept.parts.get(id, id) not in kept.marks
        ]

    def _torn(self, state: LineState) -> list[bytes]:
        """The large contacts of which the list has other parts, or not all: a device ended while it sent them."""
        key, kept, torn = self._kept.keys[state.generation], self._kept, list[bytes]()
        for row in kept.contacts().values():
            records = split(row.id, row.envelope)
            if len(records) > 1 and row.id not in kept.marks:
                names = {id: name_of(key.seal_record(id, data)) for id, data in records.items()}
                if names != {id: state.entries.get(id) for id in names}:
                    torn.append(row.id)
        return torn

    def _standing(self) -> LineState:
        if self._kept.state is None:
            raise ProfileError("LINE_ABSENT", "this device has no line of the account yet; sync first")
        return self._kept.state

    @property
    def _vault(self) -> KeyVault:
        if self._parts.author.vault is None:
            raise ProfileError("IDENTITY_ONLY", "only the phone that the number is registered on does this")
        return self._parts.author.vault


def _key_of(linked: Linked) -> bytes:
    return linked.device.key


def _busy() -> TryLaterError:
    return TryLaterError("LINE_BUSY", "other devices of the account wrote all the while; try again")
