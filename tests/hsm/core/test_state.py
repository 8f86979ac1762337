"""The vault's state under kills and doubles, by processes on a real token: what was acknowledged stays, by itself."""

import asyncio
import multiprocessing
import secrets
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from ipls.config import TokenConfig
from ipls.hsm.anchor_service import AnchorServiceProcess, TokenAnchorService
from ipls.hsm.state.store import StateStore
from ipls.hsm.token.pkcs11 import HsmToken, token_at
from ipls.store.errors import StoreError
from ipls.store.vault import open_vault_store
from ipls.vault.errors import OperationRefused, SessionRefused
from ipls.vault.history import Seen, follow
from ipls.vault.session.client import ClientSession
from ipls.vault.state.journal import other_key
from tests.hsm import dying
from tests.hsm.rig import CoreProcess, Exchange, Owner, Rig, running_core
from tests.hsm.state_stores import perform
from tests.hsm.tokens import MODULES, PIN, vault_token

LOST = (EOFError, ConnectionError, SessionRefused)
LATER = "VAULT_WORKER_LOST", "VAULT_NOTARY_LOST", "VAULT_STORAGE_FAILED"


async def session(core: CoreProcess, owner: Owner) -> tuple[ClientSession, Exchange]:
    """Begun again while the vault says that it may be tried again."""
    while True:
        exchange = core.stream()
        try:
            return await core.rig.open(owner, exchange, known_head=core.rig.directory.head()), exchange
        except SessionRefused as refused:
            if refused.reason not in LATER:
                raise


async def store(core: CoreProcess, owner: Owner, number: int, store_id: bytes, key: bytes) -> None:
    client, exchange = await session(core, owner)
    client.on_answer(await exchange(client.store_request(number - 1, store_id, key)))


async def history(core: CoreProcess, owner: Owner, seen: Seen) -> tuple[list[str], Seen]:
    """The operations that continue what was seen. Raises SessionRefused as the client does."""
    client, exchange = await session(core, owner)
    found = follow(seen, client.on_answer(await exchange(client.history_request(seen.length + 1))))
    return [entry.operation for entry, _ in found], found[-1][1]


async def test_a_checkpoint_that_was_answered_outlives_a_kill(rig: Rig) -> None:
    owner, line, chain = Owner(), b"l" * 32, b"c" * 32
    rig.directory.publish(owner)
    async with running_core(rig) as core:
        client, exchange = await session(core, owner)
        client.on_answer(await exchange(client.checkpoint_request(line, 7, chain)))
        core.process.kill()
    async with running_core(rig) as core:
        client, exchange = await session(core, owner)
        [kept] = client.on_answer(await exchange(client.list_request())).checkpoints
        assert (kept.identity_version, kept.line, kept.n, kept.chain) == (1, line, 7, chain)
        with pytest.raises(OperationRefused) as refused:
            client.on_answer(await exchange(client.checkpoint_request(line, 6, chain)))
        assert refused.value.reason == "VAULT_CHECKPOINT_BELOW"


@pytest.mark.parametrize("point", dying.POINTS)
async def test_a_kill_at_any_point_of_a_store_loses_nothing_acknowledged(point: str, rig: Rig) -> None:
    """The second store is under way at the kill. Nobody puts anything right; the same core goes on where it lives."""
    owner, first, second = Owner(), secrets.token_bytes(32), secrets.token_bytes(32)
    rig.directory.publish(owner)

    async def again(core: CoreProcess, seen: Seen) -> None:
        await store(core, owner, 2, bytes(16), second)
        client, exchange = await session(core, owner)
        assert client.on_answer(await exchange(client.retrieve_request(1))) == (1, first)
        assert client.on_answer(await exchange(client.retrieve_request())) == (2, second)
        operations, _ = await history(core, owner, seen)
        assert operations.count("store") == 1  # once, however often it was asked for

    async with running_core(rig, *dying.command(rig.config_path)) as core:
        await store(core, owner, 1, bytes(16), first)
        _, seen = await history(core, owner, Seen())
        client, exchange = await session(core, owner)
        (rig.folder / point).touch()
        with pytest.raises(LOST):
            await exchange(client.store_request(1, bytes(16), second))
        assert not (rig.folder / point).exists()
        if dying.POINTS[point] == "anchor service":
            await again(core, seen)
        else:
            assert await core.process.wait() == -signal.SIGKILL
    if dying.POINTS[point] == "core":
        async with running_core(rig) as core:
            await again(core, seen)
    rig.check()


@pytest.mark.parametrize("point", dying.POINTS)
async def test_no_key_leaves_at_a_kill_before_its_entry_is_anchored(point: str, rig: Rig) -> None:
    """Nor after it: the answer waits for the anchor. A use may be on record whose key was not given out, never less."""
    owner, key = Owner(), secrets.token_bytes(32)
    rig.directory.publish(owner)
    async with running_core(rig, *dying.command(rig.config_path)) as core:
        await store(core, owner, 1, bytes(16), key)
        _, seen = await history(core, owner, Seen())
        client, exchange = await session(core, owner)
        (rig.folder / point).touch()
        with pytest.raises(LOST):
            await exchange(client.retrieve_request())
        with suppress(ProcessLookupError):
            core.process.kill()
        await core.process.wait()
    async with running_core(rig) as core:
        operations, _ = await history(core, owner, seen)
        assert operations.count("retrieve") == (point != "before the transaction")
    rig.check()


