"""The directory as a process: store, publisher and the two services on their ports.

Any number of them serve from one database, on the same or other ports; one of them publishes at a time.
"""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any, NoReturn

import structlog

from ipls.akd import DirectoryKey
from ipls.clock import system_now_ms
from ipls.config import ConfigError, DirectoryConfig, read_secret
from ipls.crypto.keys import public_key
from ipls.proto.directory.v1.directory_pb2 import DESCRIPTOR
from ipls.proto.directory.v1.directory_pb2_grpc import (
    add_DirectoryServiceServicer_to_server,
    add_UpdateServiceServicer_to_server,
)
from ipls.proto.trust.v1.trust_pb2 import SignedTrustRoot
from ipls.proto.witness.v1.head_pb2 import SignedHead
from ipls.rpc.channel import open_channel
from ipls.rpc.server import DRAIN_S, GrpcServer, until_signal
from ipls.rpc.tls import mtls_listener, tls_listener
from ipls.server.directory.cache import ProofCache, RedisProofCache
from ipls.server.directory.evidence import EvidenceRecorder
from ipls.server.directory.lease import LeaseKeeper
from ipls.server.directory.pruning import Pruner
from ipls.server.directory.publisher import RETRY_S, HeadNotifier, Publisher
from ipls.server.directory.readers import ReadAuthorizer
from ipls.server.directory.service import DirectoryService, UpdateService
from ipls.server.directory.witnesses import Witnesses
from ipls.store.directory import ChangeCounters, DirectoryStore
from ipls.store.evidence import EvidenceFolder
from ipls.store.log.opening import open_log
from ipls.store.readers import ReaderStore
from ipls.trust.heads import timestamp
from ipls.trust.root import TrustRoot

log = structlog.get_logger()

UPDATE_SERVICE = DESCRIPTOR.services_by_name["UpdateService"].full_name
MESSAGING_ROLE = "messaging-service"

NOTICE_S = 0.1
"""How often a process looks for what the others have done; one small query each time."""


class Directory:
    """A running directory: `ports` are the public one and the update port; `publishing` ends only by failing."""

    def __init__(self, ports: list[int], publishing: asyncio.Task[None]) -> None:
        self.ports = ports
        self.publishing = publishing


@asynccontextmanager
async def directory(
    config: DirectoryConfig,
    root: TrustRoot,
    *,
    versions: Sequence[SignedTrustRoot] = (),
    now_ms: Callable[[], int] = system_now_ms,
    retry_s: tuple[float, float] = RETRY_S,
    grace_s: float = DRAIN_S,
) -> AsyncIterator[Directory]:
    """A directory that serves until the block ends. `versions` are those of the trust root after the pinned one; `root`
    is the newest.

    Raises ConfigError (a key or a witness that is not the trust root's), StoreError DATABASE_FOREIGN, OSError (a port
    that can't be bound).
    """
    key = DirectoryKey.from_seed(read_secret(config.vrf_key))
    if key.public_key != root.vrf_public_key:
        raise ConfigError(f"{config.vrf_key}: not the VRF key of the trust root", "VRF_KEY_FOREIGN")
    proposal_seed = read_secret(config.proposal_key)
    if public_key(proposal_seed) != root.proposal_key:
        raise ConfigError(f"{config.proposal_key}: not the proposal key of the trust root", "PROPOSAL_KEY_FOREIGN")
    async with AsyncExitStack() as stack:
        store = DirectoryStore(config.database, root.namespace, key.public_key)
        stack.callback(store.close)
        channels = {
            name: await stack.enter_async_context(open_channel(address, config.tls.ca))
            for name, address in config.witnesses.items()
        }
        contradictions = EvidenceRecorder(root, store, EvidenceFolder(config.evidence))
        witnesses = Witnesses(root, channels, proposal_seed, now_ms, contradictions.met)
        stack.push_async_callback(witnesses.close)
        publisher = Publisher(
            store,
            root,
            key,
            witnesses,
            open_log(config.log),
            Pruner(store, config, root.max_head_age_ms, now_ms),
            max_updates=config.epoch_max_updates,
            max_age_s=config.epoch_max_age_s,
            now_ms=now_ms,
            retry_s=retry_s,
        )
        server = GrpcServer(
            [
                tls_listener(config.listen, config.tls),
                mtls_listener(config.internal_listen, config.tls),
            ],
            roles={UPDATE_SERVICE: MESSAGING_ROLE},
            services=[service.full_name for service in DESCRIPTOR.services_by_name.values()],
        )
        updates = UpdateService(
            store,
            publisher.heads,
            publisher.submitted,
            daily_quota=config.daily_quota,
            queue_max=config.queue_max,
            now_ms=now_ms,
        )
        reader_store = ReaderStore(config.database.with_name(config.database.name + ".readers"))
        stack.callback(reader_store.close)
        readers = ReadAuthorizer(
            store,
            reader_store,
            root.namespace,
            daily_labels=config.daily_labels,
            anonymous=config.anonymous_reads,
            now_ms=now_ms,
        )
        stack.callback(readers.close)
        shared = await _shared_cache(config, reader_store, store, publisher.heads, stack)
        reads = DirectoryService(store, key, publisher.heads, readers, ProofCache(shared), versions)
        add_DirectoryServiceServicer_to_server(reads, server.grpc)
        add_UpdateServiceServicer_to_server(updates, server.grpc)
        ports = await server.start()
        stack.push_async_callback(server.stop, grace_s)
        noticing = asyncio.create_task(_notice(store, publisher))
        stack.push_async_callback(_cancel, noticing)
        lease = LeaseKeeper(store, config.lease_s)
        stack.callback(lease.close)
        publishing = asyncio.create_task(publisher.run(lease))
        stack.push_async_callback(_cancel, publishing)
        yield Directory(ports, publishing)


