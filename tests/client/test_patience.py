"""How long a device waits for services that take its calls and do not answer."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest

from ipls.client import calls
from ipls.client.calls import CALL_S, LEAST_CALL_S
from ipls.client.device import Device
from ipls.client.errors import TryLaterError
from ipls.client.line_store import LineStore
from ipls.contacts.commits import Signed
from ipls.crypto.keys import SeedSigner
from ipls.proto.contacts.v2 import contacts_pb2 as pb
from tests.client.deployment import Deployment

SIGNED = Signed(bytes(3 << 20), bytes(64), bytes(64))
ANSWERS: dict[type, list[Any]] = {
    pb.ReadRequest: [pb.ReadResponse(head=pb.LineHead(n=1)), *[pb.ReadResponse()] * 3],
    pb.GetRecordsRequest: [pb.GetRecordsResponse(sizes=[3]), *[pb.GetRecordsResponse(chunk=b"x")] * 3],
}


async def get(store: LineStore) -> list[dict[bytes, bytes]]:
    return [found async for found in store.get([bytes(32)])]


CALLS: dict[str, Callable[[LineStore], Awaitable[object]]] = {
    "read": lambda store: store.read(0),
    "commit": lambda store: store.commit(bytes(32), 1, bytes(32), SIGNED, [bytes(3 << 20)], None),
    "begin": lambda store: store.begin(bytes(16), SIGNED, bytes(3 << 20)),
    "put": lambda store: store.put_records([bytes(3 << 20)]),
    "snapshot": lambda store: store.put_snapshot(bytes(3 << 20)),
    "get": get,
    "have": lambda store: store.have([bytes(32)]),
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with Deployment(tmp_path_factory.mktemp("deployment")).running() as world:
        yield world


async def test_a_registration_whose_epoch_nobody_signs_ends_with_the_patience(world: Deployment) -> None:
    """Without an answer in between, as a call has that fails: it would wait for a minute."""
    label, profile = world.label(), world.profile()
    with world.paused("witness"):
        async with world.device(profile, retry_for_s=0.1) as device:
            with refused("REGISTRATION_PENDING"):
                await device.register(label, world.code)
    async with world.device(profile) as device:
        assert (await device.register(label, no_code)).version == 1


@pytest.mark.parametrize(
    ("service", "named", "asks"),
    [
        ("directory", "the directory does not answer: ", Device.monitor),
        ("vault", "the vault does not answer: ", Device.vault_settings),
        ("contacts", "the contact store took a call with contacts, and got no further", Device.store),
    ],
)
async def test_a_service_that_takes_a_call_and_never_answers_is_given_up_with_the_patience_and_named(
    world: Deployment, service: str, named: str, asks: Callable[[Device], Awaitable[object]]
) -> None:
    profile = await world.registered(world.label())
    async with world.device(profile, retry_for_s=0.1) as device:
        await asks(device)  # over this connection
        with world.paused(service):
            async with asyncio.timeout(CALL_S / 2):
                with refused("DEADLINE_EXCEEDED", named):
                    await asks(device)


class Silent:
    """A contact store that takes every call, and never answers."""

    def __getattr__(self, method: str) -> Callable[..., Any]:
        async def never() -> AsyncIterator[None]:
            await asyncio.Event().wait()
            yield None

        one_answer = method not in ("Read", "GetRecords")
        return lambda *_, timeout: asyncio.Event().wait() if one_answer else never()


class Slow:
    """One on which each part of a call takes nearly all the patience, by the loop's clock."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        loop = asyncio.get_running_loop()
        self._now = loop.time()
        monkeypatch.setattr(loop, "time", lambda: self._now)

    async def _part(self) -> None:
        self._now += 0.9 * LEAST_CALL_S
        await asyncio.sleep(0)  # what is over by then ends

    def _answer(self, request: Any, timeout: float) -> "Answers":
        return Answers(self._part, ANSWERS[type(request)])

    async def _take(self, requests: AsyncIterator[Any], timeout: float) -> None:
        async for _ in requests:
            await self._part()

    Read = GetRecords = _answer
    Commit = Begin = PutRecords = PutSnapshot = _take


class Answers:
    def __init__(self, part: Callable[[], Awaitable[None]], answers: list[Any]) -> None:
        self._part, self._answers = part, answers

    async def __aiter__(self) -> AsyncIterator[Any]:
        for answer in self._answers:
            await self._part()
            yield answer

    def cancel(self) -> None:
        pass


def contact_store(stub: Any) -> LineStore:
    signer = SeedSigner(bytes(32))
    return LineStore(stub, "test.ipls", "+491701234567", signer, now_ms=lambda: 0, retry_for_s=0)


@pytest.mark.parametrize("call", CALLS)
async def test_each_call_to_a_silent_contact_store_ends_with_the_patience(
    call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "LEAST_CALL_S", 0.01)
    async with asyncio.timeout(CALL_S / 2):
        with refused("DEADLINE_EXCEEDED"):
            await CALLS[call](contact_store(Silent()))


@pytest.mark.parametrize("call", [call for call in CALLS if call != "have"])
async def test_contacts_that_are_on_their_way_may_take_longer(call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    await CALLS[call](contact_store(Slow(monkeypatch)))


def refused(reason: str, said: str | None = None) -> "pytest.RaisesExc[TryLaterError]":
    return pytest.raises(TryLaterError, match=said, check=lambda error: error.reason == reason)


async def no_code(request_id: bytes) -> str:
    raise AssertionError("no code is needed")
