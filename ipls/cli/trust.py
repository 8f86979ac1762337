"""`ipls keys trust`: the next version of the trust root, from draft to chain (docs/operations.md)."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from ipls.admin.trust_roots import Draft, append_version, sign_version
from ipls.admin.witness import write_signature
from ipls.cli.console import confirmed
from ipls.clock import system_now_ms
from ipls.config import chain_file, load_trust_version, load_witnesses
from ipls.crypto.keys import KEY_BYTES
from ipls.store.files import write_new
from ipls.trust.chain import successor
from ipls.trust.root import TrustRoot, encode_trust_root

app = typer.Typer(no_args_is_help=True, help="The next version of the trust root: draft, signatures, chain.")

ConfigFile = Annotated[Path, typer.Option("--config", help="The deployment's, or the witness's, ipls.toml.")]
File = Annotated[Path, typer.Argument(help="The next version.")]


@app.command("next")
def draft(
    file: Annotated[Path, typer.Argument(help="Where to write it; nothing must be there.")],
    config: ConfigFile,
    days: Annotated[int, typer.Option(min=1, max=3650, help="It expires after so many days.")] = 365,
    new_key: Annotated[list[str] | None, typer.Option(metavar="WITNESS=KEY", help="Another key for a witness.")] = None,
    overlap: Annotated[int, typer.Option(min=0, max=3650, help="Days for which its old keys stay good.")] = 7,
    add: Annotated[list[str] | None, typer.Option(metavar="WITNESS=KEY=URL", help="Another witness.")] = None,
    remove: Annotated[list[str] | None, typer.Option(metavar="WITNESS", help="One witness less.")] = None,
    k: Annotated[int | None, typer.Option(min=1, help="So many witnesses make a quorum.")] = None,
    operator_key: Annotated[str | None, typer.Option(metavar="KEY", help="Of the fleet bundles from now on.")] = None,
    proposal_key: Annotated[str | None, typer.Option(metavar="KEY", help="Of the directory from now on.")] = None,
) -> None:
    """Draft the version after the newest: a text file, to be edited further before anybody signs it.

    A KEY is a public key in hex. A key that was good until the old version expired is good until the new one does.
    """
    old = load_trust_version(load_witnesses(config).trust_root)
    version = Draft(old, days=days, now_ms=system_now_ms())
    for name in remove or []:
        with _usage("--remove"):
            version.remove(name)
    for option in new_key or []:
        name, _, key = option.partition("=")
        with _usage("--new-key"):
            version.change_key(name, _key(key), overlap_days=overlap)
    for option in add or []:
        name, key, url = [*option.split("=", 2), "", ""][:3]
        with _usage("--add"):
            version.add(name, _key(key), url)
    with _usage("--operator-key"):
        operator = _key(operator_key) if operator_key else None
    with _usage("--proposal-key"):
        proposal = _key(proposal_key) if proposal_key else None
    new = version.made(k=k, operator_key=operator, proposal_key=proposal)
    write_new(file, encode_trust_root(new))
    _show(old.root, new)


@app.command()
def sign(
    file: File,
    config: ConfigFile,
    name: Annotated[str | None, typer.Option(help="Which witness, where there are several.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Sign without asking.")] = False,
) -> None:
    """As a witness: look at what changes, and sign it, if it continues the version that this witness has.

    One file a number is ever signed, whatever comes of it. The signature goes to a file beside it, for the operator.
    """
    settings = load_witnesses(config)
    witness = settings.named(name)
    old = load_trust_version(settings.trust_root)
    new = successor(old, file.read_bytes())
    _show(old.root, new.root)
    if not yes and not confirmed(f"Sign this as witness {witness.name}?"):
        raise typer.Exit(1)
    path = write_signature(file, witness.name, sign_version(witness, old, new, system_now_ms()))
    print(f"{path}: give this to the operator")


@app.command()
def publish(
    file: File, signatures: Annotated[list[Path], typer.Argument(help="The witnesses'.")], config: ConfigFile
) -> None:
    """Append the version, signed by quorums of the old witnesses and of the new, to the chain beside trust.toml."""
    trust_root = load_witnesses(config).trust_root
    number = append_version(trust_root, file, signatures, system_now_ms()).root.number
    print(f"version {number} is the newest in {chain_file(trust_root)}; docs/operations.md has the order of restarts")


@contextmanager
def _usage(option: str) -> Iterator[None]:
    """What can't be of an option is a usage error."""
    try:
        yield
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from error


def _key(text: str) -> bytes:
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise ValueError("a public key has 64 hex digits")
    return key


def _show(old: TrustRoot, new: TrustRoot) -> None:
    """What changes, all of it."""
    print(f"version {new.number} of the trust root of {new.namespace}, after version {old.number}:")
    before, after = dict(_lines(old)), dict(_lines(new))
    for name in dict.fromkeys([*before, *after]):
        if before.get(name) != after.get(name):
            print(f"  {name}: {before.get(name, 'none')} -> {after.get(name, 'none')}")


def _lines(root: TrustRoot) -> Iterator[tuple[str, str]]:
    """Each thing that it says, by a name that does not depend on its place."""
    for field in fields(root):
        if field.name not in ("number", "previous", "witnesses"):
            yield field.name, _text(field.name, getattr(root, field.name))
    for witness in root.witnesses:
        yield f"witness {witness.name}", witness.url
        for key in witness.keys:
            window = f"{_text('_ms', key.not_before_ms)} to {_text('_ms', key.not_after_ms)}"
            yield f"witness {witness.name}, key {key.public_key.hex()}", window


def _text(name: str, value: object) -> str:
    if isinstance(value, bytes):
        return value.hex()
    if name in ("expires_ms", "_ms") and isinstance(value, int) and value < 253_402_300_800_000:  # the year 10000
        return datetime.fromtimestamp(value / 1000, UTC).isoformat(" ", "milliseconds")
    return str(value)
