"""A contact store and a directory whose proofs are real, on loopback gRPC; calls as devices and thieves make them."""

import asyncio
import hashlib
import os
import sqlite3
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.message import Message

from ipls._grpc import grpc
from ipls.akd import EMPTY_ROOT, DirectoryKey, make_history
from ipls.client.profile import Account
from ipls.crypto.keys import public_key, sign
from ipls.proto.contacts.v1 import contacts_pb2 as pb
from ipls.proto.contacts.v1.contacts_pb2_grpc import (
    ContactsServiceStub,
    add_ContactsServiceServicer_to_server,
)
from ipls.proto.contacts.v2 import contacts_pb2 as lines_pb
from ipls.proto.contacts.v2.contacts_pb2_grpc import ContactsServiceStub as LinesStub
from ipls.proto.contacts.v2.contacts_pb2_grpc import add_ContactsServiceServicer_to_server as add_lines
from ipls.proto.directory.v1 import directory_pb2
from ipls.proto.directory.v1.directory_pb2_grpc import (
    DirectoryServiceServicer,
    DirectoryServiceStub,
    add_DirectoryServiceServicer_to_server,
)
from ipls.rpc.channel import open_channel
from ipls.rpc.errors import RemoteError, ServiceError, remote_error
from ipls.server.contacts.calls import Limits, SignedCalls
from ipls.server.contacts.identities import Identities
from ipls.server.contacts.lines import LinesServicer
from ipls.server.contacts.service import ContactsServicer
from ipls.store.contacts import Manifest, RecordKey, open_contacts_store
from ipls.trust.calls import call_digest
from tests.hsm import rig
from tests.hsm.rig import Owner
from tests.server.loopback import Listening, listening, loopback
from tests.server.old_client import ContactStore
from tests.store.contacts.before import store_before
from tests.trust.roots import NOW, VRF, three_of

ALICE, BOB = "+491700000001", "+491700000002"


class Directory(rig.Directory, DirectoryServiceServicer):
    """An honest directory, also for complete histories; heads are signed at NOW."""

    def __init__(self) -> None:
        super().__init__()
        self.moved = asyncio.Condition()
        self.asked = list[str]()
        self.away = False
        self.answers = asyncio.Event()
        """Cleared, it keeps those waiting who ask for a history."""
        self.answers.set()
        self.waiting = asyncio.Semaphore(0)
        """Released for each of them."""

    async def announce(self, owner: Owner) -> None:
        self.publish(owner)
        async with self.moved:
            self.moved.notify_all()

    async def History(self, request: Any, context: Any) -> AsyncIterator[directory_pb2.HistoryResponse]:
        if self.away:
            raise ServiceError("DIRECTORY_AWAY", "back soon", code=grpc.StatusCode.UNAVAILABLE)
        self.asked.append("History")
        if not self.answers.is_set():
            self.waiting.release()
            await self.answers.wait()
        versions = [v for v in self._versions.get(request.label, []) if v.epoch <= request.epoch]
        if not versions:
            raise ServiceError("LABEL_NOT_FOUND", "no such label")
        depth = self.epochs[request.epoch][1]
        shown = versions[: request.most_recent or None]
        proof = make_history(self._tiles, self._key, request.epoch, depth, request.label, shown)
        yield directory_pb2.HistoryResponse(head=self.head(epoch=request.epoch, time=NOW), chunk=proof)

    async def Absence(self, request: Any, context: Any) -> directory_pb2.AbsenceResponse:
        self.asked.append("Absence")
        proof = self.prove_absent(request.label.decode(), request.epoch)
        return directory_pb2.AbsenceResponse(head=self.head(epoch=request.epoch, time=NOW), proof=proof)

    async def WatchHeads(self, request: Any, context: Any) -> AsyncIterator[directory_pb2.WatchHeadsResponse]:
        async with self.moved:
            while True:
                yield directory_pb2.WatchHeadsResponse(head=self.head(time=NOW))
                await self.moved.wait()


