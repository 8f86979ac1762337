"""gRPC servers: TLS on every port, roles from client certificates, errors as statuses, health, reflection.

Tested by tests/rpc/test_server.py, tests/rpc/test_errors.py and tests/attack/test_standing_streams.py.
"""

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import structlog
from google.protobuf.message import DecodeError
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from ipls._grpc import aio, check_guarded, grpc
from ipls.address import cannot_listen
from ipls.errors import IplsError
from ipls.rpc.admission import Admission, Pace, slow
from ipls.rpc.errors import ServiceError, to_status
from ipls.rpc.limits import Limits, Method
from ipls.rpc.peer import peer_roles
from ipls.rpc.reasons import STATUSES
from ipls.runtime.places import Busy
from ipls.runtime.service import Service

log = structlog.get_logger()

DRAIN_S = 2.0


@dataclass(frozen=True)
class Listener:
    """One port. With `client_ca` a client must show a certificate that this CA signed (mTLS)."""

    address: str
    certificate: Path
    key: Path
    client_ca: Path | None = None


def _credentials(listener: Listener) -> grpc.ServerCredentials:
    """Of the listener's files as they are at each handshake: who renews a certificate restarts nothing, and connections
    that stand go on. gRPC goes on with what it had while a certificate has another's key, as between two writes.

    Raises OSError.
    """

    def read() -> tuple[bytes, bytes, bytes | None]:
        ca = listener.client_ca.read_bytes() if listener.client_ca else None
        return listener.key.read_bytes(), listener.certificate.read_bytes(), ca

    shown = read()

    def configuration() -> Any:
        key, certificate, ca = shown
        return grpc.ssl_server_certificate_configuration([(key, certificate)], ca)

    def renewed() -> Any:  # gRPC calls this at each handshake, on a thread of its own; None: nothing new
        nonlocal shown
        try:
            found = read()
        except OSError as error:
            log.error("certificate not read", file=str(error.filename), why=error.strerror)
            return None
        if found == shown:
            return None
        shown = found
        log.info("certificate renewed", file=str(listener.certificate))
        return configuration()

    return grpc.dynamic_ssl_server_credentials(
        configuration(), renewed, require_client_authentication=listener.client_ca is not None
    )


class _Call:
    """One call, of whatever kind: its messages as they come, in bytes, and their answers, each in its time."""

    def __init__(self, admission: Admission, method: Method, context: Any) -> None:
        self._admission = admission
        self._method = method
        self._context = context
        self._pace = Pace(method, admission.limits)
        self._first: bytes | None = None

    async def begin(self) -> None:
        """Waits for the first message, and takes the call's place. Raises ServiceError."""
        self._admission.check_metadata(self._context)
        async with self._admission.silent(self._context, self._method):
            self._first = await self._read()
        self._admission.work(self._context, self._method)

    @asynccontextmanager
    async def time(self) -> AsyncIterator[None]:
        """For what follows. Raises ServiceError CALL_SLOW; STREAM_OVER at the end of a standing stream's life."""
        standing = self._method.standing
        try:
            async with asyncio.timeout(
                self._admission.limits.standing_s if standing else self._method.deadline_s
            ) as limit:
                yield
        except TimeoutError as error:
            if not limit.expired():
                raise
            if standing:
                raise ServiceError("STREAM_OVER", "the stream has had its time; open another") from error
            raise slow() from error

    async def messages(self, decode: Callable[[bytes], Any]) -> AsyncIterator[Any]:
        """Raises ServiceError CALL_SLOW, MESSAGE_TOO_LARGE, MESSAGE_UNREADABLE."""
        data = self._first
        while data is not None:
            self._pace.moved(len(data))
            if len(data) > self._method.request:
                raise ServiceError("MESSAGE_TOO_LARGE", f"a message has at most {self._method.request} bytes")
            try:
                message = decode(data)
            except DecodeError:
                raise ServiceError("MESSAGE_UNREADABLE", "a message can't be read") from None
            yield message
            async with self._pace.waiting(self._method.request):
                data = await self._read()

    async def _read(self) -> bytes | None:
        data = await self._context.read()
        return None if data is aio.EOF else data  # type: ignore[attr-defined]  # not in the stubs

    async def answer(self, data: bytes) -> None:
        """Raises ServiceError CALL_SLOW."""
        async with self._pace.waiting(len(data)):
            await self._context.write(data)
        self._pace.moved(len(data))


