"""Storage-root rotation: records wrapped anew while the vault serves, killed anywhere, and an old root's end."""

import asyncio
import json
import secrets
import sqlite3
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest

from ipls.admin.storage_keys import count_keys, drop_storage_key
from ipls.config import ConfigError, TokenConfig, load_core
from ipls.hsm.core import rotation
from ipls.hsm.core.rotation import Rotation, account_of
from ipls.hsm.rewrapping import Rewrap
from ipls.hsm.state import replay
from ipls.hsm.state.anchor import read_anchor
from ipls.hsm.state.store import StateStore
from ipls.hsm.token import module
from ipls.hsm.token.derivation import by_profile
from ipls.hsm.token.module import hidden
from ipls.hsm.token.pkcs11 import HsmToken, new_storage_key_id, purposes, token_at
from ipls.store.errors import StoreError
from ipls.store.vault import open_vault_store
from ipls.vault.account import Account, Generation
from ipls.vault.errors import SessionRefused
from ipls.vault.session.client import ClientSession
from ipls.vault.state.journal import account_key, other_key
from tests.hsm.rig import CoreProcess, Exchange, Owner, Rig, running_core, started_core
from tests.hsm.state_stores import Keys, new_ledger, perform
from tests.hsm.tokens import MODULES, PIN
from tests.vault.accounts import format_3

ROTATING = str(Path(__file__).parent / "rotating.py")
OLD, NEW = new_storage_key_id(1), new_storage_key_id(2)
KEY = bytes(range(32))


# The walk, without a token


class Wrapping:
    """A wrapper that only notes what it was given; a blob of zeros it can't take."""

    def __init__(self) -> None:
        self.given: list[Rewrap] = []

    def storage_key_ids(self) -> list[bytes]:
        return [NEW, OLD]

    def rewrap(self, each: Sequence[Rewrap]) -> list[bytes | None]:
        self.given += each
        return [None if one.wrapped == bytes(40) else b"new".ljust(40) for one in each]


def stored(number: int, storage_key_id: bytes = OLD, wrapped: bytes = b"old".ljust(40)) -> Generation:
    return Generation(number, bytes([number]) * 16, storage_key_id, wrapped, 1, 1, 1000)


def accounts(count: int) -> dict[bytes, Account]:
    mixed = Account(last_generation=3, handshakes=7, generations=(stored(1), stored(2, NEW), stored(3)))
    return {account_key(f"+49{number}"): mixed for number in range(count)}


def walked(state_store: StateStore, wrapper: Wrapping) -> tuple[int, int]:
    """How many it wrapped, and how many it left."""
    walk, after, wrapped, left = Rotation(state_store, wrapper), b"", 0, 0
    while True:
        step = perform(state_store, lambda: walk.step(NEW, after))  # noqa: B023  # called in this very turn
        wrapped, left = wrapped + step.wrapped, left + step.left
        if step.last is None:
            return wrapped, left
        after = step.last


def test_every_key_under_an_older_root_is_wrapped_anew_and_nothing_else_changes(tmp_path: Path) -> None:
    before, other = accounts(2 * rotation.PAGE + 1), other_key("bundle")
    with new_ledger(tmp_path / "vault.db") as state_store:
        perform(state_store, lambda: [state_store.put(key, account.encode()) for key, account in before.items()])
        perform(state_store, lambda: state_store.put(other, b"\x03" * 40))
        wrapper = Wrapping()
        assert walked(state_store, wrapper) == (2 * len(before), 0)
        for key, account in before.items():
            after = Account.decode(perform(state_store, lambda key=key: state_store.get(key)))
            assert [(g.storage_key_id, g.wrapped[:3]) for g in after.generations] == [
                (NEW, b"new"),
                (NEW, b"old"),  # it lay there already
                (NEW, b"new"),
            ]
            kept = zip(after.generations, account.generations, strict=True)
            generations = tuple(g._replace(storage_key_id=old.storage_key_id, wrapped=old.wrapped) for g, old in kept)
            assert after._replace(generations=generations) == account
        assert perform(state_store, lambda: state_store.get(other)) == b"\x03" * 40
        assert walked(state_store, wrapper) == (0, 0)
        assert len(wrapper.given) == 2 * len(before)


