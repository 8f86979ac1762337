"""A Redis of the test's own, on a socket in its folder."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ConnectionError

from tests.environment import DIES_WITH_US


class RedisServer:
    """`raw` talks to it as whoever got hold of it would."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = f"unix://{folder}/redis.sock"
        self.raw: Any = Redis.from_url(self.url)
        self.process: asyncio.subprocess.Process

    async def start(self) -> None:
        """Return once it answers."""
        self.process = await asyncio.create_subprocess_exec(
            *(*DIES_WITH_US, "redis-server", "--port", "0", "--unixsocket", f"{self.folder}/redis.sock"),
            *("--save", "", "--dir", str(self.folder), "--logfile", f"{self.folder}/redis.log"),
        )
        while True:
            try:
                await self.raw.ping()
                return
            except ConnectionError:
                await asyncio.sleep(0.01)  # it says to nobody that it is up

    async def kill(self) -> None:
        """By SIGKILL; all that it kept is gone."""
        self.process.kill()
        await self.process.wait()

    def stop(self) -> None:
        """It takes connections, and answers nothing, until `go_on`."""
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    async def entries(self, count: int) -> dict[bytes, bytes]:
        """All that is kept, once there are so many."""
        while len(names := sorted(await self.raw.keys("ipls:*"))) < count:  # noqa: ASYNC110  # it tells nobody
            await asyncio.sleep(0.01)
        return dict(zip(names, await self.raw.mget(names), strict=True))


@asynccontextmanager
async def redis_server(folder: Path) -> AsyncIterator[RedisServer]:
    server = RedisServer(folder)
    await server.start()
    try:
        yield server
    finally:
        if server.process.returncode is None:
            await server.kill()
        await server.raw.aclose()


class ScriptedRedis:
    """Greets whoever connects, and answers what is asked first with `data`, then no more. `again` is set when somebody
    connects once more.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._connections = 0
        self.again = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections += 1
        if self._connections > 1:
            self.again.set()
        greetings = {b"HELLO": b"%1\r\n+proto\r\n:3\r\n", b"CLIENT": b"+OK\r\n"}
        while (asked := await self._command(reader)) in greetings:
            writer.write(greetings[asked])
        writer.write(self._data)
        writer.write_eof()
        await reader.read()
        writer.close()

    @staticmethod
    async def _command(reader: asyncio.StreamReader) -> bytes:
        words = []
        for _ in range(int((await reader.readline())[1:] or b"0")):
            await reader.readline()
            words.append((await reader.readline()).strip())
        return words[0] if words else b""
