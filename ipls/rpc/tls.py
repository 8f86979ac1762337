"""What services listen and ask with: the certificates that `ipls.toml` names, their keys for their owner alone.

Tested by tests/e2e/test_tls.py and tests/cli/test_commands.py.
"""

from ipls._grpc import grpc
from ipls.config import TlsFiles, check_private
from ipls.rpc.channel import open_channel
from ipls.rpc.server import Listener


def tls_listener(address: str, tls: TlsFiles) -> Listener:
    """For callers with or without a certificate. Raises ConfigError KEY_FILE_OPEN."""
    check_private(tls.key)
    return Listener(address, tls.certificate, tls.key)


def mtls_listener(address: str, tls: TlsFiles) -> Listener:
    """For callers whose certificate comes from the CA. Raises ConfigError KEY_FILE_OPEN."""
    check_private(tls.key)
    return Listener(address, tls.certificate, tls.key, client_ca=tls.ca)


def mtls_channel(address: str, tls: TlsFiles) -> grpc.aio.Channel:
    """To a port that asks for a certificate. Raises ConfigError KEY_FILE_OPEN, OSError."""
    check_private(tls.key)
    return open_channel(address, tls.ca, certificate=tls.certificate, key=tls.key)
