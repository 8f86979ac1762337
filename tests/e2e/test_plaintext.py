import socket
import ssl

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from ipls._grpc import grpc
from tests.e2e.running import Deployment

PORTS = pytest.mark.parametrize("service", ["directory", "updates", "witness", "vault", "contacts", "registration"])


@PORTS
async def test_plaintext_grpc_is_refused(deployment: Deployment, service: str) -> None:
    address = str(deployment.endpoints()[service]["address"])
    async with grpc.aio.insecure_channel(address) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


@PORTS
def test_no_tls_below_1_3_is_spoken(deployment: Deployment, service: str) -> None:
    def spoken(version: ssl.TLSVersion) -> str | None:
        context = ssl.create_default_context(cafile=deployment.folder / "tls/ca.pem")
        context.minimum_version = context.maximum_version = version
        context.set_alpn_protocols(["h2"])
        host, port = str(deployment.endpoints()[service]["address"]).split(":")
        with (
            socket.create_connection((host, int(port)), timeout=10) as plain,
            context.wrap_socket(plain, server_hostname=host) as tls,
        ):
            return tls.version()

    assert spoken(ssl.TLSVersion.TLSv1_3) == "TLSv1.3"
    with pytest.raises((ssl.SSLError, ConnectionResetError)):
        spoken(ssl.TLSVersion.TLSv1_2)
