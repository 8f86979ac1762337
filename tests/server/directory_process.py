"""A directory in a process of its own that dies by SIGKILL as soon as a named step has been done.

    python directory_process.py FOLDER NOW_MS MODULE:CLASS.METHOD

FOLDER holds config.json (a DirectoryConfig) and trust.toml.
"""

import asyncio
import importlib
import os
import signal
import sys
from pathlib import Path
from typing import Any

from ipls.config import DirectoryConfig, load_trust_root
from ipls.server.directory import directory


def die_after(step: str) -> None:
    module, _, path = step.partition(":")
    owner_name, method = path.split(".")
    owner = getattr(importlib.import_module(module), owner_name)
    original = getattr(owner, method)

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    async def later(*arguments: Any) -> None:
        await original(*arguments)
        die()

    def now(*arguments: Any) -> None:
        original(*arguments)
        die()

    setattr(owner, method, later if asyncio.iscoroutinefunction(original) else now)


async def main(folder: Path, now_ms: int) -> None:
    config = DirectoryConfig.model_validate_json((folder / "config.json").read_bytes())
    root = load_trust_root(folder / "trust.toml")
    async with directory(config, root, now_ms=lambda: now_ms) as running:
        await running.publishing


if __name__ == "__main__":
    die_after(sys.argv[3])
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
