"""`ipls keys bundle`: the next fleet bundle, from draft to the log (docs/operations.md)."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from ipls.admin.bundles import Fleet, countersign_as, next_bundle, put_in_use, read_bundle
from ipls.admin.ceremony import read_report, signed_report
from ipls.admin.witness import read_signature, write_signature
from ipls.cli.console import confirmed, printable
from ipls.cli.trust import ConfigFile
from ipls.clock import system_now_ms
from ipls.config import ConfigError, load, load_trust_root, load_witnesses
from ipls.hsm.token.pkcs11 import TokenKeys
from ipls.proto.vault.v1.vault_pb2 import Bundle
from ipls.store.files import write_new
from ipls.trust.bundle import check_bundle, parse_bundle
from ipls.units import date

app = typer.Typer(no_args_is_help=True, help="The next fleet bundle: draft, signatures, publication.")

File = Annotated[Path, typer.Argument(help="The next bundle.")]


@app.command("next")
def draft(
    file: Annotated[Path, typer.Argument(help="Where to write it; nothing must be there.")],
    config: ConfigFile,
    operator_key: Annotated[Path | None, typer.Option(help="Default: keys/operator.key beside ipls.toml.")] = None,
    report: Annotated[Path | None, typer.Option(help="Of a ceremony: its HSMs take the place of those in use.")] = None,
    officers: Annotated[Path | None, typer.Option(help="With --report: officers.toml.")] = None,
    signature: Annotated[list[Path] | None, typer.Option(help="With --report: an officer's.")] = None,
    hsm: Annotated[list[str] | None, typer.Option(metavar="NAME=SHARDS", help="With --report: hsm-1=0,1")] = None,
    hsm_keys: Annotated[
        Path | None, typer.Option(help="What `ipls hsm keys` printed: that HSM alone takes the place of those in use.")
    ] = None,
) -> None:
    """As the operator: sign the successor of the bundle in use, the same HSMs for 30 days more, for the witnesses.

    With --report, those of a ceremony that m officers signed; with --hsm-keys, one that is a fleet by itself, and has
    none of the keys that were stored before. The first bundle where none is in use.
    """
    settings = load(config)
    key, now_ms = operator_key or config.resolve().parent / "keys/operator.key", system_now_ms()
    fleet = None
    alone = None if hsm_keys is None else _token_keys(hsm_keys)
    if alone is not None and (report or officers or signature or hsm):
        raise typer.BadParameter("takes none of the options of a ceremony", param_hint="--hsm-keys")
    if report is not None and officers is not None:
        held = signed_report(settings.trust_root, report, officers, signature or [])
        fleet = Fleet(held, hashlib.sha256(read_report(report)).digest(), _shards(hsm or []))
    elif report or officers or signature or hsm:
        raise typer.BadParameter("takes --officers, and --signature and --hsm as often", param_hint="--report")
    signed = next_bundle(settings, key, now_ms=now_ms, fleet=fleet, alone=alone)
    lines = described(parse_bundle(signed.bundle))  # refused, if it is none: by what --hsm-keys says
    write_new(file, signed.SerializeToString())
    print("\n".join(lines))


@app.command()
def sign(
    file: File,
    config: ConfigFile,
    name: Annotated[str | None, typer.Option(help="Which witness, where there are several.")] = None,
    previous: Annotated[Path | None, typer.Option(help="The bundle before, if this witness did not sign it.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Sign without asking.")] = False,
) -> None:
    """As a witness: look at the fleet, and sign the bundle, if it is the operator's and continues the one before.

    One bundle a number is ever signed, whatever comes of it, so one that others have signed is finished though its time
    ran out meanwhile. The signature goes to a file beside it, for the operator.
    """
    settings = load_witnesses(config)
    witness, root = settings.named(name), load_trust_root(settings.trust_root)
    signed, now_ms = read_bundle(file), system_now_ms()
    bundle = check_bundle(root, signed, now_ms=now_ms, check_expiry=False)
    print("\n".join([*described(bundle), *_over(bundle, now_ms)]))
    if not yes and not confirmed(f"Sign this as witness {witness.name}?"):
        raise typer.Exit(1)
    before = None if previous is None else read_bundle(previous)
    path = write_signature(file, witness.name, countersign_as(witness, root, signed, before, now_ms))
    print(f"{path}: give this to the operator")


@app.command()
def publish(
    file: File,
    config: ConfigFile,
    signatures: Annotated[list[Path] | None, typer.Argument(help="The witnesses'.")] = None,
) -> None:
    """Put the bundle, signed by a quorum of the witnesses, into the audit log and in the place of the one in use.

    The one that is in use, again: into a log that does not have it.
    """
    settings = load(config)
    signed = read_bundle(file)
    signed.cosignatures.extend(read_signature(path) for path in signatures or ())
    now_ms = system_now_ms()
    bundle = put_in_use(settings, signed, now_ms=now_ms)
    print("\n".join([f"bundle {bundle.number} is in use and in the log", *_over(bundle, now_ms)]))


def _over(bundle: Bundle, now_ms: int) -> list[str]:
    if now_ms < bundle.expires_ms:
        return []
    return [
        "its time has run out, and devices wait for the one after it: once it is published, `ipls keys bundle next`"
    ]


def _token_keys(file: Path) -> TokenKeys:
    try:
        told = json.loads(file.read_bytes())
        public, transport = (bytes.fromhex(told[name]) for name in ("public_key", "transport_key"))
        return TokenKeys(public, transport, str(told["profile"]))
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ConfigError(f"{file}: not what `ipls hsm keys` printed") from error


def _shards(options: Sequence[str]) -> dict[str, list[int]]:
    found = {}
    for name, _, numbers in (option.partition("=") for option in options):
        try:
            found[name] = [int(number) for number in numbers.split(",")]
        except ValueError:
            raise typer.BadParameter(f"{name}: shards are numbers, 0,1 for one", param_hint="--hsm") from None
    return found


def described(bundle: Bundle) -> list[str]:
    """What it says, all of it, for people."""
    kind = "a development fleet" if bundle.development else "a fleet"
    lines = [
        f"bundle {bundle.number} of {bundle.namespace}, {kind}; it expires on {date(bundle.expires_ms)}",
        f"  continues {bundle.previous.hex() or 'nothing'}",
    ]
    for hsm in bundle.hsms:
        lines += [
            f"  HSM {hsm.public_key.hex()}",
            f"    profile {printable(hsm.profile)}, good from {date(hsm.not_before_ms)} to {date(hsm.not_after_ms)}",
            f"    shards {_ranges(hsm.shards) or 'none'}; policy {hsm.policy_digest.hex()}",
            f"    transport key {hsm.transport_key.hex()}",
            f"    the ceremony's report {hsm.report_hash.hex() or 'none'}",
        ]
    return lines


def _ranges(shards: Sequence[int]) -> str:
    """Numbers for people: 0-3, 7."""
    runs: list[list[int]] = []
    for shard in sorted(shards):
        if runs and shard == runs[-1][-1] + 1:
            runs[-1][1:] = [shard]
        else:
            runs.append([shard])
    return ", ".join("-".join(map(str, run)) for run in runs)
