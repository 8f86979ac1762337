"""The witnesses' tables.

Tested by tests/surface/test_failures.py.
"""

from pathlib import Path

from pydantic import ConfigDict, Field, model_validator

from ipls.config.base import Address, ConfigError, Model, TlsFiles, load_model
from ipls.config.token import TokenConfig


class WitnessTokenConfig(Model):
    place: Path | TokenConfig
    """The folder of a SoftHSM token, or a table for another PKCS#11 module."""
    pin: Path
    keys: tuple[str, ...] = Field(min_length=1)
    """The labels of the keys that it signs with."""


class WitnessConfig(Model):
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


class WitnessesConfig(Model):
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


def load_witnesses(path: Path) -> WitnessesConfig:
    """Read the witnesses' part of `ipls.toml`. Raises ConfigError."""
    return load_model(path, WitnessesConfig)
