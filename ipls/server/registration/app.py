"""The registration service as a process.

Tested by tests/server/registration/test_service.py.
"""

from collections.abc import Callable

from ipls.clock import system_now_ms
from ipls.config import RegistrationConfig
from ipls.proto.registration.v1.registration_pb2_grpc import add_RegistrationServiceServicer_to_server
from ipls.rpc.limits import FRONT
from ipls.rpc.server import ANYONE, DRAIN_S, GrpcServer, serve
from ipls.rpc.tls import mtls_channel, tls_listener
from ipls.runtime.service import Service
from ipls.server.registration.service import FileCodeSender, RegistrationService
from ipls.store.registration import open_registration_store
from ipls.trust.root import TrustRoot


async def run(
    config: RegistrationConfig,
    root: TrustRoot,
    service: Service,
    *,
    now_ms: Callable[[], int] = system_now_ms,
    grace_s: float = DRAIN_S,
) -> list[int]:
    """Register numbers; the bound port. Raises ConfigError, StoreError, OSError."""
    access = {"ipls.registration.v1.RegistrationService": ANYONE}
    server = GrpcServer([tls_listener(config.listen, config.tls)], access, FRONT)
    store = open_registration_store(config.database)
    service.release(store.close)
    directory = await service.enter_async(mtls_channel(config.directory, config.client))
    servicer = RegistrationService(
        store,
        root.namespace,
        FileCodeSender(config.outbox),
        directory,
        codes_per_hour=config.codes_per_hour,
        now_ms=now_ms,
    )
    service.release(servicer.close)
    add_RegistrationServiceServicer_to_server(servicer, server.grpc)
    ports = await serve(service, server, grace_s)
    service.serving(ports)
    return ports
