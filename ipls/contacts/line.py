"""The line of commits as a device reads it: what each commit may do, and the list that comes of them all
(contacts.md, The line and Reading). Pure; what has to be fetched meanwhile, `fold` asks its caller for.

Tested by tests/client/line/test_line.py and tests/client/line/test_hostile.py.
"""

import hashlib
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from ipls.contacts import commits
from ipls.contacts.commits import Base, Body, Commit, Edit, Left, Link, ListedDevice, Moved, Signed
from ipls.contacts.errors import LineError
from ipls.contacts.sealing import MAX_SNAPSHOT, ContactKey, name_of
from ipls.contacts.whole import own_record
from ipls.crypto.errors import SignatureRefused
from ipls.crypto.keys import verify


class LineRead(NamedTuple):
    """What a store shows of an account's line to who stands at n: its id and the bytes that it was made of, its head,
    its newest base, the links behind n, and the commits from n on, or from that base on if it is later."""

    line: bytes
    seed: bytes
    head_n: int
    head: bytes
    base_n: int
    links: Sequence[Link]
    commits: Mapping[int, Signed]


@dataclass(frozen=True, slots=True)
class LineState:
    """Where a line stands at commit n: chain_n, in whose hands it is, and the list, id -> record's name, in its order.

    Before its first commit n is 0; behind links whose commits nobody showed `generation` is 0: a base has to come.
    """

    line: bytes
    seed: bytes
    n: int
    chain: bytes
    identity_version: int = 0
    generation: int = 0
    write_key: bytes = b""
    devices: tuple[ListedDevice, ...] = ()
    base_n: int = 0
    edited: int = 0
    """Entries of the edits behind the newest base."""
    left: Left | None = None
    """The newest base's body: the lines before this one."""
    entries: Mapping[bytes, bytes] = field(default_factory=dict, repr=False)
    moved: Moved | None = None
    wrote: Mapping[bytes, int] = field(default_factory=dict)
    """When each author wrote last from the newest base on, ms by their own clocks."""

    @classmethod
    def start(cls, line: bytes, seed: bytes) -> "LineState":
        """Before the first commit."""
        return cls(line, seed, 0, line)


class Held(NamedTuple):
    """A contact as it was last read: its record's name, and what it says."""

    name: bytes
    envelope: bytes


class NeedSnapshot(NamedTuple):
    """To be answered with the snapshot of this name, or None where the store does not give it."""

    name: bytes
    size: int


class NeedKey(NamedTuple):
    """To be answered with the contact key of a base that this device has not: from what is sealed to it, or else from
    the vault. None: it has no way to it."""

    generation: int
    before: bytes
    keys: tuple[tuple[bytes, bytes], ...]


Folding = Generator[NeedSnapshot | NeedKey, bytes | None, "Folded"]


class Writer(NamedTuple):
    """Whose commit it was, and its time (ms), by that device's clock."""

    key: bytes
    ms: int


class Folded(NamedTuple):
    """What came of following a line."""

    state: LineState
    links: tuple[Link, ...]
    """All that were walked."""
    commits: Mapping[int, Signed]
    """As they came: from the newest base on, if there was one."""
    base: "KeptBase | None"
    """The newest base that was met."""
    keys: Mapping[int, ContactKey]
    touched: Mapping[bytes, Writer]
    """Whose contents changed, and who wrote them last."""
    all_touched: Writer | None
    """Anybody's may have, behind a base: this one made it."""
    names: Mapping[bytes, bytes]
    """The names that contents held here have under the newest key, as far as a base said them."""


class KeptBase(NamedTuple):
    """What has to be kept to begin at a base again: the place before it (n and chain_n), and its snapshot."""

    n: int
    chain: bytes
    snapshot: bytes


class Judge(NamedTuple):
    """By what a device judges commits: its account's identity keys by version, from the label's own complete history,
    and the versions that its owner knows for hers."""

    namespace: str
    label: str
    identities: Mapping[int, bytes]
    accepted: Collection[int]

    def check(self, state: LineState, signed: Signed) -> Commit:
        """The commit, if it may follow. What it says is not looked at.

        Raises LineError: STORE_FORKED (signed for another place, or by another), COMMIT_REFUSED, LINE_FOREIGN.
        """
        n, commit = state.n + 1, Commit.decode(signed.commit)
        chain = commits.chain_link(n, state.chain, link_of(commit.generation, signed.commit))
        if not _holds(commit.author, commits.author_digest(chain), signed.author):
            raise LineError("STORE_FORKED", f"commit {n} was not signed for its place in the line")
        identity = self.identities.get(commit.identity_version)
        if identity is None or commit.identity_version < state.identity_version:
            raise _refused(n, "its identity version is not the account's, or has fallen")
        listed = state.devices if commit.identity_version == state.identity_version else ()
        if commit.author != identity:
            if commit.devices or commit.base:
                raise _refused(n, "only the identity lists devices and makes bases")
            if commit.author not in {device.key for device in listed}:
                raise _refused(n, "its author is neither the identity nor a listed device")
        if commit.devices is not None:
            digest = commits.devices_digest(self.namespace, self.label, n, identity, commit.devices.devices)
            if not _holds(identity, digest, commit.devices.signature):
                raise _refused(n, "its list of devices is not signed by the identity")
        if commit.base is None:
            if commit.generation != state.generation:
                raise _refused(n, "only a base changes the key, or follows what nobody showed")
        elif commit.devices is None or [key for key, _ in commit.base.keys] != [d.key for d in commit.devices.devices]:
            raise _refused(n, "a base lists the devices, and has the key for each of them")
        if state.moved is not None:
            raise _refused(n, "the line has ended")
        if commit.identity_version not in self.accepted:
            raise LineError(
                "LINE_FOREIGN", f"identity version {commit.identity_version}, which is not known as yours, wrote here"
            )
        return commit


