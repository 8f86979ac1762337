"""A part of a ceremony that kills itself (SIGKILL), at every step once, and is run again after each death.

`python dying.py FOLDER PART FILE…`: FOLDER, which has all that it changes, is put back before each round. A line a
round, in JSON: the step, and how it ended when it was run again, twice: 0, or 1 where a file was there already.
"""

import json
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

from ipls.admin import ceremony
from ipls.config import load_core
from ipls.hsm.ceremony import steps
from ipls.hsm.token import softhsm

STEPS: list[tuple[Any, str]] = [
    (softhsm, "create"),
    (steps, "make_pair"),
    (steps, "_extractable"),
    (steps, "agree"),
    (steps, "_parcel"),
    (steps, "_unwrap"),
    (steps, "_check"),
    (ceremony, "write_new"),
    (ceremony, "replace"),
]


def prepare(config: Path, card: Path) -> None:
    ceremony.prepare(load_core(config), card, name=card.stem, profile=None)


def hold(config: Path, officers: Path, report: Path, *cards: Path) -> None:
    ceremony.hold(load_core(config), report, cards, officers)


def join(config: Path, officers: Path, report: Path, parcel: Path, *signatures: Path) -> None:
    core = load_core(config)
    ceremony.join(core, ceremony.signed_report(core.trust_root, report, officers, signatures), parcel)


PARTS: dict[str, Callable[..., None]] = {"prepare": prepare, "hold": hold, "join": join}
FOLDER, PART, *FILES = sys.argv[1:]


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
        die_at(place, told)
        try:
            PARTS[PART](*map(Path, FILES))
        except FileExistsError:
            os._exit(1)
        except BaseException:
            traceback.print_exc()
            os._exit(2)
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
