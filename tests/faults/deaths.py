"""Work that is killed (SIGKILL) at a step of it."""

import os
import signal
import sys
from collections.abc import Callable
from types import FrameType

STEPS = {"execute", "executemany", "close", "fsync", "link", "replace", "unlink", "rename"}
"""Calls before which what is on the disk can be another than before the last."""


def killed(work: Callable[[], object], at: int) -> bool:
    """Do the work in a process of its own, which is killed at this step, from 0; whether it came to it."""
    child = os.fork()
    if child == 0:
        left = at

        def look(frame: FrameType, event: str, called: object) -> None:
            nonlocal left
            if event == "c_call" and getattr(called, "__name__", "") in STEPS:
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                left -= 1

        try:
            sys.setprofile(look)
            work()
            sys.setprofile(None)
            os._exit(0)
        except BaseException:
            sys.setprofile(None)
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or status == 0
    return os.WIFSIGNALED(status)
