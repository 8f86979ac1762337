"""`ipls restore`: a backup put back, after it was said what that means.

Tested by tests/faults/test_backup.py.
"""

from pathlib import Path
from typing import Annotated

import typer

from ipls.admin.backup import Restore
from ipls.cli.console import confirmed
from ipls.cli.status import REFUSED
from ipls.config import load
from ipls.units import date


def command(
    folder: Annotated[Path, typer.Argument(help="What `ipls backup` made.")],
    config: Annotated[Path, typer.Option(help="The deployment's ipls.toml.")],
    part: Annotated[
        list[str] | None, typer.Option(help="Only this: directory, vault, contacts, …; repeatable.")
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Also where a database is there: it is kept.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Without asking.")] = False,
) -> None:
    """Put a backup's databases back, all that are named or none; their services must be off.

    Says first what it means for each. An older vault or witness is refused: it would be a roll-back.
    """
    restoring = Restore(load(config), folder, part or ())
    print(f"the backup is of {date(restoring.made_ms)}")
    for line in restoring.means():
        print(line)
    if not yes and not confirmed("Put it back?"):
        raise typer.Exit(REFUSED)
    print(f"put back: {', '.join(restoring.run(replace=replace))}")
