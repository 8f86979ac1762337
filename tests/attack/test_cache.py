"""A Redis that is dead, slow, full, or its operator's to fill as he likes: it costs speed, and nothing else."""

import asyncio
import os
import random
import tracemalloc
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from ipls._grpc import grpc
from ipls.akd import verify_absence, verify_history, verify_lookup
from ipls.config import RedisConfig
from ipls.proto.directory.v1 import directory_pb2 as pb
from ipls.rpc.errors import remote_error
from ipls.server.directory import app, cache, service
from ipls.server.directory.cache import CacheKey, RedisProofCache
from ipls.trust.heads import verify_head
from tests.server.directories import ALICE, BOB, NOW, Client, World, record
from tests.server.redis_server import RedisServer, ScriptedRedis, redis_server

CAROL = b"+491700000003"
ENTRIES = 7
"""What one round of `right_answers` leaves in Redis."""


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest_asyncio.fixture
async def redis(tmp_path: Path) -> AsyncIterator[RedisServer]:
    async with redis_server(tmp_path) as server:
        yield server


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow the machine, Redis is waited for: a miss is one by what it holds."""
    monkeypatch.setattr(cache, "TIMEOUT_S", 60)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts the proofs that are made, not found."""
    made = Counter[str]()

    def counted(name: str, make: Callable[..., bytes], *arguments: Any) -> bytes:
        made[name] += 1
        return make(*arguments)

    for name in ("make_lookup", "make_history", "make_absence"):
        monkeypatch.setattr(service, name, partial(counted, name, getattr(service, name)))
    return made


def sharing(world: World, redis: RedisServer) -> Any:
    """A directory process with nothing in memory yet."""
    return world.directory(redis=RedisConfig(url=redis.url))


async def published(world: World, redis: RedisServer) -> None:
    """Alice has key 1, then 2; Bob has 3."""
    async with world.witness(), sharing(world, redis) as client:
        for number, label in enumerate((ALICE, ALICE, BOB), 1):
            assert await client.publish(number, label, record(number)) == number


async def right_answers(world: World, client: Client) -> None:
    """Everything asked for is answered by what is true, and proved."""
    vrf = world.root.vrf_public_key
    for label, epoch, value in ((ALICE, 3, record(2)), (ALICE, 1, record(1)), (BOB, 3, record(3))):
        found = await client.reads.Lookup(pb.LookupRequest(label=label, epoch=epoch))
        head = verify_head(world.root, found.head, now_ms=NOW)
        assert head.epoch == epoch
        assert verify_lookup(head.root_hash, epoch, vrf, label, found.proof).value == value
    for label, value in ((ALICE, record(2)), (BOB, record(3))):
        signed, proof = await client.history(label, most_recent=1)
        head = verify_head(world.root, signed, now_ms=NOW)
        assert verify_history(head.root_hash, 3, vrf, label, proof, most_recent=1)[0].value == value
    absent = await client.reads.Absence(pb.AbsenceRequest(label=CAROL))
    verify_absence(absent.head.root_hash, 3, vrf, CAROL, absent.proof)


async def test_what_one_process_made_another_serves(
    world: World, redis: RedisServer, patient: None, made: Counter[str]
) -> None:
    await published(world, redis)
    async with sharing(world, redis) as client:
        await right_answers(world, client)
        entries = await redis.entries(ENTRIES)
    assert made == {"make_lookup": 3, "make_history": 2, "make_absence": 1}
    assert len(entries) == ENTRIES
    async with sharing(world, redis) as client:
        await right_answers(world, client)
        assert made.total() == 6
        await right_answers(world, client)  # from its own memory, whatever Redis does
    assert made.total() == 6
    everything = b"".join(name + value for name, value in entries.items())
    assert not any(label[1:] in everything for label in (ALICE, BOB, CAROL))
    assert all(await asyncio.gather(*(redis.raw.ttl(name) for name in entries))) > 0


async def test_an_erased_value_is_not_served_from_it(world: World, redis: RedisServer, patient: None) -> None:
    await published(world, redis)
    request = pb.LookupRequest(label=ALICE, epoch=1)
    async with sharing(world, redis) as client:
        await client.reads.Lookup(request)
        await redis.entries(2)
        await client.updates.EraseValues(pb.EraseValuesRequest(label=ALICE, through_version=1))
    async with sharing(world, redis) as client:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.reads.Lookup(request)
        assert remote_error(caught.value).reason == "VALUE_ERASED"


Poison = Callable[[RedisServer, dict[bytes, bytes]], Awaitable[object]]


def each(change: Callable[[bytes], bytes]) -> Poison:
    async def poison(redis: RedisServer, entries: dict[bytes, bytes]) -> None:
        await redis.raw.mset({name: change(value) for name, value in entries.items()})

    return poison


def flipped(value: bytes) -> bytes:
    bit = random.randrange(8 * len(value))
    return (int.from_bytes(value, "big") ^ 1 << bit).to_bytes(len(value), "big")


