"""`ipls.toml`: what each service of a deployment is told. Paths are relative to the file."""

from ipls.config.models import (
    Config,
    ConfigError,
    ContactsConfig,
    DirectoryConfig,
    LogConfig,
    RegistrationConfig,
    TlsFiles,
    VaultConfig,
    WitnessConfig,
    load,
    load_trust_root,
    read_secret,
)

__all__ = [
    "Config",
    "ConfigError",
    "ContactsConfig",
    "DirectoryConfig",
    "LogConfig",
    "RegistrationConfig",
    "TlsFiles",
    "VaultConfig",
    "WitnessConfig",
    "load",
    "load_trust_root",
    "read_secret",
]
