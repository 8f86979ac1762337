"""A vault's database and token, for a command on one that is off."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Annotated

import typer

from ipls.cli.console import fail
from ipls.cli.status import REFUSED
from ipls.config import VaultConfig
from ipls.hsm.anchor_service import TokenAnchorService, open_anchor_service
from ipls.store.errors import StoreUnavailable
from ipls.store.vault import VaultStore, open_vault_store

ConfigFile = Annotated[Path, typer.Option("--config", help="The deployment's ipls.toml, or the core's own file.")]


@contextmanager
def offline_vault(vault: VaultConfig) -> Iterator[tuple[VaultStore, TokenAnchorService]]:
    """Database and token. Raises StoreRefused VAULT_RUNNING; StoreDamaged."""
    try:
        with (
            closing(open_vault_store(vault.database, wait=False)) as store,
            open_anchor_service(vault) as anchor_service,
        ):
            yield store, anchor_service
    except StoreUnavailable as error:
        fail(f"the vault's database can't be read: {error}", "DATABASE_UNREADABLE", REFUSED)
