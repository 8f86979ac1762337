"""One bit of what a service keeps has flipped: nothing wrong is believed, whose row it is gets DATA_LOSS at most, all
others are served, and a check finds it. What can be had back is."""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from itertools import count
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from ipls._grpc import grpc
from ipls.akd.keys import Place
from ipls.client.errors import RefusedError
from ipls.hsm.core.accounts import _RELEASES
from ipls.hsm.core.rotation import Rotation
from ipls.hsm.state import replay
from ipls.hsm.state.anchor import genesis, read_anchor
from ipls.hsm.state.mending import mend_log
from ipls.hsm.state.store import StateStore
from ipls.proto.directory.v1 import directory_pb2
from ipls.rpc.errors import remote_error
from ipls.server.directory.publisher import HOLD_MS
from ipls.store.directory import DirectoryStore, open_directory_store
from ipls.store.directory.contract import Waiting
from ipls.store.directory.fsck import Fsck
from ipls.store.directory.sqlite import SqliteDirectory
from ipls.store.errors import StoreDamaged
from ipls.store.vault import LogRow
from ipls.trust.heads import verify_head
from ipls.vault.errors import SessionRefused
from ipls.vault.limits import Releases
from ipls.vault.session.effects import List
from ipls.vault.state.journal import account_key, other_key
from tests.attack.vault_state import NOW, OWNERS, State, Vault, checked, outcome
from tests.hsm.rig import Owner
from tests.hsm.state_stores import MemoryNotary, MemoryStore, perform
from tests.logs import heard
from tests.server import contact_stores
from tests.server.directories import Client, Driven, World, record
from tests.server.registration.test_service import another, both, failure
from tests.server.sessions import Session
from tests.store.vault_databases import Database, SqliteDatabase


def flipped(value: bytes | int) -> bytes | int:
    """One bit of it; of a number one that moves it far away."""
    return value ^ 1 << 40 if isinstance(value, int) else bytes([value[0] ^ 4]) + value[1:]


# The vault


BUNDLE = other_key("bundle")
NEWEST = None
"""In the place of the number of the log's last entry."""


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Vault:
    """Five owners stored a key and used it; the releases of an hour were counted, a bundle and a head taken."""
    vault = Vault(SqliteDatabase(tmp_path_factory.mktemp("vault") / "vault.db"))
    with vault.running() as state:
        store = state.state_store
        for key, record in ((_RELEASES, Releases(1, 1).encode()), (BUNDLE, b"bundle"), (other_key("head", 1), b"head")):
            perform(store, lambda: store.put(key, record))  # noqa: B023  # called in this very turn
        state.key(OWNERS[0])  # the anchored entry is an account's
    return vault


def damaged(honest: Vault, key: bytes, column: str = "record") -> Vault:
    """A copy in which a bit of this record's row flipped."""
    vault = honest.copy()
    [(value,)] = vault.rows(f"SELECT {column} FROM records WHERE key = ?", key)
    vault.edit(f"UPDATE records SET {column} = ? WHERE key = ?", flipped(value), key)
    return vault


def in_memory(vault: Vault) -> MemoryStore:
    """Its database without a disk: one is made for each bit."""
    store = MemoryStore()
    store.rows = {row[0]: LogRow(*row) for row in vault.rows("SELECT * FROM log")}
    store.records = dict(vault.rows("SELECT * FROM records"))
    store.bodies = dict(vault.rows("SELECT * FROM nodes"))
    return store


def damages(store: MemoryStore) -> Iterator[tuple[str, object]]:
    """Of each row of each table each value that a bit can flip in."""
    for column in LogRow._fields:
        yield from ((column, number) for number, row in store.rows.items() if getattr(row, column) is not None)
    for table in (store.records, store.bodies):
        yield from (("key", key) for key in table)
        yield from (("value", key) for key in table)


def damage(store: MemoryStore, what: str, place: object) -> None:
    """Flips that one."""
    if isinstance(place, int):
        row = store.rows.pop(place)
        row = row._replace(**{what: flipped(getattr(row, what))})
        store.rows[row.sequence] = row
        return
    assert isinstance(place, bytes)
    table = store.records if place in store.records else store.bodies
    value = table.pop(place)
    table |= {flipped(place): value} if what == "key" else {place: flipped(value)}  # type: ignore[dict-item]


