"""The vault's core and its anchor service, each killing itself (SIGKILL) at a named point when a file of that name is
there.

`python dying.py CONFIG core` runs the core, `python dying.py CONFIG` the anchor service, which that core starts: the
file is looked for, and removed, in CONFIG's folder.
"""

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any

from ipls.hsm import anchor_service, pipe
from ipls.hsm.core import app
from ipls.hsm.token.pkcs11 import HsmToken
from ipls.store.vault import Changes, VaultStore

IN_CORE = "before the transaction", "after the transaction", "after the anchor"
IN_NOTARY = "before the anchor", "between the anchors", "behind the anchor"
POINTS = dict.fromkeys(IN_CORE, "core") | dict.fromkeys(IN_NOTARY, "anchor service")


def command(config: Path) -> tuple[str, ...]:
    """Runs the core."""
    return (__file__, str(config), "core")


def reach(point: str) -> None:
    file = FOLDER / point
    if file.exists():
        file.unlink()
        os.kill(os.getpid(), signal.SIGKILL)


class Session:
    """A PKCS#11 session, in which it is time to die when the new anchor has been made."""

    def __init__(self, session: Any) -> None:
        self._session = session

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def create_object(self, template: Any) -> Any:
        made = self._session.create_object(template)
        reach("between the anchors")
        return made


def dying_core() -> None:
    append, replace = VaultStore.append, anchor_service.AnchorServiceProcess.replace

    def dying_append(self: VaultStore, changes: Changes) -> None:
        reach("before the transaction")
        append(self, changes)
        reach("after the transaction")

    def dying_replace(self: anchor_service.AnchorServiceProcess, *arguments: Any) -> None:
        replace(self, *arguments)
        reach("after the anchor")

    VaultStore.append = dying_append
    anchor_service.AnchorServiceProcess.replace = dying_replace
    anchor_service.COMMAND = (__file__,)
    asyncio.run(app.serve(CONFIG, pipe.take_stdio()[0]))


def dying_anchor_service() -> None:
    replace = HsmToken.replace_anchor

    def dying_replace(self: HsmToken, *arguments: Any) -> None:
        reach("before the anchor")
        if not isinstance(self._session, Session):
            self._session = Session(self._session)
        replace(self, *arguments)
        reach("behind the anchor")

    HsmToken.replace_anchor = dying_replace
    anchor_service.run(CONFIG, *pipe.take_stdio())


if __name__ == "__main__":
    CONFIG = Path(sys.argv[1])
    FOLDER = CONFIG.parent
    dying_core() if sys.argv[2:] else dying_anchor_service()
