"""`ipls demo`: the whole story on this machine, with the real servers, narrated.

Tested by tests/e2e/test_demo.py.
"""

import asyncio
import shlex
import signal
import sys
from importlib import resources
from pathlib import Path
from typing import Annotated

import typer

from ipls.cli.console import emit
from ipls.config import load_trust_root
from ipls.demo import servers
from ipls.demo.reporter import Reporter
from ipls.demo.story import Story

ADDRESS_BOOK = "data/addressbook.vcf"


def command(
    contacts: Annotated[Path | None, typer.Option(help="Your own address book, .vcf; without it 1,000 people.")] = None,
    keep: Annotated[
        Path | None, typer.Option(help="A new folder: leave the servers running, for the other commands.")
    ] = None,
    stop: Annotated[Path | None, typer.Option(help="End the servers that --keep left running in this folder.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line; progress goes to stderr.")] = False,
) -> None:
    """Register, store, lose the phone, restore; then the operator tries three thefts. Every server is a real process.

    Exit status 0 only if everything came back identical and every theft was refused.
    """
    if stop is not None:
        print(f"stopped the servers in {stop}" if servers.stop(stop) else f"no servers run in {stop}")
        return
    source = contacts.read_bytes() if contacts else resources.files("ipls.demo").joinpath(ADDRESS_BOOK).read_bytes()
    # Whatever asks us to end, the servers and the temporary folder go first.
    for number in servers.ENDING:
        signal.signal(number, servers.interrupt)
    reporter = Reporter(emit if as_json else None)
    reporter.chapter("Keys, token, certificates, and eight servers, each a process of its own")
    with servers.running(keep) as folder:
        for name, service in servers.endpoints(folder)["services"].items():
            reporter.say(f"• {name:13} {service['address']:28} process {service['pid']}")
        root = load_trust_root(folder / "trust.toml")
        reporter.say(f"An epoch needs the signatures of {root.k} of the {len(root.witnesses)} witnesses: a quorum.")
        story = Story(folder, source, reporter)
        with reporter.working():
            asyncio.run(servers.cancelled_by_signals(story.tell()))
        if keep:
            reporter.say(f"The servers go on; {folder / 'endpoints.json'} says where, the profiles are in {folder}.")
            reporter.say(f"To end them: ipls demo --stop {shlex.quote(str(folder))}")
        summary, line = story.outcome()
    reporter.end(summary, line)
    if not story.good:
        sys.exit(1)
