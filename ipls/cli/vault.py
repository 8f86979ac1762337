"""`ipls vault`: the beginning of a vault's state, a check of all of it, and its recovery (docs/operations.md)."""

from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from ipls.cli.bundle import read_bundle
from ipls.cli.console import fail
from ipls.cli.opened import ConfigFile, offline_vault
from ipls.cli.roots import drop_root, roots
from ipls.cli.status import REFUSED
from ipls.clock import system_now_ms
from ipls.config import VaultPostgresConfig, load_core, load_trust_root
from ipls.hsm.state import replay
from ipls.hsm.state.anchor import genesis, read_anchor
from ipls.hsm.state.handoff import hand_off, take_over
from ipls.hsm.state.owner import Owner
from ipls.store.files import PUBLIC, replace
from ipls.store.vault import open_vault_store
from ipls.trust.bundle import verify_bundle
from ipls.vault.session.transcript import hsm_key_id

app = typer.Typer(
    no_args_is_help=True, help="The vault's state: its beginning, a check, recovery. For one that is off."
)


@app.command("genesis")
def begin(config: ConfigFile) -> None:
    """Put the first anchor into the token of a new vault, over an empty database. Nothing else makes an anchor.

    A token that has one keeps it. Without its anchor a database is worth nothing: no command takes it up again.
    """
    with offline_vault(load_core(config).vault) as (store, anchor_service):
        genesis(store, anchor_service)
    print("the token holds an anchor; the vault may start")


@app.command()
def check(config: ConfigFile) -> None:
    """Compare every row of the database with what the token's anchor vouches for; exit 1 at the first that differs."""
    with offline_vault(load_core(config).vault) as (store, anchor_service):
        state = replay.catch_up(store, anchor_service, read_anchor(anchor_service).state)
        for _ in replay.check(store, anchor_service, lambda: state):
            pass
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
    with (
        offline_vault(load_core(config).vault) as (store, anchor_service),
        closing(open_vault_store(place, wait=False)) as source,
    ):
        state = replay.recover(source, store, anchor_service)
    print(f"recovered {state.sequence} entries of the log, and what they make")


@app.command("hand-off")
def give(
    bundle: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="The bundle that moves the shard.")],
    file: Annotated[Path, typer.Argument(help="Where to write the hand-off, for `take-over` at the next HSM.")],
    config: ConfigFile,
) -> None:
    """Hand this vault's shard to the HSM that the fleet's next bundle names. For good: this one never serves it again.

    Interrupted, or the file lost: run it again.
    """
    core = load_core(config)
    moved = verify_bundle(load_trust_root(core.trust_root), read_bundle(bundle), now_ms=system_now_ms())
    hsm = next((hsm for hsm in moved.hsms if core.vault.shard in hsm.shards), None)
    if hsm is None:
        fail(f"bundle {moved.number} has no shard {core.vault.shard}", "BUNDLE_NO_SHARD", REFUSED)
    to = Owner(hsm_key_id(hsm.public_key), moved.number)
    with offline_vault(core.vault) as (store, anchor_service):
        replace(file, hand_off(store, anchor_service, to), mode=PUBLIC)
    print(f"shard {core.vault.shard} is the HSM's {to.hsm_key_id.hex()} now; {file} lets it take over")


@app.command("take-over")
def take(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="What `hand-off` wrote.")],
    config: ConfigFile,
) -> None:
    """Go on with a shard that another HSM handed to this one, over the same database or a copy of it.

    Interrupted: run it again.
    """
    vault = load_core(config).vault
    with offline_vault(vault) as (store, anchor_service):
        state = take_over(store, anchor_service, file.read_bytes())
    print(f"this HSM goes on with shard {state.shard} after entry {state.sequence}; the vault may start")


def _named(database: str, config: Path) -> Path | VaultPostgresConfig:
    if (path := Path(database)).is_file():
        return path
    if "=" not in database and "://" not in database:
        raise typer.BadParameter(f"{database} is not there")
    try:
        return VaultPostgresConfig(postgres=database, lock=config.with_name(f"{config.name}.recover.lock"))
    except ValidationError as error:
        raise typer.BadParameter(error.errors()[0]["msg"]) from None


app.command()(roots)
app.command()(drop_root)
