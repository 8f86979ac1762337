"""The trust root that a configuration names, with the versions beside it.

Tested by tests/server/test_trust_rotation.py.
"""

from pathlib import Path

from google.protobuf.message import DecodeError

from ipls.clock import system_now_ms
from ipls.config.base import ConfigError
from ipls.crypto.errors import VerificationError
from ipls.proto.trust.v1.trust_pb2 import SignedTrustRoot, TrustChain
from ipls.trust.chain import TrustRootVersion, follow_versions
from ipls.trust.root import TrustRoot


def load_trust_version(path: Path) -> TrustRootVersion:
    """The newest version of the trust root, expired or not: from the pinned one in `path` through `trust.chain` beside
    it. Raises ConfigError.
    """
    versions = load_trust_chain(path)
    try:
        pinned = TrustRootVersion.parse(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except VerificationError as error:
        raise ConfigError(f"{path}: {error}", error.reason) from error
    try:
        return follow_versions(pinned, versions, now_ms=system_now_ms())
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
