"""Who may call a server, and that it does not start where nobody said so."""

from pathlib import Path

import pytest

from ipls.admin.certificates import Authority
from ipls.proto.vault.v1.vault_pb2_grpc import VaultServiceServicer, add_VaultServiceServicer_to_server
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


async def test_one_that_says_who_may_call_starts(tmp_path: Path) -> None:
    stating = server(tmp_path, {VAULT: ANYONE})
    [port] = await stating.start()
    assert port
    await stating.stop(0)
