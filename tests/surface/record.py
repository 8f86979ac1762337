"""Record the surface anew, on purpose: `python -m tests.surface.record [NAME ...]`, all but `old` without a name.

A name is one of PARTS. `story` makes the snapshots answers, files and refusals; `old` is the deployment that later
versions have to open, made by this one.
"""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.surface import commands, failures, names, old, story
from tests.surface.running import ROOT
from tests.surface.snapshot import FOLDER, record


def _story() -> None:
    with TemporaryDirectory() as home:
        for name, value in story.tell(Path(home)).items():
            record(name, value)


def _failures() -> None:
    with TemporaryDirectory() as home:
        record("failures", failures.provoke(Path(home)))


def _protos() -> None:
    build = ["buf", "build", "protos", "-o", str(FOLDER / "protos.binpb")]
    subprocess.run(build, cwd=ROOT, env=names.with_buf(), check=True)


def _old() -> None:
    with TemporaryDirectory() as home:
        old.make(Path(home))


PARTS: dict[str, Callable[[], None]] = {
    "commands": lambda: record("commands", commands.surface()),
    "protos": _protos,
    "reasons": lambda: record("reasons", names.reasons()),
    "vectors": lambda: record("vectors", names.vectors()),
    "story": _story,
    "failures": _failures,
    "old": _old,
}

if __name__ == "__main__":
    for part in sys.argv[1:] or PARTS.keys() - {"old"}:
        PARTS[part]()
