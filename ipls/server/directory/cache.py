"""Proofs that were made once: kept in this process and, where there is one, in a Redis that all processes share.

Redis is believed nothing. What comes from it carries a MAC, under a key that only the directory's processes hold, over
all that the entry is an answer to; anything else there counts as absent. What it does not answer at once is made here.

Tested by tests/attack/test_cache.py.
"""

import asyncio
import hmac
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import NamedTuple

import structlog
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ResponseError

from ipls.akd import Version
from ipls.crypto.encoding import tagged_hash
from ipls.runtime.tasks import TaskScope

log = structlog.get_logger()

HOT_PROOFS = 1024
"""Kept in memory; one for an epoch never changes."""
MAX_ENTRY = 64 << 10
"""Bytes of a proof that is kept; only short ones are asked for again and again."""

TIMEOUT_S = 0.05
"""What Redis may cost a read."""
PAUSE_S = 1.0
"""How long Redis is left alone after it failed."""
LIFETIME_S = 600
"""How long an entry stays in Redis: by then there are newer heads, and what was erased is gone there too."""
MAX_CALLS = 64
"""At once, to Redis; what is over is made here, or not kept."""
MIN_BETWEEN_S = 0.005
"""Announcements are looked at no more often than that, so that a flood of them keeps nobody busy."""

_TAG_BYTES = 32


class CacheKey(NamedTuple):
    """All that a proof depends on; so it is found for this very root, and for these values only.

    The versions, newest first, are the database's: what was erased there since is not found any more.
    """

    kind: str
    epoch: int
    root_hash: bytes
    label: bytes
    versions: tuple[Version, ...]


class RedisProofCache:
    """Redis, for all processes over one database, whose secret `derived_key` gives. Methods raise nothing.

    Numbers don't lie in it: an entry's name is a MAC. After a failure it is left alone for a while, so that a Redis
    that is dead, slow or full costs one read a second TIMEOUT_S at most.
    """

    def __init__(self, url: str, derived_key: Callable[[str], bytes]) -> None:
        self._redis = Redis.from_url(
            url,
            socket_timeout=TIMEOUT_S,
            socket_connect_timeout=TIMEOUT_S,
            max_connections=MAX_CALLS + 1,
            retry=Retry(NoBackoff(), 0),
        )
        self._names, self._tags = derived_key("cache names"), derived_key("cache tags")
        self._heads_key = derived_key("head announcements")
        self._channel = b"ipls:heads:" + derived_key("announcement channel")[:16].hex().encode()
        self._resume_at = 0.0
        self._calls = 0
        self._putting = TaskScope()

    async def close(self) -> None:
        """Let the connections go."""
        await self._putting.close()
        with suppress(Exception):
            await self._redis.aclose()

    async def get(self, entry: CacheKey) -> bytes | None:
        """What was put for this entry by a process of this directory, or None."""
        name = self._name(entry)
        # No more than an entry can have, whatever lies there. A connection whose answer came too late is closed, and
        # were it not, the next one's answer would be another entry's.
        found = await self._ask(lambda: self._redis.getrange(b"ipls:" + name, 0, _TAG_BYTES + MAX_ENTRY))
        if not isinstance(found, bytes):
            return None
        proof = found[_TAG_BYTES:]
        return proof if hmac.compare_digest(found[:_TAG_BYTES], self._tag(name, proof)) else None

    def put(self, entry: CacheKey, proof: bytes) -> None:
        """Keep a proof, some time from now or not at all."""
        if len(self._putting) < MAX_CALLS:
            name = self._name(entry)
            value = self._tag(name, proof) + proof
            self._spawn(lambda: self._redis.set(b"ipls:" + name, value, ex=LIFETIME_S))

    def announce(self, epoch: int, time_ms: int) -> None:
        """Tell the other processes of a head, signed at `time_ms`."""
        stamp = epoch.to_bytes(8, "big") + time_ms.to_bytes(8, "big")
        message = stamp + hmac.digest(self._heads_key, stamp, "sha256")
        self._spawn(lambda: self._redis.publish(self._channel, message))

    async def follow(self, announced: Callable[[int], None]) -> None:
        """Call `announced` with the epoch of each head that another process tells of, for ever; 0: one may be missed.

        That is a hint, no more: what there is to serve is read from the database. One that was told before is not told
        again, so whoever repeats announcements wakes nobody.
        """
        newest = bytes(16)
        while True:
            with suppress(Exception):  # as in `_ask`
                async with self._redis.pubsub(ignore_subscribe_messages=True) as channel:
                    await channel.subscribe(self._channel)
                    announced(0)  # until now nothing was heard
                    while True:
                        message = await channel.get_message(timeout=None)
                        data = message["data"] if message else b""
                        stamp, tag = data[:16], data[16:]
                        expected = hmac.digest(self._heads_key, stamp, "sha256")
                        if stamp > newest and hmac.compare_digest(tag, expected):
                            newest = stamp
                            announced(int.from_bytes(stamp[:8], "big"))
                        await asyncio.sleep(MIN_BETWEEN_S)
            await asyncio.sleep(PAUSE_S)

    def _spawn(self, call: Callable[[], Awaitable[object]]) -> None:
        async def run() -> None:
            await self._ask(call)

        self._putting.start("to Redis", run())

    async def _ask(self, call: Callable[[], Awaitable[object]]) -> object:
        """The answer, or None: for a failure, too long a wait, too many calls, or while Redis is left alone."""
        if self._calls >= MAX_CALLS or time.monotonic() < self._resume_at:
            return None
        self._calls += 1
        try:
            async with asyncio.timeout(TIMEOUT_S):
                return await call()
        except ResponseError:  # full, or something else lies under this name: it is there, and answers at once
            return None
        except Exception as error:  # what no Redis says makes its client raise anything
            if time.monotonic() >= self._resume_at:
                log.warning("cache left alone", error=type(error).__name__, seconds=PAUSE_S)
            self._resume_at = time.monotonic() + PAUSE_S
            return None
        finally:
            self._calls -= 1

    def _name(self, entry: CacheKey) -> bytes:
        versions = [field for version in entry.versions for field in version]
        fields = tagged_hash(
            "ipls/directory/v1 entry", entry.kind, entry.epoch, entry.root_hash, entry.label, *versions
        )
        return hmac.digest(self._names, fields, "sha256")

    def _tag(self, name: bytes, proof: bytes) -> bytes:
        return hmac.digest(self._tags, name + proof, "sha256")


class ProofCache:
    """Hot proofs, from the nearest place that has them."""

    def __init__(self, shared: RedisProofCache | None) -> None:
        self._shared = shared
        self._kept: OrderedDict[CacheKey, bytes] = OrderedDict()

    async def get(self, entry: CacheKey, make: Callable[[], Awaitable[bytes]]) -> bytes:
        """The proof that `make` makes, if it must. Raises what it raises."""
        proof = self._kept.get(entry)
        if proof is None and self._shared:
            proof = await self._shared.get(entry)
        if proof is None:
            proof = await make()
            if self._shared and len(proof) <= MAX_ENTRY:
                self._shared.put(entry, proof)
        if len(proof) <= MAX_ENTRY:
            self._kept[entry] = proof
            self._kept.move_to_end(entry)
            if len(self._kept) > HOT_PROOFS:
                self._kept.popitem(last=False)
        return proof
