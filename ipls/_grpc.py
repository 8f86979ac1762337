"""gRPC, imported here alone: it takes its settings from the environment when it is first imported, and keeps them.

Tested by tests/e2e/test_tls.py and tests/test_grpc.py.
"""

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from ipls.errors import IplsError

# gRPC has no call that refuses TLS 1.2; a 1.2 suite that needs a pre-shared key, which nobody has, leaves 1.3 alone.
_TLS_1_3_ONLY = {"GRPC_SSL_CIPHER_SUITES": "PSK-AES128-CBC-SHA"}
# gRPC's own log lines name peers and would mix with ours.
_QUIET = {"GRPC_VERBOSITY": os.environ.get("GRPC_VERBOSITY", "NONE")}


@contextmanager
def _environment(settings: Mapping[str, str]) -> Iterator[None]:
    """The variables are set in the block; after it they are as before."""
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _had_when_started(settings: Mapping[str, str]) -> bool:
    """Whether this process was started with the variables, and has them still: others may have come after gRPC."""
    started_with = Path("/proc/self/environ").read_bytes().split(b"\0")
    return all(
        os.environ.get(name) == value and f"{name}={value}".encode() in started_with for name, value in settings.items()
    )


_guarded = "grpc" not in sys.modules or _had_when_started(_TLS_1_3_ONLY)

with _environment(_TLS_1_3_ONLY | _QUIET):
    import grpc
    from grpc import StatusCode, aio

__all__ = ["StatusCode", "aio", "check_guarded", "grpc"]


def check_guarded() -> None:
    """For who is about to open a port or a channel. Raises IplsError TLS_UNGUARDED if it might speak TLS 1.2."""
    if not _guarded:
        [(name, value)] = _TLS_1_3_ONLY.items()
        message = f"grpc was imported before ipls: import it after, or start the process with {name}={value}"
        raise IplsError("TLS_UNGUARDED", message)
