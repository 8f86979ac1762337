"""A peer that answers with bytes that mean nothing, or details that lie."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import any_pb2
from google.rpc import status_pb2

from ipls._grpc import grpc
from ipls.admin.certificates import Authority
from ipls.proto.registration.v1 import registration_pb2 as pb
from ipls.proto.registration.v1.registration_pb2_grpc import RegistrationServiceStub
from ipls.rpc.channel import open_channel
from ipls.rpc.errors import ServiceError, remote_error, to_status
from ipls.rpc.limits import Method

CODE = grpc.StatusCode.PERMISSION_DENIED
DETAILS = "grpc-status-details-bin"


@asynccontextmanager
async def peer(folder: Path, answer: Any) -> AsyncIterator[Any]:
    """A stub whose every call `answer(context)` serves, in bytes."""
    Authority(folder, "test").issue_server("server")

    class Handler(grpc.GenericRpcHandler):
        def service(self, details: Any) -> Any:
            async def one(request: bytes, context: Any) -> bytes:
                return bytes(await answer(context))

            async def stream(request: bytes, context: Any) -> AsyncIterator[bytes]:
                yield bytes(await answer(context))

            if details.method.endswith("WatchRegistration"):
                return grpc.unary_stream_rpc_method_handler(stream)
            return grpc.unary_unary_rpc_method_handler(one)

    server = grpc.aio.server()
    server.add_generic_rpc_handlers((Handler(),))
    key, certificate = (folder / "server.key").read_bytes(), (folder / "server.pem").read_bytes()
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(key, certificate)]))
    await server.start()
    try:
        async with open_channel(f"127.0.0.1:{port}", folder / "ca.pem") as channel:
            yield RegistrationServiceStub(channel)
    finally:
        await server.stop(0)


async def test_an_answer_that_cannot_be_read_is_an_empty_one(tmp_path: Path) -> None:
    async def garbage(context: Any) -> bytes:
        return b"\xff\xff\xff garbage"

    async with peer(tmp_path, garbage) as stub:
        assert await stub.Register(pb.RegisterRequest()) == pb.RegisterResponse()
        watched = [response async for response in stub.WatchRegistration(pb.WatchRegistrationRequest())]
        assert watched == [pb.WatchRegistrationResponse()]


@pytest.mark.parametrize("watch", [False, True])
async def test_an_answer_over_its_methods_limit_is_not_decoded(tmp_path: Path, watch: bool) -> None:
    """Some messages take 64 times their bytes."""
    sizes = iter((0, 1))

    async def long(context: Any) -> bytes:
        size = Method().answer - 4 + next(sizes)
        return pb.RegisterResponse(ticket=bytes(size)).SerializeToString()

    async with peer(tmp_path, long) as stub:
        if watch:  # a stream's messages are bytes of another kind: unknown fields, which are kept
            answers = [await stub.WatchRegistration(pb.WatchRegistrationRequest()).read() for _ in range(2)]
        else:
            answers = [await stub.Register(pb.RegisterRequest()) for _ in range(2)]
    assert [answer.ByteSize() for answer in answers] == [Method().answer, 0]


def with_details(*details: any_pb2.Any, code: grpc.StatusCode = CODE) -> bytes:
    return status_pb2.Status(code=code.value[0], message="no", details=details).SerializeToString()


def error_info(reason: str) -> bytes:
    [(_, details)] = to_status(ServiceError(reason, "no", code=CODE)).trailing_metadata
    return bytes(details)


@pytest.mark.parametrize(
    "details",
    [
        b"\xff\xff\xff\x01",
        with_details(any_pb2.Any(type_url="type.googleapis.com/google.rpc.ErrorInfo", value=b"\xff")),
        with_details(code=grpc.StatusCode.INVALID_ARGUMENT),
        error_info("\x1b[2JCLEARED\n"),
        error_info("A" * 64),
        error_info(""),
    ],
    ids=["garbage", "garbage inside", "other code", "terminal codes", "long", "none"],
)
async def test_details_that_lie_are_passed_over(tmp_path: Path, details: bytes) -> None:
    async def deny(context: Any) -> bytes:
        await context.abort(CODE, "no", ((DETAILS, details),))
        raise AssertionError

    async with peer(tmp_path, deny) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await stub.Register(pb.RegisterRequest())
    error = remote_error(raised.value)
    assert (error.code, error.reason, error.message) == (CODE, "PERMISSION_DENIED", "no")


async def test_a_call_that_the_server_drops_is_tried_again_like_one_that_did_not_reach_it(tmp_path: Path) -> None:
    """As gRPC does of itself where a flood has filled its queue."""

    async def drop(context: Any) -> bytes:
        await context.abort(grpc.StatusCode.CANCELLED)
        raise AssertionError

    async with peer(tmp_path, drop) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await stub.Register(pb.RegisterRequest())
    error = remote_error(raised.value)
    assert (error.code, error.reason, error.passes) == (grpc.StatusCode.UNAVAILABLE, "UNREACHABLE", True)
