"""The hand-off of a shard from one token of the fleet to another (docs/protocol/vault-state.md).

The old token's last entry names the next one. Only when its anchor has that entry, and it refuses for good, does it
sign: who holds the hand-off has no second vault.
"""

from ipls.hsm.state import replay
from ipls.hsm.state.anchor import AnchorService, anchor_among, read_anchor, write_anchor
from ipls.hsm.state.owner import OWNER, OWNER_BYTES, Owner
from ipls.hsm.state.store import StateStore
from ipls.store.vault import VaultStore
from ipls.vault.errors import SessionRefused
from ipls.vault.state.journal import STATE_BYTES, State, handoff_digest


def hand_off(store: VaultStore, anchor_service: AnchorService, to: Owner) -> bytes:
    """Ends this token's service of its shard, for good, and signs it over to `to`; the same bytes when done again.

    Raises SessionRefused VAULT_HANDOFF_REFUSED for a hand-off to itself, VAULT_HANDED_OFF if it is another's already,
    VAULT_ANCHOR_MOVED if the token did not keep its last anchor, and as `StateStore.perform`.
    """
    if to.hsm_key_id == anchor_service.hsm_key_id():
        raise SessionRefused("VAULT_HANDOFF_REFUSED", "the bundle leaves the shard with this HSM")
    state_store = StateStore(store, anchor_service)
    [outcome] = state_store.perform([lambda: state_store.put(OWNER, to.encode())])
    handed = state_store.handed_off
    if handed is None:
        assert isinstance(outcome, Exception)
        raise outcome
    if handed.to != to:
        raise handed.refusal()
    if read_anchor(anchor_service).state != handed.state:
        raise SessionRefused("VAULT_ANCHOR_MOVED", "the token did not keep the anchor: `ipls vault hand-off` again")
    content = handed.state.encode() + to.encode()
    [mac] = anchor_service.macs([handoff_digest(content)])
    return content + mac


def take_over(store: VaultStore, anchor_service: AnchorService, handoff: bytes) -> State:
    """Makes the old token's last anchor this one's, if the hand-off names it and the database leads there.

    Done again it changes nothing. Raises SessionRefused VAULT_HANDOFF_REFUSED; VAULT_ANCHOR_EXISTS where this token's
    own anchor is not older; and as `replay.check_anchored` for another database.
    """
    content, mac = handoff[: STATE_BYTES + OWNER_BYTES], handoff[STATE_BYTES + OWNER_BYTES :]
    if anchor_service.holds([handoff_digest(content)], [mac]) != [True]:
        raise SessionRefused(
            "VAULT_HANDOFF_REFUSED",
            "no token of this fleet signed the hand-off by the newest log key: where one of the two joined a rotation"
            " later, `ipls vault hand-off` again there",
        )
    state, to = State.decode(content[:STATE_BYTES]), Owner.decode(content[STATE_BYTES:])
    if (state.shard, to.hsm_key_id) != (anchor_service.shard, anchor_service.hsm_key_id()):
        raise SessionRefused("VAULT_HANDOFF_REFUSED", "the hand-off is of another shard, or to another HSM")
    replay.check_anchored(store, state)
    values = anchor_service.anchors()
    if values:  # it had the shard before, or this was done
        own = anchor_among(anchor_service, values).state
        if own == state:
            return state
        if own.sequence >= state.sequence:
            raise SessionRefused(
                "VAULT_ANCHOR_EXISTS",
                "the token has an anchor that is not older: it went on with the shard, see `ipls vault check`",
            )
    write_anchor(anchor_service, values, state)
    return state
