"""One account's devices, with real rows, and a store that may lie, lose and be lost; nothing in it waits."""

import itertools
import random
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple
from unittest import mock

from hypothesis import HealthCheck

from ipls import contacts
from ipls.client.errors import ClientError, RefusedError
from ipls.client.events import silent
from ipls.client.line.kept import TABLES, Kept
from ipls.client.line.line import Line
from ipls.client.line.parts import Author, Checkpoint, Linked, Parts
from ipls.client.line_store import Kept as KeptOnes
from ipls.client.line_store import KeptLine
from ipls.client.rows import Rows, schema
from ipls.contacts import Conflict, Placement, commits, envelope
from ipls.contacts.admission import Caller, admit, admit_first, check_snapshot, heal
from ipls.contacts.commits import Link, ListedDevice, Signed
from ipls.contacts.errors import LineError
from ipls.contacts.line import Judge, LineRead, Writer
from ipls.contacts.sealing import ContactKey, id_of_uid, name_of
from ipls.crypto.keys import SeedSigner
from ipls.store.contacts.sqlite import SCHEMA
from ipls.store.engine.sqlite import Database, temporary
from ipls.store.errors import StoreRefused
from ipls.store.line import Place, Quota
from ipls.store.line.sqlite import SqliteLines

QUOTA = Quota(1 << 40, 1 << 50)
NS, LABEL = "example.org", "+15550100"
SLOW: dict[str, Any] = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}


class Crash(Exception):
    """The process ended here."""


class Lost(Exception):
    """The network ended here: the call may have been done or not."""


def run(coroutine: Any) -> Any:
    """Nothing here waits."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("it waits")


ALSO = Placement.ADDRESS_BOOK
SINGLE = ("FN", "N", "BDAY", "NOTE", "TITLE")


class Ghost(NamedTuple):
    """A card whose lines are unique, so that what became of each can be asked."""

    units: tuple[tuple[str, int], ...] = ()
    placement: int = ALSO
    kept: tuple[Conflict, ...] = ()

    @property
    def conflicts(self) -> tuple[tuple[str, int], ...]:
        return tuple(self._unit(conflict.unit) for conflict in self.kept)

    def encode(self) -> bytes:
        lines = ["BEGIN:VCARD", "VERSION:4.0", *(f"{name}:{n}" for name, n in self.units), "END:VCARD"]
        card = "\r\n".join(lines).encode()
        return envelope.Envelope(card, placement=self.placement, conflicts=self.kept).encode()

    @classmethod
    def decode(cls, data: bytes) -> "Ghost":
        decoded = envelope.Envelope.decode(data)
        units = tuple(cls._unit(line) for line in decoded.card.split(b"\r\n")[2:-1])
        return cls(units, decoded.placement, decoded.conflicts)

    @staticmethod
    def _unit(line: bytes) -> tuple[str, int]:
        name, n = line.decode().split(":")
        return name, int(n)


def merge(base: bytes | None, mine: bytes | None, theirs: bytes | None, writer: Writer) -> bytes | None:
    sides = (None if side is None else envelope.Envelope.decode(side) for side in (base, mine, theirs))
    merged = contacts.merge(*sides, device=writer.key, ms=writer.ms, country=None)
    return None if merged is None else merged.encode()


class Vault:
    """Generations and one checkpoint an identity version, as the vault keeps them."""

    def __init__(self) -> None:
        self.secrets: dict[int, bytes] = {}
        self.kept: dict[int, Checkpoint] = {}
        self.waiting: set[int] = set()
        self.finished = 0


class Access:
    """The vault, to one device's identity."""

    def __init__(self, vault: Vault, device: "Device") -> None:
        self._vault, self._device = vault, device

    def _let_in(self) -> int:
        version = self._device.version
        if version in self._vault.waiting:
            raise RefusedError("VAULT_CHANGE_DELAYED", "VAULT_CHANGE_DELAYED")
        return version

    async def make(self, above: int) -> ContactKey:
        generation = len(self._vault.secrets) + 1
        self._vault.secrets[generation] = self._device.world.rng.randbytes(32)
        return ContactKey(self._vault.secrets[generation], LABEL, generation)

    async def fetch(self, generation: int) -> ContactKey:
        self._let_in()
        return ContactKey(self._vault.secrets[generation], LABEL, generation)

    async def finish(self, generation: int) -> None:
        self._let_in()
        self._vault.finished = generation

    async def set_checkpoint(self, mark: Checkpoint) -> None:
        version = self._let_in()
        was = self._vault.kept.get(version)
        if was and was.line == mark.line and (mark.n < was.n or (mark.n == was.n and mark.chain != was.chain)):
            raise RefusedError("VAULT_CHECKPOINT_BELOW", "")
        self._vault.kept[version] = mark

    async def checkpoints(self) -> dict[int, Checkpoint]:
        return dict(self._vault.kept)


