"""Runs `ipls` often, as `tests.cli.forks` does, each run to its end or to a step at which it kills itself (SIGKILL).

A step is a call that makes something durable or gives it its name, before it is made. A line of JSON goes in: the
number of the fatal step, from 0, and the arguments; the run's exit status and what it said come out.
"""

import itertools
import json
import os
import signal
from collections.abc import Callable
from typing import Any

from tests.cli import forks

STEPS = ("fsync", "link", "rename", "replace")
taken = itertools.count()  # by a run: this process takes none, and each is a fork of it
fatal = 0


def step(real: Callable[..., Any]) -> Callable[..., Any]:
    def call(*arguments: Any, **options: Any) -> Any:
        if next(taken) == fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments, **options)

    return call


if __name__ == "__main__":
    forks.import_all()
    for name in STEPS:
        setattr(os, name, step(getattr(os, name)))
    for line in os.fdopen(os.dup(0)):  # Python's own is the runs'
        fatal, arguments = json.loads(line)
        print(json.dumps(forks.run(arguments)), flush=True)
