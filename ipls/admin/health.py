"""Whether a service serves, by gRPC's health protocol or an answer over HTTP from the log; whether its port is free."""

import asyncio
import contextlib
import errno
import socket
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from ipls.config import ConfigError
from ipls.rpc.channel import open_channel

ATTEMPT_S = 1.0
PAUSE_S = 0.05


def check_free(name: str, address: str) -> None:
    """Raises ConfigError if somebody listens at `host:port` already, such as another run of the same deployment."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_server((host, int(port))).close()
    except OSError as error:
        # Whatever else is wrong with the address the service itself says.
        if error.errno == errno.EADDRINUSE:
            message = f"{name} did not start: somebody listens on {address} already"
            raise ConfigError(message, "SERVICE_DID_NOT_START") from error


async def until_serving(name: str, address: str, ca_file: Path) -> None:
    """Return once the service at `host:port` answers; wait for ever otherwise."""
    if name == "log":
        host, _, port = address.rpartition(":")
        while True:
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection(host, int(port))
                writer.close()
                return
            await asyncio.sleep(PAUSE_S)
    async with open_channel(address, ca_file) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        while True:
            with contextlib.suppress(grpc.aio.AioRpcError):
                answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=ATTEMPT_S, wait_for_ready=True)
                if answer.status == health_pb2.HealthCheckResponse.SERVING:
                    return
            await asyncio.sleep(PAUSE_S)
