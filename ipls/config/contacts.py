"""The contact store's table.

Tested by tests/surface/test_failures.py.
"""

from pathlib import Path

from ipls.config.base import Address, Model, Peer, TlsFiles


class ContactsConfig(Model):
    listen: Address
    tls: TlsFiles
    directory: Peer
    """The directory's port for services."""
    client: TlsFiles
    """The certificate that it is asked with, of the role `reader`."""
    database: Path
