"""What a peer may have done for it before it is known who it is: so much at once, and then so much a minute."""

import time
from collections import OrderedDict
from collections.abc import Callable

from ipls.rpc.errors import ServiceError

MAX_PEERS = 10_000
"""That are remembered; who is forgotten begins anew."""


class PeerQuota:
    """Tokens, as many for each peer: `a_minute` at first, and so many come back in a minute."""

    def __init__(self, a_minute: int, *, now_s: Callable[[], float] = time.monotonic) -> None:
        self._most = a_minute
        self._now_s = now_s
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """Tokens, and when that was."""

    def take(self, peer: str) -> None:
        """Raises ServiceError SERVICE_BUSY, with the time until there is one again."""
        now_s, each_s = self._now_s(), 60 / self._most
        left, then_s = self._left.get(peer, (float(self._most), now_s))
        left = min(float(self._most), left + (now_s - then_s) / each_s)
        if left < 1:
            raise ServiceError("SERVICE_BUSY", "too much in vain; try again", retry_after_s=(1 - left) * each_s)
        self._put(peer, left - 1, now_s)

    def give_back(self, peer: str) -> None:
        """What was taken: it was not in vain."""
        left, then_s = self._left.get(peer, (float(self._most), self._now_s()))
        self._put(peer, left + 1, then_s)

    def _put(self, peer: str, left: float, now_s: float) -> None:
        self._left[peer] = left, now_s
        self._left.move_to_end(peer)
        if len(self._left) > MAX_PEERS:
            self._left.popitem(last=False)
