"""Programs that run as another user of this machine, and files that are theirs. Root, or sudo without a password."""

import os
import shlex
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FRONT, CORE, STRANGER = 60_901, 60_902, 60_903
"""Of no account."""
AS_ROOT = [] if os.geteuid() == 0 else ["sudo", "-n"]
_PYTHON, _PREFIX = Path(sys.executable).resolve(), Path(sys.base_prefix).resolve()
_SHOWN = _PREFIX
"""Where other users see this Python's folder."""
if not all(parent.stat().st_mode & stat.S_IXOTH for parent in _PYTHON.parents):
    # For the command alone, and read-only: however it ends, nothing is left that can be seen, or deleted through.
    _SHOWN = Path("/mnt")
    _bind = f'mount --bind -o ro {shlex.quote(str(_PREFIX))} {_SHOWN} && exec "$@"'
    AS_ROOT += ["unshare", "--mount", "sh", "-c", _bind, "sh"]


def python() -> list[str]:
    """This Python, with what it imports, for commands that `AS_ROOT` or `as_user` begins."""
    path = [entry for entry in sys.path if entry and not Path(entry).resolve().is_relative_to(_PREFIX)]
    program = _SHOWN / _PYTHON.relative_to(_PREFIX)
    return ["env", f"PYTHONPATH={':'.join(path)}", f"LD_LIBRARY_PATH={program.parent.parent / 'lib'}", str(program)]


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
