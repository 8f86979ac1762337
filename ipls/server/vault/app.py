"""The vault as a process: the front, and the core that it starts, or goes to.

Tested by tests/e2e/test_tls.py.
"""

from pathlib import Path

import structlog

from ipls.config import VaultConfig
from ipls.proto.directory.v1.directory_pb2_grpc import DirectoryServiceStub
from ipls.proto.vault.v1.vault_pb2_grpc import add_VaultServiceServicer_to_server
from ipls.rpc.limits import Limits
from ipls.rpc.server import ANYONE, GrpcServer, serve
from ipls.rpc.tls import mtls_channel, mtls_listener, tls_listener
from ipls.runtime.restart import RestartPolicy
from ipls.runtime.service import Service
from ipls.server.vault.service import CoreProcess, VaultGateway
from ipls.store.evidence import EvidenceFolder

log = structlog.get_logger()


async def run(config: VaultConfig, core_config: Path, service: Service) -> None:
    """Run front and core, which reads `core_config`; the port opens when the core is up. Raises ConfigError, OSError;
    as `CoreProcess.run`."""
    limits = Limits(silent=config.max_half_open, silent_s=config.handshake_s)
    listeners = [tls_listener(config.listen, config.tls)]
    if config.internal_listen:
        listeners.append(mtls_listener(config.internal_listen, config.tls))
    server = GrpcServer(listeners, {"ipls.vault.v1.VaultService": ANYONE}, limits)
    core_socket = config.parted.socket if config.parted else None
    core = CoreProcess(core_config, EvidenceFolder(config.evidence), core_socket)
    directory = await service.enter_async(mtls_channel(config.directory, config.client))
    service.release_async(core.close)
    gateway = VaultGateway(core, DirectoryServiceStub(directory), config)
    add_VaultServiceServicer_to_server(gateway, server.grpc)
    service.spawn("core", core.run)
    service.spawn("follow heads", gateway.follow_heads, restart=RestartPolicy())
    await core.ready.wait()
    service.serving(await serve(service, server))
    if config.parted is None:
        log.warning("the vault's core runs as its front's user")
