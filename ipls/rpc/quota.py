"""What a peer may have done for it before it is known who it is: so much at once, and then so much a minute."""

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from ipls.rpc.errors import ServiceError

MAX_PEERS = 10_000
"""That are remembered; who is forgotten begins anew."""


K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Recent(Generic[K, V]):
    """What was put under the last so many keys."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: OrderedDict[K, V] = OrderedDict()

    def __contains__(self, key: K) -> bool:
        return key in self._kept

    def get(self, key: K) -> V | None:
        return self._kept.get(key)

    def put(self, key: K, value: V) -> None:
        self._kept[key] = value
        self._kept.move_to_end(key)
        if len(self._kept) > self._most:
            self._kept.popitem(last=False)

    def drop(self, key: K) -> None:
        """Forget it, if it is there."""
        self._kept.pop(key, None)


class PeerQuota:
    """Tokens, as many for each peer: `a_minute` at first, and so many come back in a minute."""

    def __init__(self, a_minute: int, *, now_s: Callable[[], float] = time.monotonic) -> None:
        self._most = a_minute
        self._now_s = now_s
        self._left = Recent[Hashable, tuple[float, float]](MAX_PEERS)
        """Tokens, and when that was."""

    def take(self, peer: Hashable) -> None:
        """Raises ServiceError SERVICE_BUSY, with the time until there is one again."""
        now_s, each_s = self._now_s(), 60 / self._most
        left, then_s = self._left.get(peer) or (float(self._most), now_s)
        left = min(float(self._most), left + (now_s - then_s) / each_s)
        if left < 1:
            raise ServiceError("SERVICE_BUSY", "too much in vain; try again", retry_after_s=(1 - left) * each_s)
        self._left.put(peer, (left - 1, now_s))

    def give_back(self, peer: Hashable) -> None:
        """What was taken: it was not in vain."""
        left, then_s = self._left.get(peer) or (float(self._most), self._now_s())
        self._left.put(peer, (left + 1, then_s))
