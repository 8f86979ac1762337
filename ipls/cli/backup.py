"""`ipls backup`: copies of a deployment's databases, while it runs.

Tested by tests/faults/test_backup.py.
"""

from pathlib import Path
from typing import Annotated

import typer

from ipls.admin.backup import backup
from ipls.clock import system_now_ms
from ipls.config import load


def command(
    folder: Annotated[Path, typer.Argument(help="A new folder for it.")],
    config: Annotated[Path, typer.Option(help="The deployment's ipls.toml.")],
) -> None:
    """Copy every part's database and the log's objects into a new folder; all may run, and go on.

    Keys, certificates, tokens and watermarks are not in it, nor what lies in PostgreSQL or S3.
    """
    copied = backup(load(config), folder, system_now_ms())
    print(f"{folder} has {', '.join(copied)}; keys and tokens are not in it")
