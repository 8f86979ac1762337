"""The limits in the core's process: across kill -9, and not by failures before an account's identity is proven."""

import pytest

from ipls.vault.errors import SessionRefused
from ipls.vault.session.client import ClientSession
from tests.hsm.rig import CoreProcess, Exchange, Owner, Rig, now_ms, running_core

KEY = bytes(range(32))


async def enter(core: CoreProcess, owner: Owner) -> tuple[ClientSession, Exchange]:
    exchange = core.stream()
    return await core.rig.open(owner, exchange, known_head=core.rig.directory.head()), exchange


async def store(core: CoreProcess) -> Owner:
    """An account with a key."""
    owner = Owner()
    core.rig.directory.publish(owner)
    client, exchange = await enter(core, owner)
    client.on_answer(await exchange(client.store_request(0, bytes(16), KEY)))
    core.close()
    return owner


async def retrieve(core: CoreProcess, owner: Owner) -> object:
    client, exchange = await enter(core, owner)
    try:
        return client.on_answer(await exchange(client.retrieve_request()))
    finally:
        core.close()


async def test_an_operator_retrieves_for_so_many_accounts_an_hour_whatever_it_restarts(rig: Rig) -> None:
    rig.configure(hourly_releases=2)
    async with running_core(rig) as core:
        owners = [await store(core) for _ in range(3)]
        thieves = [Owner(owner.label) for owner in owners]
        for thief in thieves:
            rig.directory.publish(thief)
        assert await retrieve(core, thieves[0]) == (1, KEY)
        core.process.kill()
    async with running_core(rig) as core:
        assert await retrieve(core, thieves[1]) == (1, KEY)
        core.process.kill()
    async with running_core(rig) as core:
        with pytest.raises(SessionRefused) as refused:
            await retrieve(core, thieves[2])
        assert refused.value.reason == "VAULT_RELEASE_LIMIT"
        assert await retrieve(core, thieves[0]) == (1, KEY)  # that one has it anyway


async def test_failures_before_authentication_do_not_count_against_the_account(rig: Rig) -> None:
    rig.configure(daily_uses=2)
    async with running_core(rig) as core:
        owner, stranger = Owner(), Owner()
        rig.directory.publish(owner)
        rig.directory.publish(stranger)
        claims = [Owner(owner.label), Owner(owner.label, stranger.seed)]  # an own key; one that is another account's
        for claim in claims * 2:
            with pytest.raises(SessionRefused) as refused:
                await enter(core, claim)
            assert refused.value.reason == "VAULT_IDENTITY_MISMATCH"
        client, exchange = rig.client(owner, known_head=rig.directory.head()), core.stream()
        proof = client.on_hello(await exchange(client.hello(now_ms())), now_ms())
        proof.proof.tag3 = bytes(32)
        with pytest.raises(SessionRefused) as refused:
            await exchange(proof)
        assert refused.value.reason == "VAULT_TAG_INVALID"
        client, exchange = await enter(core, owner)
        client.on_answer(await exchange(client.store_request(0, bytes(16), KEY)))
        with pytest.raises(SessionRefused) as refused:
            await enter(core, owner)
        assert refused.value.reason == "VAULT_ACCOUNT_LIMIT"
