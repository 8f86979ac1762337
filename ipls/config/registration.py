"""The registration service's table.

Tested by tests/surface/test_failures.py.
"""

from pathlib import Path
from typing import Annotated

from pydantic import Field, Tag

from ipls.config.base import Address, Model, Peer, TlsFiles
from ipls.config.database import PostgresConfig, database_kind


class RegistrationConfig(Model):
    listen: Address
    tls: TlsFiles
    directory: Peer
    """The directory's port for services."""
    client: TlsFiles
    """The messaging service's certificate."""
    database: Annotated[Annotated[Path, Tag("file")] | Annotated[PostgresConfig, Tag("server")], database_kind]
    """A file of SQLite, or a table for a PostgreSQL server, which the service's processes on several hosts share."""
    outbox: Path
    """Where the development implementation writes the codes that a real one would send."""
    codes_per_hour: int = Field(5, ge=1)
    """Codes sent to one number in an hour for one caller's network, an IPv4 address or an IPv6 /48; for all of them 4
    times as many, half of them for networks that had none, one each."""
