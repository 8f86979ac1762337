"""`ipls keys renew`: what runs out, anew.

Tested by tests/admin/test_renewal.py.
"""

from pathlib import Path
from typing import Annotated

import typer

from ipls.admin.renewal import renew
from ipls.cli.console import printable
from ipls.cli.status import REFUSED
from ipls.clock import system_now_ms
from ipls.config import load


def command(
    config: Annotated[Path, typer.Option(help="The deployment's ipls.toml.")],
    early: Annotated[bool, typer.Option("--early", help="Also what has time left.")] = False,
) -> None:
    """Renew the certificates, trust root and bundle whose time is three quarters over, by the keys that are here.

    `serve all` does so by itself. Services go on with new certificates and bundles at once; with a new trust root once
    they are restarted. Exit status 1 where something could not be renewed, and why.
    """
    done = renew(load(config), config.resolve().parent, system_now_ms(), early=early)
    for what, text, failed in done:
        print(printable(f"{what}: {'NOT renewed: ' if failed else ''}{text}"))
    if any(each.needs_restart for each in done):
        print("`serve all` restarts its services for it within 10 minutes; others in the order of docs/operations.md.")
    if not done:
        print("nothing is due")
    if any(each.failed for each in done):
        raise typer.Exit(REFUSED)
