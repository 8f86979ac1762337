"""Strangers who open calls at any service and then say nothing, half a word, or a word at a time, take no answer, or
stay for ever; from another address than the honest caller, who is served meanwhile."""

import asyncio
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from ipls._grpc import grpc
from ipls.admin.certificates import Authority
from ipls.rpc.channel import open_channel
from ipls.rpc.errors import RemoteError, remote_error
from ipls.rpc.health import until_serving
from ipls.rpc.limits import METHODS, Limits, Method
from ipls.rpc.server import ANYONE, GrpcServer, Listener
from tests.rpc.strangers import Stranger, message, stranger

SERVICES = [f"{name}.v1.{name}" for name in ("contacts", "directory", "registration", "vault", "witness")]
SERVICES.append("contacts.v2.contacts")
PLACES = 8
FLOOD = 5 * PLACES
NEVER = 3600.0
"""However busy the machine is."""
FAST = 1 << 30
"""Bytes a second: none of them gains a caller time."""
SMALL = Limits(
    silent=PLACES,
    silent_s=NEVER,
    working=PLACES,
    standing=PLACES,
    stranger_share=2,
    handshake_s=NEVER,
    idle_s=NEVER,
)


def methods() -> Iterator[Any]:
    """The descriptors of every method of the system."""
    for name in SERVICES:
        for service in import_module(f"ipls.proto.{name}_pb2").DESCRIPTOR.services_by_name.values():
            yield from service.methods


def path(method: Any) -> str:
    return f"{method.containing_service.full_name}/{method.name}"


ALL = sorted(methods(), key=path)
LOOKUP, WATCH = (f"ipls.directory.v1.DirectoryService/{name}" for name in ("Lookup", "WatchHeads"))
PUT = "ipls.contacts.v2.ContactsService/PutRecords"


def raw(channel: grpc.aio.Channel, name: str) -> Any:
    """That method, in bytes."""
    return channel.stream_stream(f"/{name}", request_serializer=bytes, response_deserializer=bytes)


@dataclass
class Served:
    """Every method of the system on one server. Its calls are answered at once, or wait for `go`."""

    port: int
    internal: int
    """The port that asks for a certificate."""
    ca: Path
    go: asyncio.Event
    begun: asyncio.Semaphore

    def stranger(self, source: str = "127.0.0.2", **options: Any) -> Any:
        return stranger(self.port, self.ca, source, **options)

    def channel(self) -> grpc.aio.Channel:
        """gRPC's own client, at 127.0.0.1."""
        return open_channel(f"127.0.0.1:{self.port}", self.ca)

    def part(self, name: str) -> grpc.aio.Channel:
        """One of the deployment's own parts, `one` or `other`, with its certificate."""
        files = {kind: self.ca.parent / f"{name}.{end}" for kind, end in (("certificate", "pem"), ("key", "key"))}
        return open_channel(f"127.0.0.1:{self.internal}", self.ca, **files)

    async def honest(self, name: str) -> None:
        """A call from 127.0.0.1 is answered."""
        async with self.channel() as channel:
            assert await raw(channel, name)(iter([b""]), timeout=60).read() == b""

    async def refusal(self, name: str) -> RemoteError:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await self.honest(name)
        return remote_error(refused.value)


def handlers(go: asyncio.Event, begun: asyncio.Semaphore) -> Iterator[Any]:
    async def whole(request: Any, context: Any) -> Any:
        begun.release()
        if hasattr(request, "__aiter__"):
            async for _ in request:
                pass
        await go.wait()
        return empty

    async def stream(request: Any, context: Any) -> AsyncIterator[Any]:
        begun.release()
        yield empty
        await go.wait()

    empty = b""
    make: dict[tuple[bool, bool], Callable[..., Any]] = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }
    for service in {method.containing_service for method in ALL}:
        yield grpc.method_handlers_generic_handler(
            service.full_name,
            {
                method.name: make[method.client_streaming, method.server_streaming](
                    stream if method.server_streaming else whole, bytes, bytes
                )
                for method in service.methods
            },
        )


