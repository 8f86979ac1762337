"""The public log's table, and where its objects lie.

Tested by tests/surface/test_failures.py.
"""

from pathlib import Path

from pydantic import Field

from ipls.config.base import Address, Model


class BucketConfig(Model):
    """The audit log in S3; what is left out comes from the environment, AWS's own files or the machine's role."""

    bucket: str
    claims: str
    """A second bucket, which keeps for each epoch the one name that it may have."""
    retention_days: int = Field(ge=1, le=36_500)
    """How long nobody can remove an object, from when it is written."""
    endpoint: str | None = None
    region: str | None = None
    credentials: Path | None = None
    """A file in the format of `~/.aws/credentials`, mode 0600."""
    profile: str | None = None
    """A section of it."""


class LogConfig(Model):
    listen: Address
    """Plain HTTP: everything in it is public and checked by its reader."""
    objects: Path | BucketConfig
