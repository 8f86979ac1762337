"""What the vault lets be done in a stretch of time (the vault spec, Limits). Pure; kept with the accounts, so that a
restart forgets nothing. Time is the witnesses', which no host's clock moves forward.
"""

import struct
from typing import NamedTuple

from ipls.units import HOUR_MS
from ipls.vault.errors import SessionRefused

_RELEASES = struct.Struct(">QQ")


class Limits(NamedTuple):
    """As configured."""

    daily_uses: int = 1000
    """Entries that 24 hours may add to one account's history, a session and what it does, and checkpoints: an honest
    device adds some tens."""
    hourly_releases: int = 1000
    """Accounts whose key an hour may release for the first time to an identity other than the one that stored it. One
    retrieve is all that a thief needs; the operator must not make thousands of identities and retrieve for each."""


class Releases(NamedTuple):
    """The releases of the present hour, of all accounts together."""

    since_ms: int = 0
    given: int = 0

    def encode(self) -> bytes:
        """16 bytes, as the store keeps it."""
        return _RELEASES.pack(*self)

    @classmethod
    def decode(cls, data: bytes) -> "Releases":
        """The inverse of `encode`. Raises SessionRefused VAULT_ACCOUNT_UNREADABLE."""
        try:
            return cls._make(_RELEASES.unpack(data))
        except struct.error as e:
            raise SessionRefused("VAULT_ACCOUNT_UNREADABLE", "the count of releases is damaged") from e

    def and_one_more(self, witness_ms: int, limits: Limits) -> "Releases":
        """Raises SessionRefused VAULT_RELEASE_LIMIT."""
        present = self if witness_ms < self.since_ms + HOUR_MS else Releases(witness_ms, 0)
        if present.given >= limits.hourly_releases:
            raise SessionRefused(
                "VAULT_RELEASE_LIMIT",
                "the vault has given keys to as many new identities as it does in an hour; try again in an hour",
            )
        return present._replace(given=present.given + 1)
