"""Ephemeral key pairs made ahead: what idle time does need not be done when many ask at once.

Tested by tests/hsm/core/test_flood.py.
"""

from collections import deque

from ipls.vault.session.token import Ephemeral, Token


class EphemeralPool:
    """A token (`ipls.vault.session.token.Token`) that has key pairs ready. Each is given out once."""

    def __init__(self, token: Token, places: int) -> None:
        self._token = token
        self._places = places
        self._ready: deque[Ephemeral] = deque()
        self.hsm_key_id = token.hsm_key_id
        self.public_point = token.public_point
        self.storage_key_id = token.storage_key_id
        self.profile = token.profile

    def prepare(self) -> bool:
        """Makes one more; False where there are as many as there are to be."""
        if len(self._ready) >= self._places:
            return False
        self._ready.append(self._token.ephemeral())
        return True

    def sign(self, digest: bytes) -> bytes:
        """See `Token`."""
        return self._token.sign(digest)

    def storage_key_ids(self) -> list[bytes]:
        """See `Token`."""
        return self._token.storage_key_ids()

    def ephemeral(self) -> Ephemeral:
        """See `Token`: one that is ready, else a fresh one."""
        return self._ready.popleft() if self._ready else self._token.ephemeral()

    def close(self) -> None:
        """See `Token`. Destroys what nobody took."""
        while self._ready:
            self._ready.pop().close()
        self._token.close()
