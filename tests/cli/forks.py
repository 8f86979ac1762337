"""Runs `ipls` very often: everything is imported once, and each run is a fork of this process, in which `ipls` begins.

A line of JSON with the arguments of a run goes in, one with its exit status and what it said comes out.
"""

import json
import os
import pkgutil
import signal
import sys
import tempfile
from importlib import import_module
from importlib.metadata import entry_points
from typing import NoReturn

from ipls.cli.main import main

LIMIT_S = 150
"""For one run; SIGALRM ends it then."""


def run(arguments: list[str]) -> dict[str, object]:
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        if not (child := os.fork()):
            end(arguments, out.fileno(), err.fileno())
        _, status = os.waitpid(child, 0)
        said = []
        for file in (out, err):
            file.seek(0)
            said.append(file.read().decode(errors="replace"))
        return {"status": os.waitstatus_to_exitcode(status), "out": said[0], "err": said[1]}


def end(arguments: list[str], out: int, err: int) -> NoReturn:
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(out, 1)
    os.dup2(err, 2)
    signal.alarm(LIMIT_S)
    sys.argv[:] = ["ipls", *arguments]
    status = 0
    try:
        main()
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def import_all() -> None:
    """What a command would import as the user who runs it, to whom this Python may be closed."""
    for name in ("cli", "admin", "client", "demo"):
        for module in pkgutil.iter_modules(import_module(f"ipls.{name}").__path__, f"ipls.{name}."):
            import_module(module.name)
    for backend in entry_points(group="keyring.backends"):  # which looks for libraries in every start
        backend.load()


if __name__ == "__main__":
    import_all()
    for line in os.fdopen(os.dup(0)):  # Python's own is the runs'
        print(json.dumps(run(json.loads(line))), flush=True)
