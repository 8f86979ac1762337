"""Reading the line: what the store shows, checked and folded, its records fetched, edits merged with what changed
(contacts.md, Reading, Merging, Roll-back).

Tested by tests/client/line/test_line.py.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import aclosing
from typing import NamedTuple

from ipls.client.errors import RefusedError
from ipls.client.events import JourneyStep, Progress
from ipls.client.line.kept import ContactRow, Draft
from ipls.client.line.parts import NO_LINE, Checkpoint, Parts
from ipls.contacts import commits
from ipls.contacts.commits import Commit, Left
from ipls.contacts.envelope import Envelope, Kind
from ipls.contacts.errors import CardError, ContactsError, LineError
from ipls.contacts.line import Folded, Judge, LineRead, LineState, NeedKey, NeedSnapshot, Writer, fold, walk
from ipls.contacts.sealing import ContactKey, name_of
from ipls.contacts.whole import join, own_record, part_ids

_NOBODY = Writer(b"", 0)
"""What was not read before, and is now, nobody wrote just now."""


class _Record(NamedTuple):
    """A record that opened: its name, the generation it is sealed under, and what it holds: a part of a contact, what
    speaks of these parts, or, where there are none, all of one."""

    name: bytes
    generation: int
    contents: bytes
    is_part: bool
    parts: tuple[bytes, ...]


class Reader:
    """Raises LineError for what does not hold up, and then nothing has changed; ClientError's kinds for calls."""

    def __init__(self, parts: Parts) -> None:
        self._kept = parts.kept
        self._store = parts.store
        self._author = parts.author
        self._judge = parts.judge
        self._merge = parts.merge
        self._report = parts.report
        self._beside = parts.beside
        self.received = 0
        """Contacts that others changed or removed."""

    async def pull(self, *, confirmed: bool = False) -> None:
        """Follow the line to its head. `confirmed`: the person says that a new line is hers.

        A device that has none yet finds the last checkpoint of its identity in the line, or refuses; a linked one the
        place where it was linked.
        """
        kept = self._kept
        read = await self._store.read(kept.state.n if kept.state else 0)
        if read is not None and kept.state and read.line != kept.state.line:
            await self._follow(kept.state, confirmed=confirmed)
            return
        mark = await self._mark()
        if read is None:
            if kept.state or mark:
                raise _shows_nothing()
            return
        draft, start = Draft(kept), kept.state or self._start(read)
        if draft.state is None:
            draft.begin(start)
        if mark and mark.line == read.line:
            _check_passed(mark, start, read)  # before any key is asked for: an old one may be gone
        self._settle_pending(draft, read)
        folded = await self._fold(draft, read, self._judge())
        if mark and mark.line not in (read.line, *(folded.state.left.lines if folded.state.left else ())):
            raise _replaced("it does not continue the one that the vault knows")
        draft.follow(folded)
        await self._settle(draft, folded)
        self._commit(draft)

    async def _mark(self) -> Checkpoint | None:
        """What the line has to have passed."""
        state, linked_at = self._kept.state, self._author.linked_at
        if linked_at is not None:
            behind = state is None or (state.line == linked_at.line and state.n < linked_at.n)
            return linked_at if behind else None
        return None if state else await self._newest_checkpoint(self._judge().accepted)

    async def differences(self) -> dict[bytes, tuple[bytes | None, bytes | None]]:
        """What the line has otherwise than this device, whichever identity of the account wrote it: id -> the envelope
        as it was last read here, and as it stands there; None where there is none. Nothing of it is taken over. What
        can't be read there is left out."""
        kept, judge = self._kept, self._judge()
        read = await self._store.read(kept.state.n if kept.state else 0)
        if read is not None and kept.state and read.line != kept.state.line:
            read = await self._store.read(0)
        if read is None:
            return {}
        draft = Draft(kept)
        if draft.state is None or draft.state.line != read.line:
            draft.begin(self._start(read))
        folded = await self._fold(draft, read, judge._replace(accepted=judge.identities))
        draft.follow(folded)
        await self._read_list(draft, folded)
        ids = dict.fromkeys([*kept.contacts(), *folded.state.entries])
        pairs = {id: (draft.base(id), draft.envelope(id)) for id in ids if not draft.marks.get(id)}
        return {id: pair for id, pair in pairs.items() if pair[0] != pair[1]}

    async def go_back(self, before: int | None) -> None:
        """Have the list as it was before an identity version wrote that is not known as the owner's, or this one: of
        this line or one that was left, as far as the store keeps it, and no older than the vault's checkpoint.

        Raises RefusedError NOTHING_STORED.
        """
        own = {v for v in self._judge().accepted if before is None or v < before}
        reads = [await self._store.read(0)]
        reads += [await self._store.read_kept(line) for line in (await self._store.kept()).lines]
        ends = [end for end in (_end_of(own, read) for read in reads if read) if end]
        mark = await self._newest_checkpoint(own)
        if mark:
            ends = [end for end in ends if end.line == mark.line]
        if not ends:
            raise RefusedError("NOTHING_STORED", "the contact store has nothing of before that identity version")
        last = max(ends, key=lambda end: (Commit.decode(end.commits[end.head_n].commit).identity_version, end.head_n))
        start = self._start(last)
        if mark:
            _check_passed(mark, start, last)
        draft = Draft(self._kept)
        draft.begin(start)
        draft.end_sending()
        folded = await self._fold(draft, last, self._judge())
        draft.follow(folded)
        await self._settle(draft, folded)
        self._commit(draft)

    async def _newest_checkpoint(self, own: Collection[int]) -> Checkpoint | None:
        """That of the newest of these identity versions."""
        if self._author.vault is None:
            return None
        known = {v: mark for v, mark in (await self._author.vault.checkpoints()).items() if v in own}
        newest = known[max(known)] if known else NO_LINE
        return None if newest == NO_LINE else newest

    async def _follow(self, old: LineState, *, confirmed: bool) -> None:
        """Go over to another line: by itself only to one that continues this device's, by the identity that it goes by.
        Nothing is lost: what the new one lacks, or has otherwise, is an edit again, unless it was begun by one that had
        seen all that this device has."""
        read = await self._store.read(0)
        if read is None:
            raise _shows_nothing()
        draft = Draft(self._kept)
        draft.begin(self._start(read))
        draft.end_sending()
        base = read.commits.get(read.base_n)
        version = Commit.decode(base.commit).identity_version if base else 0
        if version != old.identity_version and not confirmed:
            raise _replaced("it was begun by another identity of the account")
        folded = await self._fold(draft, read, self._judge())
        left = folded.state.left
        if not confirmed and (left is None or old.line not in left.lines):
            raise _replaced("it does not continue this device's")
        draft.follow(folded)
        known = left is not None and await self._covers(left, old)
        await self._settle(draft, folded, None if known else old)
        self._commit(draft)

    def _commit(self, draft: Draft) -> None:
        draft.commit()
        assert draft.state is not None
        self.received += draft.read
        if draft.read:
            self._report(JourneyStep("changes received", draft.state.generation, draft.read))

    async def _covers(self, left: Left, old: LineState) -> bool:
        """Whether the line was begun by one that had seen all of the old one that this device has."""
        if left.lines[-1:] != (old.line,) or left.n < old.n:
            return False
        links = await self._store.links(old.line, old.n, left.n)
        chains = [old.chain, *walk(old.n, old.chain, links)]
        return len(links) == left.n - old.n and chains[-1] == left.chain

    def _make_edits_of(self, draft: Draft, old: LineState) -> None:
        """What this device has; a removal, against a list that it does not know, is not asked for again."""
        for row in list(draft.edits()):
            if row.removed:
                draft.drop_edit(row.id)
        for id, contact in self._kept.contacts().items():
            if id in old.entries and draft.edit(id) is None:
                draft.put_edit(id, contact.envelope)

    def _settle_pending(self, draft: Draft, read: LineRead) -> None:
        """Its place is passed: it stands there, or another does."""
        pending, state = draft.pending, draft.state
        if pending is None or state is None or pending.seed or not state.n < pending.n <= read.head_n:
            return
        chains = walk(state.n, state.chain, read.links[: pending.n - state.n])
        if chains and chains[-1] == pending.chain:
            draft.stands()
        draft.end_sending()

    def _start(self, read: LineRead) -> LineState:
        if commits.line_id(self._author.namespace, self._author.label, read.seed) != read.line:
            raise LineError("STORE_FORKED", "the contact store shows a line of another account")
        return LineState.start(read.line, read.seed)

    async def _fold(self, draft: Draft, read: LineRead, judge: Judge) -> Folded:
        assert draft.state is not None
        folding = fold(draft.state, read, judge, draft.keys, draft.held)
        answer: bytes | None = None
        while True:
            try:
                need = folding.send(answer)
            except StopIteration as done:
                folded: Folded = done.value
                return folded
            match need:
                case NeedSnapshot(name):
                    answer = await self._get_one(name)
                case NeedKey():
                    answer = await self._receive(need)

    async def _get_one(self, name: bytes) -> bytes | None:
        got = [each async for each in self._store.get([name])]
        return got[0].get(name) if got else None

    async def _receive(self, need: NeedKey) -> bytes | None:
        """A listed device's key comes with the base, the identity's from the vault."""
        sealed = dict(need.keys).get(self._author.signer.public_key)
        if sealed is not None:
            return self._author.open_key(sealed, commits.key_info(need.before, need.generation))
        if self._author.vault is None:
            return None
        return (await self._author.vault.fetch(need.generation)).secret

    # Settling: the list's records, and edits on top of what changed

    async def _settle(self, draft: Draft, folded: Folded, stranger: LineState | None = None) -> None:
        """Read what the list names, then merge what is being edited with what changed. `stranger`: the
        line that this device comes from, where the new one was begun by one that had not seen all of it."""
        ids = await self._read_list(draft, folded)
        # From here on nothing waits: an edit that is made meanwhile would be made on what is not shown any more.
        draft.drop_sent_edits()
        if stranger:
            self._make_edits_of(draft, stranger)
        edits = draft.edits() if folded.all_touched else filter(None, map(draft.edit, ids))
        for edit in list(edits):
            if draft.marks.get(edit.id):
                continue  # it waits: what the list has is not overwritten unread
            base, theirs = None if stranger else draft.base(edit.id), draft.envelope(edit.id)
            if base == theirs:
                continue
            writer = folded.touched.get(edit.id, folded.all_touched)
            merged = self._merge(base, edit.contents, theirs, writer or _NOBODY)
            draft.put_merged(edit.id, merged, theirs)

    async def _read_list(self, draft: Draft, folded: Folded) -> Collection[bytes]:
        """Know again or fetch what the list names; the contacts that may have changed."""
        state = folded.state
        if folded.all_touched:
            ids: Collection[bytes] = state.entries.keys()
            kept = self._kept.contacts()
            draft.drop_contacts((kept.keys() | draft.parts.keys()) - state.entries.keys())
            read = draft.contacts(kept)
        else:
            ids = folded.touched.keys() | {id for id, unread in draft.marks.items() if unread}
            draft.drop_contacts(ids - state.entries.keys())
            read = {id: row for id in ids if (row := draft.contact(id))}
        listed = (id for id in ids if id in state.entries and not draft.parts.get(id))
        await self._fetch(draft, [id for id in listed if not self._knows_again(draft, read.get(id), folded)])
        return ids

    def _knows_again(self, draft: Draft, row: ContactRow | None, folded: Folded) -> bool:
        """Whether the list's record is of what was read before, whatever key it is under."""
        if row is None:
            return False
        state, id = folded.state, row.id
        name, key = state.entries[id], draft.keys[state.generation]
        if row.name != name:
            now = folded.names.get(id) or name_of(key.seal_record(id, own_record(row.envelope)))
            if now != name:
                return False
            row = row._replace(name=name, generation=state.generation)
            draft.put_contact(row)
        draft.marks.pop(id, None)
        if row.generation != state.generation:
            draft.marks[id] = False
        return True

    async def _fetch(self, draft: Draft, wanted: Collection[bytes]) -> None:
        """Read these entries. A record that is absent or unreadable costs its contact alone."""
        read = await self._records(draft, wanted)
        parts = {id: b"" for id, record in read.items() if record.is_part}
        parts |= {part: id for id, record in read.items() for part in record.parts}
        for part, id in parts.items():
            draft.put_part(part, id)
        read |= await self._records(draft, parts.keys() - read.keys())
        for id in wanted:
            if id not in parts and not self._read(draft, id, read):
                draft.marks[id] = True

    async def _records(self, draft: Draft, ids: Collection[bytes]) -> dict[bytes, _Record]:
        """The entries' records, as far as the store gives them and they open."""
        assert draft.state is not None
        entries, newest = draft.state.entries, draft.state.generation
        keys = sorted(draft.keys.values(), key=lambda key: (key.generation != newest, -key.generation))
        names = dict[bytes, list[bytes]]()
        for id in ids:
            if id in entries:  # a device may have used a name twice
                names.setdefault(entries[id], []).append(id)
        read, done = dict[bytes, _Record](), 0
        async with aclosing(self._store.get(list(names))) as batches:
            async for got in batches:
                sealed = [(id, name, got[name]) for name in got for id in names.get(name, ())]
                read.update(await self._beside(_opened, keys, sealed))
                done += len(got)
                self._report(Progress("restoring", done, len(names)))
        return read

    def _read(self, draft: Draft, id: bytes, read: Mapping[bytes, _Record]) -> bool:
        assert draft.state is not None
        if id not in read:
            return False
        own = read[id]
        envelope = own.contents
        if own.parts:
            try:
                envelope = join(id, {each: read[each].contents for each in (*own.parts, id) if each in read})
            except CardError:
                return False
        draft.put_contact(ContactRow(id, own.name, own.generation, envelope))
        draft.read += 1
        draft.marks.pop(id, None)
        if own.generation != draft.state.generation:
            draft.marks[id] = False
        return True


