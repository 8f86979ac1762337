"""Strangers who open streams at the vault and say nothing: owners are served meanwhile."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from ipls._grpc import grpc
from ipls.proto.vault.v1.vault_pb2 import SessionRequest
from ipls.rpc.errors import Ending, remote_error
from tests.hsm.rig import Exchange, Owner, Rig, now_ms
from tests.server.vault.process import Vault, running_vault

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
    rig.configure = lambda **changes: configure(max_half_open=PLACES, **changes)
    async with running_vault(rig) as vault:
        yield vault


async def reason(call: Any, *frames: SessionRequest) -> str:
    """Why a stream ended, over which these went."""
    ending = Ending(call)
    try:
        for frame in frames:
            with suppress(asyncio.InvalidStateError):  # it has ended already
                await call.write(frame)
        while await call.read() is not grpc.aio.EOF:
            pass
    except grpc.aio.AioRpcError as error:
        return remote_error(ending.why(error)).reason
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
        assert {await end for end in first} == {"SERVICE_BUSY"}
        await serve(vault, owner)
        for call in calls:
            call.cancel()
        await asyncio.gather(*ends, return_exceptions=True)


async def test_owners_are_served_among_strangers_who_go_on_knocking(rig: Rig) -> None:
    owners = [Owner() for _ in range(3)]
    for owner in owners:
        rig.directory.publish(owner)
    hello = rig.client(Owner(), known_head=rig.directory.head()).hello(now_ms())
    served, ends = asyncio.Event(), set[str]()

    async def stranger(vault: Vault, calls: set[Any]) -> None:
        while not served.is_set():
            call = vault.stub.Session()
            calls.add(call)
            ends.add(await reason(call, hello))
            calls.remove(call)

    async with small_vault(rig) as vault:
        open_calls = set[Any]()
        strangers = [asyncio.create_task(stranger(vault, open_calls)) for _ in range(STRANGERS)]
        for owner in owners:
            await serve(vault, owner)
        assert len(open_calls) == STRANGERS, "they went on to the end"
        served.set()
        # Both: grpc.aio swallows a task's cancellation as a message comes, and a write before the metadata is sent
        # waits on after its call is cancelled.
        for either in (*open_calls, *strangers):
            either.cancel()
        await asyncio.gather(*strangers, return_exceptions=True)
    assert ends <= {"VAULT_BUSY", "SERVICE_BUSY"}  # the second before its first frame had come
