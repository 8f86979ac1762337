"""The core as a process that is started by itself, under a user of its own: it listens on a Unix socket, and runs the
core (`ipls.hsm.core`) on the connection of a front, one at a time.

The system says whose a connection is. Only the front's user is served, and a front that is there keeps its core: the
next one is served when its connection ends.

Tested by tests/attack/test_vault_users.py.
"""

import asyncio
import select
import socket
import struct
import sys
from contextlib import ExitStack, suppress
from pathlib import Path

import structlog

from ipls.config import PartedCore
from ipls.hsm import pipe
from ipls.hsm.process import ended
from ipls.proto.vault.v1.core_pb2 import CoreResponse, Refused
from ipls.runtime.privileges import become, close_off
from ipls.runtime.service import Service
from ipls.runtime.tasks import race

log = structlog.get_logger()

_BUSY = Refused(reason="VAULT_CORE_LOST", message="the vault's core has another front; try again")
_UCRED = struct.Struct("3i")


class CoreListener:
    """One core at most."""

    def __init__(self, config_path: Path, parted: PartedCore, process: Service) -> None:
        self._config_path = config_path
        self._front = parted.front
        self._process = process
        self._core: asyncio.subprocess.Process | None = None

    async def accept(self, listening: socket.socket) -> None:
        """For ever. Raises OSError where a core can't be started."""
        while True:
            connection, _ = await asyncio.get_running_loop().sock_accept(listening)
            with ExitStack() as closing:
                closing.enter_context(connection)
                _, uid, _ = _UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
                if uid != self._front:
                    log.warning("a user who is not the vault's front came to its core", uid=uid)
                elif self._core is not None:
                    with suppress(OSError):  # it has gone already
                        connection.send(pipe.framed(0, CoreResponse.REFUSED_FIELD_NUMBER, _BUSY.SerializeToString()))
                else:
                    self._core = await asyncio.create_subprocess_exec(
                        sys.executable,
                        *("-m", "ipls.hsm.core", str(self._config_path)),
                        stdin=connection.fileno(),
                        stdout=asyncio.subprocess.DEVNULL,
                        start_new_session=True,
                    )
                    closing.pop_all()
                    self._process.start("core", self._attend(self._core, connection))

    async def _attend(self, core: asyncio.subprocess.Process, connection: socket.socket) -> None:
        """Until it has ended, as it does when its front has gone; the front sees its end by the connection's."""
        with connection:
            await race(core.wait(), _hung_up(connection))
            log.info("vault core ended", status=await ended(core))
        self._core = None

    async def close(self) -> None:
        """End the core, which may be killed at any time."""
        if self._core is not None:
            with suppress(ProcessLookupError):
                self._core.terminate()
            await ended(self._core)


async def _hung_up(connection: socket.socket) -> None:
    """Return when the other end has closed the connection, of which nothing is read."""
    hung_up, loop = asyncio.Event(), asyncio.get_running_loop()
    with select.epoll() as watch:
        watch.register(connection, select.EPOLLRDHUP)
        loop.add_reader(watch, hung_up.set)
        try:
            await hung_up.wait()
        finally:
            loop.remove_reader(watch)


async def run(config_path: Path, parted: PartedCore, service: Service) -> None:
    """Listen, as the core's user. Raises ConfigError, OSError."""
    become(parted.core)
    close_off()
    listening = service.enter(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
    parted.socket.unlink(missing_ok=True)
    listening.bind(str(parted.socket))
    parted.socket.chmod(0o666)  # whose a connection is decides
    listening.listen()
    listening.setblocking(False)
    core = CoreListener(config_path, parted, service)
    service.release_async(core.close)
    service.spawn("accept", lambda: core.accept(listening))
    log.info("serving", service=service.name, socket=str(parted.socket))
