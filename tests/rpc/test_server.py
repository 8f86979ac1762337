"""Who may call a server, and that it does not start where nobody said so."""

from pathlib import Path

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from ipls._grpc import grpc
from ipls.admin.certificates import Authority
from ipls.proto.vault.v1.vault_pb2_grpc import VaultServiceServicer, add_VaultServiceServicer_to_server
from ipls.rpc.channel import open_channel
from ipls.rpc.health import why_not_serving
from ipls.rpc.server import ANYONE, Access, AccessUnstated, GrpcServer, Listener

VAULT = "ipls.vault.v1.VaultService"


def server(folder: Path, access: dict[str, Access]) -> GrpcServer:
    Authority(folder, "test").issue_server("server")
    made = GrpcServer([Listener("127.0.0.1:0", folder / "server.pem", folder / "server.key")], access)
    add_VaultServiceServicer_to_server(VaultServiceServicer(), made.grpc)
    return made


@pytest.mark.parametrize("access", [{}, {"ipls.directory.v1.DirectoryService": ANYONE}])
async def test_a_server_whose_service_has_no_stated_access_does_not_start(
    tmp_path: Path, access: dict[str, Access]
) -> None:
    refusing = server(tmp_path, access)
    with pytest.raises(AccessUnstated, match=VAULT):
        await refusing.start()
    await refusing.stop(0)


async def test_the_health_protocols_watch_is_not_there(tmp_path: Path) -> None:
    stating = server(tmp_path, {VAULT: ANYONE})
    [port] = await stating.start()
    async with open_channel(f"127.0.0.1:{port}", tmp_path / "ca.pem") as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        assert await stub.Watch(health_pb2.HealthCheckRequest()).code() is grpc.StatusCode.UNIMPLEMENTED
        assert (await stub.Check(health_pb2.HealthCheckRequest())).status == health_pb2.HealthCheckResponse.SERVING
    await stating.stop(0)


async def test_who_is_not_ready_takes_calls_and_says_so_until_it_is(tmp_path: Path) -> None:
    starting = server(tmp_path, {VAULT: ANYONE})
    [port] = await starting.start(ready=False)
    address, ca = f"127.0.0.1:{port}", tmp_path / "ca.pem"
    assert await why_not_serving(address, ca) == "it says that it does not serve"
    await starting.ready()
    assert await why_not_serving(address, ca) == ""
    await starting.stop(0)


async def test_one_that_says_who_may_call_starts(tmp_path: Path) -> None:
    stating = server(tmp_path, {VAULT: ANYONE})
    [port] = await stating.start()
    assert port
    await stating.stop(0)
