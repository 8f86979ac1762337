"""A service on a loopback port with TLS, as in production, and a channel to it."""

import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

from ipls._grpc import grpc
from ipls.admin.certificates import Authority
from ipls.rpc.channel import open_channel
from ipls.rpc.server import ANYONE, GrpcServer, Listener
from tests.trust.roots import NAMESPACE

SERVICES = {
    f"ipls.{name}": ANYONE
    for name in (
        "contacts.v1.ContactsService",
        "directory.v1.DirectoryService",
        "registration.v1.RegistrationService",
        "vault.v1.VaultService",
        "witness.v1.WitnessService",
    )
}


class Listening(NamedTuple):
    address: str
    ca: Path


@asynccontextmanager
async def listening(folder: Path, add: Callable[[grpc.aio.Server], None]) -> AsyncIterator[Listening]:
    """`add` puts the service on the server; the CA's files go to a new folder in `folder`."""
    folder = Path(tempfile.mkdtemp(dir=folder))
    Authority(folder, NAMESPACE).issue_server("server")
    server = GrpcServer([Listener("127.0.0.1:0", folder / "server.pem", folder / "server.key")], SERVICES)
    add(server.grpc)
    (port,) = await server.start()
    try:
        yield Listening(f"127.0.0.1:{port}", folder / "ca.pem")
    finally:
        await server.stop(0)


@asynccontextmanager
async def loopback(folder: Path, add: Callable[[grpc.aio.Server], None]) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to what listens so."""
    async with listening(folder, add) as server, open_channel(*server) as channel:
        yield channel