async def exchanged(redis: RedisServer, entries: dict[bytes, bytes]) -> None:
    """Each name with the next one's value: another label's, another epoch's, another kind's."""
    values = list(entries.values())
    await redis.raw.mset(dict(zip(entries, values[1:] + values[:1], strict=True)))


async def lists(redis: RedisServer, entries: dict[bytes, bytes]) -> None:
    for name in entries:
        await redis.raw.delete(name)
        await redis.raw.rpush(name, b"no string")


POISONS: dict[str, Poison] = {
    "nothing": each(lambda value: b""),
    "garbage": each(lambda value: os.urandom(len(value))),
    "a bit": each(flipped),
    "cut": each(lambda value: value[:-1]),
    "longer": each(lambda value: value + b"\0"),
    "far too long": each(lambda value: value + bytes(4 << 20)),
    "another type": lists,
    "exchanged": exchanged,
}


@pytest.mark.parametrize("poison", POISONS)
async def test_what_was_put_there_by_others_is_not_served(
    world: World, redis: RedisServer, patient: None, made: Counter[str], poison: str
) -> None:
    await published(world, redis)
    async with sharing(world, redis) as client:
        await right_answers(world, client)
        await POISONS[poison](redis, await redis.entries(ENTRIES))
    async with sharing(world, redis) as client:
        await right_answers(world, client)
    assert made.total() == 12


async def test_entries_of_another_directory_are_not_served(
    tmp_path: Path, world: World, redis: RedisServer, patient: None, made: Counter[str]
) -> None:
    """Also of one with the same keys, namespace, labels and epochs, but another root: a fork."""
    folder = tmp_path / "fork"
    folder.mkdir()
    fork = World(folder)
    async with fork.witness(), sharing(fork, redis) as client:
        for number, label in enumerate((BOB, ALICE, ALICE), 1):
            assert await client.publish(number, label, record(4 + number)) == number
        for epoch in (1, 2):
            await client.reads.Lookup(pb.LookupRequest(label=BOB, epoch=epoch))
        theirs = await redis.entries(4)
    await published(world, redis)
    async with sharing(world, redis) as client:
        await right_answers(world, client)
        ours = [name for name in await redis.entries(len(theirs) + ENTRIES) if name not in theirs]
    for value in theirs.values():  # each of their heads and proofs under each of our names
        await redis.raw.mset(dict.fromkeys(ours, value))
        async with sharing(world, redis) as client:
            await right_answers(world, client)


