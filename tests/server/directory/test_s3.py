"""A directory whose log is in S3, when the bucket is away, loses its answers, or holds another object."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ipls.akd import verify_append_only
from ipls.config import BucketConfig
from ipls.proto.akd.v1.akd_pb2 import SingleAppendOnlyProof
from ipls.proto.directory.v1 import directory_pb2 as pb
from ipls.server.directory.errors import LogRefused
from ipls.store.log import object_name
from ipls.store.log.s3 import ATTEMPTS, Bucket, S3Log
from tests.logs import heard
from tests.server.directories import ALICE, BOB, NOW, World, record
from tests.store.gateway import Gateway
from tests.store.proxy import Proxy


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def table(bucket: Bucket, endpoint: str | None = None) -> BucketConfig:
    """What `ipls.toml` would say of the bucket."""
    return BucketConfig(
        bucket=bucket.name,
        claims=bucket.claims,
        retention_days=bucket.retention.days,
        endpoint=endpoint or bucket.endpoint,
        region=bucket.region,
        credentials=bucket.credentials,
    )


def made(server: Gateway) -> Bucket:
    bucket = server.bucket()
    S3Log(bucket).create_buckets()
    return bucket


def epochs(bucket: Bucket) -> list[str]:
    return [entry.name.split("/")[0] for entry in S3Log(bucket).list()]


async def test_a_server_that_is_down_holds_the_epoch_back(world: World, tmp_path: Path) -> None:
    server = Gateway(tmp_path / "s3")
    server.start()
    bucket = made(server)
    world.log = S3Log(bucket)
    try:
        async with world.witness(), world.directory(log=table(bucket)) as client:
            assert await client.publish(1, ALICE, record(1)) == 1
            with heard(event="no epoch", reason="LOG_UNAVAILABLE") as failed:
                server.stop()
                ticket = await client.submit(2, ALICE, record(2))
                await failed.wait()
            assert (await client.reads.GetHead(pb.GetHeadRequest())).head.epoch == 1
            server.start()
            assert await client.published(ticket) == 2
            assert epochs(bucket) == ["1", "2"]
    finally:
        server.stop()


async def test_an_epoch_whose_reply_is_lost_is_published_once(world: World, s3: Gateway) -> None:
    bucket = made(s3)
    with Proxy(s3.port) as proxy:
        proxy.lose_reply_to(b"PUT /%b/1/" % bucket.name.encode(), times=ATTEMPTS)  # so that put itself fails
        where = table(bucket, f"http://127.0.0.1:{proxy.port}")
        world.log = S3Log(bucket)
        async with world.witness(), world.directory(log=where) as client:
            assert await client.publish(1, ALICE, record(1)) == 1
            assert await client.publish(2, ALICE, record(2)) == 2
        assert proxy.lost == ATTEMPTS
    assert epochs(bucket) == ["1", "2"]


async def test_an_object_that_proves_the_step_in_another_order_will_do(world: World, s3: Gateway) -> None:
    world.log = log = s3.log()
    async with world.witness(), world.publisher(log=log) as (publisher, store, _):
        await publisher.take_over()
        await publisher.advance()
        for n, label in enumerate((ALICE, BOB)):
            store.submit(bytes([n]) * 16, label, record(n), NOW, daily_quota=9, queue_max=9)
        row = publisher.prepare()
        assert row is not None
        blob = SingleAppendOnlyProof.FromString(row.blob)
        turned = SingleAppendOnlyProof(inserted=blob.inserted[::-1], unchanged_nodes=blob.unchanged_nodes[::-1])
        there = turned.SerializeToString()
        assert there != row.blob
        name = object_name(row.epoch, row.old_root, row.new_root)
        log.put(name, there)
        await publisher.advance()
        head = store.head()
        assert head is not None
        assert head.epoch == 1
        assert log.get(name) == there
        verify_append_only(row.old_root, row.new_root, 1, there)


@pytest.mark.parametrize("reason", ["LOG_OBJECT_EXISTS", "LOG_EPOCH_TAKEN"])
async def test_an_object_of_another_step_holds_the_epoch_back(world: World, s3: Gateway, reason: str) -> None:
    world.log = log = s3.log()
    async with world.witness(), world.publisher(log=log) as (publisher, store, _):
        await publisher.take_over()
        await publisher.advance()
        store.submit(bytes(16), ALICE, record(1), NOW, daily_quota=9, queue_max=9)
        row = publisher.prepare()
        assert row is not None
        root = row.new_root if reason == "LOG_OBJECT_EXISTS" else bytes(32)
        log.put(object_name(1, row.old_root, root), b"another")
        with pytest.raises(LogRefused) as caught:
            await publisher.advance()
        assert caught.value.reason == reason
        head = store.head()
        assert head is not None
        assert head.epoch == 0


async def test_a_directory_that_died_after_its_claim_goes_on(
    world: World, s3: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The epoch is promised to its name, and has no object yet."""
    world.log = log = s3.log()
    async with world.witness():
        async with world.publisher(log=log) as (publisher, store, _):
            await publisher.take_over()
            await publisher.advance()
            store.submit(bytes(16), ALICE, record(1), NOW, daily_quota=9, queue_max=9)
            with monkeypatch.context() as patch:
                patch.setattr(S3Log, "_create", dies_at_the_object(S3Log._create))
                with pytest.raises(Died):
                    await publisher.advance()
            assert log.list() == []
            row = store.unfinished_step()
            assert row is not None
        async with world.publisher(log=log) as (publisher, store, _):
            await publisher.take_over()
            await publisher.advance()
            head = store.head()
            assert head is not None
            assert (head.epoch, head.root_hash) == (1, row.new_root)


class Died(Exception):
    pass


def dies_at_the_object(create: Callable[..., bool]) -> Callable[..., bool]:
    def dies(self: S3Log, bucket: str, key: str, *arguments: Any) -> bool:
        if "/" in key:
            raise Died
        return create(self, bucket, key, *arguments)

    return dies


async def test_a_bucket_that_is_not_there_holds_the_epoch_back(world: World, s3: Gateway) -> None:
    async with world.witness(), world.publisher(log=S3Log(s3.bucket())) as (publisher, _, _):
        await publisher.take_over()
        with pytest.raises(LogRefused) as caught:
            await publisher.advance()
        assert caught.value.reason == "LOG_REFUSED"
