"""Requests handled one after the other, and what is let go when none needs it."""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx

from ipls.http.handled import Answer, Handled


def test_what_is_handled_is_let_go_though_an_answer_is_still_being_read() -> None:
    """Else a slow reader keeps it from everybody else for as long as it reads."""
    let_go, used = threading.Event(), [True]

    def handle(*_: object) -> Answer:
        return 200, {}, pieces()

    def pieces() -> Iterator[bytes]:
        for _ in range(20_000):  # seconds
            yield b"."
            if let_go.is_set():
                yield b"let go"
                return

    async def ask() -> bytes:
        with ThreadPoolExecutor(1) as admitting, ThreadPoolExecutor(1) as handling:
            app = Handled(
                admit=lambda *_: "laptop",
                handle=handle,
                admitting=admitting,
                handling=handling,
                max_body=lambda method: 1,
                was_used=lambda: bool(used and used.pop()),
                idle=let_go.set,
                idle_s=0.05,
            ).app()
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app)) as client:
                return (await client.get("http://localhost/a")).content

    assert asyncio.run(ask()).endswith(b"let go")