class Served:
    """The contact store's own rules and database, without the network: what the service does of a call."""

    def __init__(self, directory: dict[str, list[bytes]]) -> None:
        self.directory = directory
        self.database = Database.in_memory(SCHEMA, max_pages=1 << 17)  # 512 MiB
        self.lines = SqliteLines(self.database, self.database)

    def admit(self, key: bytes) -> Caller:
        identities = self.directory[LABEL]
        if key == identities[-1]:
            return Caller(key, len(identities), key)
        standing = self.lines.standing(LABEL)
        if standing and standing.version == len(identities) and key in standing.devices:
            return Caller(key, standing.version, standing.identity_key)
        reason = "IDENTITY_SUPERSEDED" if key in identities else "IDENTITY_UNKNOWN"
        raise RefusedError(reason, reason)

    def read(self, caller: Caller, n: int, which: bytes | int = b"", until: int = 0) -> LineRead | None:
        view = self.lines.view(LABEL, which, until)
        if view is None:
            return None
        shown = dict(self.lines.commits(view, max(n, view.base_n - 1), 1 << 30))
        links = self.lines.links(view, n, 1 << 30)
        return LineRead(view.line, view.seed, view.n, view.chain, view.base_n, links, shown)

    def kept(self, caller: Caller) -> KeptOnes:
        lines = self.lines.kept_lines(LABEL)
        return KeptOnes([KeptLine(each.id, each.line, each.base_n, each.n, *each.hidden) for each in lines], [])

    def links(self, caller: Caller, line: bytes, first: int, last: int) -> list[Link]:
        view = self.lines.view(LABEL, line, last)
        return self.lines.links(view, first, 1 << 30) if view else []

    def commit(
        self,
        caller: Caller,
        line: bytes,
        n: int,
        before: bytes,
        signed: Signed,
        records: Sequence[bytes],
        snapshot: bytes | None,
    ) -> None:
        standing = self.lines.standing(LABEL)
        if standing is None or standing.line != line:
            raise StoreRefused("LINE_REPLACED", "")
        if self.lines.stands(LABEL, Place(line, n, before, name_of(signed.commit))):
            return
        admitted = admit(NS, LABEL, standing, caller, n, before, signed)
        if snapshot is not None:
            check_snapshot(admitted.commit, snapshot)
        self.lines.append(LABEL, standing, admitted, records, snapshot, quota=QUOTA, now_ms=1)

    def begin(self, caller: Caller, seed: bytes, signed: Signed, snapshot: bytes) -> None:
        admitted = admit_first(NS, LABEL, caller, seed, signed)
        check_snapshot(admitted.commit, snapshot)
        self.lines.begin(LABEL, admitted, snapshot, quota=QUOTA, now_ms=1)

    def put_records(self, caller: Caller, records: Sequence[bytes]) -> None:
        self.lines.put(LABEL, caller.version, records, None, quota=QUOTA, now_ms=1)

    def get(self, caller: Caller, names: Sequence[bytes]) -> dict[bytes, bytes]:
        found = self.lines.get(LABEL, names)
        return {name: data for name, data in zip(names, found, strict=True) if data is not None}

    def have(self, caller: Caller, names: Sequence[bytes], staged: bool) -> set[bytes]:
        if len(names) > len(set(names)):
            raise RefusedError("BODY_INVALID", "")
        missing = set(self.lines.missing(LABEL, names, staged=staged))
        return {name for place, name in enumerate(names) if place not in missing}

    def heal(
        self,
        caller: Caller,
        line: bytes,
        seed: bytes,
        links: Sequence[Link],
        shown: Mapping[int, Signed],
        records: Sequence[bytes],
        snapshot: bytes | None,
    ) -> None:
        self.put_records(caller, records)
        self.lines.put(LABEL, caller.version, [], snapshot, quota=QUOTA, now_ms=1)
        standing = self.lines.standing(LABEL)
        healed = heal(NS, LABEL, standing, caller, line, seed, links, shown)
        self.lines.heal(LABEL, standing, healed, caller.version, None, quota=QUOTA, now_ms=1)

    def copy(self) -> "Served":
        """As an operator copies a database."""
        other = Served(self.directory)
        with self.database.read() as db, other.database.write() as to:
            to.commit()
            db.backup(to)
            to.execute("BEGIN")
        return other


