"""`ipls vault roots`, `drop-root`: the storage roots in a vault's token, and what needs them (docs/operations.md)."""

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from ipls.cli.console import fail
from ipls.cli.opened import ConfigFile, offline_vault
from ipls.cli.status import REFUSED, USAGE
from ipls.config import load_core, read_pin
from ipls.hsm.anchor_service import TokenAnchorService
from ipls.hsm.core.rotation import account_of
from ipls.hsm.state import replay
from ipls.hsm.state.anchor import read_anchor
from ipls.hsm.token.pkcs11 import HsmToken
from ipls.store.vault import VaultStore
from ipls.vault.state.trie import Trie


def roots(config: ConfigFile) -> None:
    """List the storage roots in the token, the newest first, and how many stored keys need each. The vault is off."""
    vault = load_core(config).vault
    with offline_vault(vault) as (store, anchor_service):
        needed = _needed(store, anchor_service)
        for storage_key_id in anchor_service.storage_key_ids():
            print(f"{storage_key_id.hex()}  {needed[storage_key_id]} keys")


def drop_root(
    root_id: Annotated[str, typer.Argument(help="As `roots` prints it.")],
    config: Annotated[list[Path], typer.Option("--config", help="Of each vault on this token.")],
    handed_off: Annotated[list[int] | None, typer.Option(help="A shard that another HSM has now.")] = None,
) -> None:
    """Destroy an older storage root, for good, when no key that is stored needs it any more. All its vaults are off.

    What was wrapped under it lies in old entries of the log still, and is of no use to anybody from then on.
    """
    vaults = [load_core(path).vault for path in config]
    try:
        root = bytes.fromhex(root_id)
    except ValueError:
        root = b""
    for vault in vaults:
        with offline_vault(vault) as (store, anchor_service):
            if root not in anchor_service.storage_key_ids():
                fail(f"the token has no storage root {root_id}", "ROOT_UNKNOWN", USAGE)
            if root == anchor_service.storage_key_ids()[0]:
                fail("it is the newest one, under which vaults store", "ROOT_IN_USE", REFUSED)
            if needed := _needed(store, anchor_service)[root]:
                fail(f"{needed} stored keys of shard {vault.shard} need it: run the vault", "ROOT_IN_USE", REFUSED)
    token = HsmToken.open(vaults[0].token, read_pin(vaults[0].pin))
    try:
        if others := set(token.shards()) - {vault.shard for vault in vaults} - set(handed_off or []):
            fail(f"the token has shard {min(others)} too: name its --config, or --handed-off", "ROOT_IN_USE", REFUSED)
        token.drop_root(root)
    finally:
        token.close()
    print(f"the storage root {root_id} is destroyed in this HSM")


def _needed(store: VaultStore, anchor_service: TokenAnchorService) -> Counter[bytes]:
    """How many stored keys lie under each root; every record as the anchor has it. Raises SessionRefused."""
    state = replay.catch_up(store, anchor_service, read_anchor(anchor_service).state)
    found: Counter[bytes] = Counter()
    for leaf in Trie(state.records_root, store.nodes).leaves():
        record = store.record(leaf.key)
        replay.check_record(leaf.key, record, leaf.digest)
        if account := account_of(record):
            found.update(g.storage_key_id for g in account.generations)
    return found
