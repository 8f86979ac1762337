"""Whoever calls the registration service without end: it hashes no more than a few codes at once, sends no number more
than its codes of the hour, and goes on for those who mean it."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ipls._grpc import grpc
from ipls.proto.registration.v1 import registration_pb2 as pb
from ipls.rpc.channel import open_channel
from ipls.rpc.errors import ServiceError, remote_error
from ipls.server.registration import service as registration
from ipls.server.registration.service import MAX_HASHING, RegistrationService
from ipls.store.registration import PEERS, REPEATING_PEERS, open_registration_store
from tests.server.directories import World, seed
from tests.server.loopback import calling_from
from tests.server.registration.test_service import LABEL, OTHER, Registrar, another, both, failure
from tests.trust.roots import NAMESPACE

FLOOD = 4 * MAX_HASHING


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The codes that were hashed."""
    codes, original = list[str](), registration._hash

    def counted(code: str, salt: bytes) -> Any:
        codes.append(code)
        return original(code, salt)

    monkeypatch.setattr(registration, "_hash", counted)
    return codes


async def reasons(calls: list[Any]) -> list[str]:
    """Why each call was refused, "" if it was not."""

    async def reason(call: Any) -> str:
        try:
            await call
        except grpc.aio.AioRpcError as error:
            return remote_error(error).reason
        return ""

    return await asyncio.gather(*map(reason, calls))


def asking(device: Registrar, request: int, label: str) -> Any:
    return device.stub.RequestCode(pb.RequestCodeRequest(label=label, request_id=request.to_bytes(16, "big")))


@asynccontextmanager
async def stranger_of(device: Registrar, host: str = "127.0.0.2") -> AsyncIterator[Registrar]:
    """Who calls the same service from another address, and sees the same codes."""
    async with (
        calling_from(host, device.address) as address,
        open_channel(address, device.world.ca) as channel,
    ):
        yield Registrar(device.world, address, channel, device.outbox)


async def test_codes_asked_for_one_number_cost_a_look(world: World, hashed: list[str]) -> None:
    async with both(world) as (device, _):
        for request in range(3):
            await device.code(request)
        refused = await reasons([asking(device, 100 + n, LABEL) for n in range(FLOOD)])
        assert set(refused) <= {"CODE_RATE", "SERVICE_BUSY"}
        assert len(hashed) == 3
        assert len(device.outbox.read_text().splitlines()) == 3
        assert await device.code(4, OTHER)


async def test_the_owner_has_a_code_while_a_stranger_asks_for_the_numbers_codes_for_ever(world: World) -> None:
    async with both(world) as (owner, client), stranger_of(owner) as stranger:
        sent = 0
        for hour in range(3):
            refused = [await reasons([asking(stranger, (hour + 1) << 16 | n, LABEL)]) for n in range(FLOOD)]
            assert refused == [[""]] * 3 + [["CODE_RATE"]] * (FLOOD - 3)
            code = await owner.code(1000 + hour)
            sent += 4
            assert len(owner.outbox.read_text().splitlines()) == sent
            ticket = (await owner.stub.Register(owner.request(code, 1000 + hour))).ticket
            assert await client.published(ticket)
            world.now_ms += 3600_000


async def test_the_owner_has_a_code_whatever_strangers_from_several_addresses_asked_for(world: World) -> None:
    async with both(world) as (owner, client), AsyncExitStack() as strangers:
        sent = list[list[str]]()
        for number in range(2, 2 + PEERS):
            stranger = await strangers.enter_async_context(stranger_of(owner, f"127.0.0.{number}"))
            sent.append([(await reasons([asking(stranger, number << 8 | n, LABEL)]))[0] for n in range(4)])
        allowed = [[""] * 3 + ["CODE_RATE"]] * REPEATING_PEERS
        assert sent == allowed + [[""] + ["CODE_RATE"] * 3] * (PEERS - REPEATING_PEERS)
        ticket = (await owner.stub.Register(owner.request(await owner.code(1000), 1000))).ticket
        assert await client.published(ticket)
        assert await reasons([asking(owner, 1001, LABEL)]) == ["CODE_RATE"]


