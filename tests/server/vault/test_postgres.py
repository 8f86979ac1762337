"""A vault on PostgreSQL, from its front to the database's server, which is killed under it."""

import asyncio
import secrets
from functools import partial
from pathlib import Path

import pytest

from ipls.vault.session.client import ClientSession
from tests.hsm.rig import CoreProcess, Exchange, Owner, Rig, running_core
from tests.server.vault.process import running_vault
from tests.store.postgres import PostgresDatabase, PostgresServer

STORES = 6


@pytest.fixture
def database(postgres: PostgresServer) -> PostgresDatabase:
    return postgres.new()


@pytest.fixture
def rig(database: PostgresDatabase, tmp_path: Path) -> Rig:
    return Rig(tmp_path, database=database.place)


async def store(number: int, key: bytes, client: ClientSession, exchange: Exchange) -> None:
    """Once, however often it is asked for."""
    client.on_answer(await exchange(client.store_request(number - 1, number.to_bytes(16, "big"), key)))


async def retrieve(number: int, client: ClientSession, exchange: Exchange) -> object:
    return client.on_answer(await exchange(client.retrieve_request(number)))


async def test_no_acknowledged_write_is_lost_with_the_server_and_service_goes_on_by_itself(
    postgres: PostgresServer, rig: Rig
) -> None:
    """Killed twice in the middle of the writes of four owners. The vault's processes stay the same all the time."""
    owners = [Owner() for _ in range(4)]
    for owner in owners:
        rig.directory.publish(owner)
    acknowledged: list[tuple[Owner, int, bytes]] = []
    answers: asyncio.Queue[None] = asyncio.Queue()

    async def use(owner: Owner) -> None:
        for number in range(1, STORES + 1):
            key = secrets.token_bytes(32)
            await vault.patiently(owner, partial(store, number, key))
            acknowledged.append((owner, number, key))
            answers.put_nowait(None)

    async def kill() -> None:
        for _ in range(2):
            for _ in range(STORES):
                await answers.get()
            await asyncio.to_thread(postgres.kill)
            await asyncio.to_thread(postgres.start)

    async with running_vault(rig) as vault:
        before = vault.front.pid, vault.core()
        async with asyncio.TaskGroup() as group:
            group.create_task(kill())
            for owner in owners:
                group.create_task(use(owner))
        for owner, number, key in acknowledged:
            assert await vault.patiently(owner, partial(retrieve, number)) == (number, key)
        assert (vault.front.pid, vault.core()) == before
    assert len(acknowledged) == STORES * len(owners)
    rig.check()


async def session(core: CoreProcess, owner: Owner) -> tuple[ClientSession, Exchange]:
    exchange = core.stream()
    return await core.rig.open(owner, exchange, known_head=core.rig.directory.head()), exchange


async def test_of_two_hosts_on_one_database_one_serves_and_the_other_takes_over_when_it_dies(
    postgres: PostgresServer, database: PostgresDatabase, rig: Rig
) -> None:
    owner, key = Owner(), secrets.token_bytes(32)
    rig.directory.publish(owner)
    async with running_core(rig) as one:
        await store(1, key, *await session(one, owner))
        rig.configure(database=database.elsewhere().place.model_dump(mode="json"))

        async def second() -> object:
            async with running_core(rig) as two:
                started.set()
                return await retrieve(1, *await session(two, owner))

        started = asyncio.Event()
        waiting = asyncio.create_task(second())
        query = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        while not (await asyncio.to_thread(postgres.execute, query)).fetchone():
            assert not waiting.done()
        assert await retrieve(1, *await session(one, owner)) == (1, key)
        assert not started.is_set()
        one.process.kill()
        assert await waiting == (1, key)
    rig.check()


async def test_a_core_whose_database_is_not_there_ends_and_another_serves_when_it_is(
    postgres: PostgresServer, rig: Rig
) -> None:
    owner, key = Owner(), secrets.token_bytes(32)
    rig.directory.publish(owner)
    postgres.kill()
    try:
        with pytest.raises(EOFError):
            async with running_core(rig):
                pass
    finally:
        postgres.start()
    async with running_core(rig) as core:
        await store(1, key, *await session(core, owner))
