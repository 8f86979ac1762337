"""The vault's two users: what belongs to the core, what to its front, and whether this machine can tell them apart.

Tested by tests/attack/test_vault_users.py.
"""

import errno
import grp
import os
import pwd
import secrets
import stat
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import ipls
from ipls.config import ConfigError, PartedCore, ServiceConfig, VaultConfig, chain_file
from ipls.config.base import paths

CORE_FOLDER = Path("data/vault")
"""Of a new deployment: database, lock and socket, and nothing else."""
_UIDS = range(60_706, 61_182, 2)
"""Of nobody: between those of systemd's that are given away (systemd.io/UIDS-GIDS)."""
_LONGEST_SOCKET = 107
_DEEPEST = 4
"""Folders in a folder of the core's: SoftHSM's objects lie two deep."""


def why_not_parted(vault: VaultConfig, folder: Path) -> str:
    """Why the vault's core runs as its front's user; empty where it runs as its own."""
    if vault.parted is None:
        return "[vault] has no table `parted`"
    return "" if os.geteuid() == vault.parted.front else _why_not(folder)


def _why_not(folder: Path) -> str:
    if os.geteuid() != 0:
        return "only root can start processes of other users"
    for path in (folder / "ipls.toml", Path(sys.executable), Path(ipls.__file__)):
        for parent in (*path.absolute().parents, *path.resolve().parents):
            if not parent.stat().st_mode & stat.S_IXOTH:
                return f"other users have no way into {parent}"
    return ""


def new_users(folder: Path) -> PartedCore | None:
    """For a new deployment, of no account and no group of this machine; None where they would be of no use."""
    socket = CORE_FOLDER / "core.socket"
    if _why_not(folder) or len(os.fsencode(folder / socket)) > _LONGEST_SOCKET:
        return None
    known = {account.pw_uid for account in pwd.getpwall()} | {group.gr_gid for group in grp.getgrall()}
    uid = secrets.choice([uid for uid in _UIDS if not known & {uid, uid + 1}])
    return PartedCore(socket=socket, core=uid, front=uid + 1)


def hand_out(config: ServiceConfig, config_file: Path) -> None:
    """As root: give each of the vault's two users what is its own, a way to it, and what it is to read.

    Only in the deployment's folder, and nothing that a link leads to: who writes in a folder of its own may have put
    one there for root to follow. What lies elsewhere the operator hands out. Raises ConfigError where others have
    something in the core's folder, OSError.
    """
    vault, file = config.vault, config_file.resolve()
    assert vault is not None
    assert vault.parted is not None
    core, front = vault.parted.core, vault.parted.front
    own = _own_folders(config, vault, vault.parted, file)
    inside = _Folder(file.parent, core, front)
    inside.give(core, own, make=True, add=stat.S_IXOTH)  # the front's way to the socket
    inside.give(core, [path for path in (vault.token, vault.pin) if isinstance(path, Path)])
    inside.give(front, [vault.evidence], make=True)
    inside.give(front, [vault.tls.key, vault.client.key])
    tls = [path for files in (vault.tls, vault.client) for path in (files.certificate, files.ca)]
    inside.show([config.trust_root, chain_file(config.trust_root), vault.bundle, *tls])
    inside.show([file, vault.core_config or file], core)  # the front has read it as root


def _own_folders(config: ServiceConfig, vault: VaultConfig, parted: PartedCore, config_file: Path) -> set[Path]:
    """Those in which the core makes files. Raises ConfigError."""
    database = vault.database if isinstance(vault.database, Path) else vault.database.lock
    own = {database.parent, parted.socket.parent}
    others = {config_file, *paths(config)} - {database, parted.socket, vault.pin, *paths(vault.token)}
    for folder in own:
        for other in sorted(others):
            if folder in (other, *other.parents):
                raise ConfigError(
                    f"the vault's core may not write in {folder}, where {other} lies: end the services, move its"
                    f" database to a folder of its own, and name that in {config_file} (docs/operations.md, Two users)"
                )
    return own


class _Folder:
    """The deployment's, in which root hands out."""

    def __init__(self, path: Path, *users: int) -> None:
        self._path = path
        self._users = users

    def give(self, uid: int, paths: Iterable[Path], *, make: bool = False, add: int = 0) -> None:
        """Each to this user, with all that is in it, for it alone but for what `add` lets others; `make`: a folder
        where there is none."""
        for path in paths:
            for descriptor in self._open(path, make=make):
                _give(descriptor, uid, add)

    def show(self, paths: Iterable[Path], gid: int | None = None) -> None:
        """Each to that group, or to everybody."""
        for path in paths:
            for descriptor in self._open(path):
                if gid is not None:
                    os.fchown(descriptor, -1, gid)
                add = stat.S_IROTH if gid is None else stat.S_IRGRP
                os.fchmod(descriptor, stat.S_IMODE(os.fstat(descriptor).st_mode) | add)

    def _open(self, path: Path, *, make: bool = False) -> Iterator[int]:
        """A descriptor of it, once everybody has a way to it on which neither user can change a name; none where it is
        not there, or elsewhere, or behind a link."""
        if not path.is_relative_to(self._path):
            return
        *way, last = path.relative_to(self._path).parts
        with ExitStack() as stack:
            try:
                parent = stack.enter_context(_opened(str(self._path)))
                self._open_way(parent)
                for name in way:
                    parent = stack.enter_context(_opened(name, parent))
                    self._open_way(parent)
                if make:
                    with suppress(FileExistsError):
                        os.mkdir(last, 0o700, dir_fd=parent)
                found = stack.enter_context(_opened(last, parent))
            except OSError as error:
                if error.errno in (errno.ENOENT, errno.ELOOP):
                    return
                raise
            yield found

    def _open_way(self, descriptor: int) -> None:
        there = os.fstat(descriptor)
        mode = stat.S_IMODE(there.st_mode) | stat.S_IXOTH
        if there.st_uid not in self._users and there.st_gid in self._users:  # as the core's group once had it
            os.fchown(descriptor, -1, 0)
            mode &= ~(stat.S_IWGRP | stat.S_ISVTX)
        os.fchmod(descriptor, mode)


def _give(descriptor: int, uid: int, add: int = 0, depth: int = _DEEPEST) -> None:
    there = os.fstat(descriptor)
    folder = stat.S_ISDIR(there.st_mode)
    if (there.st_uid, there.st_gid) != (uid, uid):
        if not folder and there.st_nlink > 1:
            return  # it may be anybody's, by another name
        os.fchown(descriptor, uid, uid)
    os.fchmod(descriptor, stat.S_IMODE(there.st_mode) & stat.S_IRWXU | add)
    if folder and depth:
        with os.scandir(descriptor) as entries:
            names = [each.name for each in entries if _is_file_or_folder(each)]
        for name in names:
            with suppress(FileNotFoundError), _opened(name, descriptor) as child:
                _give(child, uid, depth=depth - 1)


def _is_file_or_folder(entry: os.DirEntry[str]) -> bool:
    return entry.is_file(follow_symlinks=False) or entry.is_dir(follow_symlinks=False)


@contextmanager
def _opened(name: str, parent: int | None = None) -> Iterator[int]:
    """Never what a link leads to. Raises OSError ELOOP."""
    descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=parent)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