def forget(vault: Vault, key: bytes) -> None:
    """Of the log's newest entry of this record, more than a bit."""
    vault.edit(
        "UPDATE log SET entry = substr(entry, 9) WHERE sequence = (SELECT max(sequence) FROM log WHERE key = ?)", key
    )


def served(state: State) -> list[str]:
    """The owners to whom everything is answered."""
    return [
        label
        for label in OWNERS[:-1]
        if not any(
            isinstance(outcome(act), str)
            for act in (
                lambda: state.do(label, List()),  # noqa: B023  # called in this very turn
                lambda: state.key(label),  # noqa: B023  # likewise
                lambda: state.history(label),  # noqa: B023  # likewise
            )
        )
    ]


@pytest.mark.parametrize("runs", [True, False], ids=["while it runs", "before it starts"])
def test_a_bit_of_any_row_costs_no_other_account_and_is_mended(honest: Vault, runs: bool) -> None:
    whole = in_memory(honest)
    for what, place in damages(whole):
        store, anchor_service = whole.copy(), honest.copy_of_token()
        state = State(StateStore(store, anchor_service))
        if runs:
            assert served(state) == OWNERS[:-1]
        damage(store, what, place)
        entry = whole.rows.get(place) if isinstance(place, int) else None
        theirs = [label for label in OWNERS[:-1] if entry and entry.key == account_key(label)]
        assert {*served(state), *theirs} == {*OWNERS[:-1]}, (what, place)
        assert perform(state.state_store, lambda: state.state_store.get(BUNDLE)) == b"bundle"  # noqa: B023
        state.check()
        assert served(state) == OWNERS[:-1], (what, place)
        assert checked(store, anchor_service) is None, (what, place)


def test_a_database_is_made_again_from_a_log_with_a_flipped_bit(honest: Vault) -> None:
    """By what `ipls vault recover` and `ipls fsck --repair` do of a vault that is off."""
    whole, anchor_service = in_memory(honest), honest.copy_of_token()
    for what, place in damages(whole):
        store, made, anchored = whole.copy(), MemoryStore(), read_anchor(anchor_service).state
        damage(store, what, place)
        assert isinstance(checked(store, anchor_service), str), (what, place)
        list(mend_log(store, anchor_service, anchored))
        assert replay.recover(store, made, anchor_service) == anchored, (what, place)
        assert made.__dict__ == whole.__dict__


@pytest.mark.parametrize("column", ["key", "record"])
def test_an_accounts_record_costs_that_account_where_the_log_has_it_no_more(honest: Vault, column: str) -> None:
    victim = OWNERS[2]
    vault = damaged(honest, account_key(victim), column)
    forget(vault, account_key(victim))
    with vault.running() as state:
        assert outcome(lambda: state.key(victim)) == "VAULT_DATABASE_EDITED"
        assert served(state) == [label for label in OWNERS[:-1] if label != victim]
        assert outcome(state.check) == "VAULT_LOG_BROKEN"
        assert served(state) == [label for label in OWNERS[:-1] if label != victim]


def test_more_than_a_bit_of_an_old_entry_costs_the_history_that_it_is_in(honest: Vault) -> None:
    vault = honest.copy()
    forget(vault, account_key(OWNERS[1]))
    with vault.running() as state:
        assert served(state) == [label for label in OWNERS[:-1] if label != OWNERS[1]]
        assert state.key(OWNERS[1])
        assert outcome(state.check) == "VAULT_LOG_BROKEN"


def test_more_than_a_bit_of_the_anchored_entry_is_refused_and_a_whole_copy_is_the_way_out(honest: Vault) -> None:
    vault = honest.copy()
    forget(vault, account_key(OWNERS[0]))
    with vault.running() as state:
        with pytest.raises(SessionRefused, match="`ipls vault recover` from a copy of the database") as refused:
            state.key(OWNERS[1])
        assert refused.value.reason == "VAULT_DATABASE_FORKED"
    with vault.running(database=recovered(vault, honest)) as state:
        assert served(state) == OWNERS[:-1]


