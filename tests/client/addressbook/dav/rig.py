"""A CardDAV server over HTTP, in a thread of its own, on a list in memory."""

import asyncio
import base64
import http.client
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NamedTuple

from ipls.client.addressbook.dav.access import CLIENTS, Access, add_client
from ipls.client.addressbook.dav.server import Request, Response, max_body
from ipls.client.addressbook.dav.service import DavService
from ipls.http.handled import Handled
from ipls.http.server import serve
from ipls.runtime.service import Service
from tests.client.addressbook.rig import ACCOUNT, NOW_MS, Profile

CLIENT, OTHER = "laptop", "phone"


class Answered(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes


class Server:
    """`run`: something to be done in the thread that has the profile."""

    def __init__(self, port: int, passwords: list[str], run: Callable[..., Any], profile: Profile) -> None:
        self.port, self.run, self.profile = port, run, profile
        self.password, self.other_password = passwords
        self.url = f"http://127.0.0.1:{port}"
        self.authorization = "Basic " + base64.b64encode(f"{CLIENT}:{self.password}".encode()).decode()

    def ask(self, method: str, path: str, body: bytes = b"", **headers: str) -> Answered:
        """`headers`: their names with _ for -."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        given = {"Authorization": self.authorization} | {k.replace("_", "-"): v for k, v in headers.items()}
        try:
            connection.request(method, path, body, given)
            answer = connection.getresponse()
            return Answered(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        finally:
            connection.close()


@contextmanager
def serving(clock_s: Callable[[], float] = lambda: 0.0, now_ms: Callable[[], int] = lambda: NOW_MS) -> Iterator[Server]:
    with ThreadPoolExecutor(1) as thread, ThreadPoolExecutor(1) as admitting:

        def run(call: Callable[..., Any], *arguments: Any) -> Any:
            return thread.submit(call, *arguments).result()

        profile = run(Profile)
        service = run(lambda: DavService(profile.rows, profile.list, ACCOUNT, now_ms))
        passwords = [run(add_client, profile.rows, name) for name in (CLIENT, OTHER)]
        access = Access(run(profile.rows.all, CLIENTS), clock_s)

        def admit(*parts: Any) -> str | Response:
            return access.admit(Request(*parts))

        def handle(*parts: Any) -> Response:
            return service.handle(Request(*parts))

        started: list[int] = []
        ready, stop = threading.Event(), asyncio.Event()
        loop = asyncio.new_event_loop()

        async def main() -> None:
            async with Service("dav") as owner:
                app = Handled(
                    admit=admit,
                    handle=handle,
                    admitting=admitting,
                    handling=thread,
                    max_body=max_body,
                    was_used=lambda: False,
                    idle=lambda: None,
                    idle_s=1,
                ).app()
                started.append(await serve(owner, app, "127.0.0.1:0"))
                ready.set()
                await stop.wait()

        server = threading.Thread(target=loop.run_until_complete, args=(main(),))
        server.start()
        try:
            assert ready.wait(30)
            yield Server(started[0], passwords, run, profile)
        finally:
            loop.call_soon_threadsafe(stop.set)
            server.join()
            loop.close()
