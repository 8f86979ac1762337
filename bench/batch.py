"""What a batch of lookups saves: `python bench/batch.py [LABELS]` (10,000 labels: a few seconds).

The directory lies in SQLite on disk, as in production. *Made*: the proofs alone. *Answered*: over gRPC on loopback,
without TLS, server and client in this process. No label is asked for twice.
"""

import asyncio
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

from ipls import akd
from ipls._grpc import grpc
from ipls.clock import system_now_ms
from ipls.proto.directory.v1 import directory_pb2 as pb
from ipls.proto.directory.v1.directory_pb2_grpc import DirectoryServiceStub, add_DirectoryServiceServicer_to_server
from ipls.server.directory.authorizer import ReadAuthorizer
from ipls.server.directory.cache import ProofCache
from ipls.server.directory.publisher import HeadNotifier
from ipls.server.directory.service import MAX_BATCH, DirectoryService
from ipls.store.directory import DirectoryStore, EpochRow, PreparedEpoch, StoredHead, open_directory_store
from ipls.store.readers import open_readers_store

ROUNDS = 15
EPOCH = 1

Versions = Sequence[tuple[bytes, akd.Version]]


async def median_ms(rounds: Iterator[Versions], work: Callable[[Versions], Awaitable[object]]) -> float:
    taken = []
    for _ in range(ROUNDS):
        some = next(rounds)
        started = time.perf_counter()
        await work(some)
        taken.append(time.perf_counter() - started)
    return statistics.median(taken) * 1000


def published(store: DirectoryStore, key: akd.DirectoryKey, labels: Sequence[bytes]) -> akd.Publication:
    """One epoch that holds all the labels."""
    term = store.take_lease(store.lease())
    store.commit_start(term, StoredHead(0, akd.EMPTY_ROOT, 0, b""))
    updates = [akd.Update(label, os.urandom(33), None) for label in labels]
    publication = akd.publish(store, key, 0, akd.EMPTY_ROOT, 0, updates)
    assert publication is not None
    step = EpochRow(EPOCH, publication.old_root, publication.new_root, (), publication.blob)
    store.insert_step(term, step)
    store.commit(term, step, PreparedEpoch(publication), b"")
    return publication


def readers_of(store: DirectoryStore, folder: Path) -> ReadAuthorizer:
    """Anyone may read."""
    states = open_readers_store(folder / "readers.db")
    return ReadAuthorizer(store, states, "bench.ipls", daily_labels=1, anonymous=True, now_ms=system_now_ms)


async def compare(
    store: DirectoryStore, readers: ReadAuthorizer, key: akd.DirectoryKey, publication: akd.Publication
) -> None:
    async def made_singly(some: Versions) -> None:
        for label, version in some:
            akd.make_lookup(store, key, EPOCH, publication.depth, label, version)

    async def made_together(some: Versions) -> None:
        akd.make_lookups(store, key, EPOCH, publication.depth, some)

    async def answered_singly(some: Versions) -> None:
        for label, _ in some:
            await reads.Lookup(pb.LookupRequest(label=label))

    async def answered_together(some: Versions) -> None:
        await reads.BatchLookup(pb.BatchLookupRequest(labels=[label for label, _ in some]))

    server = grpc.aio.server()
    service = DirectoryService(store, key, HeadNotifier(), readers, ProofCache(None))
    service.level.set()
    add_DirectoryServiceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        reads = DirectoryServiceStub(channel)
        groups = (publication.versions[at : at + MAX_BATCH] for at in range(0, len(publication.versions), MAX_BATCH))
        await answered_singly(next(groups))  # connects
        for what, singly, together in (
            ("made", made_singly, made_together),
            ("answered", answered_singly, answered_together),
        ):
            one_by_one, at_once = await median_ms(groups, singly), await median_ms(groups, together)
            print(f"{what:12}{one_by_one:12.1f}{at_once:12.1f}{one_by_one / at_once:7.2f}x")
    await server.stop(0)


def main(count: int) -> None:
    key = akd.DirectoryKey.from_seed(os.urandom(32))
    with (
        tempfile.TemporaryDirectory() as folder,
        closing(open_directory_store(Path(folder) / "directory.db", "bench.ipls", key.public_key)) as store,
    ):
        publication = published(store, key, [b"+1555%07d" % number for number in range(count)])
        print(f"{MAX_BATCH} lookups among {count:,} labels, ms for all of them, median of {ROUNDS}")
        print(f"{'':12}{'one by one':>12}{'one batch':>12}{'gain':>8}")
        with closing(readers_of(store, Path(folder))) as readers:
            asyncio.run(compare(store, readers, key, publication))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000)