def test_more_than_a_bit_of_all_that_the_bundles_record_is_in_is_refused_and_a_whole_copy_is_the_way_out(
    honest: Vault,
) -> None:
    """Each handshake and proof reads it."""
    vault = damaged(honest, BUNDLE)
    forget(vault, BUNDLE)
    for database, found in ((vault.database, "VAULT_DATABASE_EDITED"), (recovered(vault, honest), b"bundle")):
        with vault.running(database=database) as state:
            assert outcome(lambda: perform(state.state_store, lambda: state.state_store.get(BUNDLE))) == found


def recovered(vault: Vault, copy: Vault) -> Database:
    """Made of a copy of the vault's database that has a whole log, as `ipls vault recover` does."""
    made = vault.database.copy()
    made.execute("DELETE FROM log")
    for table in ("records", "nodes"):
        made.execute(f"DELETE FROM {table}")
    with closing(copy.database.open()) as source, closing(made.open()) as target:
        replay.recover(source, target, vault.anchor_service)
    return made


def test_the_count_of_releases_begins_anew_as_if_the_hour_were_used_up(honest: Vault) -> None:
    vault = damaged(honest, _RELEASES)
    forget(vault, _RELEASES)
    with vault.running() as state:
        assert served(state) == OWNERS[:-1]
        assert perform(state.state_store, lambda: state.state_store.get(_RELEASES)) == Releases(NOW, 1000).encode()


@pytest.mark.parametrize(
    ("what", "column", "place"),
    [("records", "value", BUNDLE), ("nodes", "value", bytes(1)), ("log", "entry", 1), ("log", "entry", NEWEST)],
)
def test_what_was_had_back_is_told_once(honest: Vault, what: str, column: str, place: object) -> None:
    store = in_memory(honest)
    damage(store, column, max(store.rows) if place is NEWEST else place)
    state = State(StateStore(store, honest.copy_of_token()))
    with capture_logs() as logs:
        for _ in range(3):
            state.check()
    assert logs == [{"event": "vault database mended", "log_level": "warning", "what": what, "rows": 1}]


def test_a_long_log_is_mended_a_page_at_a_time() -> None:
    """Sessions come in between."""

    class Paged(MemoryStore):
        def log(self, first: int, count: int) -> list[LogRow]:
            assert count <= replay.PAGE
            return super().log(first, count)

    store, anchor_service = Paged(), MemoryNotary()
    genesis(store, anchor_service)
    state = State(StateStore(store, anchor_service))
    state.state_store.perform([lambda: state.state_store.put(BUNDLE, b"bundle")] * (2 * replay.PAGE + 9))
    for place in (1, replay.PAGE, replay.PAGE + 9):
        damage(store, "entry", place)
        state.check()
        assert checked(store, anchor_service) is None, place


def test_a_roll_back_is_not_taken_for_damage(honest: Vault) -> None:
    """An older copy, and the vault's other future: nothing of them is one bit from what the anchor names."""
    older, vault = honest.copy(), honest.copy()
    with vault.running() as state:
        state.key(OWNERS[3])
    other = honest.copy()
    with other.running() as state:
        state.key(OWNERS[4])
    for database, reason in ((older.database, "VAULT_DATABASE_BEHIND"), (other.database, "VAULT_DATABASE_FORKED")):
        before = database.copy()
        with vault.running(database=database) as state:
            assert outcome(lambda: state.key(OWNERS[1])) == reason
        assert database.rows("SELECT * FROM log") == before.rows("SELECT * FROM log")


def test_rotation_goes_past_a_damaged_account(honest: Vault) -> None:
    vault = damaged(honest, account_key(OWNERS[2]))
    forget(vault, account_key(OWNERS[2]))
    with vault.running() as state:
        step = perform(state.state_store, lambda: Rotation(state.state_store, Wrapper()).step(bytes([1]), b""))
    assert (step.wrapped, step.left) == (4, 1)


class Wrapper:
    def storage_key_ids(self) -> list[bytes]:
        return []

    def rewrap(self, each: Sequence[object]) -> list[bytes | None]:
        return [bytes(40) for _ in each]


