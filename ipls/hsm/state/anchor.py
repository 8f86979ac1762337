"""The anchor: what the token says of the vault's state (the vault spec, State).

Tested by tests/hsm/test_anchor_service.py and tests/attack/test_vault_state.py.
"""

import secrets
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from ipls.store.vault import VaultStore
from ipls.vault.errors import SessionRefused
from ipls.vault.state.journal import STATE_BYTES, State, anchor_digest, first_state


class AnchorService(Protocol):
    """Who holds the log key and a shard's anchor. Raises SessionRefused VAULT_NOTARY_LOST."""

    @property
    def shard(self) -> int:
        """Which one."""

    def hsm_key_id(self) -> bytes:
        """The token's, by which the fleet bundle and a hand-off name it."""

    def macs(self, digests: Sequence[bytes]) -> list[bytes]:
        """HMAC-SHA-256 over each 32-byte digest, by the newest log key that the token has at this moment."""

    def holds(self, digests: Sequence[bytes], macs: Sequence[bytes], *, retired: bool = False) -> list[bool]:
        """Whether each is such an HMAC over its digest. One by a log key that a rotation retired is not: it bears out
        what it once signed, where the caller says that it may (`retired`), and signs nothing new."""

    def first_log_key(self) -> int:
        """The number of the oldest log key that the token has: above 1 in one that came to the fleet later."""

    def anchors(self) -> list[bytes]:
        """What lies in the token as the anchor: one value, two after a crash, none before genesis."""

    def replace(self, expected: Sequence[bytes], new: bytes) -> None:
        """Puts an anchor in the place of exactly those expected. Raises SessionRefused VAULT_ANCHOR_MOVED."""


class Anchor(NamedTuple):
    """What the token holds: the state of the highest sequence, and all values there, which the next one replaces."""

    state: State
    values: Sequence[bytes]


def read_anchor(anchor_service: AnchorService) -> Anchor:
    """Raises as `anchor_among`."""
    return anchor_among(anchor_service, anchor_service.anchors())


def anchor_among(anchor_service: AnchorService, values: Sequence[bytes]) -> Anchor:
    """The anchor, of all that lies in the token as one.

    Raises SessionRefused VAULT_ANCHOR_MISSING; VAULT_ANCHOR_MOVED for two of one sequence: two vaults wrote them.
    """
    digests, macs = [anchor_digest(value[:STATE_BYTES]) for value in values], [value[STATE_BYTES:] for value in values]
    # It may be from before a rotation: nobody but the vault writes into the token.
    holding = anchor_service.holds(digests, macs, retired=True)
    # One that a kill left unfinished was never waited for.
    whole = [value for value, holds in zip(values, holding, strict=True) if holds]
    states = sorted({State.decode(value[:STATE_BYTES]) for value in whole}, key=lambda state: state.sequence)
    if not states or states[-1].shard != anchor_service.shard:
        raise SessionRefused(
            "VAULT_ANCHOR_MISSING",
            "the token holds no anchor of this vault: `ipls vault take-over` for a shard that was handed to it,"
            " `ipls vault genesis` for a new one",
        )
    if len(states) > 1 and states[-1].sequence == states[-2].sequence:
        raise SessionRefused("VAULT_ANCHOR_MOVED", "the token holds two anchors of one sequence")
    return Anchor(states[-1], values)


def write_anchor(
    anchor_service: AnchorService, expected: Sequence[bytes], state: State, mac: bytes | None = None
) -> Anchor:
    """`mac` is its HMAC, where the caller has asked for it among others. Raises SessionRefused VAULT_ANCHOR_MOVED."""
    encoded = state.encode()
    if mac is None:
        [mac] = anchor_service.macs([anchor_digest(encoded)])
    anchor_service.replace(expected, encoded + mac)
    return Anchor(state, [encoded + mac])


def genesis(store: VaultStore, anchor_service: AnchorService) -> None:
    """The first anchor, over an empty database. Nothing else makes an anchor where there is none.

    Raises SessionRefused VAULT_ANCHOR_EXISTS, VAULT_DATABASE_NOT_EMPTY.
    """
    if anchor_service.anchors():
        raise SessionRefused("VAULT_ANCHOR_EXISTS", "the token holds an anchor; nothing makes another one")
    if store.last() is not None:
        raise SessionRefused("VAULT_DATABASE_NOT_EMPTY", "the database has a log; a new vault begins with none")
    write_anchor(anchor_service, [], first_state(anchor_service.shard, secrets.token_bytes(32)))
