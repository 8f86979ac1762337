"""The log in a folder.

Tested by tests/store/log/test_contract.py.
"""

import contextlib
import hashlib
import os
import re
import secrets
import shutil
import threading
from bisect import bisect_right
from pathlib import Path

from ipls.clock import system_now_ms
from ipls.store.errors import StoreRefused
from ipls.store.files import PUBLIC, replace, sync, write_new
from ipls.store.log.contract import LogStore, ObjectInfo, is_bundle, parse_name

_EPOCH = re.compile(r"[1-9][0-9]{0,18}")
_SETTLED_MS = 2000
"""A folder that changed so shortly ago may change again without showing it: file systems keep times in steps."""


class FileLog(LogStore):
    """A folder that lies as the names do, so that any web server can publish it; made if it is not there.

    An epoch's folder is prepared under a name with a leading dot and renamed: rename takes all of it at once, and
    refuses where the epoch has one. The epochs' names are kept in memory, about 70 bytes each once somebody listed
    them, and read again only when the folder has changed.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        sync(folder.parent)
        self._lock = threading.Lock()
        self._starts: list[str] = []
        self._read_at_ns = -1

    def put(self, name: str, blob: bytes) -> None:
        if is_bundle(name):
            return self._put_bundle(self._path(name), blob)
        epoch, old, new = parse_name(name)
        target = self._folder / epoch
        if not target.exists():
            self._write(target, old, new, blob)
        sync(self._folder)
        stored = self.get(name)
        if stored is None:
            raise StoreRefused("LOG_EPOCH_TAKEN", f"the log has another object for epoch {epoch}")
        if stored != blob:
            raise StoreRefused("LOG_OBJECT_EXISTS", f"the log's object for epoch {epoch} has other bytes")
        return None

    def _put_bundle(self, path: Path, blob: bytes) -> None:
        path.parent.mkdir(exist_ok=True)
        with contextlib.suppress(FileExistsError):
            write_new(path, blob, mode=PUBLIC)
        sync(path.parent)
        sync(self._folder)
        if path.read_bytes() != blob:
            raise StoreRefused("LOG_OBJECT_EXISTS", f"the log's bundle {path.name} has other bytes")

    def _write(self, target: Path, old: str, new: str, blob: bytes) -> None:
        draft = self._folder / f".{target.name}-{secrets.token_hex(8)}"
        try:
            (draft / old).mkdir(parents=True)
            write_new(draft / old / new, blob, mode=PUBLIC)
            sync(draft)
            os.rename(draft, target)
        except OSError:
            if not target.exists():  # if it does, another writer was first
                raise
        finally:
            # Also what a crash or a slower writer left: the epoch is decided, or is tried again.
            for leftover in self._folder.glob(f".{target.name}-*") if target.exists() else [draft]:
                shutil.rmtree(leftover, ignore_errors=True)

    def mend(self, name: str, blob: bytes) -> None:
        """Put back an object that was lost or damaged. The caller has shown it to prove the step."""
        path = self._path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        replace(path, blob, mode=PUBLIC)
        sync(path.parent.parent)
        sync(self._folder)

    def get(self, name: str) -> bytes | None:
        try:
            return self._path(name).read_bytes()
        except FileNotFoundError:
            return None

    def read(self, name: str, offset: int, length: int) -> bytes | None:
        try:
            with self._path(name).open("rb") as file:
                file.seek(offset)
                return file.read(length)
        except FileNotFoundError:
            return None

    def stat(self, name: str) -> ObjectInfo | None:
        try:
            stat = self._path(name).stat()
        except FileNotFoundError:
            return None
        tag = hashlib.sha256(f"{name} {stat.st_size} {stat.st_mtime_ns}".encode()).hexdigest()
        return ObjectInfo(name, stat.st_size, stat.st_mtime_ns // 1_000_000_000 * 1000, tag)

    def _path(self, name: str) -> Path:
        return self._folder / name if is_bundle(name) else self._folder.joinpath(*parse_name(name))

    def _sorted_starts(self) -> list[str]:
        """`E/` of every epoch, in the order of bytes. The list is never changed, only replaced."""
        with self._lock:
            changed_ns = os.stat(self._folder).st_mtime_ns  # before the names are read: a later change shows
            if changed_ns != self._read_at_ns:
                names = os.listdir(self._folder)
                self._starts = sorted(f"{name}/" for name in names if _EPOCH.fullmatch(name))
                settled = system_now_ms() - changed_ns // 1_000_000 > _SETTLED_MS
                self._read_at_ns = changed_ns if settled else -1
            return self._starts

    def _names(self, start: str) -> list[str]:
        """One, unless somebody else wrote another: whoever lists the log shall see it."""
        folder = self._folder / start
        return sorted(f"{start}{old}/{new}" for old in os.listdir(folder) for new in os.listdir(folder / old))

    def list(self, *, start_after: str = "", prefix: str = "", limit: int = 1000) -> list[ObjectInfo]:
        entries: list[ObjectInfo] = []
        starts = self._sorted_starts()
        # All of an epoch's names lie between its start and the next: pass those below the last start that is not above.
        first = max(bisect_right(starts, max(start_after, prefix)) - 1, 0)
        for start in map(starts.__getitem__, range(first, len(starts))):
            if len(entries) >= limit or (start > prefix and not start.startswith(prefix)):
                break
            if start.startswith(prefix) or prefix.startswith(start):
                names = self._names(start)
                there = [self.stat(name) for name in names if name > start_after and name.startswith(prefix)]
                entries += filter(None, there)
        return entries[:limit]
