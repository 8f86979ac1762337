"""The table of the router before a fleet of vaults.

Tested by tests/surface/test_failures.py.
"""

from pydantic import Field

from ipls.config.base import Address, Model, Peer, TlsFiles


class RouterConfig(Model):
    listen: Address
    tls: TlsFiles
    vaults: tuple[Peer, ...] = Field(min_length=1)
    """Their addresses for parts of the deployment (`internal_listen`), by the number of the shard that each keeps."""
    client: TlsFiles
    """The certificate that they are asked with, of the role `router`."""
    max_half_open: int = Field(512, ge=1)
    """Streams that have not sent a frame. One more takes the place of the oldest."""
    handshake_s: float = Field(10.0, gt=0)
    """From a stream's beginning to its first frame."""