class Calls:
    """The store, to one device; a network that loses calls is between them."""

    def __init__(self, store: Served, device: "Device") -> None:
        self.store, self._device = store, device
        self.lose_answer_of = ""
        """Of the next call of this method."""
        self.refuse_once: tuple[str, str] | None = None
        """Method and reason."""
        self.substitutes: dict[bytes, bytes | None] = {}
        """What is given for a record or snapshot, None: nothing."""

    def _ask(self, method: str, *args: Any) -> Any:
        if self._device.loses():
            raise Lost
        if self.refuse_once and self.refuse_once[0] == method:
            reason, self.refuse_once = self.refuse_once[1], None
            raise RefusedError(reason, reason)
        try:
            out = getattr(self.store, method)(self.store.admit(self._device.key), *args)
        except (StoreRefused, LineError) as refused:
            raise RefusedError(refused.reason, refused.message) from None
        if self._device.loses() or self.lose_answer_of == method:
            self.lose_answer_of = ""
            raise Lost
        return out

    async def read(self, n: int) -> LineRead | None:
        read: LineRead | None = self._ask("read", n)
        return None if read is None else self._device.lie(read)

    async def kept(self) -> KeptOnes:
        return self._ask("kept")

    async def read_kept(self, kept: KeptLine) -> LineRead | None:
        read: LineRead | None = self._ask("read", 0, kept.id, kept.n)
        return None if read is None else self._device.lie(read)

    async def links(self, *args: Any) -> list[Link]:
        return self._ask("links", *args)

    async def commit(self, *args: Any) -> None:
        self._ask("commit", *args)

    async def begin(self, *args: Any) -> None:
        self._ask("begin", *args)

    async def put_records(self, *args: Any) -> None:
        self._ask("put_records", *args)

    async def get(self, names: Sequence[bytes]) -> AsyncGenerator[dict[bytes, bytes], None]:
        got = self._ask("get", names)
        for name, other in self.substitutes.items():
            if name in got:
                got.pop(name) if other is None else got.update({name: other})
        yield got

    async def have(self, names: Sequence[bytes], *, staged: bool = False) -> set[bytes]:
        return self._ask("have", names, staged)

    async def heal(self, *args: Any) -> None:
        self._ask("heal", *args)


class FlakyRows(Rows):
    """The process may end before a transaction is written, or after."""

    crashes = staticmethod(lambda: False)

    def transaction(self):
        import contextlib

        @contextlib.contextmanager
        def inner() -> Iterator[None]:
            outer = not self._db.in_transaction
            with Rows.transaction(self):
                yield
                if outer and self.crashes():
                    raise Crash
            if outer and self.crashes():
                raise Crash

        return inner()


