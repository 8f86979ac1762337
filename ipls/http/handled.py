"""Requests that are handled whole, one after the other, by who knows nothing of HTTP's connections.

Tested by tests/client/addressbook/dav/test_server.py and tests/attack/test_carddav.py.
"""

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import Executor

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

Handle = Callable[[str, str, Mapping[str, str], bytes], tuple[int, Mapping[str, str], bytes]]
"""Method, path (as it came, percent-encoded, without a query), headers (names in lower case) and body; status, headers
and body of the answer."""

_METHODS = ["OPTIONS", "GET", "PUT", "DELETE", "PROPFIND", "REPORT", "PROPPATCH", "MKCOL", "POST", "COPY", "MOVE"]


def handled_app(
    handle: Handle, thread: Executor, *, max_body: int, idle: Callable[[], None], idle_s: float
) -> Starlette:
    """`handle` is called in `thread`, and so is `idle`, `idle_s` after the last of it. `max_body`: in bytes."""
    timer: asyncio.TimerHandle | None = None

    async def respond(request: Request) -> Response:
        nonlocal timer
        body = bytearray()
        async for part in request.stream():
            body += part
            if len(body) > max_body:
                return Response(status_code=413, headers={"Connection": "close"})
        headers = {name.lower(): value for name, value in request.headers.items()}
        path = request.scope["raw_path"].decode("latin-1").partition("?")[0]
        loop = asyncio.get_running_loop()
        status, answered, content = await loop.run_in_executor(
            thread, handle, request.method, path, headers, bytes(body)
        )
        if timer:
            timer.cancel()
        timer = loop.call_later(idle_s, thread.submit, idle)
        return Response(content, status, dict(answered))

    return Starlette(routes=[Route("/{path:path}", respond, methods=_METHODS)])
