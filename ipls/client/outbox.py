"""The development registration service's outbox: where the codes are that a real one would send to the phone.

Tested by tests/e2e/test_client_commands.py.
"""

import asyncio
from pathlib import Path

from ipls.client.errors import TryLaterError
from ipls.client.registration import CodeSource

ATTEMPTS = 100
PAUSE_S = 0.05


def code_from(outbox: Path) -> CodeSource:
    """Reads the code of a request from the file. The source raises TryLaterError CODE_NOT_SENT, OSError."""

    async def source(request_id: bytes) -> str:
        for _ in range(ATTEMPTS):
            lines = outbox.read_text().splitlines() if outbox.exists() else []
            for line in reversed(lines):
                request, _, code = line.partition(" ")
                if request == request_id.hex():
                    return code
            await asyncio.sleep(PAUSE_S)
        raise TryLaterError("CODE_NOT_SENT", f"no code for this request in {outbox}")

    return source
