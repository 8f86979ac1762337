"""The vault's table, and what its core reads.

Tested by tests/surface/test_failures.py.
"""

from pathlib import Path
from typing import Annotated, Self

from pydantic import ConfigDict, Field, Tag, model_validator

from ipls.config.base import Address, Model, Peer, TlsFiles, load_model
from ipls.config.database import VaultPostgresConfig, database_kind
from ipls.config.token import TokenConfig


class PartedCore(Model):
    """The core as a process that is started by itself (`ipls serve vault-core`), under a user of its own."""

    socket: Path
    """Where it listens."""
    core: int = Field(gt=0)
    """Its user, to whom database, token and PIN belong; also the number of its group."""
    front: int = Field(gt=0)
    """The front's, the one user that it serves."""

    @model_validator(mode="after")
    def _two(self) -> Self:
        if self.core == self.front:
            raise ValueError("core and front are two users")
        return self


class VaultConfig(Model):
    listen: Address
    internal_listen: Address | None = None
    """A port for those who show the certificate of a role: the router, whose places no stranger can take."""
    tls: TlsFiles
    directory: Peer
    """The directory's port for services."""
    client: TlsFiles
    """The certificate that it is asked with, of the role `reader`."""
    shard: int = Field(0, ge=0, lt=65536)
    """The one that it keeps, of the fleet bundle's."""
    database: Annotated[Annotated[Path, Tag("file")] | Annotated[VaultPostgresConfig, Tag("server")], database_kind]
    """A file of SQLite, or a table for a PostgreSQL server."""
    token: Path | TokenConfig
    """The folder of a SoftHSM token, or a table for another PKCS#11 module."""
    pin: Path
    bundle: Path
    evidence: Path = Path("data/evidence")
    """The folder in which the front keeps what the core met: files to be published (docs/protocol/evidence.md)."""
    core_config: Path | None = None
    """The file that the core reads its own settings from (CoreConfig): the front tells it nothing. By default the one
    that this table stands in."""
    parted: PartedCore | None = None
    """None: the front starts the core, as its own user."""
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


class CoreConfig(Model):
    """What the vault's core reads of `ipls.toml`, or of a file of its own."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    trust_root: Path
    vault: VaultConfig


def load_core(path: Path) -> CoreConfig:
    """Read the vault core's part of `ipls.toml`. Raises ConfigError."""
    return load_model(path, CoreConfig)