async def test_reads_go_on_while_it_dies_and_it_serves_when_it_is_back(
    world: World, redis: RedisServer, made: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    await published(world, redis)
    async with sharing(world, redis) as client:
        await right_answers(world, client)
        await redis.kill()
        for _ in range(3):
            async with sharing(world, redis) as other:
                await right_answers(world, other)
        await right_answers(world, client)
    monkeypatch.setattr(cache, "TIMEOUT_S", 60)
    await redis.start()
    async with sharing(world, redis) as client:
        await right_answers(world, client)
        await redis.entries(ENTRIES)
    before = made.total()
    async with sharing(world, redis) as client:
        await right_answers(world, client)
    assert made.total() == before


async def test_reads_go_on_while_it_answers_nothing(world: World, redis: RedisServer, made: Counter[str]) -> None:
    await published(world, redis)
    redis.stop()
    async with sharing(world, redis) as client:
        await right_answers(world, client)
    assert made.total() == 6
    redis.go_on()


async def test_reads_go_on_while_it_is_full(
    world: World, redis: RedisServer, patient: None, made: Counter[str]
) -> None:
    await published(world, redis)
    async with sharing(world, redis) as client:
        await client.reads.Lookup(pb.LookupRequest(label=ALICE, epoch=3))
        await redis.entries(1)
    await redis.raw.config_set("maxmemory", 1)
    assert (await redis.raw.config_get("maxmemory-policy"))["maxmemory-policy"] == "noeviction"
    async with sharing(world, redis) as client:
        await right_answers(world, client)
    assert made.total() == 6  # what it holds it serves


async def test_a_head_is_told_to_the_other_processes(
    world: World, redis: RedisServer, patient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "NOTICE_S", 3600)  # by the database they would learn of it an hour later
    async with world.witness(), sharing(world, redis) as publishing:
        await publishing.first_head()  # it has the lease
        async with sharing(world, redis) as reading:
            watch = reading.reads.WatchHeads(pb.WatchHeadsRequest(), timeout=60)
            assert (await watch.read()).head.epoch == 0
            for epoch in (1, 2):
                await publishing.publish(epoch, ALICE, record(epoch))
                assert (await watch.read()).head.epoch == epoch


def secrets(name: str) -> bytes:
    return name.encode()[:32].ljust(32, b"\0")


async def test_announcements_of_others_and_repeated_ones_wake_nobody(redis: RedisServer, patient: None) -> None:
    ours, others = RedisProofCache(redis.url, secrets), RedisProofCache(redis.url, lambda name: bytes(32))
    heard = asyncio.Queue[int]()
    following = asyncio.create_task(ours.follow(heard.put_nowait))
    assert await heard.get() == 0  # it listens
    (channel,) = await redis.raw.pubsub_channels()
    async with redis.raw.pubsub(ignore_subscribe_messages=True) as eavesdropper:
        await eavesdropper.subscribe(channel)
        await eavesdropper.get_message(timeout=60)
        ours.announce(1, NOW)
        assert await heard.get() == 1
        genuine = (await eavesdropper.get_message(timeout=60))["data"]
    forged = [
        genuine,
        genuine[:-1],
        genuine + b"\0",
        (9).to_bytes(8, "big") + genuine[8:],
        b"",
        bytes(48),
        b"\xff" * 48,
        os.urandom(1 << 20),
    ]
    for message in forged:
        assert await redis.raw.publish(channel, message) == 1
    others._channel = channel  # another directory's process, on this channel
    others.announce(5, NOW)
    ours.announce(2, NOW)
    assert await heard.get() == 2
    ours.announce(2, NOW + 1)  # renewed
    assert await heard.get() == 2
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
    for shared in (ours, others):
        await shared.close()


NO_REDIS_SAYS = [b">0\r\n", b"%1\r\n*1\r\n:1\r\n:1\r\n", b">3\r\n$1\r\n\xff\r\n:1\r\n:2\r\n"]
ERRORS = [
    f"-{error}\r\n".encode()
    for error in (
        "LOADING Redis is loading the dataset in memory",
        "BUSY Redis is busy running a script",
        "MISCONF Errors writing to disk",
        "READONLY You can't write against a read only replica",
        "MASTERDOWN Link with MASTER is down",
        "NOAUTH Authentication required",
        "NOPERM this user has no permissions",
        "WRONGPASS invalid username-password pair",
        "CLUSTERDOWN The cluster is down",
        "MOVED 3999 127.0.0.1:1",
        "ERR max number of clients reached",
        "UNHEARD of",
    )
]


@pytest.mark.parametrize("said", [*NO_REDIS_SAYS, *ERRORS])
async def test_what_no_redis_says_is_a_miss_and_it_is_asked_again(
    tmp_path: Path, patient: None, monkeypatch: pytest.MonkeyPatch, said: bytes
) -> None:
    """Nor what one says that is starting, full, another's, or not to be written to."""
    monkeypatch.setattr(cache, "PAUSE_S", 0)
    redis = ScriptedRedis(said)
    async with await asyncio.start_unix_server(redis.serve, tmp_path / "redis"):
        asking, following = (RedisProofCache(f"unix://{tmp_path / 'redis'}", secrets) for _ in range(2))
        assert await asking.get(CacheKey("lookup", 1, bytes(32), ALICE, ())) is None
        redis.again.clear()
        heard, again = asyncio.create_task(following.follow(lambda _: None)), asyncio.create_task(redis.again.wait())
        for _ in range(3):
            await asyncio.wait([heard, again], return_when=asyncio.FIRST_COMPLETED)
            assert not heard.done()
            redis.again.clear()
            again = asyncio.create_task(redis.again.wait())
        for task in (heard, again):
            task.cancel()
        await asyncio.wait([heard, again])
        for shared in (asking, following):
            await shared.close()


@pytest.mark.parametrize("said", [b"*4000000\r\n", b">4000000\r\n$7\r\nmessage\r\n", b"%4000000\r\n"])
async def test_a_redis_that_announces_much_is_given_no_room_for_it(tmp_path: Path, patient: None, said: bytes) -> None:
    async with await asyncio.start_unix_server(ScriptedRedis(said).serve, tmp_path / "redis"):
        asking = RedisProofCache(f"unix://{tmp_path / 'redis'}", secrets)
        tracemalloc.start()
        try:
            assert await asking.get(CacheKey("lookup", 1, bytes(32), ALICE, ())) is None
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 4 << 20
        await asking.close()


async def test_more_calls_than_it_may_have_are_not_waited_for(redis: RedisServer, monkeypatch: Any) -> None:
    """While it answers nothing, what is over the bound is a miss at once, and so is all that follows a failure."""
    monkeypatch.setattr(cache, "TIMEOUT_S", 2)
    monkeypatch.setattr(cache, "PAUSE_S", 600)
    shared = RedisProofCache(redis.url, secrets)
    entry = CacheKey("lookup", 1, bytes(32), ALICE, ())
    redis.stop()
    waiting = [asyncio.create_task(shared.get(entry)) for _ in range(cache.MAX_CALLS)]
    await asyncio.sleep(0)
    async with asyncio.timeout(1):
        assert await shared.get(entry) is None
    assert await asyncio.gather(*waiting) == [None] * cache.MAX_CALLS
    redis.go_on()
    async with asyncio.timeout(1):
        assert await shared.get(entry) is None  # it is left alone
    await shared.close()
