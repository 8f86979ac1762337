"""The plain HTTP services against whoever sends or takes nothing, too much, or nonsense."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import NoReturn

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from structlog.testing import capture_logs

from ipls.address import STRANGER_SHARE
from ipls.http.server import ANSWER_S, MAX_ANSWERS, MAX_HEAD, MAX_SILENT, serve
from ipls.runtime.service import Service, TaskEnded

IDLE_S = 1
WITHIN_S = 60
TOO_MUCH = MAX_HEAD + 512 * 1024  # more than is taken from a socket at once
GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"


class Served:
    """An application with a small answer, one without end, and one that waits for `go`."""

    def __init__(self) -> None:
        self.ended = asyncio.Event()
        """The endless answer is not made any more."""
        self.held = asyncio.Semaphore(0)
        """One that waits has begun."""
        self.go = asyncio.Event()
        routes = {"/": self.small, "/endless": self.endless, "/held": self.wait}
        self.app = Starlette(routes=[Route(path, answer) for path, answer in routes.items()])
        self.port = 0

    async def small(self, _: Request) -> Response:
        return PlainTextResponse("hello")

    async def wait(self, _: Request) -> Response:
        self.held.release()
        await self.go.wait()
        return PlainTextResponse("hello")

    async def endless(self, _: Request) -> Response:
        async def pieces() -> AsyncIterator[bytes]:
            try:
                while True:
                    yield bytes(65536)
                    await asyncio.sleep(0)
            finally:
                self.ended.set()

        return StreamingResponse(pieces())

    @asynccontextmanager
    async def connect(
        self, source: str = "127.0.0.1"
    ) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, local_addr=(source, 0))
        try:
            yield reader, writer
        finally:
            writer.close()

    async def ask(self, request: bytes) -> bytes:
        """All that comes until the server closes; nothing where it closes with a part of the request unread."""
        async with self.connect() as (reader, writer):
            writer.write(request)
            try:
                return await asyncio.wait_for(reader.read(), WITHIN_S)
            except ConnectionResetError:
                return b""


@asynccontextmanager
async def serving(idle_s: int, answer_s: float = ANSWER_S) -> AsyncIterator[Served]:
    served = Served()
    async with Service("test") as service:
        served.port = await serve(service, served.app, "127.0.0.1:0", idle_s=idle_s, answer_s=answer_s)
        yield served


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serving(IDLE_S) as served:
        yield served


async def test_an_answer_and_the_next_on_one_connection(served: Served) -> None:
    async with served.connect() as (reader, writer):
        for _ in range(2):
            writer.write(GET)
            answer = await asyncio.wait_for(reader.readuntil(b"hello"), WITHIN_S)
            assert answer.startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("begun", [b"", b"GET / HTTP/1.1\r\n", GET, GET + b"GET /", GET * 3])
async def test_a_connection_without_a_whole_request_is_closed(served: Served, begun: bytes) -> None:
    answer = await served.ask(begun)
    assert answer.count(b"hello") == begun.count(GET)


@pytest.mark.parametrize("body", [False, True])
async def test_a_request_that_trickles_in_is_cut_off(served: Served, body: bool) -> None:
    begun = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 100000000\r\n\r\n" if body else b"GET / HTTP/1.1\r\nX: "
    async with served.connect() as (_, writer):
        writer.write(begun)

        async def trickle() -> None:
            while True:
                writer.write(b"x")
                await writer.drain()
                await asyncio.sleep(0.05)

        with pytest.raises(ConnectionError):
            await asyncio.wait_for(trickle(), WITHIN_S)


async def test_a_reader_who_takes_nothing_is_cut_off(served: Served) -> None:
    with socket.create_connection(("127.0.0.1", served.port)) as slow:
        slow.sendall(GET.replace(b"/ ", b"/endless ", 1))
        await asyncio.wait_for(served.ended.wait(), WITHIN_S)


@pytest.mark.parametrize(
    "request_",
    [
        b"GET / HTTP/1.1\r\nHost: h\r\nX: " + b"x" * TOO_MUCH + b"\r\n\r\n",
        b"GET /" + b"x" * TOO_MUCH + b" HTTP/1.1\r\nHost: h\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\n" + b"X: y\r\n" * TOO_MUCH + b"\r\n",
        b"\r\n" * TOO_MUCH,
        b"\0" * 100 + b"\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",  # TLS
        b"GET /\0 HTTP/1.1\r\nHost: h\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: h\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\nX: a\0b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\nContent-Length: -1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nzzz\r\n",
    ],
)
async def test_nonsense_gets_an_error_or_nothing_and_others_go_on(served: Served, request_: bytes) -> None:
    answer = await served.ask(request_)
    if b"chunked" not in request_:  # its head is sound
        assert answer == b"" or answer.startswith(b"HTTP/1.1 400 ")
    assert (await served.ask(GET)).startswith(b"HTTP/1.1 200 ")


async def test_of_more_connections_than_there_may_be_the_oldest_of_whom_there_are_most_ends() -> None:
    """A reader from another address, who was there first and is slow, is served."""
    async with AsyncExitStack() as stack:
        served = await stack.enter_async_context(serving(3600))
        slow_reader, slow = await stack.enter_async_context(served.connect())
        slow.write(GET[:5])
        flood = [await stack.enter_async_context(served.connect("127.0.0.2")) for _ in range(MAX_SILENT)]
        await closed(flood[0][0])
        slow.write(GET[5:])
        await hello(slow_reader)
        reader, writer = await stack.enter_async_context(served.connect())
        writer.write(GET)
        await hello(reader)


async def closed(reader: asyncio.StreamReader) -> None:
    """Nothing more comes."""
    with suppress(ConnectionError):
        assert await asyncio.wait_for(reader.read(), WITHIN_S) == b""


async def hello(reader: asyncio.StreamReader) -> None:
    """An answer comes."""
    assert b"hello" in await asyncio.wait_for(reader.readuntil(b"hello"), WITHIN_S)


HELD = GET.replace(b"/ ", b"/held ", 1)


def forwarded(number: int, of: str = "198.51.100.{}") -> bytes:
    """A proxy's request for the caller of that number."""
    return HELD[:-2] + f"X-Forwarded-For: {of.format(number)}\r\n\r\n".encode()


