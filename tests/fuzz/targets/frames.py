"""Frames, and statuses."""

import asyncio
import io
import socket
import threading
from contextlib import AsyncExitStack, suppress
from functools import partial
from typing import Any

from ipls._grpc import grpc
from ipls.hsm.pipe import Frame, PipeError, framed, receive, receive_blocking
from ipls.http.client import HttpClient, HttpTooLarge, HttpUnavailable
from ipls.proto.registration.v1 import registration_pb2, registration_pb2_grpc
from ipls.rpc.errors import ServiceError, remote_error, to_status
from tests.fuzz.target import LABEL, Target, folder, serialized, target
from tests.server.loopback import loopback

_LOOPS: list[Any] = []


@target("vault pipe")
def _() -> Target:
    def run(data: bytes) -> None:
        async def go() -> list[Frame]:
            reader, messages = asyncio.StreamReader(), []
            reader.feed_data(data)
            reader.feed_eof()
            while (message := await receive(reader)) is not None:
                messages.append(message)
            return messages

        stream, messages = io.BytesIO(data), []
        try:
            while (message := receive_blocking(stream)) is not None:
                messages.append(message)
        finally:
            refused = None
            try:
                assert asyncio.run(go()) == messages
            except PipeError as error:
                refused = error
        assert refused is None

    return Target(run, (PipeError,), (framed(1, 2) + framed(2**64 - 1, 3, b"message"), framed(1, 2, bytes(300))))


@target("status details")
def _() -> Target:
    code = grpc.StatusCode.UNAVAILABLE
    [(_, seed)] = to_status(ServiceError("QUEUE_FULL", "later", retry_after_s=2)).trailing_metadata

    def run(data: bytes) -> None:
        trailers = grpc.aio.Metadata(("grpc-status-details-bin", data))
        error = remote_error(grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailers, details="later"))
        assert error.reason in ("QUEUE_FULL", "UNREACHABLE") or len(error.reason) < 64

    return Target(run, (), (bytes(seed),))


@target("HTTP answer")
def _() -> Target:
    """All that a server sends on a connection, which it then closes."""
    body = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody"
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n"
    listener, answer = socket.create_server(("127.0.0.1", 0)), [b""]

    def serve() -> None:
        while True:
            connection, _ = listener.accept()
            with connection, suppress(OSError):
                connection.recv(65536)
                connection.sendall(answer[0])

    threading.Thread(target=serve, daemon=True).start()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/"

    def run(data: bytes) -> None:
        answer[0] = data
        _, body = HttpClient().get(url, limit=64)
        assert len(body) <= 64

    return Target(run, (HttpUnavailable, HttpTooLarge), (body, chunked), weight=2)


@target("gRPC message")
def _() -> Target:
    """A request to a server of ours, in bytes: read by its handler or refused as unreadable, and nothing is logged."""
    seed = registration_pb2.RegisterRequest(label=LABEL, request_id=b"\x09" * 16, code="123456")

    class Service(registration_pb2_grpc.RegistrationServiceServicer):
        async def Register(self, request: Any, context: Any) -> Any:
            assert request.ByteSize() >= 0
            return registration_pb2.RegisterResponse()

    async def prepare() -> Any:
        stack = AsyncExitStack()
        channel = await stack.enter_async_context(
            loopback(folder(), partial(registration_pb2_grpc.add_RegistrationServiceServicer_to_server, Service()))
        )
        method = "/ipls.registration.v1.RegistrationService/Register"
        response = registration_pb2.RegisterResponse.FromString
        return channel.unary_unary(method, request_serializer=bytes, response_deserializer=response), stack

    loop = asyncio.new_event_loop()
    call, stack = loop.run_until_complete(prepare())
    _LOOPS.append((loop, stack))

    def run(data: bytes) -> None:
        async def go() -> None:
            try:
                await call(data, timeout=60)
            except grpc.aio.AioRpcError as error:
                if remote_error(error).reason != "MESSAGE_UNREADABLE":
                    raise
                raise remote_error(error) from error

        loop.run_until_complete(go())

    return Target(run, (ServiceError,), serialized(seed), weight=4)
