"""What a device keeps of its account's line, and a step's changes to it, which are written together or not at all.

Tested by tests/client/line/test_line.py.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any, NamedTuple, Self, TypeVar

from ipls.client.rows import Row, Rows, Table, Unreadable, single
from ipls.contacts.cards.numbers import country_of
from ipls.contacts.commits import Commit, Signed
from ipls.contacts.envelope import Envelope, Kind
from ipls.contacts.errors import CardError
from ipls.contacts.line import Folded, Held, KeptBase, LineState, replay
from ipls.contacts.merge import merge
from ipls.contacts.sealing import ContactKey, name_of
from ipls.contacts.whole import fitting, own_record, part_ids, split

Value = TypeVar("Value")


class LineStart(NamedTuple):
    """Which line it is, and the place before its newest base: n and chain_n."""

    line: bytes
    seed: bytes
    n: int
    chain: bytes


class LinkRow(NamedTuple):
    """A link that was walked; it is held against what the store shows later."""

    n: int
    generation: int
    commit_hash: bytes


class CommitRow(NamedTuple):
    """A commit from the newest base on, as it came."""

    n: int
    commit: bytes
    author: bytes
    write: bytes


class SnapshotRow(NamedTuple):
    """The snapshot of base n, the newest, as it came."""

    n: int
    sealed: bytes


class KeyRow(NamedTuple):
    """A contact key that the line was, is, or is going to be sealed under. `made_by`: the identity version of this
    device that made it, 0: none. Later ones seal nothing new under it: who had the number meanwhile may have it."""

    generation: int
    secret: bytes
    made_by: int = 0


class Attempt(NamedTuple):
    """A key on its way into the vault; `store_id` names the attempt; `made_by` as in `KeyRow`."""

    generation: int
    secret: bytes
    store_id: bytes
    made_by: int = 0


class ContactRow(NamedTuple):
    """A contact as it was last read: its own record's name, the generation that this was sealed under, and what the
    contact says, whole, in however many records."""

    id: bytes
    name: bytes
    generation: int
    envelope: bytes


class ChangeRow(NamedTuple):
    """What was done here to a contact, its new contents or that it is removed: of EDITS it is not in the line yet, of
    SENT the commit on its way says so, and it is done here when that stands."""

    id: bytes
    envelope: bytes
    removed: bool = False

    @classmethod
    def of(cls, id: bytes, contents: bytes | None) -> Self:
        """`contents`: None for a removal."""
        return cls(id, contents or b"", contents is None)

    @property
    def contents(self) -> bytes | None:
        """None for a removal."""
        return None if self.removed else self.envelope


class MarkRow(NamedTuple):
    """A contact whose record was absent or unreadable; or else one to be committed again, its record being under a key
    of before the newest base."""

    id: bytes
    unread: bool


class PartRow(NamedTuple):
    """An entry of the list that is no contact, but a part of a large one; `of`: which speaks of it, empty: none yet."""

    id: bytes
    of: bytes


class BesideRow(NamedTuple):
    """A contact as a person has it, whole, of which the list can't take the largest values."""

    id: bytes
    envelope: bytes


class CarriedRow(NamedTuple):
    """A contact as another account's list had it when it was carried over from there last."""

    id: bytes
    envelope: bytes


class Pending(NamedTuple):
    """A commit on its way, which goes again byte for byte. `seed`: of the line that it begins, else empty."""

    n: int
    before: bytes
    chain: bytes
    """With it."""
    commit: bytes
    author: bytes
    write: bytes
    snapshot: bytes
    seed: bytes

    @property
    def signed(self) -> Signed:
        """As the store gets it."""
        return Signed(self.commit, self.author, self.write)


