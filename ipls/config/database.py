"""Where a service keeps its rows: a file of SQLite's, or a PostgreSQL server.

Tested by tests/server/registration/test_service.py.
"""

from pathlib import Path

from pydantic import Discriminator, field_validator

from ipls.config.base import Model


class PostgresConfig(Model):
    postgres: str
    """libpq's connection string or URI; the password comes by libpq's own ways (passfile, service, PGPASSWORD)."""

    @field_validator("postgres")
    @classmethod
    def _without_password(cls, value: str) -> str:
        from ipls.config.postgres import check_conninfo  # slow to load, and few need it

        return check_conninfo(value)


class VaultPostgresConfig(PostgresConfig):
    lock: Path
    """A file that keeps two processes of this host from one database: each database has another."""


database_kind = Discriminator(lambda value: "server" if isinstance(value, dict | PostgresConfig) else "file")
"""Of the two: tagged `server` and `file`."""