@asynccontextmanager
async def serving(folder: Path, limits: Limits) -> AsyncIterator[Served]:
    authority = Authority(folder, "test")
    authority.issue_server("server")
    for name in ("one", "other"):
        authority.issue_client(name, "messaging-service")
    names = {method.containing_service.full_name for method in ALL}
    listeners = [
        Listener("127.0.0.1:0", folder / "server.pem", folder / "server.key", client_ca)
        for client_ca in (None, folder / "ca.pem")
    ]
    server = GrpcServer(listeners, dict.fromkeys(names, ANYONE), limits)
    go, begun = asyncio.Event(), asyncio.Semaphore(0)
    server.grpc.add_generic_rpc_handlers(tuple(handlers(go, begun)))
    port, internal = await server.start()
    try:
        yield Served(port, internal, folder / "ca.pem", go, begun)
    finally:
        await server.stop(0)


def silent(flood: Stranger, name: str) -> None:
    flood.call(name)


def half_a_message(flood: Stranger, name: str) -> None:
    flood.call(name, message(bytes(100))[:50])


@pytest.mark.parametrize("attack", [silent, half_a_message])
async def test_calls_that_say_nothing_or_half_keep_nobody_out_of_any_method(
    tmp_path: Path, attack: Callable[[Stranger, str], None]
) -> None:
    async with serving(tmp_path, SMALL) as served, served.stranger() as flood:
        served.go.set()
        for method in ALL:
            for _ in range(FLOOD):
                attack(flood, path(method))
            await flood.until(PLACES)
            await served.honest(path(method))
        assert len(flood.open) in (PLACES, PLACES - 1)  # the honest caller's was taken from them


async def test_a_slow_caller_keeps_its_place_in_a_flood_of_others(tmp_path: Path) -> None:
    name = path(ALL[0])
    async with serving(tmp_path, SMALL) as served, served.stranger("127.0.0.3") as slow, served.stranger() as flood:
        served.go.set()
        call = slow.call(name, message(b"12")[:3])
        await served.honest(name)  # so it has arrived
        for _ in range(FLOOD):
            flood.call(name)
        await flood.until(PLACES - 1)
        slow.send(call, message(b"12")[3:], end=True)
        assert await slow.ended(call) > 0


async def test_the_oldest_silent_call_goes_first_with_a_reason(tmp_path: Path) -> None:
    name = path(ALL[0])
    async with serving(tmp_path, SMALL) as served, served.channel() as channel:
        call = raw(channel, name)
        served.go.set()
        # A connection keeps the order of its calls; those that wait for it to be made have none.
        assert await call(iter([b""]), timeout=60).read() == b""
        oldest = call()
        assert await call(iter([b""]), timeout=60).read() == b""
        others = [call() for _ in range(PLACES)]
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await oldest.read()
        for other in others:
            other.cancel()
    error = remote_error(refused.value)
    assert (error.code, error.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "SERVICE_BUSY")
    assert error.retry_after_s == 1