async def at_once(call: Callable[..., Any], *arguments: Any) -> Any:
    """No other thread is here."""
    return call(*arguments)


class Device:
    """A phone or a linked device, with rows of its own; `start` is what a new process does."""

    def __init__(self, world: "World") -> None:
        self.world = world
        world.everyone.append(self)
        self.clock_off_ms = 0
        self.rate = 0.0
        """How often a call is lost, and the process ends at a transaction."""
        self.lie: Callable[[LineRead], LineRead] = lambda read: read
        self.connection = temporary()
        self.connection.executescript(schema(TABLES))
        self.rows = FlakyRows(self.connection, bytes(32), TABLES)
        self.rows.crashes = lambda: self.world.rng.random() < self.rate
        self.accepted: set[int] = set()
        self.linked_at: Checkpoint | None = None
        self.renew()
        self.calls = Calls(world.store, self)
        self.start()

    def renew(self) -> None:
        """A key of its own, or, of who registers anew, another one."""
        self.seed = self.world.rng.randbytes(32)
        self.signer = SeedSigner(self.seed)
        self.key = self.signer.public_key

    def loses(self) -> bool:
        return self.world.rng.random() < self.rate

    @property
    def version(self) -> int:
        keys = self.world.directory[LABEL]
        return keys.index(self.key) + 1 if self.key in keys else 0

    def start(self) -> Line:
        identity = self.key in self.world.directory[LABEL]
        vault = Access(self.world.vault, self) if identity else None
        author = Author(NS, LABEL, self.signer, vault, self.open_key, self.linked_at)

        def judge() -> Judge:
            keys = dict(enumerate(self.world.directory[LABEL], 1))
            own = {v for v, key in keys.items() if key == self.key}
            return Judge(NS, LABEL, keys, self.accepted | own)

        self.kept = Kept(self.rows, LABEL)
        self.line = Line(
            Parts(
                self.kept,
                self.calls,
                author,
                judge,
                self.world.linked_devices,
                merge,
                lambda: self.world.now_ms + self.clock_off_ms,
                silent,
                at_once,
            )
        )
        return self.line

    # a key sealed to a device: HPKE has its own tests

    def seal_key(self, secret: bytes, info: bytes) -> bytes:
        return (self.key + secret + name_of(info)).ljust(commits.KEY_ENVELOPE_BYTES, b"\0")

    def open_key(self, sealed: bytes, info: bytes) -> bytes | None:
        return sealed[32:64] if sealed[:32] == self.key and sealed[64:96] == name_of(info) else None

    @property
    def linked(self) -> Linked:
        return Linked(ListedDevice(self.key, name_of(self.key)), self.seal_key)

    def view(self) -> dict[bytes, Ghost]:
        return {id: Ghost.decode(e) for id, e in self.kept.entries().items()}

    def edit(self, id: bytes, ghost: Ghost | None) -> None:
        self.kept.put({id: None if ghost is None else ghost.encode()})

    def do(self, name: str, *args: Any, **named: Any) -> Any:
        """What the process does; where it crashes, another is started."""
        try:
            return run(getattr(self.line, name)(*args, **named))
        except BaseException:
            self.restart()
            raise

    def rotate(self) -> None:
        self.do("rotate")

    def compact(self) -> None:
        """It syncs when a base is due."""
        with mock.patch("ipls.client.line.line.COMPACT_COMMITS", 0):
            self.do("sync")

    def restart(self) -> None:
        rate, self.rate = self.rate, 0.0
        self.start()
        self.rate = rate

    def as_identity(self) -> None:
        """It tries what only the identity may."""
        author = self.line._parts.author._replace(vault=Access(self.world.vault, self))
        self.line = Line(self.line._parts._replace(author=author))

    def pretend(self, state: Any, key: ContactKey) -> None:
        """It knows where the line stands, and has a key of its own making for it."""
        self.kept.state, self.kept.keys = state, {state.generation: key}

    def refused(self, name: str, *args: Any, **named: Any) -> str | None:
        """The reason, if it is refused; then nothing that the device believes has changed."""
        before = self.line.state, self.kept.entries()
        try:
            self.do(name, *args, **named)
        except (LineError, ClientError) as error:
            assert (self.line.state, self.kept.entries()) == before
            return error.reason
        return None


