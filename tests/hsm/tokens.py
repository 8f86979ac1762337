"""Tokens to test against, of two PKCS#11 modules: SoftHSM's own profile, and the standard one by kryoptic."""

import subprocess
from pathlib import Path

import tomli_w

from ipls.config import TokenConfig
from ipls.hsm.token import module, softhsm
from ipls.hsm.token.pkcs11 import TokenKeys, create_keys, create_token
from ipls.vault.session.profiles import HKDF_SHA256

PIN = "1234567890"
LABEL = "test"
MODULES = "softhsm", "kryoptic"
_SCRIPT = Path(__file__).parents[2] / "scripts/kryoptic"


def kryoptic_module() -> Path:
    """Kryoptic's library, built if need be."""
    return Path(subprocess.run([_SCRIPT], stdout=subprocess.PIPE, text=True, check=True).stdout.strip())


def kryoptic_token(library: Path, folder: Path, *without: str) -> TokenConfig:
    """A new token in `folder`, without keys and without the mechanisms named. Closes any other of the module."""
    folder.mkdir()
    slot: dict[str, object] = {"slot": 0, "dbtype": "sqlite", "dbargs": str(folder / "token.sql")}
    if without:
        slot["mechanisms"] = ["DENY", *without]
    (folder / "token.conf").write_text(tomli_w.dumps({"slots": [slot]}))
    place = TokenConfig(module=library, label=LABEL, environment={"KRYOPTIC_CONF": str(folder / "token.conf")})
    opened = module.initialise(place)
    module.init_token(place, opened, PIN)
    opened.finalize()
    return place


def softhsm_token(folder: Path) -> TokenConfig:
    """A new token in `folder`, without keys. Closes any other of the module."""
    place = softhsm.place(folder, LABEL)
    softhsm.create(folder, PIN, place.label, lambda session: None)
    return place


def bare_token(name: str, folder: Path) -> Path | TokenConfig:
    """Where a token of the module with this name is, which has no keys; SoftHSM's is made together with the first."""
    return folder if name == "softhsm" else kryoptic_token(kryoptic_module(), folder)


def as_configured(place: Path | TokenConfig) -> object:
    """As `ipls.toml` says it."""
    return str(place) if isinstance(place, Path) else place.model_dump(mode="json")


def vault_token(name: str, folder: Path) -> tuple[Path | TokenConfig, TokenKeys]:
    """A token of the module with this name, with a vault's keys: where it is, and what the bundle says of it."""
    place = bare_token(name, folder)
    return place, create_token(place, PIN) if isinstance(place, Path) else create_keys(place, PIN, HKDF_SHA256)


def pin_file(folder: Path, pin: str = PIN) -> Path:
    """A file with a token's PIN, mode 0600."""
    path = folder / "pin"
    path.touch(0o600)
    path.write_text(pin + "\n")
    return path