# The directory

LABELS = [b"+4930%d" % n for n in range(60)]


async def answered(client: Client, label: bytes) -> str:
    """ "" or why not."""
    try:
        await client.reads.Lookup(directory_pb2.LookupRequest(label=label))
    except grpc.aio.AioRpcError as error:
        refused = remote_error(error)
        return f"{refused.code.name} {refused.reason}"
    return ""


@pytest.mark.parametrize(
    ("damage", "reason"),
    [("DELETE FROM tile", "TILE_MISSING"), ("UPDATE tile SET body = substr(body, 2)", "TILE_CORRUPT")],
)
async def test_a_damaged_tile_costs_the_labels_under_it_until_it_is_mended(
    tmp_path: Path, damage: str, reason: str
) -> None:
    world = World(tmp_path)
    async with world.witness(), world.directory() as client:
        tickets = [await client.submit(number, label, record(1)) for number, label in enumerate(LABELS)]
        for ticket in tickets:
            await client.published(ticket)
        with closing(sqlite3.connect(tmp_path / "directory.db", timeout=10)) as db, db:
            [(prefix,)] = db.execute("SELECT prefix FROM tile WHERE length(prefix) > 1 ORDER BY 1 LIMIT 1")
            rows = db.execute(f"{damage} WHERE prefix = ?", (prefix,)).rowcount
        found = {label: await answered(client, label) for label in LABELS}
        assert set(found.values()) == {"", f"DATA_LOSS {reason}"}
        assert await without_those_under_damage(world, client) == rows > 0
        assert {await answered(client, label) for label in LABELS} == {""}


@pytest.mark.parametrize(("what", "level"), [("hash", 0), ("epoch", 4)])
async def test_a_bit_in_a_tile_costs_the_updates_that_go_past_it_until_it_is_mended(
    tmp_path: Path, what: str, level: int
) -> None:
    """A whole tile otherwise: in the one above all others, of the subtree 0; or an entry's epoch in the one of that."""
    world = World(tmp_path)
    past, elsewhere = (next(at(world, first)) for first in (1 if what == "hash" else 0, 15))
    async with world.witness(), world.publisher() as (publisher, store, _):
        await publisher.take_over()
        await published(world, publisher, store, LABELS)
        with closing(sqlite3.connect(tmp_path / "directory.db", timeout=10)) as db, db:
            query = "SELECT rowid, body FROM tile WHERE prefix >= ? ORDER BY prefix LIMIT 1"
            [(row, body)] = db.execute(query, (bytes([level]),))
            at_byte = len(body) - 32 * (2 * body[1] - 1) if what == "hash" else 2 + 7
            body = body[:at_byte] + bytes([body[at_byte] ^ 1]) + body[at_byte + 1 :]
            db.execute("UPDATE tile SET body = ? WHERE rowid = ?", (body, row))
        held, other = await published(world, publisher, store, [past, elsewhere])
        assert (store.published_at(held), store.published_at(other), store.waiting().held) == (None, 2, 1)
        check = Fsck(tmp_path / "directory.db", world.root.namespace, world.key)
        check.run(lambda *_: None, store.mend_tiles)
        world.now_ms += HOLD_MS
        await publisher.advance()
        assert (store.published_at(held), store.waiting()) == (3, (0, 0, 0))


def at(world: World, first: int) -> Iterator[bytes]:
    """New labels whose first version stands in this sixteenth of the tree."""
    for label in (b"+4931%d" % n for n in count()):
        if world.key.locate([Place(label, True, 1)])[0].bits >> 252 == first:
            yield label


async def published(world: World, publisher: Driven, store: DirectoryStore, labels: Sequence[bytes]) -> list[bytes]:
    """Their tickets, after an epoch was made of what can be of it."""
    tickets = [
        store.submit(label.ljust(16), label, record(1), world.now_ms, daily_quota=9, queue_max=99) for label in labels
    ]
    await publisher.advance()
    return tickets


