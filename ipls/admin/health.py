"""Whether a service over plain HTTP takes connections; whether a port is free; what a process said last.

Tested by tests/admin/test_supervisor.py.
"""

import asyncio
import contextlib
import errno
import json
import os
import socket
from pathlib import Path

from ipls.address import parse_address, reachable
from ipls.config import ConfigError

PAUSE_S = 0.05
LAST_WORDS = 4096
"""Bytes of a log that are looked at."""


def check_free(name: str, address: str) -> None:
    """Raises ConfigError if somebody listens at this address already, such as another run of the same deployment."""
    host, port = parse_address(address)
    with contextlib.suppress(socket.gaierror):  # whatever else is wrong with the address the service itself says
        for family, *_, where in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            try:
                socket.create_server(where, family=family).close()
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    message = f"{name} did not start: somebody listens on {address} already"
                    raise ConfigError(message, "SERVICE_DID_NOT_START") from error


async def until_listening(address: str) -> None:
    """Return once an HTTP service takes connections at the address; wait for ever otherwise."""
    host, port = parse_address(reachable(address))
    while True:
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection(host, port)
            writer.close()
            return
        await asyncio.sleep(PAUSE_S)


async def until_there(path: Path) -> None:
    """Return once the file, a socket, is there; wait for ever otherwise."""
    while True:
        if path.exists():
            return
        await asyncio.sleep(PAUSE_S)


def last_words(folder: Path, name: str) -> str:
    """The last line that a process of the deployment in `folder` logged, if any, for a person. Raises OSError."""
    line = "".join(last_lines(folder, name)[-1:])
    try:
        said = json.loads(line)
        rest = {key: value for key, value in said.items() if key not in ("event", "level", "timestamp")}
        return ", ".join([said["event"], *(f"{key} {value}" for key, value in rest.items())])
    except (ValueError, AttributeError, KeyError, TypeError):  # a line of another's making
        return line


def last_lines(folder: Path, name: str) -> list[str]:
    """The last lines that it logged, of which the first may be cut off. Raises OSError."""
    file = folder / "logs" / f"{name}.log"
    if not file.exists():
        return []
    with file.open("rb") as log:
        log.seek(-min(LAST_WORDS, log.seek(0, os.SEEK_END)), os.SEEK_END)
        return log.read().decode(errors="replace").strip().splitlines()
