"""The directory on a disk that is really full: nothing acknowledged is lost, and it goes on once there is room."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from ipls._grpc import grpc
from ipls.akd import verify_lookup
from ipls.proto.directory.v1 import directory_pb2 as pb
from ipls.trust.heads import verify_head
from tests.server.directories import ALICE, BOB, NOW, Client, World, record
from tests.server.registration.test_service import failure

AS_ROOT = [] if os.getuid() == 0 else ["sudo", "-n"]
SIZE = 3 << 20
OTHERS = [b"+4930%d" % n for n in range(20)]
FULL = ("DATABASE_UNAVAILABLE", "LOG_UNAVAILABLE")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    options = f"size={SIZE},uid={os.getuid()},mode=700"
    subprocess.run([*AS_ROOT, "mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=True)
    yield folder
    subprocess.run([*AS_ROOT, "umount", "--lazy", folder], check=True)


def fill(file: Path) -> None:
    """Until not a byte more can be written beside it."""
    with file.open("wb", buffering=0) as filler, suppress(OSError):
        while filler.write(bytes(4096)):
            pass


async def stands(world: World, client: Client, label: bytes, value: bytes) -> bool:
    found = await client.reads.Lookup(pb.LookupRequest(label=label))
    head = verify_head(world.root, found.head, now_ms=NOW)
    proved = verify_lookup(head.root_hash, head.epoch, world.root.vrf_public_key, label, found.proof)
    return proved.value == value


async def test_a_full_disk_loses_nothing_and_its_end_needs_no_hand(tmp_path: Path, disk: Path) -> None:
    world, places = World(tmp_path), {"database": disk / "directory.db", "log": disk / "log"}
    async with world.directory(**places) as client:
        async with world.witness():
            assert await client.publish(1, ALICE, record(1)) == 1
        waiting = {label: await client.submit(2 + n, label, record(2)) for n, label in enumerate(OTHERS)}
        fill(disk / "filler")
        with capture_logs() as logs:
            async with world.witness():
                while not any(line["event"] == "no epoch" and line["reason"] in FULL for line in logs):
                    assert await stands(world, client, ALICE, record(1))  # reads go on
                error = await failure(client.submit(99, BOB, record(3)))
                assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "DATABASE_UNAVAILABLE")
                assert (await client.first_head()).head.epoch == 1
                (disk / "filler").unlink()
                for label, ticket in waiting.items():
                    assert await client.published(ticket) in (2, 3)
                    assert await stands(world, client, label, record(2))
                assert await client.publish(99, BOB, record(3)) in (3, 4)