async def without_those_under_damage(world: World, client: Client) -> int:
    """A new key for each label: most have it at once, the others when `fsck` has mended the tree, and no hand is lent
    to the directory. How many tiles were mended."""
    with capture_logs() as logs, closing(open_store(world)) as store:
        tickets = [await client.submit(1000 + n, label, record(2)) for n, label in enumerate(LABELS)]
        while store.waiting().updates:
            await client.first_head()
        held = store.waiting().held
        assert 0 < held < len(LABELS) // 2
        world.now_ms += HOLD_MS  # tried again, in vain
        assert await client.publish(2000, b"+4932", record(1)) > 1
        assert store.waiting().held == held
        assert [line["reason"] for line in logs if line["event"] == "updates held"] == ["TREE_CORRUPT"]
        check = Fsck(world.folder / "directory.db", world.root.namespace, world.key)
        differences = check.run(lambda *_: None, store.mend_tiles).differences
    with heard(event="epochs again") as again:
        world.now_ms += HOLD_MS
        for ticket in tickets:
            await client.published(ticket)
        await again.wait()
    return len(differences)


def open_store(world: World) -> DirectoryStore:
    return open_directory_store(world.folder / "directory.db", world.root.namespace, world.key.public_key)


@pytest.mark.parametrize(("column", "byte"), [("epoch", 0), ("root_hash", 0), ("signed", 0), ("signed", -1)])
async def test_a_bit_in_the_newest_heads_row_is_made_good_and_no_other_root_proposed(
    tmp_path: Path, column: str, byte: int
) -> None:
    """What k witnesses signed says what stood there, and they sign again what it is."""
    world = World(tmp_path)
    async with world.witness(), world.publisher() as (publisher, store, _):
        await publisher.take_over()
        await published(world, publisher, store, [LABELS[0]])
        sound = store.head()
        with closing(sqlite3.connect(tmp_path / "directory.db", timeout=10)) as db, db:
            [(value,)] = db.execute(f"SELECT {column} FROM head WHERE epoch = 1")
            value = value ^ 4 if isinstance(value, int) else flipped(value[byte:]) if byte else flipped(value)
            value = sound[3][:byte] + value if byte else value  # type: ignore[index, operator]
            db.execute(f"UPDATE head SET {column} = ? WHERE epoch = 1", (value,))
        assert store.head() != sound
        await publisher.advance()
        assert store.head() == sound
        [ticket] = await published(world, publisher, store, [LABELS[1]])
        head = world.fresh_head(store)
        assert (store.published_at(ticket), head.epoch) == (2, 2)
    assert not list((tmp_path / "evidence").glob("*"))


async def test_a_page_that_cannot_be_read_ends_no_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the queue: what the publisher meets there it tries again."""
    world, waiting, damaged = World(tmp_path), SqliteDirectory.waiting, True

    def unreadable(self: SqliteDirectory) -> Waiting:
        if damaged:
            raise StoreDamaged("DATABASE_UNREADABLE", "a page of it is damaged")
        return waiting(self)

    async with world.witness(), world.directory() as client:
        await client.publish(1, LABELS[0], record(1))
        with heard(event="no epoch", reason="DATABASE_UNREADABLE") as failed:
            monkeypatch.setattr(SqliteDirectory, "waiting", unreadable)
            ticket = await client.submit(2, LABELS[1], record(1))
            await failed.wait()
            assert await answered(client, LABELS[0]) == ""
        damaged = False
        assert await client.published(ticket) == 2


# The log, readers, registration, witnesses, while they serve


async def test_a_bit_in_an_object_of_the_log_costs_whoever_reads_that_one(tmp_path: Path) -> None:
    """It is written once and read by outsiders: epochs go on, also after a restart."""
    world = World(tmp_path)
    for number in (1, 2, 3):
        async with world.witness(), world.directory(lease_s=0.5) as client:
            assert await client.publish(number, LABELS[0], record(number)) == number * 2 - 1
            [info] = world.log.list(prefix=f"{number * 2 - 1}/")
            file = tmp_path / "log" / info.name
            file.write_bytes(bytes([file.read_bytes()[0] ^ 4]) + file.read_bytes()[1:])
            assert await client.publish(10 + number, LABELS[1], record(number)) == number * 2
    assert len(world.log.list()) == 6


def flip(database: Path, table: str, column: str) -> None:
    """A bit of the last row's, also of what the database itself never changes."""
    with closing(sqlite3.connect(database, timeout=10)) as db, db:
        triggers = db.execute("SELECT name, sql FROM sqlite_schema WHERE type = 'trigger'").fetchall()
        for name, _ in triggers:
            db.execute(f"DROP TRIGGER {name}")
        [(value,)] = db.execute(f"SELECT {column} FROM {table} ORDER BY 1 DESC LIMIT 1")
        value = (chr(ord(value[0]) ^ 4) + value[1:], value) if isinstance(value, str) else (flipped(value), value)
        db.execute(f"UPDATE {table} SET {column} = ? WHERE {column} = ?", value)
        for _, sql in triggers:
            db.execute(sql)


