"""`ipls.toml`: all services' tables in one file, or one service's in its own.

Tested by tests/surface/test_failures.py.
"""

from pathlib import Path

from pydantic import ConfigDict, Field

from ipls.config.base import Model, load_model
from ipls.config.contacts import ContactsConfig
from ipls.config.directory import DirectoryConfig
from ipls.config.log import LogConfig
from ipls.config.registration import RegistrationConfig
from ipls.config.router import RouterConfig
from ipls.config.vault import VaultConfig
from ipls.config.witness import WitnessConfig


class ServiceConfig(Model):
    """What one service reads of `ipls.toml`, or of a file with its own table alone."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    trust_root: Path
    directory: DirectoryConfig | None = None
    log: LogConfig | None = None
    vault: VaultConfig | None = None
    router: RouterConfig | None = None
    contacts: ContactsConfig | None = None
    registration: RegistrationConfig | None = None


class Config(Model):
    """A whole deployment on one machine."""

    trust_root: Path
    directory: DirectoryConfig
    witnesses: tuple[WitnessConfig, ...] = Field(min_length=1)
    log: LogConfig
    vault: VaultConfig
    contacts: ContactsConfig
    registration: RegistrationConfig


def load(path: Path) -> Config:
    """Read `ipls.toml`. Raises ConfigError."""
    return load_model(path, Config)


def load_service(path: Path) -> ServiceConfig:
    """Read the services' tables that are there. Raises ConfigError."""
    return load_model(path, ServiceConfig)
