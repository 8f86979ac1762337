"""Names and bytes that stand in the tree: the documented reasons, the vectors, the protos."""

import hashlib
import os
import re
import sys
from pathlib import Path

from tests.surface.running import ROOT


def reasons() -> list[str]:
    """Those that docs/protocol/errors.md explains."""
    cells = re.findall(r"^\| (`.*?) \|", (ROOT / "docs/protocol/errors.md").read_text(), re.MULTILINE)
    return sorted({reason for cell in cells for reason in re.findall(r"`([A-Z0-9_]+)`", cell)})


def vectors() -> dict[str, str]:
    """The SHA-256 of each file."""
    files = sorted((ROOT / "tests/vectors").iterdir())
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def with_buf() -> dict[str, str]:
    """The environment in which `buf` is found, beside this Python."""
    return os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
