"""A deployment as a person runs it: `ipls init`, then `ipls serve all`."""

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from threading import Lock

from ipls.client.device import Device
from ipls.client.events import Event, silent
from ipls.client.outbox import code_from
from tests.environment import BARE

ROOT = Path(__file__).parents[2]
IPLS = [sys.executable, "-m", "ipls.cli.main"]
_one_at_a_time = Lock()


def ipls(*arguments: object, **options: object) -> "subprocess.CompletedProcess[str]":
    """Run the command to its end, in a bare environment if none is given: without options as a fork of the process that
    stands by (`tests.cli.forks`), which costs a fifth of a start."""
    command = [*IPLS, *map(str, arguments)]
    if options:
        return subprocess.run(command, **{"env": BARE, "capture_output": True, "text": True, **options})
    with _one_at_a_time:
        forks = _standing_by()
        assert forks.stdin is not None
        assert forks.stdout is not None
        print(json.dumps(command[len(IPLS) :]), file=forks.stdin, flush=True)
        ended = json.loads(forks.stdout.readline())
    return subprocess.CompletedProcess(command, ended["status"], ended["out"], ended["err"])


@cache
def _standing_by() -> "subprocess.Popen[str]":
    """It ends with this process, at the end of its input."""
    command = [sys.executable, "-m", "tests.cli.forks"]
    return subprocess.Popen(command, cwd=ROOT, env=BARE, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def shown(command: list[str], environment: Mapping[str, str]) -> bytes:
    """What the command writes to a terminal."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(command, stdout=theirs, env=environment) as process, open(ours, "rb", buffering=0) as screen:
        os.close(theirs)
        written = b""
        with suppress(OSError):  # how Linux says that the other end was closed
            while piece := screen.read(4096):
                written += piece
    assert process.returncode == 0
    return written


class Deployment:
    """A running deployment and its devices."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def endpoints(self) -> dict[str, dict[str, object]]:
        return json.loads((self.folder / "endpoints.json").read_text())["services"]

    def pid(self, process: str) -> int:
        """Of a service, or of the vault's `core`."""
        if process != "core":
            return int(self.endpoints()[process]["pid"])
        return next(pid for pid in children(self.pid("vault")) if "ipls.hsm.core" in command_line(pid))

    def device(self, profile: str, report: Callable[[Event], None] = silent) -> Device:
        return Device.open(self.folder / "profiles" / profile, self.folder / "endpoints.json", report=report)

    async def register(self, device: Device, number: str) -> None:
        await device.register(number, code_from(self.folder / "data/registration.outbox"))


@contextmanager
def running(
    folder: Path,
    *options: str,
    witnesses: int = 1,
    shards: int = 1,
    prepare: Callable[[Path], None] = lambda config: None,
    environment: Mapping[str, str] = BARE,
) -> Iterator[Deployment]:
    """`ipls init`, what `prepare` does with ipls.toml, `ipls serve all` with these options; epochs come at once."""
    assert ipls("init", folder, "--port", 0, "--witnesses", witnesses, "--shards", shards).returncode == 0
    config = folder / "ipls.toml"
    config.write_text(config.read_text().replace("[directory]\n", "[directory]\nepoch_max_age_s = 0.05\n"))
    prepare(config)
    command = [*IPLS, "serve", "all", "--config", str(config), "--stop-at-eof", *options]
    with (folder / "logs/all.log").open("wb") as log:
        server = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log)
    assert server.stdout is not None
    assert server.stdin is not None
    assert server.stdout.readline(), (folder / "logs/all.log").read_text()
    try:
        yield Deployment(folder)
    finally:
        server.stdin.close()
        server.wait()


def processes() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:  # it has ended
        return ""


def children(parent: int) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]


def naming(folder: Path) -> list[str]:
    """The command lines of all processes that name something in the folder."""
    return [line for line in map(command_line, processes()) if str(folder) in line]


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
