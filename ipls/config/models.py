"""The models behind `ipls.toml`, strict: an unknown or missing key is an error that names it."""

import tomllib
from pathlib import Path
from typing import Annotated, TypeVar

from google.protobuf.message import DecodeError
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    field_validator,
    model_validator,
)

from ipls.address import parse_address
from ipls.clock import system_now_ms
from ipls.crypto.errors import VerificationError
from ipls.errors import IplsError
from ipls.proto.trust.v1.trust_pb2 import SignedTrustRoot, TrustChain
from ipls.trust.chain import Version, walk
from ipls.trust.root import TrustRoot


class ConfigError(IplsError):
    """The configuration can't be used; the message says what to do."""

    def __init__(self, message: str, reason: str = "CONFIG_INVALID") -> None:
        super().__init__(reason, message)


def _address(value: str) -> str:
    parse_address(value)
    return value


Address = Annotated[str, AfterValidator(_address)]
"""host:port or [IPv6]:port"""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class TlsFiles(_Model):
    """A certificate with its key, and the CA that the other side's certificate must come from."""

    certificate: Path
    key: Path
    ca: Path


class BucketConfig(_Model):
    """The audit log in S3; what is left out comes from the environment, AWS's own files or the machine's role."""

    bucket: str
    claims: str
    """A second bucket, which keeps for each epoch the one name that it may have."""
    retention_days: int = Field(ge=1, le=36_500)
    """How long nobody can remove an object, from when it is written."""
    endpoint: str | None = None
    region: str | None = None
    credentials: Path | None = None
    """A file in the format of `~/.aws/credentials`, mode 0600."""
    profile: str | None = None
    """A section of it."""


class RedisConfig(_Model):
    url: str
    """redis://, rediss:// or unix://"""


class DirectoryConfig(_Model):
    listen: Address
    internal_listen: Address
    """The port for services, mTLS: updates, and reads without a quota."""
    tls: TlsFiles
    database: Path
    vrf_key: Path
    proposal_key: Path
    log: Path | BucketConfig
    """The audit log's objects: a folder, or a table for S3."""
    witnesses: dict[str, Address]
    """Address of each witness by its name in the trust root."""
    evidence: Path = Path("data/evidence")
    """The folder in which it keeps what it meets: files to be published (docs/protocol/evidence.md)."""
    lease_s: float = Field(3.0, ge=0.1, le=60)
    """How long the publishing process may give no sign of life before another of this database takes over."""
    epoch_max_updates: int = Field(10_000, ge=1, le=10_000)
    epoch_max_age_s: float = Field(1.0, ge=0)
    """How long the oldest queued update may wait for its epoch."""
    queue_max: int = Field(100_000, ge=1)
    daily_quota: int = Field(10, ge=1)
    """Updates a label and day."""
    daily_labels: int = Field(2000, ge=1)
    """Distinct labels that an account may ask for in 24 hours, its own aside."""
    redis: RedisConfig | None = None
    """Where proofs are kept for all processes over one database; without it each keeps its own."""
    anonymous_reads: bool = False
    """Whether reads on the public port need no session. Numbers can be tried one by one then."""
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


class TokenConfig(_Model):
    """An initialised token of a PKCS#11 module."""

    module: Path
    """The module's shared library."""
    label: str
    environment: dict[str, str] = {}
    """Variables that the module reads its own settings from."""


class WitnessTokenConfig(_Model):
    place: Path | TokenConfig
    """The folder of a SoftHSM token, or a table for another PKCS#11 module."""
    pin: Path
    keys: tuple[str, ...] = Field(min_length=1)
    """The labels of the keys that it signs with."""


class WitnessConfig(_Model):
    listen: Address | None = None
    """Where the directory proposes. A pull-only witness has none, and no `tls`."""
    http_listen: Address
    """The auditor's interface, plain HTTP: the witness's URL in the trust root leads here."""
    tls: TlsFiles | None = None
    name: str
    """Its name in the trust root; of a pull-only witness, any."""
    database: Path
    watermark: Path
    """The newest that it signed, in a file that no backup of the database may bring back: it lies beside the key."""
    key: Path | tuple[Path, ...] = ()
    """Its key, or all that are good at present."""
    token: WitnessTokenConfig | None = None
    """Keys that lie in a PKCS#11 token."""
    evidence: Path = Path("data/evidence")
    """The folder in which it keeps what it meets: files to be published (docs/protocol/evidence.md)."""
    catch_up_every_s: float = Field(30.0, gt=0)
    """How often it looks by itself whether the log is ahead of it."""

    @model_validator(mode="after")
    def _whole(self) -> "WitnessConfig":
        if (self.listen is None) != (self.tls is None):
            raise ValueError("listen and tls come together")
        if not self.key and self.token is None:
            raise ValueError("a witness has a key or a token")
        return self

    @property
    def key_files(self) -> tuple[Path, ...]:
        """The files with its keys."""
        return self.key if isinstance(self.key, tuple) else (self.key,)