class Upkeep(NamedTuple):
    """What was last done for the line itself, and what is due."""

    rotate: bool = False
    """A device was removed, and can still read."""
    finish: int = 0
    """The vault is to let go of what is below this generation."""
    checkpoint_line: bytes = b""
    checkpoint_n: int = 0
    checkpoint_ms: int = 0
    mended_line: bytes = b""
    mended_base: int = 0
    mended_ms: int = 0
    gone: int = 0
    """Keys of generations up to this one are to be let go, or were: the line has to come under a later one."""


START = single(LineStart, "line")
LINKS = Table("link", LinkRow, "n")
COMMITS = Table("commits", CommitRow, "n")
SNAPSHOTS = Table("snapshot", SnapshotRow, "n")
KEYS = Table("line_key", KeyRow, "generation")
ATTEMPT = single(Attempt, "attempt")
CONTACTS = Table("contacts", ContactRow, "id")
EDITS = Table("edit", ChangeRow, "id")
MARKS = Table("mark", MarkRow, "id")
PENDING = Table("pending", Pending, "n")
SENT = Table("sent", ChangeRow, "id")
UPKEEP = single(Upkeep, "upkeep")
PARTS = Table("part", PartRow, "id")
BESIDE = Table("beside", BesideRow, "id")
CARRIED = Table("carried", CarriedRow, "id")
"""Not of an account: there is one change of number at a time."""
TABLES = (START, LINKS, COMMITS, SNAPSHOTS, KEYS, ATTEMPT, CONTACTS, EDITS, MARKS, PENDING, SENT, UPKEEP, PARTS, BESIDE)


class Present(NamedTuple):
    """What there is of the contacts: `entries`, id -> envelope, edits on top, in the list's order, without what can't
    be read; those that were changed here and whose change is not in the line yet; those of the list of which there is
    nothing here; names, of their own, for edits that are damaged."""

    entries: dict[bytes, bytes]
    unsent: set[bytes]
    missing: set[bytes]
    damaged: set[bytes]

    @property
    def unreadable(self) -> set[bytes]:
        """Names for contacts that are damaged on this device, or were never read."""
        return self.missing | self.damaged


