"""Whether a service serves, by gRPC's health protocol.

Tested by tests/e2e/test_tls.py and tests/admin/test_status.py.
"""

import asyncio
from pathlib import Path

from grpc_health.v1 import health_pb2, health_pb2_grpc

from ipls._grpc import grpc
from ipls.address import reachable
from ipls.rpc.channel import open_channel
from ipls.rpc.errors import remote_error

ATTEMPT_S = 1.0
ANSWER_S = 5.0
PAUSE_S = 0.05


async def until_serving(address: str, ca_file: Path) -> None:
    """Return once the gRPC service at the address says that it serves; wait for ever otherwise."""
    async with open_channel(reachable(address), ca_file) as channel:
        while True:
            if not await _why_not(channel, ATTEMPT_S, wait=True):
                return
            await asyncio.sleep(PAUSE_S)


async def why_not_serving(
    address: str, ca_file: Path, *, certificate: Path | None = None, key: Path | None = None
) -> str:
    """Why the gRPC service at the address does not serve; empty if it says that it does. Raises OSError."""
    async with open_channel(reachable(address), ca_file, certificate=certificate, key=key) as channel:
        return await _why_not(channel, ANSWER_S, wait=False)


async def _why_not(channel: grpc.aio.Channel, attempt_s: float, *, wait: bool) -> str:
    stub = health_pb2_grpc.HealthStub(channel)
    try:
        answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=attempt_s, wait_for_ready=wait)
    except grpc.aio.AioRpcError as error:
        return remote_error(error).message
    return "" if answer.status == health_pb2.HealthCheckResponse.SERVING else "it says that it does not serve"
