"""The public audit log: one write-once object an epoch, `E/<old root, hex>/<new root, hex>`, an encoded
SingleAppendOnlyProof (the directory spec, The public audit log)."""

import os
import re
import secrets
import shutil
from abc import ABC, abstractmethod
from pathlib import Path
from typing import NamedTuple

from ipls.store.errors import StoreError

_EPOCH = re.compile(r"[1-9][0-9]{0,18}")
_NAME = re.compile(r"([1-9][0-9]{0,18})/([0-9a-f]{64})/([0-9a-f]{64})")


class Entry(NamedTuple):
    """An object as it is listed: name, size in bytes, time of writing (ms since 1970, the host's clock)."""

    name: str
    size: int
    modified_ms: int


def object_name(epoch: int, old_root: bytes, new_root: bytes) -> str:
    """The name of the step `epoch` - 1 -> `epoch` (from 1), whose roots have 32 bytes."""
    return f"{epoch}/{old_root.hex()}/{new_root.hex()}"


class LogStore(ABC):
    """Objects that, once there, stay as they are.

    Every method may be called from any thread and, over one store, from any process. A name that is none raises
    StoreError LOG_NAME_INVALID. A reader sees a whole object or none.
    """

    @abstractmethod
    def put(self, name: str, blob: bytes) -> None:
        """Write an object. On return it is durable: it survives a crash and a loss of power.

        Of racing writers of one epoch exactly one wins. The very object being there already is success. Raises
        StoreError LOG_OBJECT_EXISTS if it is there with other bytes (the caller may verify that they prove the same
        step) and LOG_EPOCH_TAKEN if the epoch has an object of another name; nothing has changed then. After any other
        exception the object may or may not be there, and put may be tried again.
        """

    @abstractmethod
    def get(self, name: str) -> bytes | None:
        """An object's bytes; None if it isn't there."""

    @abstractmethod
    def list(self, *, start_after: str = "", prefix: str = "", limit: int = 1000) -> "list[Entry]":
        """The first `limit` objects whose names begin with `prefix` and are greater than `start_after`, in the order of
        their names' bytes (so 1, 10, 11, 2). Neither string need be a name."""


class FileLog(LogStore):
    """A folder that lies as the names do, so that any web server can publish it; made if it is not there.

    An epoch's folder is prepared under a name with a leading dot and renamed: rename takes all of it at once, and
    refuses where the epoch has one. Listing reads the names of all epochs.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        _sync(folder.parent)

    def put(self, name: str, blob: bytes) -> None:
        epoch, old, new = _parse(name)
        target = self._folder / epoch
        if not target.exists():
            self._write(target, old, new, blob)
        _sync(self._folder)
        stored = self.get(name)
        if stored is None:
            raise StoreError("LOG_EPOCH_TAKEN", f"the log has another object for epoch {epoch}")
        if stored != blob:
            raise StoreError("LOG_OBJECT_EXISTS", f"the log's object for epoch {epoch} has other bytes")

    def _write(self, target: Path, old: str, new: str, blob: bytes) -> None:
        draft = self._folder / f".{target.name}-{secrets.token_hex(8)}"
        try:
            (draft / old).mkdir(parents=True)
            with open(draft / old / new, "xb") as file:
                file.write(blob)
                file.flush()
                os.fsync(file.fileno())
            _sync(draft / old)
            _sync(draft)
            os.rename(draft, target)
        except OSError:
            if not target.exists():  # if it does, another writer was first
                raise
        finally:
            # Also what a crash or a slower writer left: the epoch is decided, or is tried again.
            for leftover in self._folder.glob(f".{target.name}-*") if target.exists() else [draft]:
                shutil.rmtree(leftover, ignore_errors=True)

    def get(self, name: str) -> bytes | None:
        try:
            return self._folder.joinpath(*_parse(name)).read_bytes()
        except FileNotFoundError:
            return None

    def list(self, *, start_after: str = "", prefix: str = "", limit: int = 1000) -> list[Entry]:
        entries: list[Entry] = []
        epochs = [name for name in os.listdir(self._folder) if _EPOCH.fullmatch(name)]
        for start in sorted(f"{epoch}/" for epoch in epochs):
            # All of an epoch's names lie between "E/" and "E0": skip it unopened where none can be asked for.
            if start[:-1] + "0" <= start_after or not (start.startswith(prefix) or prefix.startswith(start)):
                continue
            if len(entries) == limit:
                break
            entry = self._entry(start)
            if entry.name > start_after and entry.name.startswith(prefix):
                entries.append(entry)
        return entries

    def _entry(self, start: str) -> Entry:
        (old,) = os.listdir(self._folder / start)
        (new,) = os.listdir(self._folder / start / old)
        stat = (self._folder / start / old / new).stat()
        return Entry(f"{start}{old}/{new}", stat.st_size, stat.st_mtime_ns // 1_000_000)


def _parse(name: str) -> tuple[str, str, str]:
    match = _NAME.fullmatch(name)
    if match is None:
        raise StoreError("LOG_NAME_INVALID", "an object's name is E/<old root hash, hex>/<new root hash, hex>")
    epoch, old, new = match.groups()
    return epoch, old, new


def _sync(folder: Path) -> None:
    """Make the folder's entries durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
