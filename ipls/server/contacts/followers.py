"""Who follows an account's line in this process, one stream a device.

Tested by tests/server/contacts/test_follow.py.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


class Follower:
    """One device's stream."""

    def __init__(self) -> None:
        self.replaced = False
        """There is a newer one of this device."""
        self._woken = asyncio.Event()

    def wake(self) -> None:
        self._woken.set()

    async def woken(self) -> None:
        """Return once it was woken since this returned last."""
        await self._woken.wait()
        self._woken.clear()


class Followers:
    """Of all accounts."""

    def __init__(self) -> None:
        self._of: dict[str, dict[bytes, Follower]] = {}

    @contextmanager
    def joined(self, label: str, key: bytes) -> Iterator[Follower]:
        """In the block `key` follows; in an earlier one it follows no more."""
        own = self._of.setdefault(label, {})
        if earlier := own.get(key):
            earlier.replaced = True
            earlier.wake()
        follower = own[key] = Follower()
        try:
            yield follower
        finally:
            if own.get(key) is follower:
                del own[key]
            if not own:
                self._of.pop(label, None)

    def announce(self, label: str) -> None:
        """Wake who follows this account's line."""
        for follower in self._of.get(label, {}).values():
            follower.wake()
