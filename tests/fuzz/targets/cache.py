"""What a Redis says to the directory's processes that share it: its entries, its announcements, any bytes."""

import asyncio
import hmac
from collections.abc import Callable, Coroutine
from typing import Any
from unittest.mock import patch

from ipls.akd import Version
from ipls.server.directory import cache
from ipls.server.directory.cache import CacheKey, RedisProofCache
from tests.fuzz.target import HEAD, LABEL, Target, folder, target
from tests.server.redis_server import ScriptedRedis
from tests.trust.roots import NOW

_ENTRY = CacheKey("lookup", 7, HEAD.root_hash, LABEL.encode(), (Version(1, 7, b"value"),))


class _Absent(Exception):
    """What was said counts as nothing."""


def _shared(path: object) -> RedisProofCache:
    return RedisProofCache(f"unix://{path}", lambda purpose: purpose.encode())


def _told(use: Callable[[RedisProofCache, ScriptedRedis], Coroutine[Any, Any, object]], *seeds: bytes) -> Target:
    """Each input is what a Redis says to a cache, which waits for it, however slow the machine."""
    path = folder() / "redis"

    async def go(data: bytes) -> None:
        redis = ScriptedRedis(data)
        async with await asyncio.start_unix_server(redis.serve, path):
            shared = _shared(path)
            try:
                await use(shared, redis)
            finally:
                await shared.close()

    def run(data: bytes) -> None:
        path.unlink(missing_ok=True)
        with patch.multiple(cache, TIMEOUT_S=60, PAUSE_S=0, MIN_BETWEEN_S=0):
            asyncio.run(go(data))

    return Target(run, (_Absent,), seeds, weight=12)


@target("Redis: entry")
def _() -> Target:
    shared = _shared("none")
    entry = shared._tag(shared._name(_ENTRY), b"proof") + b"proof"

    async def get(shared: RedisProofCache, _: ScriptedRedis) -> None:
        found = await shared.get(_ENTRY)
        if found is None:
            raise _Absent
        assert found == b"proof"

    return _told(get, b"$%d\r\n%s\r\n" % (len(entry), entry))


@target("Redis: announcements")
def _() -> Target:
    stamp = HEAD.epoch.to_bytes(8, "big") + NOW.to_bytes(8, "big")
    message = stamp + hmac.digest(_shared("none")._heads_key, stamp, "sha256")
    pushed = b">3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$%d\r\n%s\r\n" % (len(message), message)

    async def follow(shared: RedisProofCache, redis: ScriptedRedis) -> None:
        heard: list[int] = []
        following, again = asyncio.create_task(shared.follow(heard.append)), asyncio.create_task(redis.again.wait())
        await asyncio.wait([following, again], return_when=asyncio.FIRST_COMPLETED)
        if not following.cancel():
            following.result()
        await asyncio.wait([following, again])
        if HEAD.epoch not in heard:
            raise _Absent
        assert sorted({*heard}) == [0, HEAD.epoch]
        assert heard.count(HEAD.epoch) == 1

    return _told(follow, pushed, b">3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n" + pushed)
