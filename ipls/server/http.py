"""Plain HTTP services: what they serve is public and checked by whoever reads it."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import uvicorn
from starlette.applications import Starlette

_DRAIN_S = 2


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves signals to `until_signal`, as every service does: uvicorn would raise them anew when it is done."""
        yield


@asynccontextmanager
async def serving(app: Starlette, listen: str) -> AsyncIterator[int]:
    """Serve at `host:port` while the block runs, then drain; gives the bound port. Raises OSError if it is taken."""
    host, _, port = listen.rpartition(":")
    listener = socket.create_server(
        (host.strip("[]"), int(port)), family=socket.AF_INET6 if "[" in host else socket.AF_INET
    )
    config = uvicorn.Config(app, log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=_DRAIN_S)
    server = _Server(config)
    running = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        await running
