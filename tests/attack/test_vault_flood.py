"""Strangers who open streams at the vault and say nothing: owners are served meanwhile."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import grpc
import pytest

from ipls.rpc.errors import remote_error
from tests.hsm.rig import Exchange, Owner, Rig
from tests.server.vault_process import Vault, running_vault

KEY = bytes(range(32))
PLACES = 32
STRANGERS = 3 * PLACES


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


@asynccontextmanager
async def small_vault(rig: Rig) -> AsyncIterator[Vault]:
    """With few places for strangers."""
    configure = rig.configure
    rig.configure = lambda **changes: configure(max_half_open=PLACES, **changes)  # type: ignore[method-assign]
    async with running_vault(rig) as vault:
        yield vault


async def reason(call: Any) -> str:
    """Why a stream ended."""
    try:
        while await call.read() is not grpc.aio.EOF:
            pass
    except grpc.aio.AioRpcError as error:
        return remote_error(error).reason
    return ""


async def serve(vault: Vault, owner: Owner) -> None:
    """Stores and retrieves, as a device does: again where it is told to try again."""

    async def work(client: Any, exchange: Exchange) -> None:
        client.on_answer(await exchange(client.store_request(0, bytes(16), KEY)))
        assert client.on_answer(await exchange(client.retrieve_request())) == (1, KEY)

    await vault.patiently(owner, work)


async def test_silent_streams_make_room(rig: Rig) -> None:
    owner = Owner()
    rig.directory.publish(owner)
    async with small_vault(rig) as vault:
        calls = [vault.stub.Session() for _ in range(STRANGERS)]
        ends = [asyncio.create_task(reason(call)) for call in calls]
        first = islice(asyncio.as_completed(ends), STRANGERS - PLACES)
        assert {await end for end in first} == {"VAULT_BUSY"}
        await serve(vault, owner)
        for call in calls:
            call.cancel()
        await asyncio.gather(*ends, return_exceptions=True)
