"""`ipls log`: what the operator of the audit log does with its store.

Tested by tests/e2e/test_s3_log.py.
"""

from pathlib import Path
from typing import Annotated

import typer

from ipls.config import BucketConfig, ConfigError, load

app = typer.Typer(no_args_is_help=True, help="The audit log's store.")


@app.command("create-bucket")
def create_bucket(
    config: Annotated[Path, typer.Option("--config", help="The deployment's ipls.toml.")],
) -> None:
    """Make the buckets that directory.log names, readable by anyone, and try to break their lock; may be run again."""
    from ipls.store.log.opening import open_bucket

    where = load(config).directory.log
    if not isinstance(where, BucketConfig):
        raise ConfigError(f"{config}: directory.log is a folder, not a table for S3")
    open_bucket(where).create_buckets()
    print(f"{where.bucket} is locked, listable and readable by anyone; {where.claims} is locked")
