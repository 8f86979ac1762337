"""`ipls vault`: the beginning of a vault's state, a check of all of it, and its recovery (docs/operations.md)."""

from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from ipls.admin import storage_keys, vault
from ipls.admin.bundles import read_bundle
from ipls.cli.status import REFUSED
from ipls.clock import system_now_ms
from ipls.config import VaultPostgresConfig, load_core

app = typer.Typer(
    no_args_is_help=True, help="The vault's state: its beginning, a check, recovery. For one that is off."
)

ConfigFile = Annotated[Path, typer.Option("--config", help="The deployment's ipls.toml, or the core's own file.")]


@app.command()
def genesis(config: ConfigFile) -> None:
    """Put the first anchor into the token of a new vault, over an empty database. Nothing else makes an anchor.

    A token that has one keeps it. Without its anchor a database is worth nothing: no command takes it up again.
    """
    vault.genesis(load_core(config).vault)
    print("the token holds an anchor; the vault may start")


@app.command()
def check(config: ConfigFile) -> None:
    """Compare every row of the database with what the token's anchor vouches for; exit 1 if one differs."""
    state, found = vault.check(load_core(config).vault)
    for refused in found:
        print(f"{refused.reason}: {refused.message}")
    if found:
        raise typer.Exit(REFUSED)
    print(f"all is as the log of {state.sequence} entries has it, and the log as the anchor has it")


@app.command()
def recover(
    damaged: Annotated[
        str, typer.Argument(help="The database, moved aside: a file or a PostgreSQL connection string.")
    ],
    config: ConfigFile,
) -> None:
    """Make the database again from the log in another one, which must reach the entry that the token's anchor names.

    All that its log proves, and nothing else; if a part of the log is lost or edited, nothing comes back.
    """
    place = _named(damaged, config)
    state = vault.recover(load_core(config).vault, place)
    print(f"recovered {state.sequence} entries of the log, and what they make")


@app.command()
def hand_off(
    bundle: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="In use now; it moves the shard.")],
    file: Annotated[Path, typer.Argument(help="Where to write the hand-off, for `take-over` at the next HSM.")],
    config: ConfigFile,
) -> None:
    """Hand this vault's shard to the HSM that the fleet's next bundle names. For good: this one never serves it again.

    Interrupted, or the file lost: run it again.
    """
    core = load_core(config)
    to = vault.hand_off(core, read_bundle(bundle), file, now_ms=system_now_ms())
    print(f"shard {core.vault.shard} is the HSM's {to.hsm_key_id.hex()} now; {file} lets it take over")


@app.command()
def take_over(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="What `hand-off` wrote.")],
    config: ConfigFile,
) -> None:
    """Go on with a shard that another HSM handed to this one, over the same database or a copy of it.

    Interrupted: run it again.
    """
    state = vault.take_over(load_core(config).vault, file.read_bytes())
    print(f"this HSM goes on with shard {state.shard} after entry {state.sequence}; the vault may start")


@app.command()
def roots(config: ConfigFile) -> None:
    """List the storage roots in the token, the newest first, and how many stored keys need each. The vault is off."""
    for storage_key_id, count in storage_keys.count_keys(load_core(config).vault).items():
        print(f"{storage_key_id.hex()}  {count} keys")


@app.command()
def drop_root(
    root_id: Annotated[str, typer.Argument(help="As `roots` prints it.")],
    config: Annotated[list[Path], typer.Option("--config", help="Of each vault on this token.")],
    handed_off: Annotated[list[int] | None, typer.Option(help="A shard that another HSM has now.")] = None,
) -> None:
    """Destroy an older storage root, for good, when no key that is stored needs it any more. All its vaults are off.

    What was wrapped under it lies in old entries of the log still, and is of no use to anybody from then on.
    """
    storage_keys.drop_storage_key([load_core(path).vault for path in config], root_id, handed_off or [])
    print(f"the storage root {root_id} is destroyed in this HSM")


def _named(database: str, config: Path) -> Path | VaultPostgresConfig:
    if (path := Path(database)).is_file():
        return path
    if "=" not in database and "://" not in database:
        raise typer.BadParameter(f"{database} is not there")
    try:
        return VaultPostgresConfig(postgres=database, lock=config.with_name(f"{config.name}.recover.lock"))
    except ValidationError as error:
        raise typer.BadParameter(error.errors()[0]["msg"]) from None
