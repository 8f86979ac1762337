"""`ipls client sync`: the contacts and another address book of the person's."""

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from ipls.cli.opening import local, say
from ipls.cli.options import HOME, Home, Json, Name, options_for, profile_folder
from ipls.client.addressbook.sync import SyncCounts, SyncReport, SyncTerms


def sync(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A folder of vCards, as khard and vdirsyncer keep.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do it; the first time it only shows what it would do.")] = False,
    allow_removals: Annotated[
        bool, typer.Option("--allow-removals", help="Also remove what many went of at once, here or there.")
    ] = False,
    read_only: Annotated[bool, typer.Option("--read-only", help="Write nothing into the folder.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Write nothing at all.")] = False,
    profile: Name = "default",
    home: Home = HOME,
    as_json: Json = False,
) -> None:
    """Bring the contacts and a folder of vCards together, both ways; only what differs is written.

    Where both changed one thing the folder's stands; an edit beats a removal. `contacts undo` takes back what it did
    here. Exit status 1 if a card can't be read, or could not be written: the rest is done. All of it is local:
    `ipls client store` sends it.
    """
    terms = SyncTerms(yes=yes, allow_removals=allow_removals, read_only=read_only, dry_run=dry_run)
    report: SyncReport = local(
        profile_folder(home, profile), lambda device: device.address_book.sync_folder(folder, terms)
    )
    for bad in report.bad:
        where = f"{folder / bad.href}:{bad.line}" if bad.line else f"{folder / bad.href}"
        print(f"{where}: passed over, {bad.reason}", file=sys.stderr)
    for href in report.put_off:
        print(f"{folder / href}: changed by another program meanwhile; sync again", file=sys.stderr)
    for href in report.failed:
        print(f"{folder / href}: can't be written", file=sys.stderr)
    if any(report.withheld):
        print(f"not written, as it is only read: {_text(report.withheld)}", file=sys.stderr)
    if report.conflicts:
        print(
            f"{report.conflicts} contacts had changes here that gave way: ipls client contacts conflicts",
            file=sys.stderr,
        )
    text = f"{'would sync' if report.shown else 'synced'}: here {_text(report.here)}; in {folder} {_text(report.there)}"
    where = options_for(profile, home)
    following = f"ipls client store{where}" if not report.shown and any(report.here) else ""
    if report.shown and not dry_run:
        following = f"ipls client sync {shlex.quote(str(folder))} --yes{where}"
    value = report._asdict() | {name: getattr(report, name)._asdict() for name in ("here", "there", "withheld")}
    say(text, value | {"bad": [bad._asdict() for bad in report.bad]}, as_json, following)
    if report.bad or report.failed:
        raise typer.Exit(1)


def _text(counts: SyncCounts) -> str:
    return f"{counts.added} new, {counts.changed} changed, {counts.removed} removed"
