"""Files that survive a loss of power: whole or not there, and for their owner alone unless they are public."""

import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PRIVATE = 0o600
PUBLIC = 0o644
"""The mode of what anybody may read: certificates, trust roots, signatures, addresses. The umask may take from it."""


def sync(path: Path) -> None:
    """Make a file's bytes, or a folder's entries, durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_bounded(path: Path, most: int) -> bytes:
    """A file that somebody handed in. Raises OSError, EFBIG where it has over `most` bytes, which are not read."""
    with path.open("rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise OSError(errno.EFBIG, f"over {most} bytes", str(path))
    return data


def write_new(path: Path, data: bytes, *, mode: int = PRIVATE) -> None:
    """Create a file, durable when this returns. Raises FileExistsError where anything is, OSError: then there is none.

    A crash may leave a draft beside it, under a name that begins with a dot.
    """
    with _draft(path, data, mode) as draft:
        try:
            os.link(draft, path)
        except PermissionError:  # a file system without links, as on a USB stick
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode))
            draft.replace(path)
    sync(path.parent)


def replace(path: Path, data: bytes, *, mode: int = PRIVATE) -> None:
    """Put a file in the place of what `path` holds, or leads to, if anything; durable when this returns.

    Who could read the old one can read it, as far as `mode` allows; its owner is the old one's, where root writes.
    Raises OSError: what was there is there then. A crash may leave a draft beside it, under a name that begins with a
    dot.
    """
    if path.is_symlink():
        path = Path(os.path.realpath(path))
    with _draft(path, data, mode, replaced=path) as draft:
        draft.replace(path)
    sync(path.parent)


def append(path: Path, data: bytes) -> None:
    """Add to a file of one writer, made where there is none. Raises OSError: then nothing was added."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, PRIVATE), "wb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        try:
            written = file.write(data)
            if written < len(data):  # the disk is full here
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        except OSError:
            os.ftruncate(file.fileno(), size)
            raise


def put_in_place(draft: Path, path: Path) -> None:
    """Rename a file that was made beside another to that one's name, with its mode, and its owner where root writes;
    durable when this returns. Raises OSError."""
    descriptor = os.open(draft, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        _take_after(path, descriptor, mode=0o777)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    draft.replace(path)
    sync(path.parent)


def _take_after(old: Path, descriptor: int, *, mode: int) -> None:
    """Have a file be whose `old` is, if that is there, and as open as it, within `mode`: a service of another user is
    to read what root renews, also under a tight umask."""
    with suppress(FileNotFoundError):
        there = old.stat()
        if os.geteuid() == 0:
            os.fchown(descriptor, there.st_uid, there.st_gid)
        os.fchmod(descriptor, stat.S_IMODE(there.st_mode) & mode)


@contextmanager
def _draft(path: Path, data: bytes, mode: int, *, replaced: Path | None = None) -> Iterator[Path]:
    """The data, durable, in a file beside `path`; gone after the block. What the system refuses names `path`."""
    draft = path.with_name(f".{secrets.token_hex(8)}")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            if replaced is not None:
                _take_after(replaced, descriptor, mode=mode)
            os.fsync(descriptor)
        yield draft
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        with suppress(OSError):
            draft.unlink()
