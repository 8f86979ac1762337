"""`ipls vault`: the beginning of a vault's state, a check of all of it, and its recovery (docs/operations.md)."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Annotated

import typer

from ipls.cli.console import fail
from ipls.cli.status import REFUSED
from ipls.config import VaultConfig, load_core
from ipls.hsm import replay
from ipls.hsm.anchor import Notary, genesis, read_anchor
from ipls.hsm.notary import SHARD, open_notary
from ipls.store.errors import DatabaseFailed
from ipls.store.vault import VaultStore, open_vault_store

app = typer.Typer(
    no_args_is_help=True, help="The vault's state: its beginning, a check, recovery. For one that is off."
)

ConfigFile = Annotated[Path, typer.Option("--config", help="The deployment's ipls.toml, or the core's own file.")]


@app.command("genesis")
def begin(config: ConfigFile) -> None:
    """Put the first anchor into the token of a new vault, over an empty database. Nothing else makes an anchor.

    A token that has one keeps it. Without its anchor a database is worth nothing: no command takes it up again.
    """
    with _opened(load_core(config).vault) as (store, notary):
        genesis(store, notary, SHARD)
    print("the token holds an anchor; the vault may start")


@app.command()
def check(config: ConfigFile) -> None:
    """Compare every row of the database with what the token's anchor vouches for; exit 1 at the first that differs."""
    with _opened(load_core(config).vault) as (store, notary):
        state = replay.catch_up(store, notary, read_anchor(notary, SHARD).state)
        for _ in replay.check(store, notary, lambda: state):
            pass
    print(f"all is as the log of {state.sequence} entries has it, and the log as the anchor has it")


@app.command()
def recover(
    damaged: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="The database, moved aside.")],
    config: ConfigFile,
) -> None:
    """Make the database again from the log in another one, which must reach the entry that the token's anchor names.

    All that its log proves, and nothing else; if a part of the log is lost or edited, nothing comes back.
    """
    with _opened(load_core(config).vault) as (store, notary), closing(open_vault_store(damaged, wait=False)) as source:
        state = replay.recover(source, store, notary, SHARD)
    print(f"recovered {state.sequence} entries of the log, and what they make")


@contextmanager
def _opened(vault: VaultConfig) -> Iterator[tuple[VaultStore, Notary]]:
    """Database and token. Raises StoreError VAULT_RUNNING."""
    try:
        with closing(open_vault_store(vault.database, wait=False)) as store, open_notary(vault) as notary:
            yield store, notary
    except DatabaseFailed as error:
        fail(f"{vault.database} can't be read: {error}", "DATABASE_UNREADABLE", REFUSED)
