"""Which token goes on with a shard that was handed on: an entry of the log (docs/protocol/vault-state.md).

Tested by tests/hsm/state/test_handoff.py.
"""

import struct
from typing import NamedTuple

from ipls.hsm.state.anchor import AnchorService
from ipls.store.vault import VaultStore
from ipls.vault.errors import SessionRefused
from ipls.vault.state.journal import JournalEntry, State, other_key

OWNER = other_key("owner")
_RECORD = struct.Struct(">32sQ")
OWNER_BYTES = _RECORD.size


class Owner(NamedTuple):
    """To whom the shard was handed."""

    hsm_key_id: bytes  # 32 bytes
    bundle_number: int  # the fleet bundle that names it

    def encode(self) -> bytes:
        """The record, 40 bytes."""
        return _RECORD.pack(*self)

    @classmethod
    def decode(cls, record: bytes) -> "Owner":
        """The inverse, of one that a vault wrote."""
        return cls._make(_RECORD.unpack(record))


def handed_to(store: VaultStore, state: State) -> Owner | None:
    """Whom the log's entry of this state hands the shard to, if that is what it does. The entry must be verified."""
    rows = store.log(state.sequence, 1) if state.sequence else []
    entry = JournalEntry.decode(rows[0].entry) if rows else None
    return Owner.decode(entry.record) if entry and entry.key == OWNER else None


def check_owner(store: VaultStore, anchor_service: AnchorService, state: State) -> None:
    """Raises SessionRefused VAULT_HANDED_OFF where that is another token: such an entry is the last that one writes."""
    to = handed_to(store, state)
    if to is not None and to.hsm_key_id != anchor_service.hsm_key_id():
        raise handed_off(state.shard, to)


def handed_off(shard: int, to: Owner) -> SessionRefused:
    """Why this token does nothing more with a shard."""
    where = f"the HSM {to.hsm_key_id.hex()[:16]}…, which bundle {to.bundle_number} names"
    return SessionRefused("VAULT_HANDED_OFF", f"shard {shard} was handed to {where}")
