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
    """A file system of its own, of so many bytes, for other processes too; it goes with this one, however that ends.
    OSError where none can be made, for want of root."""
    folder.mkdir()
    options = f"size={size},uid={os.getuid()},mode=755"
    keep = 'mount -t tmpfs -o "$1" tmpfs "$2" && { echo; cat; umount --lazy "$2"; }'
    command = [*_AS_ROOT, "sh", "-c", keep, "sh", options, str(folder)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    ) as keeper:  # its input ends with this process, or the block
        assert keeper.stdout
        if not keeper.stdout.readline():
            raise OSError("no disk can be made")
        yield folder


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