class _Guard(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # generic in the stubs only
    """Demands a method's role, a place, and readable messages in their time, then turns what its handler raises into a
    status.

    gRPC reads a unary call's message before anybody sees the call. So every handler is one of streams here, which are
    the same on the wire: the guard reads, and no call waits anywhere else.
    """

    def __init__(self, access: Mapping[str, "Access"], admission: Admission) -> None:
        self._access = access
        self._admission = admission
        self._guarded: dict[str, Any] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        method = handler_call_details.method
        if method not in self._guarded:
            handler = await continuation(handler_call_details)
            if handler is None or inspect.iscoroutinefunction(handler.unary_stream):
                # Not kept: strangers can think of any number of names. The second is the health protocol's Watch, which
                # would write by itself: its callers take it for granted that it may not be there.
                return None
            self._guarded[method] = self._guard(method.removeprefix("/"), handler)
        return self._guarded[method]

    def _guard(self, name: str, handler: Any) -> Any:
        role = self._access[name.partition("/")[0]].role
        method = self._admission.limits.method(name)
        inner = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream

        async def serve(call: _Call, context: Any) -> None:
            if role is not None and role not in peer_roles(context):
                raise ServiceError("ROLE_REQUIRED", f"this method is for the role {role}")
            await call.begin()
            async with call.time():
                messages = call.messages(handler.request_deserializer)  # a handler's task may read on after its end
                request = messages if handler.request_streaming else await anext(messages, None)
                if request is None:
                    raise ServiceError("MESSAGE_UNREADABLE", "the call has no message")
                if not handler.response_streaming:
                    await call.answer(handler.response_serializer(await inner(request, context)))
                    return
                async with aclosing(inner(request, context)) as responses:
                    async for response in responses:
                        await call.answer(handler.response_serializer(response))

        async def guarded(_: Any, context: Any) -> None:
            try:
                await serve(_Call(self._admission, method, context), context)
            except (grpc.aio.AbortError, grpc.aio.InternalError):  # the second: its caller has gone
                raise
            except Exception as error:  # every failure becomes a status
                if isinstance(error, Busy):
                    error = ServiceError(error.reason, error.message, retry_after_s=error.retry_after_s)
                if not isinstance(error, ServiceError):
                    # The type alone: a message may hold what must not reach a log.
                    log.error("handler failed", method=name, error=type(error).__name__)
                    error = _as_service_error(error)
                await context.abort_with_status(to_status(error))

        return grpc.stream_stream_rpc_method_handler(guarded)


def _as_service_error(error: Exception) -> ServiceError:
    if isinstance(error, IplsError) and error.reason == "DATABASE_UNAVAILABLE":  # a full disk
        message = "the service's database can't be used now"
        return ServiceError("DATABASE_UNAVAILABLE", message)
    if isinstance(error, IplsError) and STATUSES.get(error.reason) is grpc.StatusCode.DATA_LOSS:
        # What a database says may quote it.
        unreadable = error.reason == "DATABASE_UNREADABLE"
        return ServiceError(
            error.reason, "a part of the service's database is damaged" if unreadable else error.message
        )
    return ServiceError("INTERNAL", "internal error; see the server's log")


class AccessUnstated(IplsError):
    """A server has a service of which nobody said who may call it."""


class Access(NamedTuple):
    """Who may call a service: whose certificate carries the SAN URI `ipls://role/ROLE`, or anyone."""

    role: str | None


ANYONE = Access(None)


class _Registry:
    """What servicers are added to in a server's place: it notes which there are."""

    def __init__(self, server: aio.Server) -> None:
        self._server = server
        self.names = set[str]()

    def add_generic_rpc_handlers(self, handlers: Sequence[Any]) -> None:
        self.names.update(handler.service_name() for handler in handlers)
        self._server.add_generic_rpc_handlers(tuple(handlers))

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        self.names.add(service)
        self._server.add_registered_method_handlers(service, handlers)  # type: ignore[attr-defined]  # since 1.64


class GrpcServer:
    """A server on one or more TLS ports. Add servicers to `.grpc`, then `start`.

    `access` says who may call each of them, by full service name (`ipls.directory.v1.UpdateService`).
    """

    def __init__(
        self, listeners: Sequence[Listener], access: Mapping[str, Access], limits: Limits | None = None
    ) -> None:
        limits = limits or Limits()
        self._access = {reflection.SERVICE_NAME: ANYONE, health.SERVICE_NAME: ANYONE, **access}
        self._server = aio.server(
            interceptors=[_Guard(self._access, Admission(limits, self._access))],
            options=[("grpc.so_reuseport", 0), *limits.options(self._access)],
        )
        self._registry = _Registry(self._server)
        self._health = health.aio.HealthServicer()  # type: ignore[attr-defined]  # set at run time
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self.grpc)
        reflection.enable_server_reflection(list(self._access), self.grpc)
        self._listeners = listeners

    @property
    def grpc(self) -> aio.Server:
        """Where servicers are added."""
        return cast(aio.Server, self._registry)

    async def start(self, *, ready: bool = True) -> list[int]:
        """Bind and serve; returns the bound ports, in the listeners' order. One that is not `ready` takes calls, and
        says until `ready` is called that it does not serve.

        Raises OSError if one can't be bound; AccessUnstated ACCESS_UNSTATED for a servicer that `access` does not name;
        IplsError TLS_UNGUARDED.
        """
        check_guarded()
        if unstated := self._registry.names - self._access.keys():
            raise AccessUnstated("ACCESS_UNSTATED", f"nobody said who may call {', '.join(sorted(unstated))}")
        ports = []
        for listener in self._listeners:
            try:
                ports.append(self._server.add_secure_port(listener.address, _credentials(listener)))
            except RuntimeError as error:
                raise OSError(cannot_listen(listener.address)) from error
        await self._health.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
        await self._server.start()
        if ready:
            await self.ready()
        return ports

    async def ready(self) -> None:
        """Say that it serves."""
        await self._health.set("", health_pb2.HealthCheckResponse.SERVING)

    async def stop(self, grace_s: float = DRAIN_S) -> None:
        """Say not serving, let calls end for `grace_s` seconds, then cancel them."""
        await self._health.enter_graceful_shutdown()
        await self._server.stop(grace_s)


async def serve(service: Service, server: GrpcServer, grace_s: float = DRAIN_S, *, ready: bool = True) -> list[int]:
    """`start` the server for as long as `service` lasts: at its end calls have `grace_s` seconds. Raises as `start`."""
    ports = await server.start(ready=ready)
    service.drain(partial(server.stop, grace_s))
    return ports