class Kept:
    """The rows, and the state of the line that they come to. A row that can't be read is as one that is not there: what
    it said of a contact is fetched again."""

    def __init__(self, rows: Rows, label: str) -> None:
        """Raises ProfileError PROFILE_DAMAGED."""
        self.rows = rows
        self.label = label
        self.keys = {row.generation: ContactKey(row.secret, label, row.generation) for row in rows.all(KEYS)}
        self.state = self._load()
        self.marks = {row.id: row.unread for row in rows.readable(MARKS)}
        self.parts = {row.id: row.of for row in rows.readable(PARTS)}
        self.beside = {row.id: row.envelope for row in rows.readable(BESIDE)}
        self.pending = next(iter(rows.all(PENDING)), None)
        self.upkeep = rows.only(UPKEEP) or Upkeep()

    def _load(self) -> LineState | None:
        start = self.rows.only(START)
        if start is None:
            return None
        commits = {row.n: Signed(*row[1:]) for row in self.rows.all(COMMITS)}
        begun = LineState(start.line, start.seed, start.n, start.chain)
        return replay(begun, commits, self.snapshot, self.keys)

    def contact(self, id: bytes) -> ContactRow | None:
        """The contact as it was last read here."""
        return self.rows.find(CONTACTS, id)

    def contacts(self) -> dict[bytes, ContactRow]:
        """All of them."""
        return {row.id: row for row in self.rows.readable(CONTACTS)}

    def edit(self, id: bytes) -> ChangeRow | None:
        """The edit of a contact that is not in the line yet."""
        return self.rows.find(EDITS, id)

    def edits(self) -> Iterator[ChangeRow]:
        """All of them, in the order in which they were begun."""
        return self.rows.readable(EDITS)

    def look(self) -> Present:
        """All contacts as they are here."""
        read = {row.id: row.envelope for row in self.rows.readable(CONTACTS)}
        edits, damaged = dict[bytes, bytes | None](), set[bytes]()
        for row in self.rows.iterate(EDITS):
            if isinstance(row, Unreadable):
                damaged.add(row.key)
            else:
                edits[row.id] = row.contents
        listed = self.state.entries if self.state else {}
        entries = {id: read[id] for id in listed if id in read}
        for id, contents in edits.items():
            if contents is None:
                entries.pop(id, None)
            else:
                entries[id] = contents
        missing = listed.keys() - read.keys() - edits.keys() - self.parts.keys()
        entries |= {id: self.shown(id, entries[id]) for id in self.beside if id in entries}
        return Present(entries, set(edits), missing, damaged)

    def entries(self) -> dict[bytes, bytes]:
        """See `Present`."""
        return self.look().entries

    def unsent(self) -> set[bytes]:
        """See `Present`."""
        return {row.id for row in self.edits()}

    def unreadable(self) -> set[bytes]:
        """See `Present`."""
        return self.look().unreadable

    def entry(self, id: bytes) -> bytes | None:
        """One of them; None: it is not there, or can't be read."""
        listed = self.listed(id)
        return None if listed is None else self.shown(id, listed)

    def listed(self, id: bytes) -> bytes | None:
        """What of it the list has, or is to have."""
        edit = self.edit(id)
        contact = self.contact(id) if edit is None and self._lists(id) else None
        return edit.contents if edit else contact.envelope if contact else None

    def shown(self, id: bytes, envelope: bytes) -> bytes:
        """The contact with what of it the list can't take."""
        beside = self.beside.get(id)
        if beside is None:
            return envelope
        base = None
        with suppress(CardError):  # so broken that nothing could be taken out: what either has is shown
            base = Envelope.decode(fitting(beside))
        sides = map(Envelope.decode, (beside, envelope))
        shown = merge(base, *sides, device=b"", ms=0, country=country_of(self.label))
        assert shown is not None
        return shown.encode()

    def contents(self) -> dict[bytes, bytes]:
        """What each record holds that this device can make, by id: the contacts' own and their parts."""
        wholes = ((row.id, row.envelope) for row in self.contacts().values())
        return {each: data for id, whole in wholes for each, data in split(id, whole).items()}

    def unread(self) -> set[bytes]:
        """The contacts whose records were absent or unreadable: shown as they were last read."""
        return {id for id, unread in self.marks.items() if unread}

    def is_damaged(self, id: bytes) -> bool:
        """Whether what is here of a contact can't be read, or what was done to it."""
        edit = self.rows.get(EDITS, id)
        return isinstance(edit, Unreadable) or (edit is None and self._lists(id) and self.contact(id) is None)

    def _lists(self, id: bytes) -> bool:
        return self.state is not None and id in self.state.entries

    def remove_unreadable(self, name: bytes) -> None:
        """Let go of a contact that can't be read here, one of `unreadable`."""
        if self._lists(name):
            self.put({name: None})
        else:
            self.rows.drop(EDITS, Unreadable(name))

    @property
    def unfinished(self) -> bool:
        """Something was cut off, or is due, besides changes that were not sent."""
        return self.pending is not None or self.rotation_due or self.rows.only(ATTEMPT) is not None

    @property
    def rotation_due(self) -> bool:
        """By what was done on this device."""
        return self.upkeep.rotate or (self.state is not None and self.state.generation <= self.upkeep.gone)

    def forget_unused_keys(self) -> None:
        """Have the next key be one that is not in the vault yet, and be made at the next sync. What is on its way goes
        on under its own: it may stand already."""
        generation = self.state.generation if self.state else 0
        if self.pending:
            generation = max(generation, Commit.decode(self.pending.commit).generation)
        unused = [g for g in self.keys if g > generation]
        with self.rows.transaction():
            self.rows.delete(KEYS, unused)
            self.rows.remove(ATTEMPT)
            self.note(gone=max(self.keys, default=0))
        self.keys = {g: key for g, key in self.keys.items() if g <= generation}

    def put(self, contents: Mapping[bytes, bytes | None]) -> None:
        """What these contacts are from now on, None: removed. All of it is durable here, and sent later, but for the
        largest values of one that is too large for the list. Raises CardError CARD_EDIT_REFUSED, see `fitting`."""
        draft = Draft(self)
        for id, now in contents.items():
            draft.beside.pop(id, None)
            draft.put_edit(id, now)
            if draft.edits_nothing(id):
                draft.drop_edit(id)
        draft.commit()

    def carried(self) -> dict[bytes, bytes]:
        """id -> envelope as another account's list had it when it was carried over last, as far as that can be read."""
        return {row.id: row.envelope for row in self.rows.readable(CARRIED)}

    def note_carried(self, changed: Mapping[bytes, bytes | None]) -> None:
        """These are otherwise there now, None: gone."""
        _write(self.rows, CARRIED, {id: None if now is None else CarriedRow(id, now) for id, now in changed.items()})

    def add_key(self, key: ContactKey) -> None:
        """One that another device gave this one."""
        draft = Draft(self)
        draft.keys[key.generation] = key
        draft.commit()

    def note(self, **changes: Any) -> None:
        """Change these fields of `upkeep`."""
        draft = Draft(self)
        draft.upkeep = draft.upkeep._replace(**changes)
        draft.commit()

    def ask_again(self) -> None:
        """Have the next pull fetch what can't be read here."""
        draft = Draft(self)
        draft.marks.update(dict.fromkeys(self.look().missing, True))
        draft.commit()

    def send_again(self, ids: Iterable[bytes]) -> None:
        """Have these contacts committed anew, as they were last read."""
        draft = Draft(self)
        draft.marks.update(dict.fromkeys(ids, False))
        draft.commit()

    def sent(self) -> dict[bytes, bytes | None]:
        """What the commit on its way says of each contact."""
        return {row.id: row.contents for row in self.rows.all(SENT)}

    def links(self) -> list[LinkRow]:
        """All links that were walked, in order."""
        return sorted(self.rows.all(LINKS))

    def commits(self) -> dict[int, Signed]:
        """The commits from the newest base on."""
        return {row.n: Signed(*row[1:]) for row in sorted(self.rows.all(COMMITS))}

    @property
    def snapshot(self) -> bytes:
        """The newest base's."""
        return next((row.sealed for row in self.rows.all(SNAPSHOTS)), b"")


