"""Whether a service serves, by gRPC's health protocol.

Tested by tests/e2e/test_tls.py.
"""

import asyncio
import contextlib
from pathlib import Path

from grpc_health.v1 import health_pb2, health_pb2_grpc

from ipls._grpc import grpc
from ipls.address import reachable
from ipls.rpc.channel import open_channel

ATTEMPT_S = 1.0
PAUSE_S = 0.05


async def until_serving(address: str, ca_file: Path) -> None:
    """Return once the gRPC service at the address says that it serves; wait for ever otherwise."""
    async with open_channel(reachable(address), ca_file) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        while True:
            with contextlib.suppress(grpc.aio.AioRpcError):
                answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=ATTEMPT_S, wait_for_ready=True)
                if answer.status == health_pb2.HealthCheckResponse.SERVING:
                    return
            await asyncio.sleep(PAUSE_S)
