"""Programs that run as another user of this machine, and files that are theirs. Root, or sudo without a password."""

import atexit
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

FRONT, CORE, STRANGER = 60_901, 60_902, 60_903
"""Of no account."""
AS_ROOT = [] if os.geteuid() == 0 else ["sudo", "-n"]


@cache
def python() -> list[str]:
    """This Python, with what it imports, for users to whom its own folder may be closed."""
    program = Path(sys.executable).resolve()
    if not all(parent.stat().st_mode & stat.S_IXOTH for parent in program.parents):
        place = tempfile.mkdtemp(prefix="ipls-python-")
        Path(place).chmod(0o755)
        subprocess.run([*AS_ROOT, "mount", "--bind", sys.base_prefix, place], check=True)
        atexit.register(os.rmdir, place)
        atexit.register(subprocess.run, [*AS_ROOT, "umount", "--lazy", place], check=True)
        program = Path(place) / program.relative_to(sys.base_prefix)
    libraries = program.parent.parent / "lib"
    path = [entry for entry in sys.path if entry and not Path(entry).is_relative_to(sys.base_prefix)]
    return ["env", f"PYTHONPATH={':'.join(path)}", f"LD_LIBRARY_PATH={libraries}", str(program)]


def as_user(uid: int, *command: str) -> list[str]:
    """The command, run with this uid and gid, no groups and no privileges."""
    return [*AS_ROOT, "setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", *command]


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
    subprocess.run([*AS_ROOT, "chown", "-R", f"{uid}:{uid}", path], check=True)
