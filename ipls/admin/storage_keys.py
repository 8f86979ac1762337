"""The storage roots in a vault's token, what needs them, and the end of one (docs/operations.md).

Tested by tests/cli/test_vault.py.
"""

from collections import Counter
from collections.abc import Collection, Sequence

from ipls.admin.vault import offline_vault
from ipls.config import ConfigError, VaultConfig, read_pin
from ipls.hsm.anchor_service import TokenAnchorService
from ipls.hsm.core.rotation import account_of
from ipls.hsm.state import replay
from ipls.hsm.state.anchor import read_anchor
from ipls.hsm.token.pkcs11 import HsmToken
from ipls.store.errors import StoreRefused
from ipls.store.vault import VaultStore
from ipls.vault.state.trie import Trie


def count_keys(vault: VaultConfig) -> dict[bytes, int]:
    """How many stored keys lie under each storage root in the token, the newest first; the vault is off.

    Raises SessionRefused, StoreError.
    """
    with offline_vault(vault) as (store, anchor_service):
        needed = _needed(store, anchor_service)
        return {storage_key_id: needed[storage_key_id] for storage_key_id in anchor_service.storage_key_ids()}


def drop_storage_key(vaults: Sequence[VaultConfig], root_id: str, handed_off: Collection[int] = ()) -> None:
    """Destroy an older storage root, named in hex, for good.

    `vaults` are all on the token, but those of the shards `handed_off`; all are off. Raises ConfigError ROOT_UNKNOWN,
    StoreRefused ROOT_IN_USE, SessionRefused.
    """
    try:
        storage_key_id = bytes.fromhex(root_id)
    except ValueError:
        storage_key_id = b""
    for vault in vaults:
        with offline_vault(vault) as (store, anchor_service):
            if storage_key_id not in anchor_service.storage_key_ids():
                raise ConfigError(f"the token has no storage root {root_id}", "ROOT_UNKNOWN")
            if storage_key_id == anchor_service.storage_key_ids()[0]:
                raise StoreRefused("ROOT_IN_USE", "it is the newest one, under which vaults store")
            if needed := _needed(store, anchor_service)[storage_key_id]:
                message = f"{needed} stored keys of shard {vault.shard} need it: run the vault"
                raise StoreRefused("ROOT_IN_USE", message)
    token = HsmToken.open(vaults[0].token, read_pin(vaults[0].pin))
    try:
        if others := set(token.shards()) - {vault.shard for vault in vaults} - set(handed_off):
            message = f"the token has shard {min(others)} too: name its --config, or --handed-off"
            raise StoreRefused("ROOT_IN_USE", message)
        token.drop_root(storage_key_id)
    finally:
        token.close()


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