async def test_who_is_being_answered_makes_room_for_nobody_who_is_silent() -> None:
    """Not even for the same address's."""
    async with AsyncExitStack() as stack:
        served = await stack.enter_async_context(serving(3600))
        reader, writer = await stack.enter_async_context(served.connect("127.0.0.2"))
        writer.write(HELD)
        await served.held.acquire()
        flood = [await stack.enter_async_context(served.connect("127.0.0.2")) for _ in range(MAX_SILENT + 1)]
        await closed(flood[0][0])
        served.go.set()
        await hello(reader)


async def test_who_wants_all_answers_leaves_places_whoever_it_says_it_is() -> None:
    async with AsyncExitStack() as stack:
        served = await stack.enter_async_context(serving(3600))
        held = MAX_ANSWERS // STRANGER_SHARE
        for number in range(held + 1):
            reader, writer = await stack.enter_async_context(served.connect("127.0.0.2"))
            writer.write(forwarded(number))
            if number < held:
                await served.held.acquire()
        refused = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), WITHIN_S)
        assert refused.startswith(b"HTTP/1.1 503 ")
        assert b"\r\nretry-after: 1\r\n" in refused
        other_reader, other = await stack.enter_async_context(served.connect("127.0.0.3"))
        other.write(GET)
        await hello(other_reader)


async def test_who_has_all_lines_of_a_48_has_what_one_address_has() -> None:
    async with AsyncExitStack() as stack:
        served = await stack.enter_async_context(serving(3600))
        for number in range(MAX_ANSWERS // STRANGER_SHARE + 1):
            reader, writer = await stack.enter_async_context(served.connect())
            writer.write(forwarded(number, "2001:db8:1:{}::7"))
            if number < MAX_ANSWERS // STRANGER_SHARE:
                await served.held.acquire()
        assert (await asyncio.wait_for(reader.readuntil(b"\r\n"), WITHIN_S)).startswith(b"HTTP/1.1 503 ")
        _, other = await stack.enter_async_context(served.connect())
        other.write(forwarded(1, "2001:db8:2:{}::7"))
        await served.held.acquire()


async def test_callers_through_a_proxy_are_many_and_take_nothing_of_this_machines_own() -> None:
    async with AsyncExitStack() as stack:
        served = await stack.enter_async_context(serving(3600))
        for number in range(MAX_ANSWERS):
            _, writer = await stack.enter_async_context(served.connect())
            writer.write(forwarded(number))
            await served.held.acquire()
        reader, writer = await stack.enter_async_context(served.connect())
        writer.write(forwarded(MAX_ANSWERS))
        assert (await asyncio.wait_for(reader.readuntil(b"\r\n"), WITHIN_S)).startswith(b"HTTP/1.1 503 ")
        assert b"hello" in await served.ask(GET.replace(b"Host", b"Connection: close\r\nHost"))


async def test_a_request_has_a_deadline() -> None:
    async with serving(3600, answer_s=0.3) as served, served.connect() as (reader, writer):
        writer.write(HELD)
        await closed(reader)


async def test_a_reader_who_takes_for_ever_is_cut_off() -> None:
    async with serving(3600, answer_s=0.3) as served, served.connect() as (reader, writer):
        writer.write(GET.replace(b"/ ", b"/endless ", 1))
        with suppress(ConnectionError):
            while await asyncio.wait_for(reader.read(1 << 16), WITHIN_S):
                pass
        await asyncio.wait_for(served.ended.wait(), WITHIN_S)


async def test_an_answer_that_a_service_s_end_cuts_short_is_no_fault(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("ipls.http.server._DRAIN_S", 0)
    async with AsyncExitStack() as asking, serving(WITHIN_S) as served:  # who asks goes after the service
        _, writer = await asking.enter_async_context(served.connect())
        writer.write(b"GET /held HTTP/1.1\r\nHost: h\r\n\r\n")
        await asyncio.wait_for(served.held.acquire(), WITHIN_S)
    assert "Cancel 1 running task" in caplog.text
    assert "Traceback" not in caplog.text


async def test_a_server_that_ends_by_itself_ends_its_process(monkeypatch: pytest.MonkeyPatch) -> None:
    begun = asyncio.Event()

    async def gives_up(server: uvicorn.Server) -> None:
        begun.set()  # and returns: uvicorn then stops serving, as after a signal

    monkeypatch.setattr(uvicorn.Server, "main_loop", gives_up)
    with capture_logs() as lines, pytest.raises(TaskEnded):
        await serving_until_it_ends()
    assert begun.is_set()
    assert [line["task"] for line in lines] == ["http"]


async def test_a_process_that_fails_before_its_server_has_begun_ends() -> None:
    with capture_logs() as lines, pytest.raises(ValueError, match="of another task"):
        await serving_until_it_ends(another)
    assert [line["task"] for line in lines] == ["another"]


async def another() -> NoReturn:
    raise ValueError("of another task")


async def serving_until_it_ends(*others: Callable[[], Awaitable[object]]) -> None:
    async with Service("test") as service:
        for other in others:
            service.spawn("another", other)
        await asyncio.sleep(0)  # they have ended, which is not known yet
        await serve(service, Served().app, "127.0.0.1:0")
        await asyncio.Event().wait()
