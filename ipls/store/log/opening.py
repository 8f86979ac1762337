"""The audit log's backend, as `ipls.toml` names it.

Tested by tests/server/directory/test_s3.py.
"""

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from ipls.config import BucketConfig, check_private
from ipls.store.log import FileLog, LogStore

if TYPE_CHECKING:
    from ipls.store.log.s3 import S3Log


def open_log(where: Path | BucketConfig) -> LogStore:
    """A folder, or an S3 bucket, which is not asked for anything yet. Raises ConfigError, StoreError LOG_REFUSED."""
    return FileLog(where) if isinstance(where, Path) else open_bucket(where)


def open_bucket(where: BucketConfig) -> "S3Log":
    """Raises ConfigError (credentials that others can read), StoreError LOG_REFUSED."""
    from ipls.store.log.s3 import Bucket, S3Log  # slow to load, and few need it

    if where.credentials:
        check_private(where.credentials)
    bucket = Bucket(
        name=where.bucket,
        claims=where.claims,
        retention=timedelta(days=where.retention_days),
        endpoint=where.endpoint,
        region=where.region,
        credentials=where.credentials,
        profile=where.profile,
    )
    return S3Log(bucket)
