"""Plain HTTP services: what they serve is public and checked by whoever reads it."""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Iterator
from functools import partial
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from ipls.address import STRANGER_SHARE, cannot_listen, network, parse_address, site
from ipls.runtime.half_open import HalfOpenTable
from ipls.runtime.places import RETRY_AFTER_S, Busy, Places
from ipls.runtime.service import Service

MAX_SILENT = 128
"""Connections without a whole request. One more takes the place of the oldest of the address that has most."""
MAX_ANSWERS = 128
"""Made and sent at once, to this machine as many again: a stranger's address has at most a STRANGER_SHARE of what is
left, as with gRPC."""
ANSWER_S = 600
"""From a whole request to the end of its answer; who reads a large object slowly asks for parts of it."""
OWN = ("127.0.0.1", "::1")
"""Where the deployment's other parts call from, and a proxy, which is believed for whom it does (X-Forwarded-For)."""
MAX_HEAD = 16 * 1024
"""Bytes of a request's line and headers."""
IDLE_S = 20
"""A connection may be without a whole request for so long, and a reader may take nothing for so long."""
_DRAIN_S = 2


def _is_fault(record: logging.LogRecord) -> bool:
    """Not that a service's end cut an answer short: uvicorn would write a traceback for each."""
    return not (record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError))


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves signals to `Service`, as every process does: uvicorn would raise them anew when it is done."""
        yield


class _Patience:
    """Drops a connection, and whatever waits in it, `seconds` after `begin`, unless there is an `end` before."""

    def __init__(self, transport: asyncio.Transport, seconds: float) -> None:
        self._transport = transport
        self._seconds = seconds
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        self.end()
        self._timer = asyncio.get_running_loop().call_later(self._seconds, self._transport.abort)

    def end(self) -> None:
        if self._timer:
            self._timer.cancel()
        self._timer = None


class _Protocol(H11Protocol):
    """uvicorn's, which by itself waits for ever for a first request, for the rest of one, and for a slow reader."""

    def __init__(self, *arguments: Any, silent: "HalfOpenTable[_Protocol]", answer_s: float, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._silent = silent
        self._answer_s = answer_s

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        super().connection_made(transport)
        self._request = _Patience(transport, self.timeout_keep_alive)
        self._reader = _Patience(transport, self.timeout_keep_alive)
        self._answer = _Patience(transport, self._answer_s)
        self._wait_for_request()

    def _wait_for_request(self) -> None:
        self._answer.end()
        self._request.begin()
        if longest := self._silent.admit(self, network(self.transport.get_extra_info("peername")[0])):
            longest.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._silent.leave(self)
        for patience in (self._request, self._reader, self._answer):
            patience.end()
        super().connection_lost(exc)

    def handle_events(self) -> None:
        before = self.cycle
        super().handle_events()
        if self.cycle is not before:
            self._silent.leave(self)  # who is answered makes room for nobody
            self._request.end()
            self._answer.begin()

    def on_response_complete(self) -> None:
        self._wait_for_request()
        super().on_response_complete()  # which may begin with the next request

    def pause_writing(self) -> None:
        super().pause_writing()
        self._reader.begin()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._reader.end()


class _Admitted:
    """An application whose requests have a place until they are answered, or are told at once to come again. In it,
    `client` is the caller's network."""

    def __init__(self, app: Starlette) -> None:
        self._app = app
        self._strangers = Places(MAX_ANSWERS, share=STRANGER_SHARE, site=site)
        self._own = Places(MAX_ANSWERS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        host, port = scope["client"]
        try:
            scope["client"] = network(host), port
        except ValueError:  # what a proxy says is no address: all of these are one
            scope["client"] = "", port
        places = self._own if host in OWN else self._strangers
        try:
            with places.place(scope["client"][0]):
                await self._app(scope, receive, send)
        except Busy as busy:
            again = {"Retry-After": str(int(RETRY_AFTER_S))}
            await PlainTextResponse(str(busy), 503, again)(scope, receive, send)


async def serve(
    service: Service, app: Starlette, listen: str, *, idle_s: int = IDLE_S, answer_s: float = ANSWER_S
) -> int:
    """Serve at `listen` for as long as `service` lasts, then drain; the bound port. Raises OSError if it can't be
    bound."""
    host, port = parse_address(listen)
    try:
        listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise OSError(cannot_listen(listen)) from error
    config = uvicorn.Config(
        _Admitted(app),
        # It is called as a class is.
        http=partial(_Protocol, silent=HalfOpenTable[_Protocol](MAX_SILENT), answer_s=answer_s),  # type: ignore[arg-type]
        forwarded_allow_ips=list(OWN),
        log_config=None,
        access_log=False,
        lifespan="off",
        h11_max_incomplete_event_size=MAX_HEAD,
        timeout_keep_alive=idle_s,
        timeout_graceful_shutdown=_DRAIN_S,
    )
    logging.getLogger("uvicorn.error").addFilter(_is_fault)
    server = _Server(config)
    task = service.spawn("http", lambda: server.serve(sockets=[listener]))

    async def drain() -> None:
        server.should_exit = True
        await asyncio.wait([task])

    service.drain(drain)
    bound: int = listener.getsockname()[1]
    return bound