def fold(
    state: LineState,
    read: LineRead,
    judge: Judge,
    keys: Mapping[int, ContactKey],
    held: Callable[[bytes], Held | None],
) -> Folding:
    """Follow the line from `state` to its head. `held`: a contact as this device last read it.

    Raises LineError: STORE_ROLLED_BACK, STORE_FORKED, KEY_ABSENT, KEY_CHECK_FAILED, SEAL_BROKEN, BASE_FALSE, and what
    `Judge.check` raises; then nothing of what was read counts.
    """
    if read.head_n < state.n:
        message = f"the contact store shows commit {read.head_n} as the newest; this device has seen {state.n}"
        raise LineError("STORE_ROLLED_BACK", message)
    start, chains = state.n, [state.chain, *walk(state.n, state.chain, read.links)]
    if len(read.links) != read.head_n - start or chains[-1] != read.head:
        raise _forked("what it shows does not lead from where this device was to its head")
    gap = start < read.base_n - 1
    if gap:  # compacted while this device was away: links alone lead to the base
        if read.base_n > read.head_n:
            raise _forked("it says that its newest base comes after its head")
        at = read.base_n - 1
        state = replace(state, n=at, chain=chains[at - start], generation=0, devices=())
    keys, entries = dict(keys), dict(state.entries)
    kept, base = dict[int, Signed](), None
    touched, all_touched, names = dict[bytes, Writer](), None, dict[bytes, bytes]()
    while state.n < read.head_n:
        n, before, generation = state.n + 1, state.chain, state.generation
        signed, link = read.commits.get(n), read.links[state.n - start]
        if signed is None or link_of(link.generation, signed.commit) != link:
            raise _forked(f"it does not show commit {n}")
        commit = judge.check(state, signed)
        if commit.generation not in keys:
            keys[commit.generation] = yield from _ask_key(judge.label, commit, before)
        key = keys[commit.generation]
        state, body = _advance(state, commit, key)
        writer = Writer(commit.author, body.time_ms)
        if isinstance(body, Moved) and commit.author != judge.identities[commit.identity_version]:
            raise _refused(n, "only the identity says that the account has moved")
        if isinstance(body, Edit):
            commits.fold(entries, body.entries)
            touched.update((id, writer) for id, _ in body.entries)
        elif commit.base is not None:
            snapshot = yield NeedSnapshot(commit.base.snapshot, commit.base.size)
            listed = open_snapshot(key, n, before, commit.base, snapshot)
            base = KeptBase(n - 1, before, snapshot or b"")
            if n > 1 and not gap:
                names |= _check_base(entries, listed, keys[generation], key, held, names)
            entries, kept, all_touched, gap = listed, {}, writer, False
        kept[n] = signed
    state = replace(state, entries=entries)
    return Folded(state, tuple(read.links), kept, base, keys, touched, all_touched, names)


def append(state: LineState, signed: Signed, snapshot: bytes, keys: Mapping[int, ContactKey]) -> Folded:
    """This device's own commit, which the store took: `snapshot` is a base's, else empty."""
    commit = Commit.decode(signed.commit)
    base = KeptBase(state.n, state.chain, snapshot) if commit.base is not None else None
    link, stands = link_of(commit.generation, signed.commit), {state.n + 1: signed}
    return Folded(replay(state, stands, snapshot, keys), (link,), stands, base, keys, {}, None, {})