class Draft:
    """A step's changes to what is kept: read through, written by `commit` in one transaction, or dropped."""

    def __init__(self, kept: Kept) -> None:
        self._kept = kept
        self.state = kept.state
        self.keys = dict(kept.keys)
        self.marks = dict(kept.marks)
        self.parts = dict(kept.parts)
        self.beside = dict(kept.beside)
        self.pending = kept.pending
        self.upkeep = kept.upkeep
        self._contacts: dict[bytes, ContactRow | None] = {}
        self._edits: dict[bytes, ChangeRow | None] = {}
        self._new_line = False
        self._base: KeptBase | None = None
        self._commits: dict[int, Signed] = {}
        self._links: list[LinkRow] = []
        self.read = 0
        """Contacts that the line changed or took out."""
        self._stood: Mapping[bytes, bytes | None] = {}
        self._sent: Mapping[bytes, bytes | None] | None = None

    def contact(self, id: bytes) -> ContactRow | None:
        """As `Kept.contact`, with the changes."""
        return self._contacts[id] if id in self._contacts else self._kept.contact(id)

    def contacts(self, kept: Mapping[bytes, ContactRow]) -> dict[bytes, ContactRow]:
        """All of them: what `Kept.contacts` has, with the changes."""
        return {id: row for id, row in {**kept, **self._contacts}.items() if row is not None}

    def envelope(self, id: bytes) -> bytes | None:
        """What the contact said when it was last read."""
        row = self.contact(id)
        return None if row is None else row.envelope

    def held(self, id: bytes) -> Held | None:
        """Likewise, as the fold asks for it."""
        row = self.contact(id)
        return None if row is None else Held(row.name, row.envelope)

    def put_contact(self, row: ContactRow) -> None:
        """A contact was read, or its record has another name."""
        self._contacts[row.id] = row
        self.parts.pop(row.id, None)

    def put_part(self, id: bytes, of: bytes = b"") -> None:
        """It is no contact, but a part of `of`, or of one that is not known yet."""
        if id not in self.parts and self.contact(id):
            self.drop_contacts([id])
        self.marks.pop(id, None)
        self.parts[id] = of or self.parts.get(id, b"")

    def drop_contacts(self, ids: Iterable[bytes]) -> None:
        """They are not in the list any more."""
        for id in ids:
            if self.parts.pop(id, None) is None:
                self._contacts[id] = None
                self.marks.pop(id, None)
                self.read += 1

    def edit(self, id: bytes) -> ChangeRow | None:
        """As `Kept.edit`, with the changes."""
        return self._edits[id] if id in self._edits else self._kept.edit(id)

    def edits(self) -> Iterator[ChangeRow]:
        """As `Kept.edits`, with the changes."""
        there = set()
        for row in self._kept.edits():
            there.add(row.id)
            now = self._edits.get(row.id, row)
            if now is not None:
                yield now
        yield from (row for id, row in self._edits.items() if row is not None and id not in there)

    def put_edit(self, id: bytes, contents: bytes | None) -> None:
        """The contact is to be this, or, None, to be removed. What the list can't take of it is kept beside."""
        fits = None if contents is None else fitting(contents)
        if contents is not None and fits != contents:
            self.beside[id] = self._kept.shown(id, contents) if id in self.beside else contents
        self._edits[id] = ChangeRow.of(id, fits)

    def put_merged(self, id: bytes, merged: bytes | None, listed: bytes | None) -> None:
        """The contact is to be what a merge came to. Of so broken a card nothing can be taken out: then the list has
        `listed`, which fits, and all of what was merged is beside that."""
        try:
            self.put_edit(id, merged)
        except CardError:
            self.put_edit(id, listed)
            self.beside[id] = merged or b""
        if self.edits_nothing(id):
            self.drop_edit(id)

    def edits_nothing(self, id: bytes) -> bool:
        """Whether the edit is to what was last read. To remove what was not read is something."""
        edit, read = self.edit(id), self.envelope(id)
        listed = self.state is not None and id in self.state.entries
        return (
            edit is not None and edit.contents == read and not self.marks.get(id) and (read is not None or not listed)
        )

    def drop_edit(self, id: bytes) -> None:
        """There is nothing to be done to the contact any more."""
        self._edits[id] = None

    def begin(self, state: LineState) -> None:
        """Another line from here on: nothing of the one before is its past."""
        self.state, self._new_line = state, True
        self._base, self._commits, self._links = None, {}, []

    def follow(self, folded: Folded) -> None:
        """The line went on."""
        if self._kept.state is not None and folded.state.generation != self._kept.state.generation:
            self.upkeep = self.upkeep._replace(rotate=False)
            if folded.state.generation > self.upkeep.gone:
                self.upkeep = self.upkeep._replace(finish=folded.state.generation)
        self.state = folded.state
        self.keys.update(folded.keys)
        first = folded.state.n - len(folded.links) + 1
        self._links += [LinkRow(n, *link) for n, link in enumerate(folded.links, first)]
        if folded.base is not None:
            self._base, self._commits = folded.base, {}
        self._commits.update(folded.commits)

    def stands(self) -> int:
        """What was sent is in the line, of so many contacts; `drop_sent_edits` comes when nothing is waited for any
        more."""
        assert self.pending is not None
        key = self.keys[Commit.decode(self.pending.commit).generation]
        self._stood = self._kept.sent()
        contacts = 0
        for id, contents in self._stood.items():
            if contents is not None and Envelope.decode(contents).kind == Kind.PART:
                self.put_part(id)
                continue
            contacts += id not in self.parts
            self.marks.pop(id, None)
            if contents is None:
                self.drop_contacts([id])
            else:
                own = own_record(contents)
                self.put_contact(ContactRow(id, name_of(key.seal_record(id, own)), key.generation, contents))
                for part in part_ids(id, Envelope.decode(own)):
                    self.put_part(part, id)
        return contacts

    def drop_sent_edits(self) -> None:
        """Of what stands; what was done since is still to be sent."""
        for id, contents in self._stood.items():
            edit = self.edit(id)
            if edit is not None and edit.contents == contents:
                self.drop_edit(id)

    def base(self, id: bytes) -> bytes | None:
        """What an edit of the contact was made on."""
        if id in self._stood:
            return self._stood[id]
        row = self._kept.contact(id)
        return None if row is None else row.envelope

    def send(self, pending: Pending, sent: Mapping[bytes, bytes | None]) -> None:
        """A commit is on its way, which says this of these contacts."""
        self.pending, self._sent = pending, sent

    def end_sending(self) -> None:
        """It arrived, or its place was taken by another."""
        self.pending, self._sent = None, {}

    def commit(self) -> None:
        """Write all of it, in one transaction."""
        kept, rows = self._kept, self._kept.rows
        entries = self.state.entries if self.state else {}
        self.parts = {id: of for id, of in self.parts.items() if id in entries}
        self.beside = {id: whole for id, whole in self.beside.items() if id in entries or self.edit(id)}
        with rows.transaction():
            if self._new_line:
                rows.clear(LINKS)
            if self._new_line or self._base is not None:
                rows.clear(COMMITS)
            if self._base is not None and self.state is not None:
                place = self._base
                rows.put(START, LineStart(self.state.line, self.state.seed, place.n, place.chain))
                rows.clear(SNAPSHOTS)
                rows.put(SNAPSHOTS, SnapshotRow(place.n + 1, place.snapshot))
            rows.put_many(LINKS, self._links)
            rows.put_many(COMMITS, (CommitRow(n, *signed) for n, signed in self._commits.items()))
            rows.put_many(KEYS, (KeyRow(g, self.keys[g].secret) for g in self.keys.keys() - kept.keys.keys()))
            _write(rows, CONTACTS, self._contacts)
            _write(rows, EDITS, self._edits)
            _write(rows, MARKS, _changes(MarkRow, kept.marks, self.marks))
            _write(rows, PARTS, _changes(PartRow, kept.parts, self.parts))
            _write(rows, BESIDE, _changes(BesideRow, kept.beside, self.beside))
            if self._sent is not None:
                rows.clear(SENT)
                rows.put_many(SENT, (ChangeRow.of(id, now) for id, now in self._sent.items()))
                rows.clear(PENDING)
                rows.put_many(PENDING, [self.pending] if self.pending else [])
            rows.put(UPKEEP, self.upkeep)
        kept.state, kept.keys = self.state, self.keys
        kept.marks, kept.parts, kept.beside = self.marks, self.parts, self.beside
        kept.pending, kept.upkeep = self.pending, self.upkeep


def _changes(
    kind: Callable[[bytes, Value], Row], old: Mapping[bytes, Value], new: Mapping[bytes, Value]
) -> dict[bytes, Row | None]:
    """The rows that are others now, None: gone."""
    return {id: kind(id, new[id]) if id in new else None for id, _ in old.items() ^ new.items()}


def _write(rows: Rows, table: Table[Row], changed: Mapping[bytes, Row | None]) -> None:
    rows.delete(table, (id for id, row in changed.items() if row is None))
    rows.put_many(table, (row for row in changed.values() if row is not None))