async def test_the_lines_of_a_site_have_the_codes_of_one_network(world: World) -> None:
    codes = list[str]()

    class Sender:
        async def deliver(self, request_id: bytes, label: str, code: str) -> str:
            codes.append(code)
            return "kept"

    async with grpc.aio.insecure_channel("127.0.0.1:1") as directory:
        store = open_registration_store(world.folder / "registration.db")
        service = RegistrationService(store, NAMESPACE, Sender(), directory, codes_per_hour=3, now_ms=world.clock)
        refusals = list[str]()
        for line in range(9):
            peer = f"ipv6:[2001:db8:0:{line:x}::1]:7"
            call: Any = SimpleNamespace(peer=peer.__str__, auth_context=dict)
            request = pb.RequestCodeRequest(label=LABEL, request_id=bytes([line]) * 16)
            try:
                await service.RequestCode(request, call)
            except ServiceError as error:
                refusals.append(error.reason)
        assert (len(codes), refusals) == (3, ["CODE_RATE"] * 6)
        service.close()
        store.close()


async def test_a_thiefs_keys_leave_the_owner_a_code(world: World) -> None:
    async with both(world) as (owner, client), stranger_of(owner) as thief:
        for number in range(3):  # all that an hour allows; the number is his for the moment
            await thief.stub.Register(thief.request(await thief.code(number), number, key=seed(66 + number)))
        assert await reasons([asking(thief, 9, LABEL)]) == ["CODE_RATE"]
        ticket = (await owner.stub.Register(owner.request(await owner.code(100), 100))).ticket
        assert await client.published(ticket)


async def test_who_has_a_code_registers_while_codes_are_asked_for_many_numbers(world: World, hashed: list[str]) -> None:
    async with both(world) as (device, client), stranger_of(device) as stranger:
        request = device.request(await device.code())
        flood = asyncio.create_task(reasons([asking(stranger, 100 + n, f"+4930{n}") for n in range(FLOOD)]))
        ticket = (await device.stub.Register(request, timeout=60)).ticket
        assert await client.published(ticket) == 1
        assert "" in await reasons([asking(device, 2, OTHER)])
        refused = await flood
        assert set(refused) <= {"", "SERVICE_BUSY"}


async def test_no_more_than_a_few_codes_are_hashed_or_wait_for_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    release, hashing = threading.Event(), asyncio.Event()
    original, loop = registration._hash, asyncio.get_running_loop()

    def held(code: str, salt: bytes) -> Any:
        loop.call_soon_threadsafe(hashing.set)
        release.wait(60)
        return original(code, salt)

    async with both(world) as (device, client):
        request = device.request(await device.code())
        monkeypatch.setattr(registration, "_hash", held)
        asked = [asyncio.create_task(reasons([asking(device, 2 + n, f"+4930{n}")])) for n in range(MAX_HASHING)]
        await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
        error = await failure(asking(device, 99, OTHER))
        assert (error.code, error.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "SERVICE_BUSY")
        assert error.retry_after_s == 1
        hashing.clear()
        wrong = device.request(another(request.code))
        guess = asyncio.create_task(reasons([device.stub.Register(wrong)]))
        await asyncio.wait_for(hashing.wait(), 60)
        others = [device.request(wrong.code, 200 + n) for n in range(MAX_HASHING)]
        flood = [asyncio.create_task(reasons([device.stub.Register(other)])) for other in others]
        await asyncio.wait(flood, return_when=asyncio.FIRST_COMPLETED)
        for _ in range(9):  # none of these uses up an attempt
            assert await reasons([device.stub.Register(wrong)]) == ["SERVICE_BUSY"]
        release.set()
        assert await guess == ["CODE_WRONG"]
        await asyncio.wait([*asked, *flood])
        assert await client.published((await device.stub.Register(request)).ticket) == 1
