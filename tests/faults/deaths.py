"""Work that is killed (SIGKILL) at a step of it."""

import inspect
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from ipls.store.engine.sqlite import transaction

STEPS = {"execute", "executemany", "close", "fsync", "link", "replace", "unlink", "rename"}
"""Calls before which what is on the disk can be another than before the last."""
READING = {"_rows", "_objects", "_is_marked", "_run", "empty", "get", "_stored"}
"""Functions of the store's and of a profile's rows whose calls only read, or make the tables of a transaction that is
still open."""
_PROCESSES = multiprocessing.get_context("forkserver")  # what a test has used of gRPC does not survive a fork
_PROCESSES.set_forkserver_preload(["tests.client.changes"])


def killed(work: Callable[[Path], object], folder: Path, at: int) -> bool:
    """Do the work, a function of an importable module, in a process of its own, which is killed at this step, from 0;
    whether it came to it."""
    return _dies(work, folder, at, _is_step)


def killed_at_commit(work: Callable[[Path], object], folder: Path, number: int, *, made: bool) -> bool:
    """Likewise at the commit of SQLite of this number, from 0: before it, or right after it was `made`."""
    return _dies(work, folder, 4 * number + 2 + made, _is_in_transaction)


Step = Callable[[FrameType, str, object], bool]


def _is_step(frame: FrameType, event: str, called: object) -> bool:
    is_one = event == "c_call" and getattr(called, "__name__", "") in STEPS
    return is_one and frame.f_code.co_name not in READING


def _is_in_transaction(frame: FrameType, event: str, called: object) -> bool:
    """Four a transaction: BEGIN is called, and returns, COMMIT likewise."""
    return event in ("c_call", "c_return") and frame.f_code is inspect.unwrap(transaction).__code__


def _dies(work: Callable[[Path], object], folder: Path, at: int, is_step: Step) -> bool:
    process = _PROCESSES.Process(target=_die, args=(work, folder, at, is_step))
    process.start()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


def _die(work: Callable[[Path], object], folder: Path, at: int, is_step: Step) -> None:
    left = at

    def look(frame: FrameType, event: str, called: object) -> None:
        nonlocal left
        if is_step(frame, event, called):
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1

    sys.setprofile(look)
    work(folder)
    sys.setprofile(None)