class LogConfig(_Model):
    listen: Address
    """Plain HTTP: everything in it is public and checked by its reader."""
    objects: Path | BucketConfig


class PostgresConfig(_Model):
    postgres: str
    """libpq's connection string or URI; the password comes by libpq's own ways (passfile, service, PGPASSWORD)."""

    @field_validator("postgres")
    @classmethod
    def _without_password(cls, value: str) -> str:
        from ipls.config.postgres import check_conninfo  # slow to load, and few need it

        return check_conninfo(value)


class VaultPostgresConfig(PostgresConfig):
    lock: Path
    """A file that keeps two processes of this host from one database: each database has another."""


_database_kind = Discriminator(lambda value: "server" if isinstance(value, dict | PostgresConfig) else "file")


class VaultConfig(_Model):
    listen: Address
    tls: TlsFiles
    directory: Address
    """The directory's port for services."""
    client: TlsFiles
    """The certificate that it is asked with, of the role `reader`."""
    shard: int = Field(0, ge=0, lt=65536)
    """The one that it keeps, of the fleet bundle's."""
    database: Annotated[Annotated[Path, Tag("file")] | Annotated[VaultPostgresConfig, Tag("server")], _database_kind]
    """A file of SQLite, or a table for a PostgreSQL server."""
    token: Path | TokenConfig
    """The folder of a SoftHSM token, or a table for another PKCS#11 module."""
    pin: Path
    bundle: Path
    evidence: Path = Path("data/evidence")
    """The folder in which the front keeps what the core met: files to be published (docs/protocol/evidence.md)."""
    core_config: Path = Path("ipls.toml")
    """The file that the core reads its own settings from (CoreConfig): the front tells it nothing."""
    workers: int = Field(1, ge=1)
    worker_sessions: int = Field(1000, ge=1)
    """Sessions that a worker takes before it is replaced: SoftHSM leaks about 600 bytes a retrieve."""
    max_sessions: int = Field(256, ge=1)
    """Open at once, of clients whose identity is proven."""
    max_half_open: int = Field(512, ge=1)
    """Streams that have not sent a frame, sessions that wait for a worker, and sessions that were answered and whose
    client has not proven its identity: so many of each. One more takes the place of the oldest."""
    handshake_s: float = Field(10.0, gt=0)
    """From a stream's beginning to its first frame, and from there to the proven identity."""
    session_s: float = Field(60.0, gt=0, le=60)
    daily_uses: int = Field(1000, ge=1)
    """Entries that 24 hours may add to an account's access history: sessions, and what is done in them."""
    hourly_releases: int = Field(1000, ge=1)
    """Accounts whose key an hour may release for the first time to an identity other than the one that stored it."""


class RouterConfig(_Model):
    listen: Address
    tls: TlsFiles
    vaults: tuple[Address, ...] = Field(min_length=1)
    """Their addresses, by the number of the shard that each keeps."""
    ca: Path
    """That their certificates come from."""
    max_half_open: int = Field(512, ge=1)
    """Streams that have not sent a frame. One more takes the place of the oldest."""
    handshake_s: float = Field(10.0, gt=0)
    """From a stream's beginning to its first frame."""


class CoreConfig(_Model):
    """What the vault's core reads of `ipls.toml`, or of a file of its own."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    trust_root: Path
    vault: VaultConfig


class ContactsConfig(_Model):
    listen: Address
    tls: TlsFiles
    directory: Address
    """The directory's port for services."""
    client: TlsFiles
    """The certificate that it is asked with, of the role `reader`."""
    database: Path


class RegistrationConfig(_Model):
    listen: Address
    tls: TlsFiles
    directory: Address
    """The directory's port for services."""
    client: TlsFiles
    """The messaging service's certificate."""
    database: Annotated[Annotated[Path, Tag("file")] | Annotated[PostgresConfig, Tag("server")], _database_kind]
    """A file of SQLite, or a table for a PostgreSQL server, which the service's processes on several hosts share."""
    outbox: Path
    """Where the development implementation writes the codes that a real one would send."""
    codes_per_hour: int = Field(5, ge=1)
    """Codes sent to one number."""


class WitnessesConfig(_Model):
    """What a witness reads of `ipls.toml`, or of a file of its own."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    trust_root: Path
    witnesses: tuple[WitnessConfig, ...] = Field(min_length=1)

    def named(self, name: str | None) -> WitnessConfig:
        """The witness of this name; None: the only one. Raises ConfigError."""
        names = [witness.name for witness in self.witnesses]
        if name is None and len(names) == 1:
            return self.witnesses[0]
        if name not in names:
            raise ConfigError(f"name one of the witnesses with --name: {', '.join(names)}")
        return self.witnesses[names.index(name)]


class ServiceConfig(_Model):
    """What one service reads of `ipls.toml`, or of a file with its own table alone."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    trust_root: Path
    directory: DirectoryConfig | None = None
    log: LogConfig | None = None
    vault: VaultConfig | None = None
    router: RouterConfig | None = None
    contacts: ContactsConfig | None = None
    registration: RegistrationConfig | None = None


