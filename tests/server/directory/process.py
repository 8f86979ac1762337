"""A directory in a process of its own that gets a signal as soon as a named step has been done for the first time.

    python directory_process.py FOLDER NOW_MS MODULE:CLASS.METHOD [SIGNAL]

FOLDER holds config.json (a DirectoryConfig) and trust.toml.
"""

import asyncio
import importlib
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from ipls.config import DirectoryConfig, load_trust_root
from ipls.runtime.service import Service
from ipls.server.directory import app
from ipls.store.directory import DirectoryStore
from ipls.store.directory.sqlite import SqliteDirectory


def signal_after(step: str, number: signal.Signals) -> None:
    module, _, path = step.partition(":")
    owner_name, method = path.split(".")
    owner = getattr(importlib.import_module(module), owner_name)
    original = getattr(owner, method)

    beating, beat = threading.Lock(), SqliteDirectory.beat
    done = False

    def beat_alone(self: DirectoryStore, term: int) -> None:
        with beating:
            beat(self, term)

    def die() -> None:
        nonlocal done
        if not done:
            done = True
            with beating:  # a process that sleeps in a transaction would hold the file, as it may not in a test
                os.kill(os.getpid(), number)

    async def later(*arguments: Any, **options: Any) -> Any:
        result = await original(*arguments, **options)
        die()
        return result

    def now(*arguments: Any) -> Any:
        result = original(*arguments)
        die()
        return result

    SqliteDirectory.beat = beat_alone
    setattr(owner, method, later if asyncio.iscoroutinefunction(original) else now)


async def main(folder: Path, now_ms: int) -> None:
    config = DirectoryConfig.model_validate_json((folder / "config.json").read_bytes())
    root = load_trust_root(folder / "trust.toml")
    async with Service("directory") as service:
        await app.run(config, root, service, now_ms=lambda: now_ms)
        await service.until_stopped()


if __name__ == "__main__":
    signal_after(sys.argv[3], signal.Signals[sys.argv[4]] if len(sys.argv) > 4 else signal.SIGKILL)
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
