"""The project as somebody from outside reaches it: the command, as a process, and the files that it leaves."""

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

Ended = subprocess.CompletedProcess
ROOT = Path(__file__).parent.parent.parent
IPLS = [sys.executable, "-m", "ipls.cli.main"]
UMASK = 0o022
"""The modes of files don't depend on who runs this."""


@cache
def _forks() -> "subprocess.Popen[str]":
    """The process that runs commands, to the end of this one."""
    command = [sys.executable, "-m", "tests.surface.forked"]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, umask=UMASK, start_new_session=True
    )


def ipls(*arguments: object) -> Ended:
    """Run the command to its end; nothing comes from standard input. One at a time."""
    server = _forks()
    assert server.stdin is not None
    assert server.stdout is not None
    with NamedTemporaryFile("r") as output, NamedTemporaryFile("r") as errors:
        print(json.dumps([output.name, errors.name, *map(str, arguments)]), file=server.stdin, flush=True)
        status = int(server.stdout.readline())
        return Ended(arguments, status, output.read(), errors.read())


def apart(*arguments: object) -> Ended:
    """The same in a process of its own, beside others."""
    command = [*IPLS, *map(str, arguments)]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, umask=UMASK)


def done(*arguments: object) -> str:
    """What the command prints. It must succeed."""
    ended = ipls(*arguments)
    assert ended.returncode == 0, (arguments, ended.stdout, ended.stderr)
    return ended.stdout


def told(*arguments: object, status: int = 0, run: Callable[..., Ended] = ipls) -> list[Any]:
    """The JSON lines that the command prints."""
    ended = run(*arguments, "--json")
    assert ended.returncode == status, (arguments, ended.stdout, ended.stderr)
    return [json.loads(line) for line in ended.stdout.splitlines()]


def reason(stderr: str) -> str | None:
    """The reason at the end of the last line, if it has one."""
    found = re.search(r"\[([A-Z0-9_]+)\]\n\Z", stderr)
    return found and found[1]


def init(folder: Path) -> None:
    """A new deployment on free ports, whose epochs come at once."""
    done("init", folder, "--port", 0)
    config = folder / "ipls.toml"
    config.write_text(config.read_text().replace("[directory]\n", "[directory]\nepoch_max_age_s = 0.05\n"))


@contextmanager
def serving(folder: Path) -> Iterator[None]:
    """`ipls serve all`; all are stopped in order at the end."""
    command = [*IPLS, "serve", "all", "--config", str(folder / "ipls.toml"), "--stop-at-eof"]
    with (folder / "logs/all.log").open("wb") as log:
        server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, umask=UMASK)
    assert server.stdin is not None
    assert server.stdout is not None
    try:
        assert server.stdout.readline(), (folder / "logs/all.log").read_text()
        yield
    finally:
        server.stdin.close()
        server.wait()
        server.stdout.close()
    assert server.returncode == 0