class Config(_Model):
    """A whole deployment on one machine."""

    trust_root: Path
    directory: DirectoryConfig
    witnesses: tuple[WitnessConfig, ...] = Field(min_length=1)
    log: LogConfig
    vault: VaultConfig
    contacts: ContactsConfig
    registration: RegistrationConfig


def _rebase(model: _Model, base: Path) -> _Model:
    """Every path in the model, and in the models in it, made absolute against `base`."""
    changes: dict[str, object] = {}
    for name in type(model).model_fields:
        value = getattr(model, name)
        if isinstance(value, tuple):
            changes[name] = tuple(_rebased(item, base) for item in value)
        else:
            changes[name] = _rebased(value, base)
    return model.model_copy(update=changes)


def _rebased(item: object, base: Path) -> object:
    if isinstance(item, Path):
        return base / item
    return _rebase(item, base) if isinstance(item, _Model) else item


_ModelT = TypeVar("_ModelT", bound=_Model)


def _load(path: Path, model: type[_ModelT]) -> _ModelT:
    try:
        config = model.model_validate(tomllib.loads(path.read_text()))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; run `ipls init DIR` to make a deployment") from error
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    except (ValueError, RecursionError) as error:  # not UTF-8, not TOML, a number too long, nested too deep
        raise ConfigError(f"{path}: {error}") from error
    rebased = _rebase(config, path.resolve().parent)
    assert isinstance(rebased, model)
    return rebased


def load(path: Path) -> Config:
    """Read `ipls.toml`. Raises ConfigError with one line that names the file and the key at fault."""
    return _load(path, Config)


def load_service(path: Path) -> ServiceConfig:
    """Read the services' tables that are there. Raises ConfigError."""
    return _load(path, ServiceConfig)


def load_core(path: Path) -> CoreConfig:
    """Read the vault core's part of `ipls.toml`. Raises ConfigError."""
    return _load(path, CoreConfig)


def load_witnesses(path: Path) -> WitnessesConfig:
    """Read the witnesses' part of `ipls.toml`. Raises ConfigError."""
    return _load(path, WitnessesConfig)


def load_trust_version(path: Path) -> Version:
    """The newest version of the trust root, expired or not: from the pinned one in `path` through `trust.chain` beside
    it. Raises ConfigError.
    """
    versions = load_trust_chain(path)
    try:
        pinned = Version.parse(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except VerificationError as error:
        raise ConfigError(f"{path}: {error}", error.reason) from error
    try:
        return walk(pinned, versions, now_ms=system_now_ms())
    except VerificationError as error:
        raise ConfigError(f"{chain_file(path)}: {error}", error.reason) from error


def load_trust_root(path: Path) -> TrustRoot:
    """What the newest version of the trust root says. Raises ConfigError."""
    return load_trust_version(path).root


def load_trust_chain(path: Path) -> list[SignedTrustRoot]:
    """The versions after the pinned one in `path`, unchecked; none without a `trust.chain`. Raises ConfigError."""
    chain = chain_file(path)
    try:
        return list(TrustChain.FromString(chain.read_bytes()).versions)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ConfigError(f"{chain}: {error.strerror}") from error
    except DecodeError as error:
        raise ConfigError(f"{chain}: not a chain of trust roots", "TRUST_ROOT_INVALID") from error


def chain_file(path: Path) -> Path:
    """Where the versions after the pinned one lie: `trust.chain` for `trust.toml`."""
    return path.with_suffix(".chain")


def check_private(path: Path) -> None:
    """Raises ConfigError KEY_FILE_OPEN where others than its owner may read or write the file."""
    try:
        if path.stat().st_mode & 0o077:
            raise ConfigError(f"{path}: others can read this key; run `chmod 600` on it", "KEY_FILE_OPEN")
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error


def read_pin(path: Path) -> str:
    """A token's PIN from its file. Raises ConfigError, also where others may read the file."""
    check_private(path)
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: the PIN can't be read") from error


def read_secret(path: Path) -> bytes:
    """A 32-byte seed from a file of 64 hex digits. Raises ConfigError, also where others may read the file."""
    check_private(path)
    try:
        seed = bytes.fromhex(path.read_text().strip())
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"{path}: not a key file (64 hex digits)") from error
    if len(seed) != 32:
        raise ConfigError(f"{path}: not a key file (64 hex digits)")
    return seed
