"""What a process that holds secrets keeps from the others of its machine, and which user it is.

Tested by tests/attack/test_vault_users.py.
"""

import ctypes
import os
import resource
import signal

_libc = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 1, 4, 38


def close_off() -> None:
    """No core dumps; no debugger and no look into the memory but root's, not even by the same user; and no privileges
    by way of a program that this process starts. The second is to be done again by such a program. Raises OSError."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _prctl(_PR_SET_DUMPABLE, 0)
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def die_with_parent() -> None:
    """Have the system kill this process when the thread that started it ends, also while it hangs. Raises OSError."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


def become(uid: int) -> None:
    """This user's process from now on, with the group of the same number alone. Raises PermissionError."""
    if os.geteuid() != uid:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