def test_a_record_of_the_format_before_is_wrapped_anew_too(tmp_path: Path) -> None:
    """Else its keys would go with the old root."""
    [(key, account)] = accounts(1).items()
    with new_ledger(tmp_path / "vault.db") as state_store:
        perform(state_store, lambda: state_store.put(key, format_3(account)))
        assert account_of(format_3(account)) == account
        assert walked(state_store, Wrapping()) == (2, 0)
        after = Account.decode(perform(state_store, lambda: state_store.get(key)))
        assert {g.storage_key_id for g in after.generations} == {NEW}


def test_what_does_not_unwrap_is_left_as_it_is(tmp_path: Path) -> None:
    key, account = account_key("+491"), Account(generations=(stored(1, wrapped=bytes(40)), stored(2)))
    with new_ledger(tmp_path / "vault.db") as state_store:
        perform(state_store, lambda: state_store.put(key, account.encode()))
        assert walked(state_store, Wrapping()) == (1, 1)
        after = Account.decode(perform(state_store, lambda: state_store.get(key)))
        assert after.generations[0] == account.generations[0]
        assert walked(state_store, Wrapping()) == (0, 1)


def test_accounts_that_thieves_filled_make_no_step_longer(tmp_path: Path) -> None:
    """No session is answered meanwhile: a step ends when so many keys were looked at."""
    filled = Account(generations=tuple(stored(number) for number in range(1, rotation.PAGE // 2 + 1)))
    with new_ledger(tmp_path / "vault.db") as state_store:
        perform(state_store, lambda: [state_store.put(account_key(f"+49{n}"), filled.encode()) for n in range(3)])
        walk = Rotation(state_store, Wrapping())
        first = perform(state_store, lambda: walk.step(NEW, b""))
        assert (first.wrapped, first.last is None) == (rotation.PAGE, False)
        second = perform(state_store, lambda: walk.step(NEW, first.last))
        assert second.wrapped == rotation.PAGE // 2


@pytest.mark.parametrize("record", [b"", b"\x03", b"\x03" * 40, b"\x03" * 203, b"\x04" * 203, Account().encode()[:-1]])
def test_another_record_is_no_account(record: bytes) -> None:
    assert account_of(record) is None


# A running vault


def add_root(place: Path | TokenConfig, profile: str, number: int = 2) -> bytes:
    """As a join leaves them: another storage root and log key beside those that are there; their id."""
    where, storage_key_id = token_at(place), new_storage_key_id(number)
    library = module.initialise(where)
    with module.open_session(where, library, PIN) as session:
        for purpose in purposes(by_profile(profile)):
            session.generate_key(
                purpose.kind,
                256,
                store=True,
                label=purpose.label,
                id=storage_key_id,
                capabilities=purpose.use,
                template=hidden(purpose.mechanism),
            )
    library.finalize()
    return storage_key_id


class Vault:
    """A running core; `said` waits for a line of its log."""

    def __init__(self, core: CoreProcess) -> None:
        self.core = core

    async def said(self, event: str) -> dict[str, object]:
        assert self.core.process.stderr
        while line := await self.core.process.stderr.readline():
            if line.startswith(b"{") and (told := json.loads(line))["event"] == event:
                return told
        raise EOFError

    async def session(self, owner: Owner) -> tuple[ClientSession, Exchange]:
        exchange = self.core.stream()
        return await self.core.rig.open(owner, exchange), exchange


@asynccontextmanager
async def vault(rig: Rig, *steps: int) -> AsyncIterator[Vault]:
    command = (ROTATING, str(rig.config_path), *map(str, steps))
    core = await started_core(rig, sys.executable, *command, stderr=asyncio.subprocess.PIPE)
    try:
        await core.receive(ready=True)
        core.send(session=0, head=rig.directory.head())
        yield Vault(core)
    finally:
        core.sink.close()
        await core.process.communicate()


async def store(running: Vault, owner: Owner, store_id: bytes, key: bytes, expected: int = 0) -> int:
    session, exchange = await running.session(owner)
    answer = session.on_answer(await exchange(session.store_request(expected, store_id, key)))
    running.core.close()
    return answer.generation


async def retrieve(running: Vault, owner: Owner) -> bytes:
    session, exchange = await running.session(owner)
    _, key = session.on_answer(await exchange(session.retrieve_request()))
    running.core.close()
    return key


def lying_under(rig: Rig) -> dict[bytes, int]:
    """How many keys lie under each root, in a database that is whole."""
    vault = load_core(rig.config_path).vault
    found: dict[bytes, int] = {}
    with closing(open_vault_store(vault.database)) as store, rig.anchor_service() as anchor_service:
        state = replay.catch_up(store, anchor_service, read_anchor(anchor_service).state)
        assert not any(replay.check(store, anchor_service, state))
        state_store = StateStore(store, anchor_service)
        for key in perform(state_store, lambda: state_store.keys(b"", 1000)):
            if account := account_of(store.record(key)):
                for g in account.generations:
                    found[g.storage_key_id] = found.get(g.storage_key_id, 0) + 1
    return found


def published(rig: Rig, count: int = 3) -> list[Owner]:
    owners = [Owner() for _ in range(count)]
    for owner in owners:
        rig.directory.publish(owner)
    return owners


@pytest.mark.parametrize("name", MODULES)
async def test_a_vault_wraps_all_anew_while_it_serves(name: str, tmp_path: Path) -> None:
    rig = Rig(tmp_path, name)
    owners, ids = published(rig), [secrets.token_bytes(16) for _ in range(3)]
    async with vault(rig) as running:
        for owner, store_id in zip(owners, ids, strict=True):
            assert await store(running, owner, store_id, KEY) == 1
        session, exchange = await running.session(owners[0])  # it stays with the old worker
        storage_key_id = await asyncio.to_thread(add_root, rig.token, rig.tokens.profile)
        assert session.on_answer(await exchange(session.retrieve_request())) == (1, KEY)
        assert session.on_answer(await exchange(session.store_request(0, ids[0], KEY))).generation == 1
        running.core.close()
        told = await running.said("storage root rotated")
        assert (told["root_id"], told["wrapped"], told["left"]) == (storage_key_id.hex(), 3, 0)
        for owner, store_id in zip(owners, ids, strict=True):
            assert await retrieve(running, owner) == KEY
            assert await store(running, owner, store_id, KEY) == 1  # a repeat still is one
            assert await store(running, owner, secrets.token_bytes(16), KEY, 1) == 2
    assert lying_under(rig) == {storage_key_id: 6}


async def test_killed_anywhere_it_goes_on_by_itself(rig: Rig) -> None:
    owners = published(rig)
    async with vault(rig) as running:
        for owner in owners:
            await store(running, owner, secrets.token_bytes(16), KEY)
    storage_key_id, before = add_root(rig.token, rig.tokens.profile), 0
    for step in (0, 2, 4):  # some of the records are no accounts
        with pytest.raises(EOFError):
            async with vault(rig, step) as running:
                await running.said("storage root rotated")
        under = lying_under(rig)
        assert sum(under.values()) == 3
        assert before <= under.get(storage_key_id, 0) <= step
        before = under.get(storage_key_id, 0)
    async with vault(rig) as running:
        told = await running.said("storage root rotated")
        assert told["wrapped"] == 3 - before
        for owner in owners:
            assert await retrieve(running, owner) == KEY
    assert lying_under(rig) == {storage_key_id: 3}


async def test_a_repeat_of_a_store_from_before_the_rotation(rig: Rig) -> None:
    """The worker has the new root; the record is not wrapped anew yet."""
    (owner,), store_id = published(rig, 1), secrets.token_bytes(16)
    async with vault(rig) as running:
        await store(running, owner, store_id, KEY)
    add_root(rig.token, rig.tokens.profile)
    async with running_core(rig) as core:
        plain = Vault(core)
        assert await store(plain, owner, store_id, KEY) == 1
        with pytest.raises(SessionRefused) as refused:
            await store(plain, owner, store_id, bytes(32))
        assert refused.value.reason == "VAULT_GENERATION_CONFLICT"


# The end of a root


@pytest.fixture
def private(rig: Rig) -> Rig:
    """Its PIN is for its owner alone, as it has to be."""
    (rig.folder / "pin").chmod(0o600)
    return rig


def refused(rig: Rig, root: bytes) -> str:
    """Why the root stays."""
    with pytest.raises((ConfigError, StoreError)) as refused:
        drop_storage_key([load_core(rig.config_path).vault], root.hex())
    return f"{refused.value.reason}: {refused.value}"


async def test_an_old_root_is_destroyed_when_nothing_needs_it(private: Rig) -> None:
    rig = private
    (owner,) = published(rig, 1)
    config = load_core(rig.config_path).vault
    async with vault(rig) as running:
        await store(running, owner, secrets.token_bytes(16), KEY)
    with closing(HsmToken.open(rig.token, PIN)) as token:
        old = token.storage_key_id
    new = add_root(rig.token, rig.tokens.profile)
    assert list(count_keys(config).items()) == [(new, 0), (old, 1)]
    assert "ROOT_IN_USE" in refused(rig, old)
    assert "ROOT_IN_USE" in refused(rig, new)
    assert "ROOT_UNKNOWN" in refused(rig, bytes(16))
    async with vault(rig) as running:
        await running.said("storage root rotated")
    assert list(count_keys(config).items()) == [(new, 1), (old, 0)]
    drop_storage_key([config], old.hex())
    assert count_keys(config) == {new: 1}
    async with vault(rig) as running:
        assert await retrieve(running, owner) == KEY


async def test_an_old_root_stays_while_the_token_has_another_shard(private: Rig) -> None:
    rig = private
    with closing(HsmToken.open(rig.token, PIN)) as token:
        old = token.storage_key_id
        token.replace_anchor(5, [], b"another shard's")
    add_root(rig.token, rig.tokens.profile)
    assert "shard 5" in refused(rig, old)
    drop_storage_key([load_core(rig.config_path).vault], old.hex(), [5])


# Log keys


def write(state_store: StateStore, count: int) -> None:
    for number in range(count):
        perform(state_store, lambda number=number: state_store.put(other_key("test", number), b"record"))


def checked(make: Callable[[], StateStore]) -> str:
    """Opens, walks through all of it, writes: "" or the reason of a refusal."""
    try:
        state_store = make()
        perform(state_store, lambda: None)
        for found in state_store.check():
            for refused in found:
                raise refused
        write(state_store, 1)
    except SessionRefused as refused:
        return refused.reason
    return ""


def test_older_entries_hold_by_their_key_and_newer_ones_bear_the_newest(tmp_path: Path) -> None:
    anchor_service = Keys(1)
    with new_ledger(tmp_path / "vault.db", anchor_service) as state_store:
        write(state_store, 3)
        anchor_service.numbers = [1, 2]
        write(state_store, 3)
    with closing(open_vault_store(tmp_path / "vault.db")) as store:
        assert checked(lambda: StateStore(store, anchor_service)) == ""
        anchor_service.numbers = [1]  # one that did not join
        assert checked(lambda: StateStore(store, anchor_service)) == "VAULT_ANCHOR_MISSING"
        anchor_service.numbers = [3]
        assert checked(lambda: StateStore(store, anchor_service)) == "VAULT_ANCHOR_MISSING"


def test_a_token_that_came_later_checks_an_older_log_by_its_chain(tmp_path: Path) -> None:
    anchor_service = Keys(1)
    with new_ledger(tmp_path / "vault.db", anchor_service) as state_store:
        write(state_store, 3)
        anchor_service.numbers = [1, 2]
        write(state_store, 1)
    anchor_service.numbers = [2]
    database = tmp_path / "vault.db"
    with closing(open_vault_store(database)) as store:
        assert checked(lambda: StateStore(store, anchor_service)) == ""
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("UPDATE log SET entry = zeroblob(length(entry)) WHERE sequence = 2")
    with closing(open_vault_store(database)) as store:
        assert checked(lambda: StateStore(store, anchor_service)) == "VAULT_LOG_BROKEN"