async def test_a_bit_in_a_witnesss_rows_costs_no_more_than_its_vote(tmp_path: Path) -> None:
    """Each column of its newest epoch in turn, and its own, while k others sign; and nothing it says is evidence."""
    world = World(tmp_path, witnesses=3, k=2)
    columns = [("epoch", each) for each in ("old_root", "cosignature", "proposal", "time_ms", "root_hash", "epoch")]
    async with world.witness(0), world.witness(1), world.witness(2), world.directory(lease_s=0.5) as client:
        await client.publish(0, LABELS[0], record(0))
        for number, (table, column) in enumerate([("witness", "term"), ("witness", "namespace"), *columns], 1):
            flip(tmp_path / "witness0.db", table, column)
            epoch = await client.publish(number, LABELS[0], record(number))
            head = (await client.first_head()).head
            assert verify_head(world.root, head, now_ms=world.now_ms).epoch == epoch == number + 1
    assert not list((tmp_path / "evidence").glob("*"))


async def test_a_bit_in_the_readers_rows_costs_nobody_else_an_answer(tmp_path: Path) -> None:
    world = World(tmp_path)
    async with world.witness(), world.directory() as client:
        for number in (1, 2):
            await client.publish(number, LABELS[number], record(number))
        for table, column in [("asked", each) for each in ("reader", "label", "first_ms")] + [("secret", "value")]:
            one, other = [await Session.open(client, LABELS[number], number) for number in (1, 2)]
            await one.lookup(LABELS[2])
            flip(tmp_path / "directory.db.readers", table, column)
            await one.lookup(LABELS[2])
            await other.lookup(LABELS[1])


async def test_a_bit_in_a_registrations_row_costs_that_registration(tmp_path: Path) -> None:
    """And takes no code but the one that was sent."""
    world, columns = World(tmp_path), ["label", "salt", "code_hash", "expires_ms", "attempts_left", "record"]
    async with both(world) as (device, _):
        for number, column in enumerate(["request_id", *columns], 1):
            label, other = f"+4940{number}", f"+4941{number}"
            code = await device.code(2 * number, label)
            if column == "record":
                await device.stub.Register(device.request(code, 2 * number, label))
            flip(tmp_path / "registration.db", "registration", column)
            await failure(device.stub.Register(device.request(another(code), 2 * number, label)))
            with suppress(grpc.aio.AioRpcError):
                await device.stub.Register(device.request(code, 2 * number, label))
            code = await device.code(2 * number + 1, other)
            await device.stub.Register(device.request(code, 2 * number + 1, other))


# The contact store


async def test_a_damaged_contact_costs_the_call_that_asks_for_it(tmp_path: Path) -> None:
    world, alice = contact_stores.World(tmp_path), Owner(contact_stores.ALICE)
    async with world.running() as stub:
        await world.publish(alice)
        device, records = world.device(stub, alice), [contact_stores.record(n) for n in (1, 2)]
        world.stored_before(alice.label, *records)
        with closing(sqlite3.connect(tmp_path / "contacts.db")) as db, db:
            db.execute("UPDATE record SET ciphertext = zeroblob(284) WHERE id = ?", (records[0][0].id,))
        with pytest.raises(RefusedError, match=records[0][0].id.hex()) as refused:
            await device.get([records[0][0]])
        assert refused.value.reason == "RECORD_DAMAGED"
        assert await device.get([records[1][0]]) == [records[1][1]]
