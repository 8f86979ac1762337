"""Disks that take nothing more."""

import os
import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_AS_ROOT = [] if os.getuid() == 0 else ["sudo", "-n"]


@contextmanager
def disk(folder: Path, size: int) -> Iterator[Path]:
    """A file system of its own, of so many bytes, for other processes too."""
    folder.mkdir()
    options = f"size={size},uid={os.getuid()},mode=700"
    subprocess.run([*_AS_ROOT, "mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run([*_AS_ROOT, "umount", "--lazy", folder], check=True)


def fill(file: Path) -> None:
    """Until not a byte more can be written beside it."""
    with file.open("wb", buffering=0) as filler, suppress(OSError):
        while filler.write(bytes(4096)):
            pass


@contextmanager
def nothing_is_written(beyond: int = 0) -> Iterator[None]:
    """As if every disk were full, for this process: no file takes a byte at or above that position."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (beyond, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
