"""`ipls keys fleet`: tokens that share storage root and log key, and what officers sign of it (docs/operations.md)."""

import hashlib
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, TypeVar

import typer
from google.protobuf.message import DecodeError, Message

from ipls.cli.console import printable
from ipls.cli.dates import date
from ipls.cli.hsm import PROFILES
from ipls.clock import system_now_ms
from ipls.config import ConfigError, load_core, load_trust_root, read_pin, read_secret
from ipls.hsm.ceremony import steps as ceremony
from ipls.hsm.token.module import usable
from ipls.proto.vault.v1.fleet_pb2 import Card, Member, Officer, OfficerSignature, Report, SignedCard
from ipls.store.files import PUBLIC, replace, write_new
from ipls.trust.ceremony import (
    MAX_REPORT,
    Officers,
    check_descriptor,
    check_descriptors,
    check_officers,
    check_transcript,
    encode,
    parse_transcript,
    sign_transcript,
)
from ipls.trust.errors import CeremonyRefused
from ipls.vault.session.profiles import HKDF_SHA256, SOFTHSM_AES_CBC

app = typer.Typer(no_args_is_help=True, help="HSMs that share their keys: their cards, the ceremony, its report.")

ConfigFile = Annotated[Path, typer.Option("--config", help="The deployment's ipls.toml, or the core's own file.")]
OfficersFile = Annotated[Path, typer.Option("--officers", help="officers.toml: m, and each officer's name and key.")]
ReportFile = Annotated[Path, typer.Argument(help="The ceremony's report.")]

_M = TypeVar("_M", bound=Message)


@app.command()
def prepare(
    file: Annotated[Path, typer.Argument(help="Where to write the card; nothing must be there.")],
    config: ConfigFile,
    name: Annotated[str | None, typer.Option(help="The HSM's name among people. Default: the file's.")] = None,
    profile: Annotated[str | None, typer.Option(help="What `ipls hsm check` said. Default: the module's own.")] = None,
) -> None:
    """On each HSM: make its two key pairs, if it has none, and a card of their public halves for the ceremony."""
    check_new(file)
    settings = load_core(config)
    token = settings.vault.token
    chosen = profile or (SOFTHSM_AES_CBC if isinstance(token, Path) else HKDF_SHA256)
    if chosen not in PROFILES:
        raise typer.BadParameter(f"must be {' or '.join(PROFILES)}", param_hint="--profile")
    namespace = load_trust_root(settings.trust_root).namespace
    with usable():
        signed = ceremony.prepare(token, read_pin(settings.vault.pin), namespace, name or file.stem, chosen)
    replace(file, encode(signed), mode=PUBLIC)
    print("\n".join(_described(check_descriptor(signed))))


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
    _hold(file, cards, config, officers, None)


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
    _hold(file, cards, config, officers, read_report(previous))


def _hold(file: Path, cards: Sequence[Path], config: Path, officers: Path, previous: bytes | None) -> None:
    check_new(file)
    settings = load_core(config)
    root = load_trust_root(settings.trust_root)
    group = read_officers(officers, development=root.development)
    signed = [_read(SignedCard, path) for path in cards]
    checked = [check_descriptor(card) for card in signed]
    check_descriptors(checked, root.namespace)
    with usable():
        rotated = None if previous is None else parse_transcript(previous).root_id
        made = ceremony.make(settings.vault.token, read_pin(settings.vault.pin), checked, rotated)
    for card, parcel in zip(checked, made.parcels, strict=True):
        path = file.with_name(f"{file.name}.{card.name}.parcel")
        path.unlink(missing_ok=True)  # a killed run's: no report names it
        write_new(path, parcel)
    report = Report(
        namespace=root.namespace,
        development=root.development,
        time_ms=system_now_ms(),
        previous=b"" if previous is None else hashlib.sha256(previous).digest(),
        maker=made.maker,
        root_id=made.storage_key_id,
        root_check=made.root_check,
        log_check=made.log_check,
        members=[
            Member(card=card, parcel_hash=hashlib.sha256(parcel).digest())
            for card, parcel in zip(signed, made.parcels, strict=True)
        ],
        m=group.m,
        officers=group.officers,
    )
    data = encode(report)
    parse_transcript(data)
    replace(file, data, mode=PUBLIC)
    print("\n".join(described(report, data)))


