"""`ipls keys fleet`: tokens that share storage root and log key, and what officers sign of it (docs/operations.md)."""

import hashlib
from pathlib import Path
from typing import Annotated

import typer

from ipls.admin import ceremony
from ipls.cli.console import confirmed, printable
from ipls.cli.hsm import PROFILES
from ipls.config import load_core, read_secret
from ipls.proto.vault.v1.fleet_pb2 import Card
from ipls.trust.ceremony import check_descriptor, parse_transcript, sign_transcript
from ipls.units import date

app = typer.Typer(no_args_is_help=True, help="HSMs that share their keys: their cards, the ceremony, its report.")

ConfigFile = Annotated[Path, typer.Option("--config", help="The deployment's ipls.toml, or the core's own file.")]
OfficersFile = Annotated[Path, typer.Option("--officers", help="officers.toml: m, and each officer's name and key.")]
ReportFile = Annotated[Path, typer.Argument(help="The ceremony's report.")]


@app.command()
def prepare(
    file: Annotated[Path, typer.Argument(help="Where to write the card; nothing must be there.")],
    config: ConfigFile,
    name: Annotated[str | None, typer.Option(help="The HSM's name among people. Default: the file's.")] = None,
    profile: Annotated[str | None, typer.Option(help="What `ipls hsm check` said. Default: the module's own.")] = None,
) -> None:
    """On each HSM: make its two key pairs, if it has none, and a card of their public halves for the ceremony."""
    if profile and profile not in PROFILES:
        raise typer.BadParameter(f"must be {' or '.join(PROFILES)}", param_hint="--profile")
    card = ceremony.prepare(load_core(config), file, name=name or file.stem, profile=profile)
    print("\n".join(_described(card)))


@app.command()
def genesis(
    file: Annotated[Path, typer.Argument(help="Where to write the report; nothing must be there.")],
    cards: Annotated[list[Path], typer.Argument(help="The cards of all HSMs, this one's too.")],
    config: ConfigFile,
    officers: OfficersFile,
) -> None:
    """On one HSM: make the keys that the fleet shares, and a parcel of them for each card, beside the report.

    The HSM itself keeps nothing but its pairs until it joins, like the others. Killed before the report is there, it
    has done nothing: run it again.
    """
    _tell(ceremony.hold(load_core(config), file, cards, officers))


@app.command()
def rotate(
    file: Annotated[Path, typer.Argument(help="Where to write the report; nothing must be there.")],
    cards: Annotated[list[Path], typer.Argument(help="The cards of all HSMs: this one's, the others', new ones'.")],
    config: ConfigFile,
    officers: OfficersFile,
    previous: Annotated[Path, typer.Option(help="The report before, which this HSM's newest keys are of.")],
) -> None:
    """On one HSM of a fleet: make the keys that come after those it has; otherwise like genesis.

    A vault whose HSM joined wraps all that is stored anew, while it serves. HSMs that are new to the fleet have to wait
    for that before they take a shard.
    """
    _tell(ceremony.hold(load_core(config), file, cards, officers, previous=ceremony.read_report(previous)))


@app.command()
def sign(
    file: ReportFile,
    officer: Annotated[Path, typer.Option(help="The officer's key, as `ipls keys new` made it.")],
    yes: Annotated[bool, typer.Option("--yes", help="Sign without asking.")] = False,
) -> None:
    """As an officer: look at the report, and sign it. The signature goes to a file beside it."""
    data = ceremony.read_report(file)
    _tell(data)
    signature = sign_transcript(read_secret(officer), data)
    if not yes and not confirmed("Is this what you saw done, and are these the keys that each HSM showed?"):
        raise typer.Exit(1)
    print(f"{ceremony.write_signature(file, signature)}: give this to the operator")


@app.command()
def check(
    file: ReportFile,
    config: ConfigFile,
    officers: OfficersFile,
    signatures: Annotated[list[Path] | None, typer.Argument(help="The officers'.")] = None,
) -> None:
    """Say what the report says, if m of the officers signed it."""
    ceremony.signed_report(load_core(config).trust_root, file, officers, signatures or [])
    _tell(ceremony.read_report(file))


@app.command()
def join(
    file: ReportFile,
    parcel: Annotated[Path, typer.Argument(help="This HSM's.")],
    config: ConfigFile,
    officers: OfficersFile,
    signatures: Annotated[list[Path] | None, typer.Argument(help="The officers'.")] = None,
) -> None:
    """On each HSM: take the keys of a report that m officers signed out of its parcel. Once more does no harm."""
    core = load_core(config)
    report = ceremony.signed_report(core.trust_root, file, officers, signatures or [])
    ceremony.join(core, report, parcel)
    print(f"the HSM has the fleet's keys, {report.root_id.hex()}")


def _tell(data: bytes) -> None:
    """What the report says, all of it, for people."""
    report = parse_transcript(data)
    kind = "a development fleet" if report.development else "a fleet"
    lines = [
        f"report {hashlib.sha256(data).hexdigest()} of {report.namespace}, {kind}, {date(report.time_ms)}",
        f"  continues {report.previous.hex() or 'nothing'}",
        f"  keys {report.root_id.hex()}, made in the HSM {report.maker.hex()}",
        f"    check values: storage root {report.root_check.hex()}",
        f"    log key {report.log_check.hex()}",
    ]
    for member in report.members:
        lines += ["  " + line for line in _described(check_descriptor(member.card))]
        lines.append(f"    parcel {member.parcel_hash.hex()}")
    lines.append(f"  {report.m} of these officers have to sign:")
    lines += [f"    {printable(officer.name)} {officer.public_key.hex()}" for officer in report.officers]
    print("\n".join(lines))


def _described(card: Card) -> list[str]:
    return [
        f"HSM {printable(card.name)}: {printable(card.model)}, token {printable(card.token)}, {printable(card.serial)}",
        f"  key {card.public_key.hex()}",
        f"  transport key {card.transport_key.hex()}",
        f"  profile {printable(card.profile)}",
    ]
