"""The demonstration's deployment: every server a process of its own, under one `ipls serve all`.

Tested by tests/e2e/test_demo.py.
"""

import asyncio
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from ipls.admin import deployment
from ipls.config import ConfigError
from ipls.runtime.tasks import race
from ipls.store.files import replace

NAMESPACE = "demo.ipls"
WITNESSES = 3
PID_FILE = "serve.pid"
STOP_S = 20.0
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""What asks the demonstration to end."""


@contextmanager
def running(keep: Path | None) -> Iterator[Path]:
    """A new deployment with its servers up, in `keep` or in a temporary folder.

    When the block ends the servers end and the temporary folder goes; with `keep` both stay. When it fails or is
    interrupted nothing stays. However this process dies, the servers of a temporary folder end with it.
    """
    folder = keep
    ours = keep is None or not keep.exists()
    server: subprocess.Popen[str] | None = None
    done = False
    try:
        with _uninterrupted():
            folder = folder or Path(tempfile.mkdtemp(prefix="ipls-demo-"))
        deployment.create(folder, NAMESPACE, witnesses=WITNESSES, port=0)
        folder = folder.resolve()
        with _uninterrupted():
            server = _start(folder, detached=keep is not None)
        _until_serving(server, folder)
        yield folder
        done = True
    finally:
        if not (done and keep):
            with _uninterrupted():
                if server is not None:
                    server.terminate()
                    server.wait()
                if folder is not None and ours:
                    shutil.rmtree(folder, ignore_errors=True)


def interrupt(*_: object) -> NoReturn:
    """Handler of the signals ENDING: KeyboardInterrupt, once, so that a second one does not stop the cleaning up."""
    _ignore_signals()
    raise KeyboardInterrupt


def _ignore_signals() -> None:
    for number in ENDING:
        signal.signal(number, lambda *_: None)


async def cancelled_by_signals(work: Coroutine[Any, Any, None]) -> None:
    """Await `work`, which a signal of ENDING cancels, once. Raises KeyboardInterrupt then.

    An exception that a signal's handler raises may come up in a callback that takes it for its own; a cancelled task
    ends.
    """
    loop = asyncio.get_running_loop()
    asked = asyncio.Event()

    def ask(*_: object) -> None:
        _ignore_signals()
        loop.call_soon_threadsafe(asked.set)

    async def until_asked() -> None:
        await asked.wait()

    for number in ENDING:
        signal.signal(number, ask)
    try:
        await race(work, until_asked())
    finally:
        if asked.is_set():
            raise KeyboardInterrupt  # whatever came of the work
        for number in ENDING:
            signal.signal(number, interrupt)


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Puts Ctrl-C and the like off until the block has ended: what it makes is known to who cleans up."""
    pending: list[int] = []
    before = {number: signal.signal(number, lambda caught, _: pending.append(caught)) for number in ENDING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if pending:
        interrupt()


def _start(folder: Path, *, detached: bool) -> "subprocess.Popen[str]":
    arguments = [sys.executable, "-m", "ipls.cli.main", "serve", "all", "--config", str(folder / "ipls.toml")]
    if not detached:
        arguments.append("--stop-at-eof")
    with (folder / "logs/all.log").open("ab") as output:
        server = subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL if detached else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=output,
            text=True,
            start_new_session=True,
        )
    replace(folder / PID_FILE, f"{server.pid}\n".encode())
    return server


def _until_serving(server: "subprocess.Popen[str]", folder: Path) -> None:
    """It prints one line, once all services answer; or ends without one."""
    assert server.stdout is not None
    if not server.stdout.readline():
        server.wait()
        last = (folder / "logs/all.log").read_text(errors="replace").strip().splitlines()[-1:]
        raise ConfigError(f"the servers did not start: {''.join(last)}", "SERVICE_DID_NOT_START")
    if off := [name for name, service in endpoints(folder)["services"].items() if "pid" not in service]:
        last = (folder / f"logs/{off[0]}.log").read_text(errors="replace").strip().splitlines()[-1:]
        raise ConfigError(f"{', '.join(off)} did not start: {''.join(last)}", "SERVICE_DID_NOT_START")


def endpoints(folder: Path) -> dict[str, Any]:
    """`endpoints.json` of a deployment."""
    loaded: dict[str, Any] = json.loads((folder / "endpoints.json").read_text())
    return loaded


def stop(folder: Path) -> bool:
    """End the servers that `ipls demo --keep` left running; False if none ran. Raises ConfigError."""
    try:
        pid = int((folder / PID_FILE).read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{folder} holds no kept demonstration", "NOT_KEPT") from error
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        # A pid is used again some day: look before shooting.
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        if str(folder.resolve() / "ipls.toml").encode() not in command:
            return False
        signal.pidfd_send_signal(handle, signal.SIGTERM)
        if not select.select([handle], [], [], STOP_S)[0]:
            raise ConfigError(f"process {pid} does not stop; kill it", "DOES_NOT_STOP")
    finally:
        os.close(handle)
    (folder / PID_FILE).unlink()
    return True
