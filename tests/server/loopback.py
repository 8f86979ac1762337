"""A service on a loopback port with TLS, as in production, and a channel to it."""

import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import grpc

from ipls.admin.certificates import Authority
from ipls.rpc.channel import open_channel
from ipls.rpc.server import GrpcServer, Listener
from tests.trust.roots import NAMESPACE


@asynccontextmanager
async def loopback(folder: Path, add: Callable[[grpc.aio.Server], None]) -> AsyncIterator[grpc.aio.Channel]:
    """`add` puts the service on the server; the CA's files go to a new folder in `folder`."""
    folder = Path(tempfile.mkdtemp(dir=folder))
    Authority(folder, NAMESPACE).issue_server("server")
    server = GrpcServer([Listener("127.0.0.1:0", folder / "server.pem", folder / "server.key")])
    add(server.grpc)
    (port,) = await server.start()
    try:
        async with open_channel(f"127.0.0.1:{port}", folder / "ca.pem") as channel:
            yield channel
    finally:
        await server.stop(0)
