"""Connections, as the backends of every role use them.

sqlite      a file that says whose it is        postgres    a server (loaded where it is used: it is slow to load)
"""

from typing import Protocol

__all__ = ["Server"]


class Server(Protocol):
    """Where a PostgreSQL server's database is."""

    @property
    def postgres(self) -> str:
        """libpq's connection string, without a password."""
        ...
