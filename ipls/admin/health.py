"""Whether a service serves, by gRPC's health protocol or, over plain HTTP, a connection; whether its port is free."""

import asyncio
import contextlib
import errno
import socket
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from ipls.address import parse_address, reachable
from ipls.config import ConfigError
from ipls.rpc.channel import open_channel

ATTEMPT_S = 1.0
PAUSE_S = 0.05


def check_free(name: str, address: str) -> None:
    """Raises ConfigError if somebody listens at this address already, such as another run of the same deployment."""
    host, port = parse_address(address)
    with contextlib.suppress(socket.gaierror):  # whatever else is wrong with the address the service itself says
        for family, *_, where in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            try:
                socket.create_server(where, family=family).close()
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    message = f"{name} did not start: somebody listens on {address} already"
                    raise ConfigError(message, "SERVICE_DID_NOT_START") from error


async def until_listening(address: str) -> None:
    """Return once an HTTP service takes connections at the address; wait for ever otherwise."""
    host, port = parse_address(reachable(address))
    while True:
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection(host, port)
            writer.close()
            return
        await asyncio.sleep(PAUSE_S)


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
