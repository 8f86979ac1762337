"""gRPC servers: TLS on every port, roles from client certificates, errors as statuses, health, reflection."""

import asyncio
import signal
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import structlog
from grpc import aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from ipls.address import cannot_listen
from ipls.rpc.decoding import decoding
from ipls.rpc.errors import ServiceError, to_status

log = structlog.get_logger()

ROLE_PREFIX = "ipls://role/"
DRAIN_S = 2.0


@dataclass(frozen=True)
class Listener:
    """One port. With `client_ca` a client must show a certificate that this CA signed (mTLS)."""

    address: str
    certificate: Path
    key: Path
    client_ca: Path | None = None


def peer_roles(context: Any) -> set[str]:
    """The roles in the certificate that a caller showed; none on a port that asks for no certificate."""
    names = context.auth_context().get("x509_subject_alternative_name", ())
    uris = (bytes(name).decode("utf-8", "replace") for name in names)
    return {uri.removeprefix(ROLE_PREFIX) for uri in uris if uri.startswith(ROLE_PREFIX)}


_UNREADABLE = object()
"""Stands for a message that could not be decoded."""


def _readable(message: Any) -> Any:
    if message is _UNREADABLE:
        raise ServiceError(grpc.StatusCode.INVALID_ARGUMENT, "MESSAGE_UNREADABLE", "a message can't be read")
    return message


async def _all_readable(messages: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for message in messages:
        yield _readable(message)


class _Guard(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # generic in the stubs only
    """Demands a method's role and readable messages, then turns what its handler raises into a status."""

    def __init__(self, roles: Mapping[str, str]) -> None:
        self._roles = roles

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler = await continuation(handler_call_details)
        if handler is None:
            return handler
        method = handler_call_details.method
        service = method.rpartition("/")[0].removeprefix("/")
        role = self._roles.get(service)
        check_request = _all_readable if handler.request_streaming else _readable

        async def check(context: Any) -> None:
            if role is not None and role not in peer_roles(context):
                raise ServiceError(
                    grpc.StatusCode.PERMISSION_DENIED, "ROLE_REQUIRED", f"this method is for the role {role}"
                )

        async def fail(context: Any, error: Exception) -> None:
            if not isinstance(error, ServiceError):
                # The type alone: a message may hold what must not reach a log.
                log.error("handler failed", method=method, error=type(error).__name__)
                error = _as_service_error(error)
            await context.abort_with_status(to_status(error))

        async def unary(request: Any, context: Any) -> Any:
            inner = handler.unary_unary or handler.stream_unary
            try:
                await check(context)
                return await inner(check_request(request), context)
            except grpc.aio.AbortError:
                raise
            except Exception as error:  # every failure becomes a status
                await fail(context, error)

        async def stream(request: Any, context: Any) -> AsyncIterator[Any]:
            inner = handler.unary_stream or handler.stream_stream
            try:
                await check(context)
                async for response in inner(check_request(request), context):
                    yield response
            except grpc.aio.AbortError:
                raise
            except Exception as error:  # every failure becomes a status
                await fail(context, error)

        make: dict[tuple[bool, bool], tuple[Callable[..., Any], Any]] = {
            (False, False): (grpc.unary_unary_rpc_method_handler, unary),
            (True, False): (grpc.stream_unary_rpc_method_handler, unary),
            (False, True): (grpc.unary_stream_rpc_method_handler, stream),
            (True, True): (grpc.stream_stream_rpc_method_handler, stream),
        }
        build, wrapped = make[handler.request_streaming, handler.response_streaming]
        return build(wrapped, decoding(handler.request_deserializer, lambda: _UNREADABLE), handler.response_serializer)


def _as_service_error(error: Exception) -> ServiceError:
    if isinstance(error, sqlite3.OperationalError):  # a full disk
        message = "the service's database can't be used now"
        return ServiceError(grpc.StatusCode.UNAVAILABLE, "DATABASE_UNAVAILABLE", message)
    return ServiceError(grpc.StatusCode.INTERNAL, "INTERNAL", "internal error; see the server's log")


class GrpcServer:
    """A server on one or more TLS ports. Add servicers to `.grpc`, then `start`.

    `roles` maps a full service name (`ipls.directory.v1.UpdateService`) to the role that a caller's certificate
    must carry as the SAN URI `ipls://role/NAME`; services not named are open.
    """

    def __init__(
        self,
        listeners: Sequence[Listener],
        *,
        roles: Mapping[str, str] | None = None,
        services: Sequence[str] = (),
        max_concurrent_rpcs: int = 1000,
    ) -> None:
        self.grpc = aio.server(
            interceptors=[_Guard(roles or {})],
            maximum_concurrent_rpcs=max_concurrent_rpcs,
            options=[
                ("grpc.so_reuseport", 0),
                ("grpc.http2.min_ping_interval_without_data_ms", 5_000),  # the callers' keep-alive
            ],
        )
        self._health = health.aio.HealthServicer()  # type: ignore[attr-defined]  # set at run time
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self.grpc)
        self._services = [*services, reflection.SERVICE_NAME, health.SERVICE_NAME]
        reflection.enable_server_reflection(self._services, self.grpc)
        self._listeners = listeners

    async def start(self) -> list[int]:
        """Bind and serve; returns the bound ports, in the listeners' order. Raises OSError if one can't be bound."""
        ports = []
        for listener in self._listeners:
            credentials = grpc.ssl_server_credentials(
                [(listener.key.read_bytes(), listener.certificate.read_bytes())],
                listener.client_ca.read_bytes() if listener.client_ca else None,
                require_client_auth=listener.client_ca is not None,
            )
            try:
                ports.append(self.grpc.add_secure_port(listener.address, credentials))
            except RuntimeError as error:
                raise OSError(cannot_listen(listener.address)) from error
        await self.grpc.start()
        await self._health.set("", health_pb2.HealthCheckResponse.SERVING)
        return ports

    async def stop(self, grace_s: float = DRAIN_S) -> None:
        """Say not serving, let calls end for `grace_s` seconds, then cancel them."""
        await self._health.enter_graceful_shutdown()
        await self.grpc.stop(grace_s)


async def until_signal() -> None:
    """Return at the first SIGTERM or SIGINT."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    await stopped.wait()


async def run_until_signal(server: GrpcServer, name: str) -> None:
    """Start, log the ports, serve until SIGTERM or SIGINT, drain."""
    ports = await server.start()
    log.info("serving", service=name, ports=ports)
    await until_signal()
    await server.stop()
