"""Requests that are handled one after the other, by who knows nothing of HTTP's connections.

Tested by tests/http/test_handled.py, tests/client/addressbook/dav/test_server.py and tests/attack/test_carddav.py.
"""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from ipls.runtime.places import RETRY_AFTER_S, Busy, Places

Answer = tuple[int, Mapping[str, str], Iterable[bytes]]
"""Status, headers and body; each piece of the body is asked for when the one before is on its way."""
Admit = Callable[[str, str, Mapping[str, str]], str | Answer]
"""Method, path (as it came, percent-encoded, without a query) and headers (names in lower case): whose request it is,
or what refuses it. Its body is not read before."""
Handle = Callable[[str, str, Mapping[str, str], bytes], Answer]
"""Likewise with the body: the answer."""

AT_ONCE = 4
"""Requests of one sender that have memory for their bodies and answers; more wait unread."""
MAX_WAITING = 32
"""Of one sender, with those; one more is told to come again."""
MAX_REQUESTS = 128
"""Of all."""
BODY_S = 60
"""A body may take so long."""
_METHODS = ["OPTIONS", "GET", "PUT", "DELETE", "PROPFIND", "REPORT", "PROPPATCH", "MKCOL", "POST", "COPY", "MOVE"]


@dataclass(eq=False, kw_only=True)
class Handled:
    """`admit` is called in `admitting`, so that who is refused slows no answer; `handle` in `handling`, and so are
    the pieces of its answer, and `idle`, `idle_s` after the last of these after which `was_used` says so.
    `max_body`: bytes, by method."""

    admit: Admit
    handle: Handle
    admitting: Executor
    handling: Executor
    max_body: Callable[[str], int]
    was_used: Callable[[], bool]
    idle: Callable[[], None]
    idle_s: float

    def __post_init__(self) -> None:
        self._timer: asyncio.TimerHandle | None = None
        self._places = Places(MAX_REQUESTS, each=MAX_WAITING)
        self._at_once = defaultdict[str, asyncio.Semaphore](lambda: asyncio.Semaphore(AT_ONCE))

    def app(self) -> Starlette:
        """To be served."""
        return Starlette(routes=[Route("/{path:path}", self, methods=_METHODS)])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        path = scope["raw_path"].decode("latin-1").partition("?")[0]
        head = request.method, path, {name.lower(): value for name, value in request.headers.items()}
        sender = await asyncio.get_running_loop().run_in_executor(self.admitting, self.admit, *head)
        if not isinstance(sender, str):
            status, headers, content = sender
            await Response(b"".join(content), status, dict(headers))(scope, receive, send)
            return
        try:
            with self._places.place(sender):
                async with self._at_once[sender]:
                    response = await self._respond(request, head)
                    await response(scope, receive, send)
        except Busy:
            await Response(status_code=503, headers={"Retry-After": str(int(RETRY_AFTER_S))})(scope, receive, send)
        except ClientDisconnect:
            pass  # nobody is there to be answered

    async def _respond(self, request: Request, head: tuple[str, str, Mapping[str, str]]) -> Response:
        body, most = bytearray(), self.max_body(request.method)
        try:
            async with asyncio.timeout(BODY_S):
                async for part in request.stream():
                    body += part
                    if len(body) > most:
                        return Response(status_code=413, headers={"Connection": "close"})
        except TimeoutError:
            return Response(status_code=408, headers={"Connection": "close"})
        status, headers, content = await self._in_thread(self.handle, *head, bytes(body))
        return StreamingResponse(self._pieces(iter(content)), status, dict(headers))

    async def _pieces(self, content: Iterator[bytes]) -> AsyncIterator[bytes]:
        while (piece := await self._in_thread(next, content, None)) is not None:
            yield piece

    async def _in_thread(self, call: Callable[..., Any], *arguments: object) -> Any:
        loop = asyncio.get_running_loop()

        def called() -> Any:
            try:
                return call(*arguments)
            finally:
                if self.was_used():
                    loop.call_soon_threadsafe(self._wait_idle, loop)

        return await loop.run_in_executor(self.handling, called)

    def _wait_idle(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._timer:
            self._timer.cancel()
        self._timer = loop.call_later(self.idle_s, self.handling.submit, self.idle)