class World:
    """A contact store that can be restarted over its database; the clock stands at NOW until it is set."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.directory = folder, Directory()
        self.root = three_of(
            vrf_public_key=DirectoryKey.from_seed(VRF).public_key, start_epoch=0, start_root=EMPTY_ROOT
        )
        self.now_ms, self.now_s = NOW, 0.0
        self.limits = Limits()
        self.identities: Identities
        self.lines: Any
        """The stub of the store's version 2, while it runs."""
        self.listening: Listening
        """Where it then is."""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Any]:
        async with AsyncExitStack() as stack:
            channel = await stack.enter_async_context(
                loopback(self.folder, lambda s: add_DirectoryServiceServicer_to_server(self.directory, s))
            )
            self.identities = Identities(
                DirectoryServiceStub(channel), self.root, now_ms=lambda: self.now_ms, now_s=lambda: self.now_s
            )
            following = asyncio.create_task(self.identities.follow())
            stack.callback(following.cancel)
            store = open_contacts_store(self.folder / "contacts.db")
            stack.callback(store.close)
            calls = SignedCalls(
                store, self.identities, self.root.namespace, now_ms=lambda: self.now_ms, limits=self.limits
            )
            stack.callback(calls.close)

            def add(server: grpc.aio.Server) -> None:
                add_ContactsServiceServicer_to_server(ContactsServicer(store, calls), server)
                add_lines(LinesServicer(store.lines, calls, now_s=lambda: self.now_s), server)

            self.listening = await stack.enter_async_context(listening(self.folder, add))
            channel = await stack.enter_async_context(open_channel(*self.listening))
            self.lines = LinesStub(channel)
            yield ContactsServiceStub(channel)

    async def publish(self, owner: Owner) -> None:
        await self.directory.announce(owner)
        self.identities.accept(self.directory.head(time=NOW))

    def change(self, statement: str, *values: object) -> None:
        """Behind the store's back."""
        with closing(sqlite3.connect(self.folder / "contacts.db", isolation_level=None)) as db:
            db.execute(statement, values)

    def rows(self, query: str) -> list[Any]:
        with closing(sqlite3.connect(self.folder / "contacts.db")) as db:
            return db.execute(query).fetchall()

    def stored_before(self, label: str, *records: tuple[RecordKey, bytes], manifest: Manifest | None = None) -> None:
        """By version 1."""
        store_before(self.folder / "contacts.db", label, records, manifest)

    def device(self, stub: Any, owner: Owner, now_ms: int = NOW) -> ContactStore:
        account = Account(owner.label, owner.seed, 1, 1)
        return ContactStore(stub, self.root.namespace, account, now_ms=lambda: now_ms, retry_for_s=0)

    def call(
        self, owner: Owner, method: str, body: Message | bytes, now_ms: int = NOW, /, **changes: Any
    ) -> pb.SignedCall:
        """Of version 1, as `owner` signs it; `changes` are made after that."""
        return pb.SignedCall(**self._signed(owner, method, body, now_ms, version=1) | changes)

    def upload(
        self, owner: Owner, body: Message | bytes, /, method: str = "PutRecords", **changes: Any
    ) -> lines_pb.SignedCall:
        """The same of version 2."""
        return lines_pb.SignedCall(**self._signed(owner, method, body, NOW, version=2) | changes)

    def _signed(self, owner: Owner, method: str, body: Message | bytes, now_ms: int, *, version: int) -> dict[str, Any]:
        data = body if isinstance(body, bytes) else body.SerializeToString()
        nonce, key = os.urandom(16), public_key(owner.seed)
        digest = call_digest(self.root.namespace, owner.label, key, method, data, now_ms, nonce, version=version)
        signature = sign(owner.seed, digest)
        names = ("label", "public_key", "body", "timestamp_ms", "nonce", "signature")
        return dict(zip(names, (owner.label, key, data, now_ms, nonce, signature), strict=True))


def record(n: int, size: int = 284) -> tuple[RecordKey, bytes]:
    data = n.to_bytes(4, "big") * (size // 4)
    return RecordKey(1, n.to_bytes(16, "big"), hashlib.sha256(data).digest()), data


def sizes_of(*records: tuple[RecordKey, bytes]) -> lines_pb.PutRecordsBody:
    return lines_pb.PutRecordsBody(records=[lines_pb.Sealed(name=key.digest, size=len(data)) for key, data in records])


async def put(world: World, call: lines_pb.SignedCall, *chunks: bytes) -> None:
    """Into a line."""
    parts = [lines_pb.PutRecordsRequest(call=call), *(lines_pb.PutRecordsRequest(chunk=chunk) for chunk in chunks)]
    await answered(world.lines.PutRecords(iter(parts)))


async def answered(call: Any) -> Any:
    """The answer of a unary call, or all of a stream's."""
    try:
        return [part async for part in call] if hasattr(call, "__aiter__") else await call
    except grpc.aio.AioRpcError as error:
        raise remote_error(error) from None


def refused(code: grpc.StatusCode, reason: str) -> Any:
    return pytest.raises(RemoteError, check=lambda error: (error.code, error.reason) == (code, reason))


unauthenticated = grpc.StatusCode.UNAUTHENTICATED
invalid = grpc.StatusCode.INVALID_ARGUMENT