@pytest.mark.parametrize("window", [1 << 20, 0], ids=["takes answers", "takes none"])
@pytest.mark.parametrize("name", ["WatchHeads", "Lookup"], ids=["standing", "in work"])
async def test_who_has_many_calls_leaves_as_many_places_free(tmp_path: Path, name: str, window: int) -> None:
    name = f"ipls.directory.v1.DirectoryService/{name}"
    async with serving(tmp_path, SMALL) as served, served.stranger(window=window) as flood:
        if not window:
            served.go.set()
        for _ in range(FLOOD):
            flood.call(name, message(b""), end=True)
        await flood.until(PLACES // 2)
        async with served.stranger("127.0.0.3", window=window) as second:
            for _ in range(FLOOD):
                second.call(name, message(b""), end=True)
            await second.until(PLACES // 4)
            assert (len(flood.open), len(second.open)) == (PLACES // 2, PLACES // 4)
            served.go.set()
            await served.honest(name)


async def test_who_finds_no_place_is_told_when_to_try_again(tmp_path: Path) -> None:
    async with serving(tmp_path, SMALL) as served, served.channel() as channel:
        call = raw(channel, LOOKUP)
        mine = [call(iter([b""])) for _ in range(PLACES // 2)]
        for _ in mine:
            await served.begun.acquire()
        full = await served.refusal(LOOKUP)
        for each in mine:
            each.cancel()
    assert (full.code, full.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "SERVICE_BUSY")
    assert full.retry_after_s == 1


async def test_a_first_message_that_trickles_is_given_up(tmp_path: Path) -> None:
    limits = Limits(silent_s=0.3, rate=FAST)
    async with serving(tmp_path, limits) as served, served.stranger() as slow:
        call = slow.call(LOOKUP, message(bytes(10_000))[:5])
        while call in slow.open:
            slow.send(call, b"\0")
            await asyncio.sleep(0.01)
        assert served.begun.locked()


async def test_a_stream_that_trickles_later_is_given_up(tmp_path: Path) -> None:
    limits = Limits(rate=FAST, methods={PUT: Method(pause_s=0.3)})
    async with serving(tmp_path, limits) as served, served.stranger() as slow:
        call = slow.call(PUT, message(b"first"))
        await served.begun.acquire()
        while call in slow.open:
            slow.send(call, message(b"a"))
            await asyncio.sleep(0.01)


async def test_a_call_ends_at_its_deadline_whatever_its_caller_says_of_one(tmp_path: Path) -> None:
    async with serving(tmp_path, Limits(methods={LOOKUP: Method(deadline_s=0.1)})) as served:
        late = await served.refusal(LOOKUP)
    assert (late.code, late.reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "CALL_SLOW")


async def test_a_standing_stream_has_its_time(tmp_path: Path) -> None:
    async with serving(tmp_path, Limits(standing_s=0.1)) as served, served.channel() as channel:
        call = raw(channel, WATCH)(iter([b""]))
        assert await call.read() == b""
        with pytest.raises(grpc.aio.AioRpcError) as over:
            await call.read()
    error = remote_error(over.value)
    assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "STREAM_OVER")


async def test_a_standing_stream_lives_by_its_heartbeat(tmp_path: Path) -> None:
    async with serving(tmp_path, Limits(heartbeat_s=0.6)) as served, served.stranger() as dead:
        dead.alive = False
        call = dead.call(WATCH, message(b""), end=True)
        assert await dead.ended(call)


async def test_a_message_over_its_methods_limit_is_not_decoded(tmp_path: Path) -> None:
    limits = Limits(methods={**METHODS, LOOKUP: Method(request=10)})
    async with serving(tmp_path, limits) as served, served.channel() as channel:
        call = raw(channel, LOOKUP)(iter([bytes(11)]))
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call.read()
        assert served.begun.locked()
    error = remote_error(refused.value)
    assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "MESSAGE_TOO_LARGE")


async def test_a_connection_has_so_many_calls_and_headers_of_some_size(tmp_path: Path) -> None:
    async with serving(tmp_path, Limits(streams=4)) as served, served.stranger() as many:
        for _ in range(FLOOD):
            many.call(LOOKUP, message(b""), end=True)
        await many.until(4)
        assert len(many.open) == 4
        async with served.stranger() as long:
            headers = {f"x{n}": 100 * "x" for n in range(90)}
            call = long.call(LOOKUP, message(b""), end=True, metadata=headers)
            await long.ended(call)
        for _ in range(4):
            await served.begun.acquire()
        assert served.begun.locked()


@pytest.mark.parametrize("tls", [False, True], ids=["no TLS", "no HTTP/2"])
async def test_a_connection_that_stops_half_way_is_closed(tmp_path: Path, tls: bool) -> None:
    async with serving(tmp_path, Limits(handshake_s=0.3)) as served:
        context = ssl.create_default_context(cafile=served.ca)
        context.set_alpn_protocols(["h2"])
        options: dict[str, Any] = {"ssl": context, "server_hostname": "localhost"} if tls else {}
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port, **options)
        while await reader.read(1000):
            pass
        writer.close()


async def test_a_connection_without_calls_is_closed(tmp_path: Path) -> None:
    async with serving(tmp_path, Limits(idle_s=0.3)) as served, served.stranger() as idle:
        await idle.closed()


FEW = """
import asyncio, resource, sys
from pathlib import Path
from ipls.rpc.limits import Limits
from ipls.rpc.server import GrpcServer, Listener

async def serve(folder):
    listener = Listener("127.0.0.1:0", folder / "server.pem", folder / "server.key")
    server = GrpcServer([listener], {}, Limits(handshake_s=1, idle_s=1))
    [port] = await server.start()
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))
    print(port, flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await server.stop(0)

asyncio.run(serve(Path(sys.argv[1])))
"""


async def test_connections_that_use_up_the_descriptors_go_and_others_get_in(tmp_path: Path) -> None:
    Authority(tmp_path, "test").issue_server("server")
    command = [sys.executable, "-c", FEW, str(tmp_path)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    server = await asyncio.create_subprocess_exec(*command, **pipes)
    assert server.stdout is not None
    port = int(await server.stdout.readline())
    held = [await asyncio.open_connection("127.0.0.1", port, local_addr=("127.0.0.2", 0)) for _ in range(150)]
    async with asyncio.timeout(60):
        await until_serving(f"127.0.0.1:{port}", tmp_path / "ca.pem")
    for _, writer in held:
        writer.close()
    server.kill()
    await server.wait()


async def test_certificates_have_places_of_their_own_whatever_their_address(tmp_path: Path) -> None:
    """Of two services on one machine one has taken all that it may."""
    async with serving(tmp_path, SMALL) as served, served.part("one") as one, served.part("other") as other:
        calls = [raw(one, LOOKUP)(iter([b""])) for _ in range(PLACES // 2)]
        for _ in calls:
            await served.begun.acquire()
        with pytest.raises(grpc.aio.AioRpcError) as full:
            await raw(one, LOOKUP)(iter([b""])).read()
        assert remote_error(full.value).reason == "SERVICE_BUSY"
        answer = raw(other, LOOKUP)(iter([b""]))
        await served.begun.acquire()
        served.go.set()
        assert await answer.read() == b""


@pytest.mark.parametrize("name", [WATCH, LOOKUP], ids=["standing", "in work"])
async def test_strangers_who_take_all_places_take_none_of_the_deployments_own_parts(tmp_path: Path, name: str) -> None:
    async with AsyncExitStack() as stack:
        served = await stack.enter_async_context(serving(tmp_path, SMALL))
        for last, left in zip(range(2, 6), (4, 2, 1, 1), strict=True):
            flood = await stack.enter_async_context(served.stranger(f"127.0.0.{last}"))
            for _ in range(PLACES):
                flood.call(name, message(b""), end=True)
            for _ in range(left):
                await served.begun.acquire()
            await flood.until(left)
        assert (await served.refusal(name)).reason == "SERVICE_BUSY"
        part = await stack.enter_async_context(served.part("one"))
        answer = raw(part, name)(iter([b""]), timeout=60)
        await served.begun.acquire()
        served.go.set()
        assert await answer.read() == b""


async def test_silent_strangers_push_none_of_the_deployments_own_parts_out(tmp_path: Path) -> None:
    """Each has one call: more than there are places, so that of those who have as many the oldest goes."""
    async with AsyncExitStack() as stack:
        served = await stack.enter_async_context(serving(tmp_path, SMALL))
        part = await stack.enter_async_context(served.part("one"))
        slow = raw(part, LOOKUP)(timeout=60)
        served.go.set()
        assert await raw(part, LOOKUP)(iter([b""])).read() == b""  # on the same connection: so it has arrived
        floods = [await stack.enter_async_context(served.stranger(f"127.0.0.{last}")) for last in range(2, 4 + PLACES)]
        for flood in floods:
            flood.call(LOOKUP)
        pushed_out = [asyncio.create_task(flood.until(0)) for flood in floods]
        for one in islice(asyncio.as_completed(pushed_out), 2):
            await one
        await slow.write(b"")
        await slow.done_writing()
        assert await slow.read() == b""
