"""What a handler raises is what a caller gets back; what it does not mean to raise says nothing."""

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from ipls._grpc import grpc
from ipls.admin.certificates import Authority
from ipls.proto.registration.v1 import registration_pb2 as pb
from ipls.proto.registration.v1.registration_pb2_grpc import (
    RegistrationServiceServicer,
    RegistrationServiceStub,
    add_RegistrationServiceServicer_to_server,
)
from ipls.proto.vault.v1.vault_pb2 import SessionRequest
from ipls.proto.vault.v1.vault_pb2_grpc import (
    VaultServiceServicer,
    VaultServiceStub,
    add_VaultServiceServicer_to_server,
)
from ipls.rpc.channel import CHUNK, chunks, open_channel
from ipls.rpc.errors import Ending, RemoteError, ServiceError, remote_error
from ipls.rpc.server import ANYONE, Access, GrpcServer, Listener

SERVICE = "ipls.registration.v1.RegistrationService"


class Failing(RegistrationServiceServicer):
    def __init__(self, error: Exception) -> None:
        self.error = error

    async def RequestCode(self, request: Any, context: Any) -> Any:
        raise self.error

    async def Register(self, request: Any, context: Any) -> Any:
        return pb.RegisterResponse(ticket=b"in")

    async def WatchRegistration(self, request: Any, context: Any) -> Any:
        yield pb.WatchRegistrationResponse(epoch=1)
        raise self.error


async def failure(folder: Path, error: Exception, *, stream: bool = False) -> grpc.aio.AioRpcError:
    Authority(folder, "test").issue_server("server")
    server = GrpcServer(
        [Listener("127.0.0.1:0", folder / "server.pem", folder / "server.key")],
        {"ipls.registration.v1.RegistrationService": ANYONE},
    )
    add_RegistrationServiceServicer_to_server(Failing(error), server.grpc)
    (port,) = await server.start()
    try:
        async with open_channel(f"127.0.0.1:{port}", folder / "ca.pem") as channel:
            stub = RegistrationServiceStub(channel)
            call = stub.RequestCode(pb.RequestCodeRequest())
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await (_drained(stub.WatchRegistration(pb.WatchRegistrationRequest())) if stream else call)
            return raised.value
    finally:
        await server.stop(0)


async def _drained(stream: Any) -> None:
    async for _ in stream:
        pass


@pytest.mark.parametrize("stream", [False, True])
async def test_reason_message_and_delay_cross_the_wire(tmp_path: Path, stream: bool) -> None:
    error = ServiceError("LABEL_QUOTA", "enough for today", retry_after_s=2.5)
    got = remote_error(await failure(tmp_path, error, stream=stream))
    assert (got.code, got.reason, got.message) == (error.code, "LABEL_QUOTA", "enough for today")
    assert got.retry_after_s == 2.5


async def test_bad_request_and_retry_info_come_where_they_help(tmp_path: Path) -> None:
    def kinds(raised: grpc.aio.AioRpcError) -> set[str]:
        status = rpc_status.from_call(raised)
        assert status is not None
        return {detail.type_url.rpartition(".")[2] for detail in status.details}

    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    invalid = await failure(tmp_path / "a", ServiceError("BODY_INVALID", "a bad field"))
    assert kinds(invalid) == {"ErrorInfo", "BadRequest"}
    away = await failure(tmp_path / "b", ServiceError("VAULT_AWAY", "not now"))
    assert kinds(away) == {"ErrorInfo", "RetryInfo"}
    assert error_details_pb2.ErrorInfo.DESCRIPTOR.name == "ErrorInfo"


@pytest.mark.parametrize("stream", [False, True])
async def test_an_unforeseen_error_says_nothing_of_itself(tmp_path: Path, stream: bool) -> None:
    got = remote_error(await failure(tmp_path, ValueError("+15550001111"), stream=stream))
    assert (got.code, got.reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")
    assert "555" not in got.message


async def test_a_peer_that_is_not_there_is_unreachable(tmp_path: Path) -> None:
    Authority(tmp_path, "test")
    async with open_channel("127.0.0.1:1", tmp_path / "ca.pem") as channel:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await RegistrationServiceStub(channel).Register(pb.RegisterRequest(), timeout=5)
    error = remote_error(raised.value)
    assert isinstance(error, RemoteError)
    assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "UNREACHABLE")


