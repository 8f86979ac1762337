"""The auditor's interface: a witness's signatures over plain HTTP, for auditors in the field and `ipls audit`.

Described by docs/protocol/auditor.openapi.json. Nothing here is secret, and nothing is to be believed unread: a reader
pins the witness's key (the directory spec, The witness's signature).
"""

import asyncio
import contextlib
import re
import uuid
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from ipls.clock import system_now_ms
from ipls.http.client import HttpClient, HttpUnavailable
from ipls.proto.witness.v1.head_pb2 import Cosignature
from ipls.runtime.executors import FairExecutor
from ipls.runtime.places import Busy
from ipls.store.errors import StoreRefused
from ipls.store.witness import Signed, WitnessStore
from ipls.trust.heads import CIPHERSUITE, timestamp
from ipls.trust.root import TrustRoot, Witness

_EPOCH = re.compile(r"0|[1-9][0-9]{0,18}")
_ASK_S = 5.0
MAX_LOOKS = 256
"""That wait for a thread: more than there can be connections, of which each asks for one thing at a time."""

_T = TypeVar("_T")

Readable = Callable[[str], bool]
"""Whether the audit log's object of this name can be read; HttpUnavailable if the log doesn't answer. Blocking."""


def readable_at(log_url: str) -> Readable:
    """Asks the log as anybody would, over HTTP."""
    client = HttpClient(_ASK_S)

    def readable(name: str) -> bool:
        status = client.head(f"{log_url.rstrip('/')}/{name}")
        if status >= 500:
            raise HttpUnavailable(f"the log answers {status}")
        return status == 200

    return readable


def auditor_app(
    root: TrustRoot,
    witness: Witness,
    store: WitnessStore,
    readable: Readable,
    now_ms: Callable[[], int] = system_now_ms,
) -> Starlette:
    """An ASGI application over a witness's store; 404 for what is not there, 503 while the log can't be asked."""
    shown = _Shown(store, root.start_epoch, readable)
    name = root.namespace

    async def info(_: Request) -> JSONResponse:
        # Readers take the key by its last byte: of two that share it, never live at once, the later one.
        keys = {key.public_key[-1]: key for key in sorted(witness.keys, key=lambda key: key.not_before_ms)}
        listed = [{"public_key": key.public_key.hex(), "not_before": key.not_before_ms} for key in keys.values()]
        return JSONResponse({"keys": listed, "logs": [name]})

    def can_sign() -> bool:
        with contextlib.suppress(StoreRefused):
            store.check_restored()
            return any(key.covers(now_ms()) for key in witness.keys)
        return False

    async def described() -> dict[str, Any]:
        if not await shown.run(can_sign):
            status = "Disabled"
        else:
            status = "Online" if await shown.newest() > root.start_epoch else "Initialization"
        return {
            "name": name,
            "log_directory": root.log_url,
            "root": f"{root.start_epoch}/{root.start_root.hex()}",
            "status": status,
            "reports_uri": f"/namespaces/{name}/reports",
            "audits_uri": f"/namespaces/{name}/audits",
            "signature_version": CIPHERSUITE,
            "ciphersuite": CIPHERSUITE,
        }

    async def namespaces(_: Request) -> JSONResponse:
        return JSONResponse({"namespaces": [await described()]})

    async def namespace(request: Request) -> JSONResponse:
        _ours(request, name)
        return JSONResponse(await described())

    async def audit(request: Request) -> JSONResponse:
        _ours(request, name)
        epoch = request.path_params["epoch"]
        signed = await shown.get(int(epoch)) if _EPOCH.fullmatch(epoch) else None
        if signed is None or signed.cosignature is None:
            raise HTTPException(404)
        cosignature = Cosignature.FromString(signed.cosignature)
        return JSONResponse(
            {
                "version": CIPHERSUITE,
                "ciphersuite": CIPHERSUITE,
                "namespace": name,
                "timestamp": timestamp(cosignature),
                "epoch": signed.epoch,
                "digest": signed.root_hash.hex(),
                "signature": cosignature.signature.hex(),
                "key_id": cosignature.public_key[-1],
                "serialized_message": cosignature.message.hex(),
            }
        )

    async def last_verified_epoch(request: Request) -> JSONResponse:
        _ours(request, name)
        signed = await shown.get(await shown.newest())
        if signed is None or not signed.old_root:  # the start was verified by nobody
            raise HTTPException(404)
        return JSONResponse(
            {
                "job_id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"{root.log_url}/{signed.name}")),
                "epoch": signed.epoch,
                "start_hash": signed.old_root.hex(),
                "end_hash": signed.root_hash.hex(),
                "timestamp": signed.time_ms,
            }
        )

    async def unavailable(_: Request, __: Exception) -> JSONResponse:
        return JSONResponse({"error": "the audit log does not answer"}, 503, {"Retry-After": "1"})

    async def busy(_: Request, __: Exception) -> JSONResponse:
        return JSONResponse({"error": "too many ask at once"}, 503, {"Retry-After": "1"})

    one = "/namespaces/{namespace}"
    return Starlette(
        routes=[
            Route("/info", info),
            Route("/namespaces", namespaces),
            Route(one, namespace),
            Route(one + "/audits/{epoch}", audit),
            Route(one + "/last-verified-epoch", last_verified_epoch),
        ],
        exception_handlers={HttpUnavailable: unavailable, Busy: busy},
    )


def _ours(request: Request, namespace: str) -> None:
    if request.path_params["namespace"] != namespace:
        raise HTTPException(404)


class _Shown:
    """The epochs whose objects can be read. The log grows in order and loses nothing, so one number says which."""

    def __init__(self, store: WitnessStore, start: int, readable: Readable) -> None:
        self._store = store
        self._up_to = start
        self._readable = readable
        self._asking = asyncio.Lock()
        self._looking = FairExecutor("the audit interface", 2, MAX_LOOKS)  # signing waits for no reader

    async def run(self, work: Callable[[], _T]) -> _T:
        """Off the event loop. Raises Busy."""
        return await self._looking.run(None, work)

    async def get(self, epoch: int) -> Signed | None:
        """The epoch's row; None if it isn't signed, or its object can't be read yet."""
        signed = await self.run(partial(self._store.shown, epoch))
        return signed if signed is not None and await self._is_shown(signed) else None

    async def newest(self) -> int:
        """The newest epoch shown. The log may lag the witness by one."""
        state = await self.run(self._store.state)
        for epoch in (state.epoch, state.epoch - 1):
            if epoch <= self._up_to or await self.get(epoch):
                break
        return self._up_to

    async def _is_shown(self, signed: Signed) -> bool:
        async with self._asking:
            if signed.epoch > self._up_to and await self.run(partial(self._readable, signed.name)):
                self._up_to = signed.epoch
        return signed.epoch <= self._up_to
