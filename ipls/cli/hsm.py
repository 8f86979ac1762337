"""`ipls hsm`: a PKCS#11 token for the vault, looked at and given its keys (docs/operations.md)."""

from pathlib import Path
from typing import Annotated

import typer

from ipls.cli.console import emit, printable
from ipls.cli.status import REFUSED
from ipls.config import TokenConfig, load_core, read_pin
from ipls.hsm.token.check import Finding, check_token
from ipls.hsm.token.derivation import DERIVATIONS
from ipls.hsm.token.module import usable
from ipls.hsm.token.pkcs11 import create_keys, token_at

app = typer.Typer(no_args_is_help=True, help="A PKCS#11 token for the vault.")

Settings = Annotated[Path | None, typer.Option("--config", help="The vault's ipls.toml, for its own token.")]
Module = Annotated[Path | None, typer.Option(help="Instead: the PKCS#11 module's library.")]
Label = Annotated[str | None, typer.Option("--token", help="With --module: the label of the token, initialised.")]
Pin = Annotated[Path | None, typer.Option(help="With --module: the file with its user's PIN.")]

PROFILES = [derivation.profile for derivation in DERIVATIONS]


@app.command()
def check(
    config: Settings = None,
    module: Module = None,
    token: Label = None,
    pin: Pin = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line; the last is the verdict.")] = False,
) -> None:
    """Try all that a vault asks of a token, and say whether one can run on it, and with which profile.

    It makes keys of its own there and destroys them. Exit status 0: a vault can run on it; 1: it can't.
    """
    place, code = _place(config, module, token, pin)
    lacks: list[Finding] = []

    def tell(finding: Finding) -> None:
        if finding.holds is False:
            lacks.append(finding)
        emit(finding._asdict()) if as_json else print(_line(finding), flush=True)

    with usable():
        profile = check_token(place, code, tell)
    if as_json:
        emit({"profile": profile, "lacks": [finding.check for finding in lacks if finding.profile in (None, profile)]})
    elif profile is not None:
        print(f"A vault can run on this token, with the profile {profile}.")
        print("Whether it lies in hardware, and what the hardware is worth, no such check can see.")
    else:
        print(f"No vault can run on this token: {len(lacks)} things that it needs are missing.")
    if profile is None:
        raise typer.Exit(REFUSED)


@app.command()
def keys(
    profile: Annotated[str, typer.Option(help=f"{' or '.join(PROFILES)}: what `ipls hsm check` said.")],
    config: Settings = None,
    module: Module = None,
    token: Label = None,
    pin: Pin = None,
) -> None:
    """Make a vault's four keys in a token that has none; print what the fleet's bundle says of it."""
    if profile not in PROFILES:
        raise typer.BadParameter(f"must be {' or '.join(PROFILES)}", param_hint="--profile")
    place, code = _place(config, module, token, pin)
    with usable():
        made = create_keys(place, code, profile)
    emit({"public_key": made.public_point.hex(), "transport_key": made.transport_point.hex(), "profile": made.profile})


def _place(config: Path | None, library: Path | None, label: str | None, pin: Path | None) -> tuple[TokenConfig, str]:
    """The token and its user's PIN. Raises ConfigError, BadParameter."""
    if config is not None and (library, label, pin) == (None, None, None):
        vault = load_core(config).vault
        return token_at(vault.token), read_pin(vault.pin)
    if config is not None or library is None or label is None or pin is None:
        raise typer.BadParameter("either that, or --module with --token and --pin", param_hint="--config")
    return TokenConfig(module=library, label=label), read_pin(pin)


def _line(finding: Finding) -> str:
    mark = "•" if finding.holds is None else "✓" if finding.holds else "✗"
    return f"{mark} {finding.text}" + (f": {printable(finding.detail)}" if finding.detail else "")
