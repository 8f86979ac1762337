"""`ipls status`: how each part of a deployment is, and what to do.

Tested by tests/admin/test_status.py.
"""

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from ipls.admin.status import Deployment, State, examine
from ipls.cli.console import emit, printable
from ipls.cli.status import REFUSED, UNAVAILABLE
from ipls.clock import system_now_ms
from ipls.config import load


def command(
    config: Annotated[Path, typer.Option(help="The deployment's ipls.toml.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, on one line.")] = False,
) -> None:
    """Say of each part of a deployment whether it serves, what runs out and when, what stopped and why, what to do.

    Exit status: 0 all is well, 1 something is wrong or runs out soon, 3 no more than that a part can't be reached.
    """
    findings = asyncio.run(examine(Deployment(config.resolve(), load(config), system_now_ms())))
    states = {finding.state for finding in findings}
    if as_json:
        emit({"well": states == {State.WELL}, "parts": [finding._asdict() for finding in findings]})
    else:
        width = max(len(finding.part) for finding in findings)
        for finding in findings:
            print(printable(f"{finding.part:{width}}  {finding.state:11}  {finding.text}"))
            if finding.do:
                print(f"{'':{width}}  {'':11}  do: {finding.do}")
    if states & {State.WRONG, State.SOON}:
        raise typer.Exit(REFUSED)
    if State.UNREACHABLE in states:
        raise typer.Exit(UNAVAILABLE)
