"""Who has come to run code in the vault's front, and with that its user, looks for the token's PIN and keys in the
core's process."""

import errno
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hsm.rig import Rig, children, running_core
from tests.users import FRONT, as_user, give, open_folder, python

READ = """
import sys
try:
    open(sys.argv[1], "rb").read(1)
except OSError as error:
    sys.exit(error.errno)
"""
ATTACH = """
import ctypes, sys
libc = ctypes.CDLL(None, use_errno=True)
sys.exit(libc.ptrace(16, int(sys.argv[1]), 0, 0) and ctypes.get_errno())
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    with open_folder() as folder:
        yield folder


def refused(uid: int, code: str, argument: object) -> bool:
    """Whether the system keeps this user from it."""
    done = subprocess.run(as_user(uid, *python(), "-c", code, str(argument)), capture_output=True, check=False)
    assert done.stderr == b""
    return done.returncode in (errno.EPERM, errno.EACCES)


def shows_itself(uid: int) -> bool:
    """Whether a process that does nothing about it can be looked into by another of its user."""
    look = as_user(uid, "sh", "-c", "head -c 1 /proc/$$/environ && true")
    return subprocess.run(look, capture_output=True, check=False).returncode == 0


async def test_the_cores_processes_show_nothing_to_their_own_user(folder: Path) -> None:
    rig = Rig(folder)
    give(folder, FRONT)
    program, *arguments = as_user(FRONT, *python(), "-m", "ipls.hsm.core", str(rig.config_path))
    assert shows_itself(FRONT)
    async with running_core(rig, *arguments, program=program) as core:
        pids = [core.process.pid, *children(core.process.pid)]
        assert len(pids) == 3  # a worker, the anchor service
        for pid in pids:
            for name in ("mem", "environ", "maps", "auxv"):
                assert refused(FRONT, READ, f"/proc/{pid}/{name}")
            assert refused(FRONT, ATTACH, pid)
            limits = Path(f"/proc/{pid}/limits").read_text()
            assert next(line for line in limits.splitlines() if "core file" in line).split()[4:6] == ["0", "0"]
            assert "NoNewPrivs:\t1" in Path(f"/proc/{pid}/status").read_text()