class World:
    """One account, its devices, one store; `taken`: units that somebody took out knowing them."""

    def __init__(self, linked: int = 2, seed: int = 0) -> None:
        self.rng = random.Random(seed)
        self.now_ms = 1
        self.everyone: list[Device] = []
        self.directory: dict[str, list[bytes]] = {LABEL: []}
        self.store, self.vault = Served(self.directory), Vault()
        self.primary = Device(self)
        self.directory[LABEL].append(self.primary.key)
        self.primary.start()
        self.primary.do("begin")
        self.linked: list[Device] = []
        for _ in range(linked):
            self.add()
        self.counter = itertools.count()
        self.added: set[Any] = set()
        self.taken: set[Any] = set()

    def add(self) -> Device:
        other = self.add_silent()
        other.do("pull")
        return other

    def add_silent(self) -> Device:
        """It is linked, and has read nothing."""
        other = Device(self)
        self.primary.do("set_devices", [d.linked for d in [*self.linked, other]])
        other.accepted = self.primary.accepted | {self.primary.version}
        self.give_key(other)
        self.linked.append(other)
        return other

    def linked_devices(self, listed: Any) -> list[Linked]:
        return [d.linked for d in self.everyone if d.linked.device in listed]

    @property
    def devices(self) -> list[Device]:
        return [self.primary, *self.linked]

    @property
    def listed(self) -> list[Linked]:
        return [d.linked for d in self.linked]

    def begin_anew(self) -> None:
        """And confirm the linked devices, which the identity may be new to."""
        self.primary.do("begin")
        self.primary.do("set_devices", self.listed)
        for d in self.linked:
            self.give_key(d)

    def give_key(self, d: Device) -> None:
        """As a package does."""
        state = self.primary.line.state
        assert state
        rate, d.rate = d.rate, 0.0
        d.kept.add_key(self.primary.kept.keys[state.generation])
        d.rate = rate

    def register(self, d: Device) -> None:
        """The number is this device's from now on, with a new key."""
        if d.version:
            d.accepted.add(d.version)
            d.renew()
        self.directory[LABEL].append(d.key)
        d.restart()

    def phone(self, *accepted: int) -> Device:
        """A new one, registered; its owner knows these versions for hers."""
        phone = Device(self)
        self.register(phone)
        phone.accepted = set(accepted)
        return phone

    # what a store's operator can do

    def snapshot(self) -> Served:
        return self.store.copy()

    def put_back(self, old: Served | None) -> None:
        """The store is as it was then; None: empty."""
        was = self.store
        self.store = old.copy() if old else Served(self.directory)
        for d in self.everyone:
            if d.calls.store is was:
                d.calls.store = self.store

    def fork(self, trusting: bytes | None = None) -> Served:
        """Another store that shows what this one does by now. `trusting`: it takes what this key signs."""
        other = self.store.copy()
        if trusting:
            other.directory = {LABEL: [trusting]}
        return other

    def head(self) -> bytes | None:
        standing = self.store.lines.standing(LABEL)
        return standing.chain if standing else None

    def execute(self, sql: str, *args: Any) -> list[Any]:
        """In its database."""
        with self.store.database.write() as db:
            return db.execute(sql, args).fetchall()

    def names(self) -> list[bytes]:
        """Of the records that it has, in the order in which it got them."""
        return [name for (name,) in self.execute("SELECT name FROM blob WHERE kind = 0 ORDER BY id")]

    def stored(self, name: bytes) -> bytes:
        (data,) = self.store.lines.get(LABEL, [name])
        assert data
        return data

    def lose(self, name: bytes) -> None:
        self.execute("DELETE FROM sealed WHERE blob IN (SELECT id FROM blob WHERE name = ?)", name)
        self.store.lines.mark_damaged(LABEL, [name])

    def drop_falsely(self, name: bytes) -> None:
        self.execute("UPDATE blob SET hidden_by = 1, until_ms = ? WHERE name = ?", 1 << 60, name)

    def record_of(self, d: Device, id: bytes) -> bytes:
        state = d.line.state
        assert state
        return state.entries[id]

    # ghost edits: every value is unique, so what became of it can be asked

    def new(self, d: Device, id: bytes | None = None) -> bytes:
        id = id or self.rng.randbytes(16)
        unit = ("FN", next(self.counter))
        d.edit(id, Ghost((unit,)))
        self.added.add(unit)
        return id

    def imported(self, d: Device, k: int) -> bytes:
        """A card with a UID: its id is the same each time and on each device, also after it was removed."""
        id = id_of_uid(LABEL, f"urn:uuid:{k}")
        if id in d.view():
            self.change(d, id, "TEL")
            return id
        return self.new(d, id)

    def change(self, d: Device, id: bytes, name: str) -> None:
        e = d.view()[id]
        unit = (name, next(self.counter))
        units = list(e.units)
        if name in SINGLE:
            self.taken |= {u for u in units if u[0] == name}
            units = [u for u in units if u[0] != name]
        d.edit(id, e._replace(units=(*units, unit)))
        self.added.add(unit)

    def take_out(self, d: Device, id: bytes, k: int) -> None:
        e = d.view()[id]
        if e.units:
            u = e.units[k % len(e.units)]
            self.taken.add(u)
            d.edit(id, e._replace(units=tuple(x for x in e.units if x != u)))

    def remove(self, d: Device, id: bytes) -> None:
        e = d.view()[id]
        self.taken |= set(e.units) | set(e.conflicts)
        d.edit(id, None)

    def quiesce(self) -> None:
        for _ in range(4):
            for d in self.devices:
                d.rate = 0.0
                d.do("sync")
                d.do("mend")

    def check(self) -> None:
        views = [d.view() for d in self.devices]
        for d in self.devices:
            state, other = d.line.state, self.primary.line.state
            assert not d.line.unsent | d.line.unread
            assert d.kept.pending is None
            assert state
            assert other
            assert (state.n, state.chain, list(state.entries.items())) == (
                other.n,
                other.chain,
                list(other.entries.items()),
            )
        assert all(list(v.items()) == list(views[0].items()) for v in views)
        there = {u for e in views[0].values() for u in (*e.units, *e.conflicts)}
        assert self.added - self.taken <= there, "an edit was lost"