@pytest.mark.parametrize("module", MODULES)
async def test_of_two_vaults_on_one_token_exactly_one_goes_on(module: str, tmp_path: Path) -> None:
    """Each has a database of its own, both the anchor's, and takes what comes. One of them loses its token's trust."""
    rig = Rig(tmp_path, module)
    owners = [Owner() for _ in range(2)]
    for owner in owners:
        rig.directory.publish(owner)
    head = rig.directory.head()
    rig.directory.head = lambda **which: head  # no news: who starts writes nothing
    async with running_core(rig) as core:
        await session(core, owners[0])
    config = rig.config_path.read_text()
    shutil.copy(rig.folder / "vault.db", rig.folder / "other.db")
    acknowledged: list[list[tuple[Owner, int, bytes]]] = [[], []]

    async def store_until_refused(core: CoreProcess, mine: list[tuple[Owner, int, bytes]], owner: Owner) -> str:
        for number in range(1, 9):
            key = secrets.token_bytes(32)
            while True:
                try:
                    await store(core, owner, number, bytes(16), key)
                    break
                except SessionRefused as refused:
                    if refused.reason != "VAULT_ANCHOR_MOVED":  # of two that met, both may have stepped back
                        return refused.reason
            mine.append((owner, number, key))
        return "served"

    async with running_core(rig) as one:
        rig.config_path.write_text(config.replace("vault.db", "other.db"))
        async with running_core(rig) as two:
            both = zip((one, two), acknowledged, owners, strict=True)
            reasons = await asyncio.gather(*(store_until_refused(*each) for each in both))
            assert "served" in reasons
            refused = [reason for reason in reasons if reason != "served"]
            assert len(refused) == 1
            assert refused[0] in ("VAULT_DATABASE_FORKED", "VAULT_DATABASE_BEHIND")
            winner, loser = (one, two) if reasons[0] == "served" else (two, one)
            with pytest.raises(SessionRefused) as refusal:
                await session(loser, owners[0])
            assert refusal.value.reason in ("VAULT_DATABASE_FORKED", "VAULT_DATABASE_BEHIND")
            for owner, number, key in acknowledged[reasons.index("served")]:
                client, exchange = await session(winner, owner)
                assert client.on_answer(await exchange(client.retrieve_request(number))) == (number, key)


# The token and its anchor service


@pytest.fixture(params=MODULES)
def anchor_service(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[TokenAnchorService]:
    with Rig(tmp_path, request.param).anchor_service() as anchor_service:
        yield anchor_service


def test_an_anchor_takes_the_place_of_those_expected_and_of_no_other(anchor_service: TokenAnchorService) -> None:
    [first] = anchor_service.anchors()
    anchor_service.replace([first], b"second")
    for expected in ([first], [], [b"second", first]):
        with pytest.raises(SessionRefused) as refusal:
            anchor_service.replace(expected, b"third")
        assert refusal.value.reason == "VAULT_ANCHOR_MOVED"
        assert anchor_service.anchors() == [b"second"]
    anchor_service.replace([b"second"], b"third")
    assert anchor_service.anchors() == [b"third"]


def test_a_replacement_that_a_busy_token_interrupted_is_gone_on_with(anchor_service: TokenAnchorService) -> None:
    [first] = anchor_service.anchors()
    anchor_service.replace([first], b"second")
    anchor_service.replace([first], b"second")
    assert anchor_service.anchors() == [b"second"]


def write_anchors(place: TokenConfig, shard: int) -> None:
    """A process, of another shard's vault than its neighbour."""
    with closing(HsmToken.open(place, PIN)) as token:
        for number in range(200):
            token.replace_anchor(shard, token.anchors(shard), b"%d" % number)


@pytest.mark.parametrize("module", MODULES)
def test_two_that_write_to_one_token_wait_for_each_other(module: str, tmp_path: Path) -> None:
    """Kryoptic refuses with CKR_DEVICE_MEMORY what meets another process's write."""
    place, _ = vault_token(module, tmp_path / "token")
    processes = multiprocessing.get_context("spawn")
    writing = [processes.Process(target=write_anchors, args=(token_at(place), shard)) for shard in range(2)]
    for each in writing:
        each.start()
    for each in writing:
        each.join()
    assert [each.exitcode for each in writing] == [0, 0]


def test_an_anchor_service_is_replaced_after_its_number_of_anchors(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """SoftHSM leaks with each."""
    monkeypatch.setattr("ipls.hsm.anchor_service.MAX_ANCHORS", 2)
    started: list[int] = []
    start = subprocess.Popen

    def counted(*arguments: Any, **options: Any) -> Any:
        started.append(len(started))
        return start(*arguments, **options)

    monkeypatch.setattr("subprocess.Popen", counted)
    with (
        closing(open_vault_store(rig.folder / "vault.db")) as store,
        closing(AnchorServiceProcess(rig.config_path, 0, store.lock)) as anchor_service,
    ):
        state_store = StateStore(store, anchor_service)
        for number in range(5):
            perform(state_store, lambda number=number: state_store.put(other_key("test", number), b""))
    assert len(started) == 3


def test_an_anchor_service_at_work_keeps_the_next_core_waiting(rig: Rig) -> None:
    """Its own core was killed: what it writes now must not meet another's."""
    store = open_vault_store(rig.folder / "vault.db")
    anchor_service = AnchorServiceProcess(rig.config_path, 0, store.lock)
    anchor_service.anchors()
    store.close()  # as the core's death does
    with pytest.raises(StoreError) as refusal:
        open_vault_store(rig.folder / "vault.db", wait=False)
    assert refusal.value.reason == "VAULT_RUNNING"
    anchor_service.close()
    open_vault_store(rig.folder / "vault.db", wait=False).close()
