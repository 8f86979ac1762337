"""A vault's state, of a vault that is off: its beginning, a check, recovery, and the move to another HSM."""

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from ipls.config import CoreConfig, VaultConfig, VaultPostgresConfig, load_trust_root
from ipls.hsm.anchor_service import TokenAnchorService, open_anchor_service
from ipls.hsm.state import anchor, handoff, mending, replay
from ipls.hsm.state.owner import Owner
from ipls.proto.vault.v1.vault_pb2 import SignedBundle
from ipls.store.errors import StoreDamaged, StoreUnavailable
from ipls.store.files import PUBLIC, put_in_place, replace
from ipls.store.vault import VaultStore, open_vault_store
from ipls.trust.bundle import verify_bundle
from ipls.trust.errors import BundleRefused
from ipls.vault.errors import SessionRefused
from ipls.vault.session.transcript import hsm_key_id
from ipls.vault.state.journal import State


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
        raise StoreDamaged("DATABASE_UNREADABLE", f"the vault's database can't be read: {error}") from error


def genesis(vault: VaultConfig) -> None:
    """The first anchor, in a token that has none, over an empty database. Raises SessionRefused VAULT_ANCHOR_EXISTS,
    StoreError."""
    with offline_vault(vault) as (store, anchor_service):
        anchor.genesis(store, anchor_service)


def check(vault: VaultConfig) -> tuple[State, list[SessionRefused]]:
    """What the token's anchor vouches for, and what of the database is not that. Raises SessionRefused where the vault
    would not start on it, StoreError."""
    with offline_vault(vault) as (store, anchor_service):
        state = replay.catch_up(store, anchor_service, anchor.read_anchor(anchor_service).state)
        return state, [each for found in replay.check(store, anchor_service, state) for each in found]


def recover(vault: VaultConfig, damaged: Path | VaultPostgresConfig) -> State:
    """The database made again from the log in the damaged one, in which flipped bits are put right first: all that the
    log proves or nothing. Raises SessionRefused, StoreError."""
    with (
        offline_vault(vault) as (store, anchor_service),
        closing(open_vault_store(damaged, wait=False)) as source,
    ):
        return _recovered(source, store, anchor_service)


def _recovered(source: VaultStore, target: VaultStore, anchor_service: TokenAnchorService) -> State:
    for _ in mending.mend_log(source, anchor_service, anchor.read_anchor(anchor_service).state):
        pass
    return replay.recover(source, target, anchor_service)


def recover_in_place(vault: VaultConfig, database: Path) -> State:
    """`recover` from the file itself; the damaged one lies beside it then, under a name that ends in `.damaged`.

    Killed, the damaged file is where it was or the new one is whole. Raises as `recover`.
    """
    made = database.with_name(f"{database.name}.recovered")
    for left in made.parent.glob(f"{made.name}*"):
        left.unlink()
    with (
        offline_vault(vault) as (damaged, anchor_service),
        closing(open_vault_store(made, wait=False)) as target,
    ):
        state = _recovered(damaged, target, anchor_service)
    database.with_name(f"{database.name}.damaged").unlink(missing_ok=True)
    os.link(database, database.with_name(f"{database.name}.damaged"))
    put_in_place(made, database)
    made.with_name(f"{made.name}.lock").unlink()
    return state


def hand_off(core: CoreConfig, signed: SignedBundle, file: Path, *, now_ms: int) -> Owner:
    """Hand the vault's shard, for good, to the HSM that the bundle gives it to: its hand-off is in `file` then.

    Interrupted, it is done again. Raises VerificationError: as `verify_bundle`, BUNDLE_NO_SHARD; as `handoff.hand_off`;
    StoreError.
    """
    bundle, shard = verify_bundle(load_trust_root(core.trust_root), signed, now_ms=now_ms), core.vault.shard
    hsm = next((hsm for hsm in bundle.hsms if shard in hsm.shards), None)
    if hsm is None:
        raise BundleRefused("BUNDLE_NO_SHARD", f"bundle {bundle.number} has no shard {shard}")
    to = Owner(hsm_key_id(hsm.public_key), bundle.number)
    with offline_vault(core.vault) as (store, anchor_service):
        replace(file, handoff.hand_off(store, anchor_service, to), mode=PUBLIC)
    return to


def take_over(vault: VaultConfig, handed: bytes) -> State:
    """Go on with the shard of a hand-off over its database, or a copy of it. Raises as `handoff.take_over`,
    StoreError."""
    with offline_vault(vault) as (store, anchor_service):
        return handoff.take_over(store, anchor_service, handed)
