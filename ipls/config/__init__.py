"""`ipls.toml`: what each service of a deployment is told. Paths are relative to the file."""

from ipls.config.logs import configure_logging
from ipls.config.models import (
    Config,
    ConfigError,
    ContactsConfig,
    CoreConfig,
    DirectoryConfig,
    LogConfig,
    RegistrationConfig,
    TlsFiles,
    VaultConfig,
    WitnessConfig,
    load,
    load_core,
    load_trust_root,
    read_secret,
)

__all__ = [
    "Config",
    "ConfigError",
    "ContactsConfig",
    "CoreConfig",
    "DirectoryConfig",
    "LogConfig",
    "RegistrationConfig",
    "TlsFiles",
    "VaultConfig",
    "WitnessConfig",
    "configure_logging",
    "load",
    "load_core",
    "load_trust_root",
    "read_secret",
]
