"""What a rotation of the storage root asks of who holds the storage roots: the anchor service, in a process of its own.

Tested by tests/hsm/core/test_rotation.py.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from ipls.hsm.token.pkcs11 import Record


class Rewrap(NamedTuple):
    """A contact key as it lies in the database, where that is, and where it is to go."""

    wrapped: bytes
    old: Record
    new: Record


class Rewrapper(Protocol):
    """Who has the storage roots: `ipls.hsm.anchor_service`. Raises SessionRefused VAULT_NOTARY_LOST."""

    def storage_key_ids(self) -> list[bytes]:
        """Of all storage roots that are in the token now, the newest first."""

    def rewrap(self, each: Sequence[Rewrap]) -> list[bytes | None]:
        """What each is under its new record's key; None where its old one does not unwrap it, or has no root here."""
