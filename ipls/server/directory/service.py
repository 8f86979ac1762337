"""The directory as a process: store, publisher and the two services on their ports."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import structlog

from ipls.akd import DirectoryKey
from ipls.clock import system_now_ms
from ipls.config import ConfigError, DirectoryConfig, read_secret
from ipls.proto.directory.v1.directory_pb2 import DESCRIPTOR
from ipls.proto.directory.v1.directory_pb2_grpc import (
    add_DirectoryServiceServicer_to_server,
    add_UpdateServiceServicer_to_server,
)
from ipls.rpc.channel import open_channel
from ipls.rpc.server import DRAIN_S, GrpcServer, Listener, until_signal
from ipls.server.directory.pruning import Pruner
from ipls.server.directory.publisher import RETRY_S, Publisher
from ipls.server.directory.services import DirectoryService, UpdateService
from ipls.server.directory.witnesses import Witnesses
from ipls.store.directory import DirectoryStore
from ipls.store.log import FileLog
from ipls.trust.keys import public_key
from ipls.trust.root import TrustRoot

log = structlog.get_logger()

UPDATE_SERVICE = DESCRIPTOR.services_by_name["UpdateService"].full_name
MESSAGING_ROLE = "messaging-service"


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
    now_ms: Callable[[], int] = system_now_ms,
    retry_s: tuple[float, float] = RETRY_S,
    grace_s: float = DRAIN_S,
) -> AsyncIterator[Directory]:
    """A directory that serves until the block ends.

    Raises ConfigError (a key that is not the trust root's), StoreError DATABASE_FOREIGN, RuntimeError (a port taken).
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
        witnesses = Witnesses(root, channels, proposal_seed, now_ms)
        stack.push_async_callback(witnesses.close)
        publisher = Publisher(
            store,
            root,
            key,
            witnesses,
            FileLog(config.log),
            Pruner(store, config, root.max_head_age_ms, now_ms),
            max_updates=config.epoch_max_updates,
            max_age_s=config.epoch_max_age_s,
            now_ms=now_ms,
            retry_s=retry_s,
        )
        tls = config.tls
        server = GrpcServer(
            [
                Listener(config.listen, tls.certificate, tls.key),
                Listener(config.internal_listen, tls.certificate, tls.key, client_ca=tls.ca),
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
        add_DirectoryServiceServicer_to_server(DirectoryService(store, key, publisher.heads), server.grpc)
        add_UpdateServiceServicer_to_server(updates, server.grpc)
        ports = await server.start()
        stack.push_async_callback(server.stop, grace_s)
        publishing = asyncio.create_task(publisher.run())
        stack.push_async_callback(_cancel, publishing)
        yield Directory(ports, publishing)


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])


async def serve(config: DirectoryConfig, root: TrustRoot) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises as `directory` does; also PublisherStopped, or StoreError LEASE_HELD, when publishing can't go on: then the
    process ends, since what its database says may not be what the witnesses signed.
    """
    async with directory(config, root) as running:
        log.info("serving", service="directory", ports=running.ports)
        signal = asyncio.create_task(until_signal())
        await asyncio.wait([signal, running.publishing], return_when=asyncio.FIRST_COMPLETED)
        signal.cancel()
        if running.publishing.done():
            running.publishing.result()