def _opened(keys: Sequence[ContactKey], sealed: Iterable[tuple[bytes, bytes, bytes]]) -> dict[bytes, _Record]:
    """Of (id, name, record) those that open, by id."""
    opened = {}
    for id, name, record in sealed:
        if name_of(record) == name and (found := _open(keys, id, name, record)):
            opened[id] = found
    return opened


def _open(keys: Sequence[ContactKey], id: bytes, name: bytes, record: bytes) -> _Record | None:
    for key in keys:
        try:
            contents = key.open_record(id, record)
            envelope = Envelope.decode(contents)
            parts = tuple(part_ids(id, envelope))
        except ContactsError:
            continue
        return _Record(name, key.generation, contents, envelope.kind == Kind.PART, parts)
    return None


def _end_of(own: Collection[int], read: LineRead) -> LineRead | None:
    """The line up to where another identity version than these first wrote, if that is behind its newest base."""
    end = read.base_n - 1
    while (signed := read.commits.get(end + 1)) and Commit.decode(signed.commit).identity_version in own:
        end += 1
    links = read.links[:end]
    if end < max(read.base_n, 1) or len(links) < end:
        return None
    return read._replace(head_n=end, head=walk(0, read.line, links)[-1], links=links)


def _check_passed(mark: Checkpoint, start: LineState, read: LineRead) -> None:
    """That the line, behind `start`, has what the vault keeps of it, or the phone said."""
    if read.head_n < mark.n:
        message = f"the contact store shows commit {read.head_n} as the newest; {mark.n} is known to stand"
        raise LineError("STORE_ROLLED_BACK", message)
    if [start.chain, *walk(start.n, start.chain, read.links[: mark.n - start.n])][-1] != mark.chain:
        raise LineError("STORE_FORKED", "the contact store shows another line than the one that is known to stand")


def _shows_nothing() -> LineError:
    return LineError("STORE_ROLLED_BACK", "the contact store shows nothing of the account's line any more")


def _replaced(why: str) -> LineError:
    return LineError("LINE_REPLACED", f"the account has a new line: {why}")
