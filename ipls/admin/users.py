"""The vault's two users: what belongs to the core, what to its front, and whether this machine can tell them apart.

Tested by tests/attack/test_vault_users.py.
"""

import os
import pwd
import secrets
import stat
import sys
from pathlib import Path

import ipls
from ipls.config import PartedCore, VaultConfig

_UIDS = range(60_706, 61_182, 2)
"""Of nobody: between those of systemd's that are given away (systemd.io/UIDS-GIDS)."""
_LONGEST_SOCKET = 107


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
    """For a new deployment, of no account of this machine; None where they would be of no use."""
    socket = Path("data/vault-core.socket")
    if _why_not(folder) or len(os.fsencode(folder / socket)) > _LONGEST_SOCKET:
        return None
    known = {account.pw_uid for account in pwd.getpwall()}
    uid = secrets.choice([uid for uid in _UIDS if not known & {uid, uid + 1}])
    return PartedCore(socket=socket, core=uid, front=uid + 1)


def hand_out(vault: VaultConfig, config_file: Path, trust_root: Path) -> None:
    """As root: give each of the two users what is its own, a way to it, and the public files. Raises OSError.

    The core writes beside its database: it may add to that folder, and remove nothing of another's there.
    """
    assert vault.parted is not None
    core, front, folder = vault.parted.core, vault.parted.front, config_file.parent
    database = [vault.database] if isinstance(vault.database, Path) else []
    beside = [each for file in database for each in file.parent.glob(file.name + "*")]
    token = [vault.token, *vault.token.rglob("*")] if isinstance(vault.token, Path) else []
    vault.evidence.mkdir(mode=0o700, exist_ok=True)
    public = [config_file, vault.core_config or config_file, trust_root, vault.bundle]
    public += [file for files in (vault.tls, vault.client) for file in (files.certificate, files.ca)]
    private = {core: [*beside, *token, vault.pin], front: [vault.tls.key, vault.client.key, vault.evidence]}
    for uid, paths in private.items():
        for path in paths:
            os.chown(path, uid, uid, follow_symlinks=False)
            if not path.is_symlink():
                path.chmod(path.stat().st_mode & ~(stat.S_IRWXG | stat.S_IRWXO))
    for path in (*public, *(path for paths in private.values() for path in paths)):
        for parent in path.parents:
            if parent.is_relative_to(folder) and parent not in token and parent != vault.evidence:
                parent.chmod(parent.stat().st_mode | stat.S_IXOTH)
    for path in filter(Path.exists, public):
        path.chmod(path.stat().st_mode | stat.S_IROTH)
    for parent in {path.parent for path in (*database, vault.parted.socket)}:
        os.chown(parent, -1, core)
        parent.chmod(parent.stat().st_mode | stat.S_ISVTX | stat.S_IWGRP | stat.S_IXGRP)
