"""`ipls directory`: what the operator of a directory does with its database.

Tested by tests/cli/test_commands.py.
"""

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from ipls.admin.directory import checking, opened
from ipls.cli.console import emit
from ipls.cli.interrupt import interrupted
from ipls.cli.status import REFUSED
from ipls.config import load
from ipls.store.directory.fsck import Report

app = typer.Typer(no_args_is_help=True, help="The directory's database: check it, pin epochs.")

ConfigFile = Annotated[Path, typer.Option("--config", help="The deployment's ipls.toml.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object, on one line.")]
Epoch = Annotated[int, typer.Argument(min=0)]

SHOWN = 20
"""Differences printed for people; JSON has all."""


@app.command()
def fsck(config: ConfigFile, as_json: Json = False) -> None:
    """Make the tree again from the user versions and compare every tile and root; exit 1 at a difference.

    The database is only read, and the directory may run. If this is stopped, the same command goes on where it was.
    """
    with checking(load(config)) as check:
        try:
            with Bars() as progress:
                report = check.run(progress)
        except KeyboardInterrupt:
            interrupted(f"the same command goes on, by {check.state}")
    _print(report, as_json)
    if report.differences:
        raise typer.Exit(REFUSED)


class Bars(Progress):
    """A bar for each kind of work, on standard error where that is a terminal."""

    def __init__(self) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        super().__init__(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty())
        self._kinds: dict[str, TaskID] = {}

    def __call__(self, what: str, done: int, total: int) -> None:
        if what not in self._kinds:
            self._kinds[what] = self.add_task(what)
        self.update(self._kinds[what], completed=done, total=total)


def _print(report: Report, as_json: bool) -> None:
    differences = [
        {"what": difference.what, "prefix": difference.prefix.hex(), "epoch": difference.epoch}
        for difference in report.differences
    ]
    if as_json:
        emit({**report._asdict(), "differences": differences})
        return
    for each in differences[:SHOWN]:
        place = f"prefix {each['prefix']}, " if each["prefix"] else ""
        print(f"{each['what']}: {place}epoch {each['epoch']}")
    if len(differences) > SHOWN:
        print(f"… and {len(differences) - SHOWN} more; --json has all")
    pinned = f" and pinned {', '.join(map(str, report.pins))}" if report.pins else ""
    print(
        f"epochs {report.floor} to {report.head}{pinned}: {report.versions} user versions, {report.tiles} tiles, "
        f"{len(differences) or 'no'} differences"
    )


@app.command()
def pin(epoch: Epoch, config: ConfigFile) -> None:
    """Keep an epoch readable whatever the pruning policy says; also while the directory runs."""
    with opened(load(config)) as store:
        store.pin(epoch)


@app.command()
def unpin(epoch: Epoch, config: ConfigFile) -> None:
    """Let a pinned epoch go: below the floor it can't be read any more, at once."""
    with opened(load(config)) as store:
        store.unpin(epoch)


@app.command()
def pins(config: ConfigFile, as_json: Json = False) -> None:
    """Print the floor, below which only pinned epochs are kept, and the pinned epochs."""
    with opened(load(config)) as store:
        floor, pinned = store.floor(), store.pins()
    if as_json:
        emit({"floor": floor, "pins": pinned})
    else:
        print(f"kept from epoch {floor} on; pinned: {', '.join(map(str, pinned)) or 'none'}")