@app.command()
def sign(
    file: ReportFile,
    officer: Annotated[Path, typer.Option(help="The officer's key, as `ipls keys new` made it.")],
    yes: Annotated[bool, typer.Option("--yes", help="Sign without asking.")] = False,
) -> None:
    """As an officer: look at the report, and sign it. The signature goes to a file beside it."""
    data = read_report(file)
    report = parse_transcript(data)
    print("\n".join(described(report, data)))
    signature = sign_transcript(read_secret(officer), data)
    if not yes and not typer.confirm("Is this what you saw done, and are these the keys that each HSM showed?"):
        raise typer.Exit(1)
    path = file.with_name(f"{file.name}.{signature.public_key.hex()[:8]}.sig")
    replace(path, encode(signature), mode=PUBLIC)
    print(f"{path}: give this to the operator")


@app.command()
def check(
    file: ReportFile,
    config: ConfigFile,
    officers: OfficersFile,
    signatures: Annotated[list[Path] | None, typer.Argument(help="The officers'.")] = None,
) -> None:
    """Say what the report says, if m of the officers signed it."""
    report = signed_report(load_core(config).trust_root, file, officers, signatures or [])
    print("\n".join(described(report, read_report(file))))


@app.command()
def join(
    file: ReportFile,
    parcel: Annotated[Path, typer.Argument(help="This HSM's.")],
    config: ConfigFile,
    officers: OfficersFile,
    signatures: Annotated[list[Path] | None, typer.Argument(help="The officers'.")] = None,
) -> None:
    """On each HSM: take the keys of a report that m officers signed out of its parcel. Once more does no harm."""
    settings = load_core(config)
    report = signed_report(settings.trust_root, file, officers, signatures or [])
    with usable():
        ceremony.join(settings.vault.token, read_pin(settings.vault.pin), report, parcel.read_bytes())
    print(f"the HSM has the fleet's keys, {report.root_id.hex()}")


def signed_report(trust_root: Path, file: Path, officers: Path, signatures: Sequence[Path]) -> Report:
    """The report, of the trust root's namespace, that m of these officers signed. Raises ReportRefused, ConfigError."""
    root = load_trust_root(trust_root)
    return check_transcript(
        read_report(file),
        [_read(OfficerSignature, path) for path in signatures],
        read_officers(officers, development=root.development),
        namespace=root.namespace,
        development=root.development,
    )


def read_report(file: Path) -> bytes:
    """Its bytes, unchecked, of a report's size."""
    with file.open("rb") as opened:
        return opened.read(MAX_REPORT + 1)


def read_officers(file: Path, *, development: bool) -> Officers:
    """`m`, and `[[officer]]` with `name` and `key`. Raises ConfigError, ReportRefused OFFICERS_INVALID."""
    try:
        table = tomllib.loads(file.read_text())
        each = (
            Officer(name=entry.pop("name"), public_key=bytes.fromhex(entry.pop("key"))) for entry in table["officer"]
        )
        officers = Officers(int(table["m"]), tuple(each))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ConfigError(f"{file}: not a table of officers: {error}") from error
    check_officers(officers, development=development)
    return officers


def described(report: Report, data: bytes) -> list[str]:
    """What it says, all of it, for people."""
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
    return lines + [f"    {printable(officer.name)} {officer.public_key.hex()}" for officer in report.officers]


def check_new(file: Path) -> None:
    """Raises FileExistsError."""
    if file.exists():
        raise FileExistsError(17, "it is there already, and stays", str(file))


def _described(card: Card) -> list[str]:
    return [
        f"HSM {printable(card.name)}: {printable(card.model)}, token {printable(card.token)}, {printable(card.serial)}",
        f"  key {card.public_key.hex()}",
        f"  transport key {card.transport_key.hex()}",
        f"  profile {printable(card.profile)}",
    ]


def _read(kind: type[_M], path: Path) -> _M:
    try:
        return kind.FromString(path.read_bytes())
    except DecodeError as error:
        raise CeremonyRefused("REPORT_INVALID", f"{path}: not a {kind.__name__}") from error
