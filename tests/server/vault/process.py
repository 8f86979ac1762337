"""The vault's front as a process of its own, and the directory that it asks, in the test."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

from ipls._grpc import grpc
from ipls.proto.directory.v1 import directory_pb2 as pb
from ipls.proto.directory.v1.directory_pb2_grpc import (
    DirectoryServiceServicer,
    add_DirectoryServiceServicer_to_server,
)
from ipls.proto.vault.v1.vault_pb2 import SessionRequest, SessionResponse
from ipls.proto.vault.v1.vault_pb2_grpc import VaultServiceStub
from ipls.rpc.channel import open_channel
from ipls.rpc.errors import Ending, RemoteError, ServiceError, remote_error
from ipls.rpc.server import ANYONE, GrpcServer, Listener
from tests.environment import DIES_WITH_US
from tests.hsm.rig import Exchange, Owner, Rig, child, ended

FRONT = """
import sys
from functools import partial
from pathlib import Path
from ipls.config import load_core
from ipls.runtime.service import run
from ipls.server.vault import app
run("vault", partial(app.run, load_core(Path(sys.argv[1])).vault, Path(sys.argv[1])))
"""


class DirectoryServicer(DirectoryServiceServicer):
    """The rig's directory over gRPC. A test that publishes calls `announce`."""

    def __init__(self, rig: Rig) -> None:
        self._rig = rig
        self._moved = asyncio.Condition()
        self.away = False
        self.asked = list[str]()

    async def announce(self) -> None:
        async with self._moved:
            self._moved.notify_all()

    async def History(self, request: pb.HistoryRequest, context: Any) -> AsyncIterator[pb.HistoryResponse]:
        if self.away:
            raise ServiceError("DIRECTORY_AWAY", "back soon", code=grpc.StatusCode.UNAVAILABLE)
        self.asked.append("History")
        proof = self._rig.directory.prove(request.label.decode(), request.epoch)
        if not proof:
            raise ServiceError("LABEL_UNKNOWN", "no such label", code=grpc.StatusCode.NOT_FOUND)
        yield pb.HistoryResponse(head=self._rig.directory.head(epoch=request.epoch), chunk=proof)

    async def Absence(self, request: pb.AbsenceRequest, context: Any) -> pb.AbsenceResponse:
        self.asked.append("Absence")
        directory, label = self._rig.directory, request.label.decode()
        if directory.prove(label, request.epoch):
            raise ServiceError("LABEL_PRESENT", "there is one")
        return pb.AbsenceResponse(
            head=directory.head(epoch=request.epoch), proof=directory.prove_absent(label, request.epoch)
        )

    async def WatchHeads(self, request: Any, context: Any) -> AsyncIterator[pb.WatchHeadsResponse]:
        async with self._moved:
            while True:
                yield pb.WatchHeadsResponse(head=self._rig.directory.head())
                await self._moved.wait()


class Vault:
    """The front's process, and how to talk to it."""

    def __init__(self, rig: Rig, servicer: DirectoryServicer, channel: grpc.aio.Channel) -> None:
        self.rig = rig
        self.directory = servicer
        self.channel = channel
        self.stub = VaultServiceStub(channel)
        self.front: asyncio.subprocess.Process

    async def start(self, **environment: str) -> None:
        self.front = await asyncio.create_subprocess_exec(
            *(*DIES_WITH_US, sys.executable, "-c", FRONT, str(self.rig.config_path)), env=os.environ | environment
        )
        await self.channel.channel_ready()

    def core(self) -> int:
        return child(self.front.pid, "ipls.hsm.core")

    def worker(self) -> int:
        return child(self.core(), "ipls.hsm.worker")

    def anchor_service(self) -> int:
        return child(self.core(), "ipls.hsm.anchor_service")

    @asynccontextmanager
    async def stream(self) -> AsyncIterator[Exchange]:
        """A session's stream; a refusal comes out as RemoteError."""
        call = self.stub.Session()
        ending = Ending(call)

        async def exchange(frame: SessionRequest) -> SessionResponse:
            try:
                with suppress(asyncio.InvalidStateError):  # the call is over; reading says why
                    await call.write(frame)
                response = await call.read()
            except grpc.aio.AioRpcError as error:
                raise remote_error(ending.why(error)) from None
            assert response is not grpc.aio.EOF
            return response

        try:
            yield exchange
        finally:
            call.cancel()

    async def patiently(self, owner: Owner, work: Any) -> Any:
        """`work(client, exchange)` in a session, again while the vault says that it may be tried again."""
        while True:
            try:
                async with self.stream() as exchange:
                    client = await self.rig.open(owner, exchange, known_head=self.rig.directory.head())
                    return await work(client, exchange)
            except RemoteError as error:
                if not error.passes:
                    raise
                await self.channel.channel_ready()


@asynccontextmanager
async def running_vault(
    rig: Rig, *, config: Mapping[str, object] | None = None, **environment: str
) -> AsyncIterator[Vault]:
    listener = Listener("127.0.0.1:0", rig.folder / "server.pem", rig.folder / "server.key", rig.folder / "ca.pem")
    directory, servicer = GrpcServer([listener], {"ipls.directory.v1.DirectoryService": ANYONE}), DirectoryServicer(rig)
    add_DirectoryServiceServicer_to_server(servicer, directory.grpc)
    [port] = await directory.start()
    rig.configure(directory=f"127.0.0.1:{port}", **config or {})
    async with open_channel(rig.address, rig.folder / "ca.pem") as channel:
        vault = Vault(rig, servicer, channel)
        await vault.start(**environment)
        try:
            yield vault
        finally:
            core = ended(vault.core())
            if vault.front.returncode is None:
                vault.front.send_signal(signal.SIGTERM)
            await vault.front.wait()
            await core
            await directory.stop(0)
