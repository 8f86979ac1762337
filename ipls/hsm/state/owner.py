"""Which token goes on with a shard that was handed on: an entry of the log (docs/protocol/vault-state.md).

Tested by tests/hsm/state/test_handoff.py.
"""

import struct
from typing import NamedTuple

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


class HandedOff(NamedTuple):
    """The end of a token's service: its last state, and whose the shard is from there on."""

    state: State
    to: Owner

    def refusal(self) -> SessionRefused:
        """Why the token does nothing more with the shard."""
        where = f"the HSM {self.to.hsm_key_id.hex()[:16]}…, which bundle {self.to.bundle_number} names"
        message = f"shard {self.state.shard} was handed to {where}: there it goes on, by `ipls vault take-over`"
        return SessionRefused("VAULT_HANDED_OFF", f"{message} of what `ipls vault hand-off` writes here")


def handed_to(entry: JournalEntry) -> Owner | None:
    """Whom an entry hands the shard to, if that is what it does. It must be verified."""
    return Owner.decode(entry.record) if entry.key == OWNER else None
