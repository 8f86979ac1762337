"""A command of `ipls keys fleet` that kills itself (SIGKILL), at every step once, and is run again after each death.

`python dying_ceremony.py FOLDER COMMAND…`: FOLDER, which has all that the command changes, is put back before each
round. A line a round, in JSON: the step, and how the command ended when it was run again, twice.
"""

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

from ipls.cli import fleet as command
from ipls.cli.main import main
from ipls.hsm.ceremony import steps as ceremony
from ipls.hsm.token import softhsm

STEPS: list[tuple[Any, str]] = [
    (softhsm, "create"),
    (ceremony, "make_pair"),
    (ceremony, "_extractable"),
    (ceremony, "agree"),
    (ceremony, "_parcel"),
    (ceremony, "_unwrap"),
    (ceremony, "_check"),
    (command, "write_private"),
    (command, "replace"),
]
FOLDER, *COMMAND = sys.argv[1:]


def die_at(place: int, told: int) -> None:
    """Before or after one of the steps: where so many have been passed."""
    passed = count(1)

    def reach(where: str) -> None:
        if next(passed) == place:
            os.write(told, where.encode())
            os.kill(os.getpid(), signal.SIGKILL)

    def wrapped(name: str, step: Callable[..., object]) -> Callable[..., object]:
        def run(*arguments: object, **options: object) -> object:
            reach(f"before {name}")
            result = step(*arguments, **options)
            reach(f"after {name}")
            return result

        return run

    for owner, name in STEPS:
        setattr(owner, name, wrapped(name, getattr(owner, name)))


def attempt(place: int = 0) -> tuple[int | None, str]:
    """Its exit status, None for a death, and where it died. Run in a fork: Python starts slowly."""
    reader, told = os.pipe()
    if (child := os.fork()) == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.argv = ["ipls", *COMMAND]
        die_at(place, told)
        try:
            main()
        except SystemExit as end:
            os._exit(end.code if isinstance(end.code, int) else 0)
        os._exit(0)
    os.close(told)
    status = os.waitpid(child, 0)[1]
    with os.fdopen(reader) as said:
        return (os.WEXITSTATUS(status) if os.WIFEXITED(status) else None), said.read()


if __name__ == "__main__":
    saved = Path(FOLDER + ".saved")
    shutil.copytree(FOLDER, saved)
    for place in count(1):
        shutil.rmtree(FOLDER)
        shutil.copytree(saved, FOLDER)
        ended, where = attempt(place)
        again = [attempt()[0], attempt()[0]]
        print(json.dumps({"where": where, "ended": ended, "again": again}), flush=True)
        if ended is not None:
            break
