"""A SoftHSM 2.6.1 token in a folder: made and opened.

SoftHSM works on keys in this process's memory and never fsyncs: it is for development.

Tested by tests/hsm/token/test_signing.py.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ipls.config import TokenConfig
from ipls.hsm.token import module
from ipls.store.files import replace, sync

MODULE = Path("/usr/lib/softhsm/libsofthsm2.so")


def place(folder: Path, name: str) -> TokenConfig:
    """The token of this name in `folder`."""
    return TokenConfig(module=MODULE, label=name, environment={"SOFTHSM2_CONF": str(folder / "softhsm2.conf")})


def token_at(where: Path | TokenConfig, name: str) -> TokenConfig:
    """The token that a configuration means: of this name in a folder, or the one that a table says.

    A folder that was moved, or copied, is told where it lies now: it would lead to the token in the old place. Raises
    OSError.
    """
    if not isinstance(where, Path):
        return where
    conf = where / "softhsm2.conf"
    if conf.exists() and conf.read_text(errors="replace") != _conf(where):
        _write_conf(where, where)
    return place(where, name)


def create(folder: Path, pin: str, name: str, make_keys: Callable[[Any], None]) -> None:
    """A new token of this name in `folder`, with the keys that `make_keys` makes in its session.

    The folder appears complete or not at all. Closes any other token of this process. Raises pkcs11.PKCS11Error.
    """
    unfinished = folder.with_name(folder.name + ".new")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(mode=0o700, parents=True)
    _write_conf(unfinished, unfinished)
    token = place(unfinished, name)
    library = module.initialise(token)
    try:
        module.init_token(token, library, pin)
        with module.open_session(token, library, pin) as session:
            make_keys(session)
    finally:
        library.finalize()
    _write_conf(unfinished, folder)
    for path in [*unfinished.rglob("*"), unfinished]:
        sync(path)
    unfinished.rename(folder)
    sync(folder.parent)


def _write_conf(where: Path, token: Path) -> None:
    """The file that names a token's folder, which SoftHSM wants in full; made before what it names."""
    (where / "objects").mkdir(mode=0o700, exist_ok=True)
    replace(where / "softhsm2.conf", _conf(token).encode())


def _conf(token: Path) -> str:
    return f"directories.tokendir = {token.absolute() / 'objects'}\nobjectstore.backend = file\nlog.level = ERROR\n"