def work(w: World, steps: int, ops: list[str]) -> None:
    rng = w.rng
    for _ in range(steps):
        d = rng.choice(w.devices)
        op = rng.choice(ops)
        try:
            view = sorted(d.view())
            if op == "new" or (not view and op in ("tel", "fn", "out", "remove")):
                w.new(d)
            elif op == "import":
                w.imported(d, rng.randrange(3))
            elif op == "tel":
                w.change(d, rng.choice(view), "TEL")
            elif op == "fn":
                w.change(d, rng.choice(view), rng.choice(SINGLE))
            elif op == "out":
                w.take_out(d, rng.choice(view), rng.randrange(9))
            elif op == "remove":
                w.remove(d, rng.choice(view))
            elif op == "sync":
                d.do("sync")
            elif op == "rotate":
                w.primary.do("rotate")
            elif op == "compact":
                w.primary.compact()
        except (Crash, Lost):
            d.restart()


EDITS = ["new", "import", "tel", "tel", "fn", "fn", "out", "remove", "sync", "sync", "sync"]


def grown(n: int = 6, linked: int = 1) -> World:
    """Some contacts, some changed, each by a commit of its own."""
    w = World(linked)
    for k in range(n):
        id = w.new(w.primary)
        w.primary.do("sync")
        if k % 2:
            w.change(w.primary, id, "TEL")
            w.primary.do("sync")
    return w
