"""`ipls fsck`: all that a deployment keeps, checked.

Tested by tests/faults/test_fsck.py.
"""

from pathlib import Path
from typing import Annotated

import typer

from ipls.admin.fsck import examine, parts
from ipls.cli.console import emit, printable
from ipls.cli.directory import Bars
from ipls.cli.status import REFUSED
from ipls.clock import system_now_ms
from ipls.config import load


def command(
    config: Annotated[Path, typer.Option(help="The deployment's ipls.toml.")],
    repair: Annotated[bool, typer.Option("--repair", help="Make good again what can be.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, on one line.")] = False,
) -> None:
    """Check all that a deployment keeps: directory, log, witnesses, vault, contacts, registration.

    The vault must be off for it, the rest may run. Exit status 1 if something is damaged and was not mended.
    """
    loaded = load(config)
    with Bars() as progress:
        findings = list(examine(loaded, system_now_ms(), repair=repair, progress=progress))
    whole = [part for part in parts(loaded) if part not in {finding.part for finding in findings}]
    if as_json:
        emit({"whole": whole, "findings": [finding._asdict() for finding in findings]})
    else:
        for finding in findings:
            print(printable(f"{finding.part}: {finding.what}" + (" (mended)" if finding.mended else "")))
            if finding.do:
                print(f"  do: {finding.do}")
        print(f"whole: {', '.join(whole) or 'nothing'}")
    if not all(finding.mended for finding in findings):
        raise typer.Exit(REFUSED)
