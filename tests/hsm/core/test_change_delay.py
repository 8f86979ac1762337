"""The change delay in the core's process: it goes by the witnesses' time, and survives kill -9."""

import pytest
import pytest_asyncio

from ipls.proto.witness.v1.head_pb2 import SignedHead
from ipls.vault.errors import OperationRefused, SessionRefused
from ipls.vault.session.client import ClientSession
from tests.hsm.rig import CoreProcess, Exchange, Owner, Rig, now_ms, running_core

KEY = bytes(range(32))
MINUTE = 60_000
DELAY = 10 * MINUTE


class Account:
    """One number, and witnesses whose clocks the test sets: half an hour ago at first, young enough for a head."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self._label = Owner().label
        self.time = now_ms() - 30 * MINUTE
        rig.directory.now_ms = lambda: self.time

    def register(self) -> Owner:
        """The number, with a new key."""
        owner = Owner(self._label)
        self.rig.directory.publish(owner)
        return owner

    async def enter(self, core: CoreProcess, owner: Owner) -> tuple[ClientSession, Exchange]:
        exchange = core.stream()
        return await self.rig.open(owner, exchange, known_head=self.next_head()), exchange

    def next_head(self) -> SignedHead:
        return self.rig.directory.publish(Owner())


@pytest_asyncio.fixture
async def account(rig: Rig) -> Account:
    """Its owner has stored a key and set a delay; then the core was killed."""
    account = Account(rig)
    async with running_core(rig) as core:
        client, exchange = await account.enter(core, account.register())
        client.on_answer(await exchange(client.store_request(0, bytes(16), KEY)))
        client.on_answer(await exchange(client.change_delay_request(DELAY)))
        core.process.kill()
    return account


async def waits(client: ClientSession, exchange: Exchange) -> None:
    with pytest.raises(OperationRefused) as refused:
        client.on_answer(await exchange(client.retrieve_request()))
    assert refused.value.reason == "VAULT_CHANGE_DELAYED"


async def test_a_thief_waits_by_the_witnesses_time_also_across_a_kill(account: Account) -> None:
    thief = account.register()
    async with running_core(account.rig) as core:
        await waits(*await account.enter(core, thief))
        core.process.kill()
    account.time += DELAY - 1
    async with running_core(account.rig) as core:
        client, exchange = await account.enter(core, thief)
        await waits(client, exchange)
        account.time += 1
        core.send(session=0, head=account.next_head())
        assert client.on_answer(await exchange(client.retrieve_request())) == (1, KEY)


async def test_an_owner_who_registers_again_meanwhile_has_lost_nothing(account: Account) -> None:
    thief = account.register()
    async with running_core(account.rig) as core:
        client, exchange = await account.enter(core, thief)
        await waits(client, exchange)
        account.time += DELAY
        owner = account.register()
        core.send(session=0, head=account.next_head())
        with pytest.raises(SessionRefused) as refused:  # the thief's time is up, but so is its identity
            await exchange(client.retrieve_request())
        assert refused.value.reason == "VAULT_IDENTITY_MISMATCH"
        await waits(*await account.enter(core, owner))
        core.close()
        account.time += DELAY
        client, exchange = await account.enter(core, owner)
        assert client.on_answer(await exchange(client.retrieve_request())) == (1, KEY)
