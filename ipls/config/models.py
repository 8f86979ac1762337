"""The models behind `ipls.toml`, strict: an unknown or missing key is an error that names it."""

import tomllib
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ipls.trust.errors import TrustError
from ipls.trust.root import TrustRoot
from ipls.trust.root import parse as parse_trust_root


class ConfigError(Exception):
    """The configuration can't be used; the message says what to do. `reason` is stable."""

    def __init__(self, message: str, reason: str = "CONFIG_INVALID") -> None:
        super().__init__(message)
        self.reason = reason


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TlsFiles(_Model):
    """A certificate with its key, and the CA that the other side's certificate must come from."""

    certificate: Path
    key: Path
    ca: Path


class DirectoryConfig(_Model):
    listen: str
    internal_listen: str
    """The update port, mTLS."""
    tls: TlsFiles
    database: Path
    vrf_key: Path
    proposal_key: Path
    log: Path
    """The audit log's objects."""
    witnesses: dict[str, str]
    """Address of each witness by its name in the trust root."""
    epoch_max_updates: int = Field(10_000, ge=1, le=10_000)
    epoch_max_age_s: float = Field(1.0, ge=0)
    """How long the oldest queued update may wait for its epoch."""
    queue_max: int = Field(100_000, ge=1)
    daily_quota: int = Field(10, ge=1)
    """Updates a label and day."""
    keep_epochs: int | None = Field(None, ge=1)
    """How many of the newest epochs stay readable; with `keep_age_s`, what either keeps stays. Neither: all.

    An epoch whose head is within the trust root's maximum head age always stays.
    """
    keep_age_s: float | None = Field(None, gt=0)
    """How long an epoch stays readable after the last signature on its head."""
    prune_every: int = Field(100, ge=1)
    """Epochs pruned together: one by one would cost twice a publish."""
    keep_tickets_days: float = Field(30, ge=2, le=36_500)
    """How long a settled update's ticket and request id are known."""


class WitnessConfig(_Model):
    listen: str
    http_listen: str
    """The auditor's interface, plain HTTP: the witness's URL in the trust root leads here."""
    tls: TlsFiles
    name: str
    """Its name in the trust root."""
    database: Path
    key: Path


class LogConfig(_Model):
    listen: str
    """Plain HTTP: everything in it is public and checked by its reader."""
    objects: Path


class VaultConfig(_Model):
    listen: str
    tls: TlsFiles
    directory: str
    database: Path
    token: Path
    """The folder of the SoftHSM token."""
    pin: Path
    bundle: Path
    core_config: Path = Path("ipls.toml")
    """The file that the core reads its own settings from (CoreConfig): the front tells it nothing."""
    workers: int = Field(1, ge=1)
    worker_sessions: int = Field(1000, ge=1)
    """Sessions that a worker takes before it is replaced: SoftHSM leaks about 600 bytes a retrieve."""
    max_sessions: int = Field(256, ge=1)
    session_s: float = Field(60.0, gt=0, le=60)


class CoreConfig(_Model):
    """What the vault's core reads of `ipls.toml`, or of a file of its own."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    trust_root: Path
    vault: VaultConfig


class ContactsConfig(_Model):
    listen: str
    tls: TlsFiles
    directory: str
    database: Path


class RegistrationConfig(_Model):
    listen: str
    tls: TlsFiles
    directory: str
    """The directory's update port."""
    client: TlsFiles
    """The messaging service's certificate."""
    database: Path
    outbox: Path
    """Where the development implementation writes the codes that a real one would send."""
    codes_per_hour: int = Field(5, ge=1)
    """Codes sent to one number."""


class Config(_Model):
    """A whole deployment on one machine; each service reads its own table."""

    trust_root: Path
    directory: DirectoryConfig
    witness: WitnessConfig
    log: LogConfig
    vault: VaultConfig
    contacts: ContactsConfig
    registration: RegistrationConfig


def _rebase(model: _Model, base: Path) -> _Model:
    """Every path in the model, and in the models in it, made absolute against `base`."""
    changes: dict[str, object] = {}
    for name in type(model).model_fields:
        value = getattr(model, name)
        if isinstance(value, Path):
            changes[name] = base / value
        elif isinstance(value, _Model):
            changes[name] = _rebase(value, base)
    return model.model_copy(update=changes)


_ModelT = TypeVar("_ModelT", bound=_Model)


def _load(path: Path, model: type[_ModelT]) -> _ModelT:
    try:
        config = model.model_validate(tomllib.loads(path.read_text()))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; run `ipls init DIR` to make a deployment") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    rebased = _rebase(config, path.resolve().parent)
    assert isinstance(rebased, model)
    return rebased


def load(path: Path) -> Config:
    """Read `ipls.toml`. Raises ConfigError with one line that names the file and the key at fault."""
    return _load(path, Config)


def load_core(path: Path) -> CoreConfig:
    """Read the vault core's part of `ipls.toml`. Raises ConfigError."""
    return _load(path, CoreConfig)


def load_trust_root(path: Path) -> TrustRoot:
    """Read the pinned trust root. Raises ConfigError."""
    try:
        return parse_trust_root(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except TrustError as error:
        raise ConfigError(f"{path}: {error}", error.reason) from error


def read_secret(path: Path) -> bytes:
    """A 32-byte seed from a file of 64 hex digits. Raises ConfigError, also where others may read the file."""
    try:
        if path.stat().st_mode & 0o077:
            raise ConfigError(f"{path}: others can read this key; run `chmod 600` on it", "KEY_FILE_OPEN")
        seed = bytes.fromhex(path.read_text().strip())
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"{path}: not a key file (64 hex digits)") from error
    if len(seed) != 32:
        raise ConfigError(f"{path}: not a key file (64 hex digits)")
    return seed
