"""`ipls.toml`: what each service of a deployment is told. Paths are relative to the file.

The tables are tested by tests/config/test_addresses.py, and by the tests of what each configures.
"""

from ipls.config.base import ConfigError, TlsFiles, in_home
from ipls.config.contacts import ContactsConfig
from ipls.config.database import PostgresConfig, VaultPostgresConfig
from ipls.config.deployment import Config, ServiceConfig, load, load_service
from ipls.config.directory import DirectoryConfig, RedisConfig
from ipls.config.log import BucketConfig, LogConfig
from ipls.config.registration import RegistrationConfig
from ipls.config.router import RouterConfig
from ipls.config.secrets import check_private, read_pin, read_secret
from ipls.config.token import TokenConfig
from ipls.config.trust import chain_file, load_trust_chain, load_trust_root, load_trust_version
from ipls.config.vault import CoreConfig, PartedCore, VaultConfig, load_core
from ipls.config.witness import WitnessConfig, WitnessesConfig, WitnessTokenConfig, load_witnesses

__all__ = [
    "BucketConfig",
    "Config",
    "ConfigError",
    "ContactsConfig",
    "CoreConfig",
    "DirectoryConfig",
    "LogConfig",
    "PartedCore",
    "PostgresConfig",
    "RedisConfig",
    "RegistrationConfig",
    "RouterConfig",
    "ServiceConfig",
    "TlsFiles",
    "TokenConfig",
    "VaultConfig",
    "VaultPostgresConfig",
    "WitnessConfig",
    "WitnessTokenConfig",
    "WitnessesConfig",
    "chain_file",
    "check_private",
    "in_home",
    "load",
    "load_core",
    "load_service",
    "load_trust_chain",
    "load_trust_root",
    "load_trust_version",
    "load_witnesses",
    "read_pin",
    "read_secret",
]
