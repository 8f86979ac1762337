"""Writing into the line: a commit is made and kept first, then sent, byte for byte, until it stands or another stands
in its place (contacts.md, Sending).

Tested by tests/client/line/test_line.py.
"""

from collections.abc import Iterable, Iterator, Mapping

from ipls.client.errors import RefusedError
from ipls.client.events import JourneyStep
from ipls.client.line.kept import Draft, Pending
from ipls.client.line.parts import Parts
from ipls.contacts import commits
from ipls.contacts.commits import Base, Body, Commit, DeviceList, Edit
from ipls.contacts.line import LineState, append, link_of
from ipls.contacts.sealing import ContactKey, id_of_part, name_of
from ipls.contacts.whole import MAX_PARTS, own_record, split

MAX_COMMIT_RECORDS = 8 << 20
"""Bytes of records that one commit brings."""


class Writer:
    """Raises ClientError's kinds; what was cut off goes on with the next `finish`."""

    def __init__(self, parts: Parts) -> None:
        self._kept = parts.kept
        self._store = parts.store
        self._author = parts.author
        self._judge = parts.judge
        self._now_ms = parts.now_ms
        self._report = parts.report
        self.sent = 0
        """Contacts whose changes were sent."""

    async def finish(self) -> bool:
        """Send what is pending, byte for byte. False: it can't go any more; if its place is taken, it is kept until a
        pull has passed that."""
        pending, state = self._kept.pending, self._kept.state
        if pending is None:
            return True
        commit = Commit.decode(pending.commit)
        try:
            if pending.seed:
                await self._store.begin(pending.seed, pending.signed, pending.snapshot)
            else:
                assert state is not None
                records, snapshot = self._sealed(self._kept.keys[commit.generation]), pending.snapshot or None
                await self._store.commit(state.line, pending.n, pending.before, pending.signed, records, snapshot)
        except RefusedError as error:
            if error.reason == "BODY_INVALID":  # it is never taken; what it was to say is still to be sent
                draft = Draft(self._kept)
                draft.end_sending()
                draft.commit()
                if (commit.author, commit.identity_version) == (self._author.signer.public_key, self.version()):
                    raise
            elif error.reason not in {"LINE_CONFLICT", "LINE_REPLACED"}:
                raise
            return False
        self._sent(pending)
        return True

    def _sealed(self, key: ContactKey) -> list[bytes]:
        """The records that an edit brings: made again, they are the same bytes."""
        return [key.seal_record(id, own_record(now)) for id, now in self._kept.sent().items() if now is not None]

    def _sent(self, pending: Pending) -> None:
        draft = Draft(self._kept)
        if pending.seed:
            draft.begin(LineState.start(pending.before, pending.seed))
        assert draft.state is not None
        folded = append(draft.state, pending.signed, pending.snapshot, draft.keys)
        draft.follow(folded)
        sent = draft.stands()
        draft.drop_sent_edits()
        if folded.base is not None:
            self._rename(draft, folded.state)
        draft.end_sending()
        draft.commit()
        self.sent += sent
        self._report(JourneyStep("base stands" if folded.base else "commit stands", folded.state.generation, sent))

    def _rename(self, draft: Draft, state: LineState) -> None:
        """A base of this device's has what it had read under the newest key."""
        for id, row in self._kept.contacts().items():
            if id not in state.entries:
                draft.drop_contacts([id])
            elif row.name != state.entries[id] and draft.marks.get(id) is not True:
                draft.put_contact(row._replace(name=state.entries[id], generation=state.generation))
        draft.marks = {id: unread for id, unread in draft.marks.items() if unread and id in state.entries}

    def make_edit(self) -> bool:
        """Put what is to be sent on its way. False: there is nothing."""
        kept, state = self._kept, self._kept.state
        if kept.pending is not None:
            return True
        if state is None:
            return False
        key, size = kept.keys[state.generation], 0
        sent, drops, entries = dict[bytes, bytes | None](), set[bytes](), list[tuple[bytes, bytes]]()
        for id, contents, record in self._changes(state, key):
            name = commits.REMOVED if record is None else name_of(record)
            size += len(record or b"")
            if entries and (size > MAX_COMMIT_RECORDS or len(entries) == commits.MAX_ENTRIES):
                break
            if id in state.entries and state.entries[id] != name:
                drops.add(state.entries[id])
            sent[id] = contents
            entries.append((id, name))
        if not entries:
            return False
        self.pend(Edit(self._now_ms(), tuple(entries)), key, drops=drops, sent=sent)
        return True

    def _changes(self, state: LineState, key: ContactKey) -> Iterator[tuple[bytes, bytes | None, bytes | None]]:
        """Entry by entry what is to be sent, its contents and its record. Of a large contact what parts are others now
        comes before its own, which is sent when the last of them is."""
        for id, contents in self._todo():
            records = {} if contents is None else split(id, contents)
            if self._kept.parts:
                for part in (id_of_part(id, i) for i in range(MAX_PARTS)):
                    if part in state.entries and part not in records:
                        yield part, None, None
            for each, data in records.items():
                record = key.seal_record(each, data)
                if each == id:
                    yield id, contents, record
                elif state.entries.get(each) != name_of(record):
                    yield each, data, record
            if contents is None:
                yield id, None, None

    def _todo(self) -> Iterator[tuple[bytes, bytes | None]]:
        """What is to be sent, edits first; what waits for the list's own record to be read is left out."""
        kept, edited = self._kept, set[bytes]()
        for row in kept.edits():
            edited.add(row.id)
            if not kept.marks.get(row.id):
                yield row.id, row.contents
        for id, unread in kept.marks.items():
            contact = None if unread or id in edited else kept.contact(id)
            if contact is not None:
                yield id, contact.envelope

    def pend(
        self,
        body: Body,
        key: ContactKey,
        *,
        drops: Iterable[bytes] = (),
        sent: Mapping[bytes, bytes | None] = {},
        devices: DeviceList | None = None,
        base: Base | None = None,
        snapshot: bytes = b"",
        seed: bytes = b"",
        rotate: bool = False,
    ) -> None:
        """Make a commit that comes next, or begins a line, and keep it as it will be sent. `rotate`: a new key is due
        behind it."""
        author, kept = self._author, self._kept
        n, before = 1, commits.line_id(author.namespace, author.label, seed)
        if not seed:
            assert kept.state is not None
            n, before = kept.state.n + 1, kept.state.chain
        sealed = key.seal(commits.commit_aad(n, before), commits.encode_body(body))
        version = self.version()
        commit = Commit(
            version, key.generation, author.signer.public_key, devices, base, tuple(sorted(drops)), sealed
        ).encode()
        chain = commits.chain_link(n, before, link_of(key.generation, commit))
        writer = key.writer if seed or kept.state is None else kept.keys[kept.state.generation].writer
        draft = Draft(kept)
        draft.keys[key.generation] = key
        draft.upkeep = draft.upkeep._replace(rotate=draft.upkeep.rotate or rotate)
        signatures = author.signer.sign(commits.author_digest(chain)), writer.sign(commits.write_digest(chain))
        draft.send(Pending(n, before, chain, commit, *signatures, snapshot, seed), sent)
        draft.commit()
        self._report(JourneyStep("base made" if base else "commit made", key.generation, len(sent)))

    def version(self) -> int:
        """Of the identity that this device writes as, or is listed by."""
        judge, state = self._judge(), self._kept.state
        own = [v for v, key in judge.identities.items() if key == self._author.signer.public_key]
        return max(own) if own else state.identity_version if state else 0
