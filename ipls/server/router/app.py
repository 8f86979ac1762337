"""The router as a process.

Tested by tests/e2e/test_tls.py.
"""

from dataclasses import replace

from ipls.config import RouterConfig
from ipls.proto.vault.v1.vault_pb2_grpc import VaultServiceStub, add_VaultServiceServicer_to_server
from ipls.rpc.limits import FRONT
from ipls.rpc.server import ANYONE, GrpcServer, serve
from ipls.rpc.tls import mtls_channel, tls_listener
from ipls.runtime.service import Service
from ipls.server.router.service import Router


async def run(config: RouterConfig, service: Service) -> None:
    """Carry sessions to the vaults of their shards. Raises ConfigError, OSError."""
    limits = replace(FRONT, silent=config.max_half_open, silent_s=config.handshake_s)
    server = GrpcServer([tls_listener(config.listen, config.tls)], {"ipls.vault.v1.VaultService": ANYONE}, limits)
    channels = [await service.enter_async(mtls_channel(address, config.client)) for address in config.vaults]
    router = Router([VaultServiceStub(channel) for channel in channels])
    add_VaultServiceServicer_to_server(router, server.grpc)
    service.serving(await serve(service, server))
