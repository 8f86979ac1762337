"""Who stands between devices and a service, and passes calls on as they come, or does something else with them."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from ipls._grpc import grpc
from tests.client.deployment import Deployment

Calls = AsyncIterator[bytes]
Turned = Callable[[Calls, Any, Callable[[Calls], Calls]], Calls]
"""The requests, the context, and what passes a call on -> the answers."""


class Between:
    """`calls` counts them by their methods' names; `turned` has what is done with those of a method instead."""

    def __init__(self, channel: Any) -> None:
        self._channel = channel
        self.calls: dict[str, int] = {}
        self.turned: dict[str, Turned] = {}

    def service(self, details: Any) -> Any:
        return grpc.stream_stream_rpc_method_handler(partial(self._serve, details.method))

    async def _serve(self, path: str, requests: Calls, context: Any) -> Calls:
        method = path.rpartition("/")[2]
        self.calls[method] = self.calls.get(method, 0) + 1
        passed = partial(self._passed, path, context)
        turned = self.turned.get(method)
        async for answer in turned(requests, context, passed) if turned else passed(requests):
            yield answer

    async def _passed(self, path: str, context: Any, requests: Calls) -> Calls:
        call = self._channel.stream_stream(path)(requests)
        try:
            async for answer in call:
                yield answer
        except grpc.aio.AioRpcError as error:
            context.set_trailing_metadata(error.trailing_metadata() or ())
            context.set_code(error.code())
            context.set_details(error.details())
        finally:
            call.cancel()


@asynccontextmanager
async def before_contacts(world: Deployment, folder: Path) -> AsyncIterator[tuple[Between, Path]]:
    """With the endpoints.json that leads there, by the deployment's own certificate: the operator is it."""
    endpoints = json.loads((world.folder / "endpoints.json").read_text())
    contacts = endpoints["services"]["contacts"]
    credentials = grpc.ssl_channel_credentials((world.folder / "tls/ca.pem").read_bytes())
    async with grpc.aio.secure_channel(contacts["address"], credentials) as channel:
        between = Between(channel)
        server = grpc.aio.server()
        server.add_generic_rpc_handlers((between,))
        pair = tuple((world.folder / f"tls/contacts.{end}").read_bytes() for end in ("key", "pem"))
        port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
        await server.start()
        try:
            contacts["address"] = f"localhost:{port}"
            for name in ("trust_root", "ca_file"):
                endpoints[name] = str(world.folder / endpoints[name])
            (folder / "endpoints.json").write_text(json.dumps(endpoints))
            yield between, folder / "endpoints.json"
        finally:
            await server.stop(0)
