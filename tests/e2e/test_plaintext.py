import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from ipls._grpc import grpc
from tests.e2e.running import Deployment


@pytest.mark.parametrize("service", ["directory", "updates", "witness", "vault", "contacts", "registration"])
async def test_plaintext_grpc_is_refused(deployment: Deployment, service: str) -> None:
    address = str(deployment.endpoints()[service]["address"])
    async with grpc.aio.insecure_channel(address) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
