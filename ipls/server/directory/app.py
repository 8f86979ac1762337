"""The directory as a process: store, publisher and the two services on their ports.

Any number of them serve from one database, on the same or other ports; one of them publishes at a time.

Tested by tests/server/directory/test_processes.py and tests/e2e/test_tls.py.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import NoReturn

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
from ipls.rpc.server import ANYONE, DRAIN_S, Access, GrpcServer, serve
from ipls.rpc.tls import mtls_listener, tls_listener
from ipls.runtime.restart import RestartPolicy
from ipls.runtime.service import Service
from ipls.server.directory.adoption import submit_again
from ipls.server.directory.authorizer import ReadAuthorizer
from ipls.server.directory.cache import ProofCache, RedisProofCache
from ipls.server.directory.evidence import EvidenceRecorder
from ipls.server.directory.lease import LeaseKeeper
from ipls.server.directory.level import PATIENCE_S, until_level
from ipls.server.directory.pruning import Pruner
from ipls.server.directory.publisher import RETRY_S, HeadNotifier, Publisher
from ipls.server.directory.service import DirectoryService, UpdateService
from ipls.server.directory.witnesses import Witnesses
from ipls.store.directory import ChangeCounters, DirectoryStore, open_directory_store
from ipls.store.errors import StoreUnavailable
from ipls.store.evidence import EvidenceFolder
from ipls.store.log.opening import open_log
from ipls.store.readers import open_readers_store
from ipls.trust.heads import timestamp
from ipls.trust.root import TrustRoot

ACCESS = {
    DESCRIPTOR.services_by_name["DirectoryService"].full_name: ANYONE,  # who reads what is judged call by call
    DESCRIPTOR.services_by_name["UpdateService"].full_name: Access("messaging-service"),
}

NOTICE_S = 0.1
"""How often a process looks for what the others have done; one small query each time."""


async def run(
    config: DirectoryConfig,
    root: TrustRoot,
    service: Service,
    *,
    versions: Sequence[SignedTrustRoot] = (),
    now_ms: Callable[[], int] = system_now_ms,
    retry_s: tuple[float, float] = RETRY_S,
    patience_s: tuple[float, float] = PATIENCE_S,
    grace_s: float = DRAIN_S,
) -> list[int]:
    """Serve reads and updates, and publish while the lease is ours; the bound ports, the public and the internal one.

    `versions` are those of the trust root after the pinned one; `root` is the newest. Updates are taken at once; this
    returns when reads are answered too, once the database is level with the log. Raises ConfigError (a key or a
    witness that is not the trust root's), StoreError DATABASE_FOREIGN, OSError (a port that can't be bound). The task
    that publishes ends by PublisherStopped, where what the database says may not be what the witnesses signed.
    """
    key, proposal_seed = _own_keys(config, root)
    store = open_directory_store(config.database, root.namespace, key.public_key)
    service.release(store.close)
    witnesses = await _witnesses(config, root, service, store, proposal_seed, now_ms)
    audit_log = open_log(config.log)
    publisher = Publisher(
        store,
        root,
        key,
        witnesses,
        audit_log,
        Pruner(store, config, root.max_head_age_ms, now_ms),
        max_updates=config.epoch_max_updates,
        max_age_s=config.epoch_max_age_s,
        now_ms=now_ms,
        retry_s=retry_s,
    )
    updates = UpdateService(
        store,
        publisher.heads,
        publisher.submitted,
        daily_quota=config.daily_quota,
        queue_max=config.queue_max,
        now_ms=now_ms,
    )
    service.release(updates.close)
    reads = _reads(config, root, service, store, key, publisher.heads, versions, now_ms)
    server = GrpcServer(
        [tls_listener(config.listen, config.tls), mtls_listener(config.internal_listen, config.tls)], ACCESS
    )
    add_DirectoryServiceServicer_to_server(reads, server.grpc)
    add_UpdateServiceServicer_to_server(updates, server.grpc)
    ports = await serve(service, server, grace_s, ready=False)
    lease = LeaseKeeper(store, config.lease_s)
    service.release(lease.close)
    service.spawn("notice changes", partial(_notice, store, publisher), restart=RestartPolicy())
    service.spawn("publish", partial(publisher.run, lease))
    await until_level(store, audit_log, witnesses, publisher.heads, patience_s)
    reads.level.set()
    await server.ready()
    service.serving(ports)
    return ports


def _own_keys(config: DirectoryConfig, root: TrustRoot) -> tuple[DirectoryKey, bytes]:
    """The VRF key and the proposal key's seed. Raises ConfigError where they are not the trust root's."""
    key = DirectoryKey.from_seed(read_secret(config.vrf_key))
    if key.public_key != root.vrf_public_key:
        raise ConfigError(f"{config.vrf_key}: not the VRF key of the trust root", "VRF_KEY_FOREIGN")
    proposal_seed = read_secret(config.proposal_key)
    if public_key(proposal_seed) != root.proposal_key:
        raise ConfigError(f"{config.proposal_key}: not the proposal key of the trust root", "PROPOSAL_KEY_FOREIGN")
    return key, proposal_seed


async def _witnesses(
    config: DirectoryConfig,
    root: TrustRoot,
    service: Service,
    store: DirectoryStore,
    proposal_seed: bytes,
    now_ms: Callable[[], int],
) -> Witnesses:
    channels = {
        name: await service.enter_async(open_channel(address, config.tls.ca))
        for name, address in config.witnesses.items()
    }
    recorder = EvidenceRecorder(root, store, EvidenceFolder(config.evidence))
    witnesses = Witnesses(root, channels, proposal_seed, now_ms, recorder.met, recorder.forked)
    service.release_async(witnesses.close)
    return witnesses


def _reads(
    config: DirectoryConfig,
    root: TrustRoot,
    service: Service,
    store: DirectoryStore,
    key: DirectoryKey,
    heads: HeadNotifier,
    versions: Sequence[SignedTrustRoot],
    now_ms: Callable[[], int],
) -> DirectoryService:
    """Reads by those who may, from the Redis that is configured where it has them; heads are announced through it."""
    quotas = open_readers_store(config.database.with_name(config.database.name + ".readers"))
    service.release(quotas.close)
    authorizer = ReadAuthorizer(
        store,
        quotas,
        root.namespace,
        daily_labels=config.daily_labels,
        anonymous=config.anonymous_reads,
        now_ms=now_ms,
        submit_again=lambda label, record: submit_again(
            store, key, label, record, now_ms(), daily_quota=config.daily_quota, queue_max=config.queue_max
        ),
    )
    service.release(authorizer.close)
    shared = None
    if config.redis is not None:
        shared = RedisProofCache(config.redis.url, quotas.derived_key)
        service.release_async(shared.close)
        service.spawn("follow Redis", partial(shared.follow, lambda epoch: heads.announce()), restart=RestartPolicy())
        service.spawn("announce heads", partial(_announce, store, heads, shared), restart=RestartPolicy())
    reads = DirectoryService(store, key, heads, authorizer, ProofCache(shared), versions)
    service.release(reads.close)
    return reads


async def _announce(store: DirectoryStore, heads: HeadNotifier, shared: RedisProofCache) -> None:
    """Tell the other processes of each head that this one learns of, for ever."""
    told = b""
    while True:
        announced = heads.next
        with suppress(StoreUnavailable):  # a disk that fails shows elsewhere
            head = await asyncio.to_thread(store.head)
            if head and head.signed != told:
                told = head.signed
                shared.announce(head.epoch, max(map(timestamp, SignedHead.FromString(told).cosignatures)))
        await announced.wait()


async def _notice(store: DirectoryStore, publisher: Publisher) -> NoReturn:
    """Tell this process what others have done to the database: new heads, queued updates."""
    seen = ChangeCounters(0, 0)
    while True:
        with suppress(StoreUnavailable):  # a disk that fails shows elsewhere
            now = await asyncio.to_thread(store.news)
            if now.heads != seen.heads:
                publisher.heads.announce()
            if now.queued != seen.queued:
                publisher.submitted()
            seen = now
        await asyncio.sleep(NOTICE_S)
