"""Work that is killed (SIGKILL) at a step of it."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

STEPS = {"execute", "executemany", "close", "fsync", "link", "replace", "unlink", "rename"}
"""Calls before which what is on the disk can be another than before the last."""
READING = {"_rows", "_objects", "_is_marked", "_run"}
"""Functions of the store's whose calls only read, or make the tables of a transaction that is still open."""
_PROCESSES = multiprocessing.get_context("forkserver")  # what a test has used of gRPC does not survive a fork
_PROCESSES.set_forkserver_preload(["tests.client.changes"])


def killed(work: Callable[[Path], object], folder: Path, at: int) -> bool:
    """Do the work, a function of an importable module, in a process of its own, which is killed at this step, from 0;
    whether it came to it."""
    process = _PROCESSES.Process(target=_die, args=(work, folder, at))
    process.start()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


def _die(work: Callable[[Path], object], folder: Path, at: int) -> None:
    left = at

    def look(frame: FrameType, event: str, called: object) -> None:
        nonlocal left
        if frame.f_code.co_name in READING:
            return
        if event == "c_call" and getattr(called, "__name__", "") in STEPS:
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1

    sys.setprofile(look)
    work(folder)
    sys.setprofile(None)