async def _shared_cache(
    config: DirectoryConfig, readers: ReaderStore, store: DirectoryStore, heads: HeadNotifier, stack: AsyncExitStack
) -> RedisProofCache | None:
    """The Redis that is configured, with heads announced through it, until the stack ends."""
    if config.redis is None:
        return None
    shared = RedisProofCache(config.redis.url, readers.derived_key)
    stack.push_async_callback(shared.close)
    for task in (shared.follow(lambda epoch: heads.announce()), _announce(store, heads, shared)):
        stack.push_async_callback(_cancel, asyncio.create_task(task))
    return shared


async def _announce(store: DirectoryStore, heads: HeadNotifier, shared: RedisProofCache) -> None:
    """Tell the other processes of each head that this one learns of, for ever."""
    told = b""
    while True:
        announced = heads.next
        with suppress(sqlite3.OperationalError):  # a disk that fails shows elsewhere
            head = await asyncio.to_thread(store.head)
            if head and head.signed != told:
                told = head.signed
                shared.announce(head.epoch, max(map(timestamp, SignedHead.FromString(told).cosignatures)))
        await announced.wait()


async def _notice(store: DirectoryStore, publisher: Publisher) -> NoReturn:
    """Tell this process what others have done to the database: new heads, queued updates."""
    seen = ChangeCounters(0, 0)
    while True:
        with suppress(sqlite3.OperationalError):  # a disk that fails shows elsewhere
            now = await asyncio.to_thread(store.news)
            if now.heads != seen.heads:
                publisher.heads.announce()
            if now.queued != seen.queued:
                publisher.submitted()
            seen = now
        await asyncio.sleep(NOTICE_S)


async def _cancel(task: asyncio.Task[Any]) -> None:
    task.cancel()
    await asyncio.wait([task])


async def serve(config: DirectoryConfig, root: TrustRoot, versions: Sequence[SignedTrustRoot]) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises as `directory` does; also PublisherStopped when publishing can't go on: then the process ends, since what its
    database says may not be what the witnesses signed.
    """
    async with directory(config, root, versions=versions) as running:
        log.info("serving", service="directory", ports=running.ports)
        signal = asyncio.create_task(until_signal())
        await asyncio.wait([signal, running.publishing], return_when=asyncio.FIRST_COMPLETED)
        signal.cancel()
        if running.publishing.done():
            running.publishing.result()
