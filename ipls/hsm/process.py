"""How the vault's processes begin and end: the core, its workers, its anchor service.

Tested by tests/hsm/core/test_workers.py and tests/attack/test_vault_users.py.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import structlog

from ipls.config import ConfigError
from ipls.hsm import pipe
from ipls.hsm.token.module import TokenFailed
from ipls.runtime.logging import configure_logging
from ipls.runtime.privileges import close_off
from ipls.store.errors import StoreError

log = structlog.get_logger()


END_S = 5.0
"""For a core whose front has gone, or that is told to end."""


async def ended(core: asyncio.subprocess.Process) -> int:
    """The status of a core that was started in a session of its own. If it hangs it is killed; so is what it has left:
    an anchor service that hangs would keep every later core from the database."""
    try:
        async with asyncio.timeout(END_S):
            await core.wait()
    except TimeoutError:
        log.error("vault core killed: it hung")
    with suppress(ProcessLookupError):
        os.killpg(core.pid, signal.SIGKILL)
    return await core.wait()


def main(name: str, run: Callable[[Path, BinaryIO, BinaryIO], None]) -> None:
    """Runs `run` on the configuration that the command line names, and on stdin and stdout, whose other end is the
    parent's; closed off from the machine's other processes. Why it can't is one line in the log, and exit status 1."""
    configure_logging()
    try:
        close_off()
        with suppress(BrokenPipeError):  # the parent is gone
            run(Path(sys.argv[1]), *pipe.take_stdio())
    except (ConfigError, StoreError, pipe.PipeError, TokenFailed, OSError) as error:
        reason = getattr(error, "reason", type(error).__name__)
        log.error("process of the vault ended", process=name, reason=reason, error=str(error))
        sys.exit(1)
