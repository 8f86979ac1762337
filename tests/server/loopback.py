"""A service on a loopback port with TLS, as in production, and a channel to it."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

from ipls._grpc import grpc
from ipls.admin.certificates import Authority
from ipls.rpc.channel import open_channel
from ipls.rpc.server import ANYONE, GrpcServer, Listener
from ipls.runtime.tasks import race
from tests.trust.roots import NAMESPACE

SERVICES = {
    f"ipls.{name}": ANYONE
    for name in (
        "contacts.v1.ContactsService",
        "contacts.v2.ContactsService",
        "directory.v1.DirectoryService",
        "registration.v1.RegistrationService",
        "vault.v1.VaultService",
        "witness.v1.WitnessService",
    )
}


CALLER: Any = SimpleNamespace(peer=lambda: "ipv4:192.0.2.1:7", auth_context=dict)
"""The context of a call that comes over no wire."""


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


@asynccontextmanager
async def calling_from(host: str, address: str) -> AsyncIterator[str]:
    """Where to connect for `address` to be called from `host`, one of 127.0.0.0/8."""

    async def carry(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        while data := await source.read(1 << 16):
            target.write(data)
            await target.drain()

    async def relay(near: asyncio.StreamReader, to_near: asyncio.StreamWriter) -> None:
        server, port = address.rsplit(":", 1)
        far, to_far = await asyncio.open_connection(server, int(port), local_addr=(host, 0))
        try:
            await race(carry(near, to_far), carry(far, to_near))
        finally:
            to_far.close()
            to_near.close()

    async with await asyncio.start_server(relay, "127.0.0.1") as listener:
        yield f"127.0.0.1:{listener.sockets[0].getsockname()[1]}"
