"""One bit of what a service keeps has flipped: nothing wrong is believed, whose row it is gets DATA_LOSS, all others
are served, and a check finds it."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from ipls._grpc import grpc
from ipls.client.errors import RefusedError
from ipls.hsm.core.accounts import _RELEASES
from ipls.hsm.core.rotation import Rotation
from ipls.proto.directory.v1 import directory_pb2
from ipls.rpc.errors import remote_error
from ipls.store.directory import open_directory_store
from ipls.store.directory.fsck import Fsck
from ipls.vault.limits import Releases
from ipls.vault.session.effects import List
from ipls.vault.state.journal import account_key
from tests.attack.vault_state import NOW, OWNERS, State, Vault, outcome
from tests.hsm.rig import Owner
from tests.hsm.state_stores import perform
from tests.server import contact_stores
from tests.server.directories import Client, World, record
from tests.store.vault_databases import SqliteDatabase


def flipped(value: bytes | int) -> bytes | int:
    """One bit of it."""
    return value ^ 4 if isinstance(value, int) else bytes([value[0] ^ 4]) + value[1:]


# The vault


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Vault:
    """Five owners stored a key and used it; the releases of an hour were counted."""
    vault = Vault(SqliteDatabase(tmp_path_factory.mktemp("vault") / "vault.db"))
    with vault.running() as state:
        perform(state.state_store, lambda: state.state_store.put(_RELEASES, Releases(1, 1).encode()))
        state.key(OWNERS[0])  # the anchored entry is an account's
    return vault


def damaged(honest: Vault, table: str, column: str, place: object) -> Vault:
    vault, key = honest.copy(), {"log": "sequence", "records": "key", "nodes": "prefix"}[table]
    [(value,)] = vault.rows(f"SELECT {column} FROM {table} WHERE {key} = ?", place)
    vault.edit(f"UPDATE {table} SET {column} = ? WHERE {key} = ?", flipped(value), place)
    return vault


def served(state: State) -> list[str]:
    """The owners to whom everything is answered."""
    return [
        label
        for label in OWNERS[:-1]
        if not any(
            isinstance(outcome(act), str)
            for act in (
                lambda: state.do(label, List()),  # noqa: B023  # called in this very turn
                lambda: state.key(label),  # noqa: B023
                lambda: state.history(label),  # noqa: B023
            )
        )
    ]


@pytest.mark.parametrize("column", ["key", "record"])
def test_an_accounts_record_costs_that_account(honest: Vault, column: str) -> None:
    victim = OWNERS[2]
    vault = damaged(honest, "records", column, account_key(victim))
    with vault.running() as state:
        assert outcome(lambda: state.key(victim)) == "VAULT_DATABASE_EDITED"
        assert served(state) == [label for label in OWNERS[:-1] if label != victim]
        assert outcome(state.check) == "VAULT_DATABASE_EDITED"


@pytest.mark.parametrize("column", ["entry", "mac", "key", "use_number"])
def test_an_old_entry_of_the_log_costs_the_history_that_it_is_in(honest: Vault, column: str) -> None:
    vault = damaged(honest, "log", column, 4)  # of the second owner
    with vault.running() as state:
        assert set(served(state)) >= {label for label in OWNERS[:-1] if label != OWNERS[1]}
        assert outcome(lambda: state.key(OWNERS[1])) != "VAULT_LOG_BROKEN"
        assert outcome(state.check) == "VAULT_LOG_BROKEN"


def test_the_count_of_releases_begins_anew_as_if_the_hour_were_used_up(honest: Vault) -> None:
    vault = damaged(honest, "records", "record", _RELEASES)
    with vault.running() as state:
        assert served(state) == OWNERS[:-1]
        assert perform(state.state_store, lambda: state.state_store.get(_RELEASES)) == Releases(NOW, 1000).encode()
        state.check()


def test_rotation_goes_past_a_damaged_account(honest: Vault) -> None:
    vault = damaged(honest, "records", "record", account_key(OWNERS[2]))
    with vault.running() as state:
        step = perform(state.state_store, lambda: Rotation(state.state_store, Wrapper()).step(bytes([1]), b""))
    assert (step.wrapped, step.left) == (4, 1)


class Wrapper:
    def storage_key_ids(self) -> list[bytes]:
        return []

    def rewrap(self, each: object) -> list[bytes | None]:
        return [bytes(40) for _ in each]  # type: ignore[attr-defined]


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
        with capture_logs() as logs:  # an epoch that goes over it does not come; reads go on
            tickets = [await client.submit(1000 + number, label, record(2)) for number, label in enumerate(LABELS)]
            while not any(line["event"] == "no epoch" and line["reason"] == "TREE_CORRUPT" for line in logs):
                assert any([not await answered(client, label) for label in LABELS[:9]])
        check = Fsck(tmp_path / "directory.db", world.root.namespace, world.key)
        with closing(
            open_directory_store(tmp_path / "directory.db", world.root.namespace, world.key.public_key)
        ) as store:
            assert len(check.run(lambda *_: None, store.mend_tiles).differences) == rows > 0
        for ticket in tickets:  # the directory goes on by itself
            await client.published(ticket)
        assert {await answered(client, label) for label in LABELS} == {""}


# The contact store


async def test_a_damaged_contact_costs_the_call_that_asks_for_it(tmp_path: Path) -> None:
    world, alice = contact_stores.World(tmp_path), Owner(contact_stores.ALICE)
    async with world.running() as stub:
        await world.publish(alice)
        device, records = world.device(stub, alice), [contact_stores.record(n) for n in (1, 2)]
        await device.put(records)
        with closing(sqlite3.connect(tmp_path / "contacts.db")) as db, db:
            db.execute("UPDATE record SET ciphertext = zeroblob(284) WHERE id = ?", (records[0][0].id,))
        with pytest.raises(RefusedError, match=records[0][0].id.hex()) as refused:
            await device.get([records[0][0]])
        assert refused.value.reason == "RECORD_DAMAGED"
        assert await device.get([records[1][0]]) == [records[1][1]]