async def test_another_authoritys_server_is_not_believed(tmp_path: Path) -> None:
    (tmp_path / "ours").mkdir()
    (tmp_path / "theirs").mkdir()
    Authority(tmp_path / "ours", "test")
    Authority(tmp_path / "theirs", "test").issue_server("server")
    theirs = tmp_path / "theirs"
    server = GrpcServer(
        [Listener("127.0.0.1:0", theirs / "server.pem", theirs / "server.key")],
        {"ipls.registration.v1.RegistrationService": ANYONE},
    )
    add_RegistrationServiceServicer_to_server(Failing(ValueError()), server.grpc)
    (port,) = await server.start()
    async with open_channel(f"127.0.0.1:{port}", tmp_path / "ours/ca.pem") as channel:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await RegistrationServiceStub(channel).Register(pb.RegisterRequest(), timeout=5)
    await server.stop(0)
    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("role", ["messaging-service", "another", None])
async def test_a_role_opens_what_it_is_for(tmp_path: Path, role: str | None) -> None:
    authority = Authority(tmp_path, "test")
    authority.issue_server("server")
    tls = (tmp_path / "server.pem", tmp_path / "server.key")
    server = GrpcServer(
        [Listener("127.0.0.1:0", *tls), Listener("127.0.0.1:0", *tls, client_ca=tmp_path / "ca.pem")],
        {SERVICE: Access("messaging-service")},
    )
    add_RegistrationServiceServicer_to_server(Failing(ValueError()), server.grpc)
    public, internal = await server.start()
    certificate = {}
    if role:
        authority.issue_client("client", role)
        certificate = {"certificate": tmp_path / "client.pem", "key": tmp_path / "client.key"}
    port = internal if role else public
    async with open_channel(f"127.0.0.1:{port}", tmp_path / "ca.pem", **certificate) as channel:
        call = RegistrationServiceStub(channel).Register(pb.RegisterRequest(), timeout=5)
        if role == "messaging-service":
            assert (await call).ticket == b"in"
        else:
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await call
            assert remote_error(raised.value).reason == "ROLE_REQUIRED"
    await server.stop(0)


@pytest.mark.parametrize("size", [0, 1, CHUNK, CHUNK + 1, 3 * CHUNK])
def test_chunks_are_bounded_and_whole(size: int) -> None:
    data = bytes(size)
    pieces = list(chunks(data))
    assert b"".join(pieces) == data
    assert all(0 < len(piece) <= CHUNK for piece in pieces)


class Refusing(VaultServiceServicer):
    async def Session(self, requests: Any, context: Any) -> Any:
        raise ServiceError("VAULT_BUSY", "try again")
        yield  # a stream all the same


async def refusal(stub: Any) -> str:
    """Of a stream that goes on sending."""
    call = stub.Session()
    ending = Ending(call)
    try:
        with suppress(asyncio.InvalidStateError):
            while True:
                await call.write(SessionRequest(m1=bytes(100)))
        await call.read()
    except grpc.aio.AioRpcError as error:
        return remote_error(ending.why(error)).reason
    return ""


async def test_why_a_stream_was_refused_reaches_who_is_still_sending(tmp_path: Path) -> None:
    Authority(tmp_path, "test").issue_server("server")
    server = GrpcServer(
        [Listener("127.0.0.1:0", tmp_path / "server.pem", tmp_path / "server.key")],
        {"ipls.vault.v1.VaultService": ANYONE},
    )
    add_VaultServiceServicer_to_server(Refusing(), server.grpc)
    (port,) = await server.start()
    async with open_channel(f"127.0.0.1:{port}", tmp_path / "ca.pem") as channel:
        stub = VaultServiceStub(channel)
        for _ in range(10):
            assert {*await asyncio.gather(*(refusal(stub) for _ in range(20)))} == {"VAULT_BUSY"}
    await server.stop(0)
