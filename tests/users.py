"""Programs that run as another user of this machine, and files that are theirs. Root, or sudo without a password."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

FRONT, CORE, STRANGER = 60_901, 60_902, 60_903
"""Of no account."""
_AS_ROOT = [] if os.geteuid() == 0 else ["sudo", "-n"]


@cache
def python() -> list[str]:
    """This Python, with what it imports, for users to whom its own folder is closed."""
    for program in (sys.executable, "/usr/bin/python3"):
        command = ["env", f"PYTHONPATH={':'.join(filter(None, sys.path))}", program]
        # By a shell, which no longer has root's privileges when it looks for the program.
        tried = as_user(STRANGER, "sh", "-c", '"$@"', "sh", *command, "-c", "import ipls.hsm.core.app")
        if subprocess.run(tried, capture_output=True, check=False).returncode == 0:
            return command
    raise AssertionError("no Python that another user can run")


def as_user(uid: int, *command: str) -> list[str]:
    """The command, run with this uid and gid, no groups and no privileges."""
    return [*_AS_ROOT, "setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", *command]


@contextmanager
def open_folder() -> Iterator[Path]:
    """That any user can go into."""
    with tempfile.TemporaryDirectory(prefix="ipls-users-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder
        give(folder, os.geteuid())


def give(path: Path, uid: int) -> None:
    """All that is there is this user's."""
    subprocess.run([*_AS_ROOT, "chown", "-R", f"{uid}:{uid}", path], check=True)