def replay(state: LineState, kept: Mapping[int, Signed], snapshot: bytes, keys: Mapping[int, ContactKey]) -> LineState:
    """The state after commits that this device made or has judged before: signatures are not looked at again.

    Raises LineError, where what was kept is damaged.
    """
    entries = dict(state.entries)
    for n in sorted(kept):
        commit, before = Commit.decode(kept[n].commit), state.chain
        if n != state.n + 1 or commit.generation not in keys:
            raise LineError("KEY_ABSENT", "the profile's own copy of the line, or a key of it, is not whole")
        state, body = _advance(state, commit, keys[commit.generation])
        if commit.base is not None:
            entries = open_snapshot(keys[commit.generation], n, before, commit.base, snapshot)
        elif isinstance(body, Edit):
            commits.fold(entries, body.entries)
    return replace(state, entries=entries)


def walk(n: int, chain: bytes, links: Sequence[Link]) -> list[bytes]:
    """chain_{n+1}, ... over the links behind chain_n."""
    chains = []
    for at, link in enumerate(links, n + 1):
        chain = commits.chain_link(at, chain, link)
        chains.append(chain)
    return chains


def link_of(generation: int, commit: bytes) -> Link:
    """The link of a commit's bytes."""
    return Link(generation, hashlib.sha256(commit).digest())


def open_snapshot(key: ContactKey, n: int, before: bytes, base: Base, snapshot: bytes | None) -> dict[bytes, bytes]:
    """The list that base n, behind chain `before`, begins with.

    Raises LineError: STORE_ROLLED_BACK where the store doesn't give its snapshot, COMMIT_REFUSED, SEAL_BROKEN.
    """
    if snapshot is None or name_of(snapshot) != base.snapshot:
        raise LineError("STORE_ROLLED_BACK", f"the contact store does not give the list that commit {n} begins with")
    if len(snapshot) != base.size:
        raise _refused(n, "its snapshot has another size")
    return commits.decode_snapshot(key.open(commits.snapshot_aad(n, before), snapshot, MAX_SNAPSHOT))


def _advance(state: LineState, commit: Commit, key: ContactKey) -> tuple[LineState, Body]:
    """The state with a commit that may follow, but for its list, and the commit's body."""
    n = state.n + 1
    if commit.base is not None and key.writer.public_key != commit.base.write_key:
        raise LineError("KEY_CHECK_FAILED", "the contact key is not the one that the line is written under")
    body = commits.decode_body(key.open(commits.commit_aad(n, state.chain), commit.sealed, commits.MAX_BODY))
    if isinstance(body, Left) != (commit.base is not None):
        raise _refused(n, "it is a base in one part only")
    devices = commit.devices.devices if commit.devices is not None else state.devices
    if commit.devices is None and commit.identity_version > state.identity_version:
        devices = ()
    state = replace(
        state,
        n=n,
        chain=commits.chain_link(n, state.chain, link_of(commit.generation, commit.encode())),
        identity_version=commit.identity_version,
        generation=commit.generation,
        devices=devices,
        wrote={**({} if commit.base else state.wrote), commit.author: body.time_ms},
    )
    match body:
        case Edit(_, entries):
            state = replace(state, edited=state.edited + len(entries))
        case Left():
            assert commit.base is not None
            state = replace(state, left=body, write_key=commit.base.write_key, base_n=n, edited=0)
        case Moved():
            state = replace(state, moved=body)
    return state, body


def _ask_key(label: str, commit: Commit, before: bytes) -> Generator[NeedKey, bytes | None, ContactKey]:
    secret = None
    if commit.base is not None:
        secret = yield NeedKey(commit.generation, before, commit.base.keys)
    if secret is None:
        raise LineError("KEY_ABSENT", f"this device has no way to the contact key of generation {commit.generation}")
    return ContactKey(secret, label, commit.generation)


def _check_base(
    entries: Mapping[bytes, bytes],
    listed: Mapping[bytes, bytes],
    old: ContactKey,
    new: ContactKey,
    held: Callable[[bytes], Held | None],
    names: Mapping[bytes, bytes],
) -> dict[bytes, bytes]:
    """The new names of the contents that are held here, where a base changes no contact: it has the same ids in the
    same order, and what it names anew is what was there. Raises LineError BASE_FALSE."""
    false = LineError("BASE_FALSE", "a base says something else than the list that it was made of")
    if list(entries) != list(listed):
        raise false
    renamed = {}
    for id, name in listed.items():
        if name == entries[id]:
            continue
        if old.generation == new.generation:
            raise false
        contact = held(id)
        if contact is not None and names.get(id, contact.name) == entries[id]:
            if name_of(new.seal_record(id, own_record(contact.envelope))) != name:
                raise false
            renamed[id] = name
    return renamed


def _holds(key: bytes, digest: bytes, signature: bytes) -> bool:
    try:
        verify(key, digest, signature)
    except SignatureRefused:
        return False
    return True


def _refused(n: int, why: str) -> LineError:
    return LineError("COMMIT_REFUSED", f"commit {n} may not stand there: {why}")


def _forked(what: str) -> LineError:
    return LineError("STORE_FORKED", f"the contact store shows another line than before: {what}")
