"""The public log, its listing, and what witnesses say over HTTP."""

import asyncio
import json
from typing import Any

from starlette.applications import Starlette

from ipls.auditlog.cosignatures import parse_cosignature, parse_epoch
from ipls.auditlog.errors import AuditFault, CosignatureInvalid
from ipls.auditlog.listing import Listing, parse_page
from ipls.server.log.service import log_app
from ipls.server.witness.http import auditor_app
from ipls.store.errors import StoreError
from ipls.store.log import FileLog, object_name
from tests.attack.log import answer, listing, name
from tests.fuzz.target import HEAD, Target, folder, target
from tests.server.witness.test_http import ROOT, make_world
from tests.trust.roots import NAMESPACE, NOW, WITNESSES, make_root


@target("log listing")
def _() -> Target:
    names = [(name(epoch, bytes(32), b"\x01" * 32), 99) for epoch in (1, 10, 2)]

    def run(data: bytes) -> None:
        page = parse_page(data)
        assert len(Listing(10**18).take(page)) == len(page.entries)

    return Target(run, (AuditFault,), (listing(names, 9), listing(names, 2)))


@target("witness's answer")
def _() -> Target:
    root = make_root()
    seed = json.dumps(answer(WITNESSES[0], *HEAD)).encode()

    def run(data: bytes) -> None:
        parse_epoch(data)
        assert parse_cosignature(root, root.witnesses[0], 7, data, NOW)[:2] == (HEAD.root_hash, NOW)

    return Target(run, (CosignatureInvalid,), (seed,))


@target("object name")
def _() -> Target:
    log, seed = FileLog(folder()), object_name(1, bytes(32), b"\x01" * 32)
    log.put(seed, b"object")

    def run(data: bytes) -> None:
        text = data.decode("utf-8", "surrogateescape")
        assert log.get(text) in (None, b"object")

    return Target(run, (StoreError,), (seed.encode(),), longest=4096)


@target("request to the log")
def _() -> Target:
    log, seed = FileLog(folder()), object_name(1, bytes(32), b"\x01" * 32)
    log.put(seed, b"object")
    app = log_app(log)

    def run(data: bytes) -> None:
        assert _status(app, data) in (200, 206, 304, 400, 404, 405, 416, 501)

    asked = ["?list-type=2", "?list-type=2&prefix=1/&start-after=1/a&max-keys=1&continuation-token=1"]
    asked += [seed, f"{seed}\nbytes=1-3\n*", f"{seed}\nbytes=-2,4-"]
    return Target(run, (), tuple(one.encode() for one in asked), weight=4, longest=4096)


@target("request to an auditor")
def _() -> Target:
    world = make_world(folder())
    world.service.sign_start()
    for _ in range(3):
        world.sign()
    app = auditor_app(ROOT, ROOT.witnesses[0], world.store, world.readable, lambda: NOW)

    def run(data: bytes) -> None:
        assert _status(app, data) in (200, 307, 404)

    ours = f"namespaces/{NAMESPACE}"
    asked = ["info", "namespaces", ours, f"{ours}/audits/2?a=b", f"{ours}/last-verified-epoch", f"{ours}/audits/9"]
    return Target(run, (), tuple(one.encode() for one in asked), weight=4, longest=4096)


def _status(app: Starlette, data: bytes) -> Any:
    """Of the answer to a path, a `?`, a query; a line that is a Range header's value, and one of If-None-Match."""
    asked, *given = data.split(b"\n")
    path, _, query = asked.partition(b"?")
    headers = list(zip((b"range", b"if-none-match"), given, strict=False))
    text = "/" + path.decode("utf-8", "replace").lstrip("/")
    scope = {"type": "http", "method": "GET", "path": text, "query_string": query, "headers": headers}
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        await asyncio.Event().wait()  # the reader stays

    asyncio.run(app(scope, receive, send))
    return sent[0]["status"]
