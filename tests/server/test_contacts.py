"""The contact store's service, called as devices and thieves would, with a directory whose proofs are real."""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message

from ipls.akd import EMPTY_ROOT, DirectoryKey, make_history
from ipls.client.contact_store import ContactStore, RecordKey, StoredManifest
from ipls.client.errors import RefusedError, TryLaterError
from ipls.client.profile import Account
from ipls.proto.contacts.v1 import contacts_pb2 as pb
from ipls.proto.contacts.v1.contacts_pb2_grpc import (
    ContactsServiceStub,
    add_ContactsServiceServicer_to_server,
)
from ipls.proto.directory.v1 import directory_pb2
from ipls.proto.directory.v1.directory_pb2_grpc import (
    DirectoryServiceServicer,
    DirectoryServiceStub,
    add_DirectoryServiceServicer_to_server,
)
from ipls.rpc.errors import RemoteError, ServiceError, remote_error
from ipls.server.contacts import ContactsServicer, Limits
from ipls.server.identities import Identities
from ipls.store.contacts import ContactsStore
from ipls.trust.calls import call_digest
from ipls.trust.errors import HeadRefused
from ipls.trust.heads import Head
from ipls.trust.keys import public_key, sign
from ipls.trust.root import TrustRoot
from tests.hsm import rig
from tests.hsm.rig import Owner
from tests.server.loopback import loopback
from tests.trust.roots import NOW, VRF, WITNESSES, signed, three_of

ALICE, BOB = "+491700000001", "+491700000002"


class Directory(rig.Directory, DirectoryServiceServicer):
    """An honest directory, also for complete histories; heads are signed at NOW."""

    def __init__(self) -> None:
        super().__init__()
        self.moved = asyncio.Condition()
        self.histories = 0
        self.away = False

    async def announce(self, owner: Owner) -> None:
        self.publish(owner)
        async with self.moved:
            self.moved.notify_all()

    async def History(self, request: Any, context: Any) -> directory_pb2.HistoryResponse:
        if self.away:
            raise ServiceError(grpc.StatusCode.UNAVAILABLE, "DIRECTORY_AWAY", "back soon")
        self.histories += 1
        versions = [v for v in self._versions.get(request.label, []) if v.epoch <= request.epoch]
        if not versions:
            raise ServiceError(grpc.StatusCode.NOT_FOUND, "LABEL_NOT_FOUND", "no such label")
        depth = self.epochs[request.epoch][1]
        shown = versions[: request.most_recent or None]
        proof = make_history(self._tiles, self._key, request.epoch, depth, request.label, shown)
        return directory_pb2.HistoryResponse(head=self.head(epoch=request.epoch, time=NOW), proof=proof)

    async def Absence(self, request: Any, context: Any) -> directory_pb2.AbsenceResponse:
        proof = self.prove_absent(request.label.decode(), request.epoch)
        return directory_pb2.AbsenceResponse(head=self.head(epoch=request.epoch, time=NOW), proof=proof)

    async def WatchHeads(self, request: Any, context: Any) -> AsyncIterator[directory_pb2.WatchHeadsResponse]:
        async with self.moved:
            while True:
                yield directory_pb2.WatchHeadsResponse(head=self.head(time=NOW))
                await self.moved.wait()


class World:
    """A contact store that can be restarted over its database; the clock stands at NOW until it is set."""

    def __init__(self, folder: Path, root: TrustRoot, directory: Directory) -> None:
        self.folder, self.root, self.directory = folder, root, directory
        self.now_ms = NOW
        self.limits = Limits()
        self.identities: Identities

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Any]:
        async with AsyncExitStack() as stack:
            channel = await stack.enter_async_context(
                loopback(self.folder, lambda s: add_DirectoryServiceServicer_to_server(self.directory, s))
            )
            self.identities = Identities(DirectoryServiceStub(channel), self.root, now_ms=lambda: self.now_ms)
            following = asyncio.create_task(self.identities.follow())
            stack.callback(following.cancel)
            store = ContactsStore(self.folder / "contacts.db")
            stack.callback(store.close)
            servicer = ContactsServicer(
                store, self.identities, self.root, now_ms=lambda: self.now_ms, limits=self.limits
            )
            yield ContactsServiceStub(
                await stack.enter_async_context(
                    loopback(self.folder, lambda s: add_ContactsServiceServicer_to_server(servicer, s))
                )
            )

    async def publish(self, owner: Owner) -> None:
        await self.directory.announce(owner)
        self.identities.accept(self.directory.head(time=NOW))

    def device(self, stub: Any, owner: Owner, now_ms: int = NOW) -> ContactStore:
        account = Account(owner.label, owner.seed, 1, 1)
        return ContactStore(stub, self.root.namespace, account, now_ms=lambda: now_ms, patience_s=0)

    def call(
        self, owner: Owner, method: str, body: Message | bytes, now_ms: int = NOW, /, **changes: Any
    ) -> pb.SignedCall:
        """As `owner` signs it; `changes` are made after that."""
        data = body if isinstance(body, bytes) else body.SerializeToString()
        nonce, key = os.urandom(16), public_key(owner.seed)
        digest = call_digest(self.root.namespace, owner.label, key, method, data, now_ms, nonce)
        call = pb.SignedCall(
            label=owner.label,
            public_key=key,
            body=data,
            timestamp_ms=now_ms,
            nonce=nonce,
            signature=sign(owner.seed, digest),
        )
        call.MergeFrom(pb.SignedCall(**changes))
        return call


@pytest.fixture
async def world(tmp_path: Path) -> World:
    root = three_of(vrf_public_key=DirectoryKey.from_seed(VRF).public_key, start_epoch=0, start_root=EMPTY_ROOT)
    return World(tmp_path, root, Directory())


@pytest.fixture
async def stub(world: World) -> AsyncIterator[Any]:
    async with world.running() as stub:
        yield stub


@pytest.fixture
async def alice(world: World, stub: Any) -> Owner:
    owner = Owner(ALICE)
    await world.publish(owner)
    return owner


def record(n: int, size: int = 284) -> tuple[RecordKey, bytes]:
    data = n.to_bytes(4, "big") * (size // 4)
    return RecordKey(1, n.to_bytes(16, "big"), hashlib.sha256(data).digest()), data


def sizes_of(*records: tuple[RecordKey, bytes]) -> pb.PutRecordsBody:
    return pb.PutRecordsBody(
        records=[pb.RecordSize(key=pb.RecordKey(**key._asdict()), size=len(data)) for key, data in records]
    )


async def put(stub: Any, call: pb.SignedCall, *chunks: bytes) -> None:
    parts = [pb.PutRecordsRequest(call=call), *(pb.PutRecordsRequest(chunk=chunk) for chunk in chunks)]
    await answered(stub.PutRecords(iter(parts)))


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


async def test_what_is_put_comes_back(world: World, stub: Any, alice: Owner) -> None:
    device = world.device(stub, alice)
    records = [record(n) for n in range(5)] + [record(9, (2 << 20) + 28)]
    await device.put(records)
    await device.put(records[:2])
    assert await device.list() == {key for key, _ in records}
    assert await device.get([key for key, _ in reversed(records)]) == [data for _, data in reversed(records)]
    await device.drop([records[0][0]])
    with pytest.raises(RefusedError, check=lambda e: e.reason == "RECORD_ABSENT"):
        await device.get([records[0][0]])


async def test_one_get_brings_as_much_as_a_call_carries(world: World, stub: Any, alice: Owner) -> None:
    device = world.device(stub, alice)
    records = [record(n, (2 << 20) + 28) for n in range(5)]
    for each in records:
        await device.put([each])
    assert await device.get([key for key, _ in records]) == [data for _, data in records[:3]]
    assert await device.get([key for key, _ in records[3:]]) == [data for _, data in records[3:]]


async def test_a_manifest_is_swapped_once_per_version(world: World, stub: Any, alice: Owner) -> None:
    device = world.device(stub, alice)
    first = StoredManifest(1, 1, b"c" * 32, os.urandom(3 << 20))
    assert await device.manifest() is None
    await device.swap(first)
    await device.swap(first)
    assert await device.manifest() == first
    with pytest.raises(RefusedError, check=lambda e: e.reason == "MANIFEST_CONFLICT"):
        await device.swap(first._replace(ciphertext=b"another" * 50))


async def test_another_account_sees_and_changes_nothing(world: World, stub: Any, alice: Owner) -> None:
    bob = Owner(BOB)
    await world.publish(bob)
    await world.device(stub, alice).put([record(1)])
    thief = world.device(stub, bob)
    await thief.drop([record(1)[0]])
    assert await thief.list() == set()
    assert await world.device(stub, alice).get([record(1)[0]]) == [record(1)[1]]


async def test_a_key_that_the_head_does_not_hold_is_asked_to_come_again(world: World, stub: Any, alice: Owner) -> None:
    for thief in (Owner(ALICE), Owner(BOB)):  # never published: another key of an account, an account not there
        with pytest.raises(RemoteError) as raised:
            await answered(
                stub.ListRecords(pb.ListRecordsRequest(call=world.call(thief, "ListRecords", pb.ListRecordsBody())))
            )
        assert (raised.value.code, raised.value.reason) == (grpc.StatusCode.UNAVAILABLE, "IDENTITY_UNKNOWN")
        assert raised.value.retry_after_s == 0.5
        with pytest.raises(TryLaterError):
            await world.device(stub, thief).list()
        await world.publish(thief)
        assert await world.device(stub, thief).list() == set()


async def test_the_old_identity_is_refused_once_another_is_published(world: World, stub: Any, alice: Owner) -> None:
    await world.device(stub, alice).put([record(1)])
    new = Owner(ALICE)
    await world.publish(new)
    call = world.call(alice, "ListRecords", pb.ListRecordsBody())
    with refused(grpc.StatusCode.PERMISSION_DENIED, "IDENTITY_SUPERSEDED"):
        await answered(stub.ListRecords(pb.ListRecordsRequest(call=call)))
    assert await world.device(stub, new).list() == {record(1)[0]}


async def test_an_identity_is_proved_once_an_epoch(world: World, stub: Any, alice: Owner) -> None:
    device = world.device(stub, alice)
    for _ in range(3):
        await device.list()
    assert world.directory.histories == 1


async def test_a_directory_that_is_away_lets_nobody_in_until_it_is_back(world: World, stub: Any, alice: Owner) -> None:
    world.directory.away = True
    call = world.call(alice, "ListRecords", pb.ListRecordsBody())
    with refused(grpc.StatusCode.UNAVAILABLE, "DIRECTORY_UNAVAILABLE"):
        await answered(stub.ListRecords(pb.ListRecordsRequest(call=call)))
    world.directory.away = False
    assert await world.device(stub, alice).list() == set()


async def test_a_head_too_old_vouches_for_nobody(world: World, stub: Any, alice: Owner) -> None:
    world.now_ms = NOW + world.root.max_head_age_ms + 1
    call = world.call(alice, "ListRecords", pb.ListRecordsBody(), world.now_ms)
    with refused(grpc.StatusCode.UNAVAILABLE, "DIRECTORY_UNAVAILABLE"):
        await answered(stub.ListRecords(pb.ListRecordsRequest(call=call)))


@pytest.mark.parametrize(
    "forge",
    [
        lambda d, o: d.update(proof=d["proof"][:-1]),
        lambda d, o: d.update(proof=b""),
        lambda d, o: d.update(proof=o),
    ],
    ids=["cut", "empty", "another account's"],
)
async def test_a_proof_that_does_not_hold_lets_nobody_in(
    world: World, stub: Any, monkeypatch: pytest.MonkeyPatch, forge: Callable[[dict[str, bytes], bytes], None]
) -> None:
    owner, other = Owner(ALICE), Owner(BOB)
    await world.publish(other)
    await world.publish(owner)
    epoch = world.directory.epoch
    answer = {"proof": world.directory.prove(ALICE, epoch)}
    forge(answer, world.directory.prove(BOB, epoch))

    async def lie(self: Directory, request: Any, context: Any) -> directory_pb2.HistoryResponse:
        return directory_pb2.HistoryResponse(head=self.head(time=NOW), **answer)

    monkeypatch.setattr(Directory, "History", lie)
    async with world.running() as stub:
        call = world.call(owner, "ListRecords", pb.ListRecordsBody())
        with refused(grpc.StatusCode.UNAVAILABLE, "DIRECTORY_UNAVAILABLE"):
            await answered(stub.ListRecords(pb.ListRecordsRequest(call=call)))


@pytest.mark.parametrize("lie", ["refused", "empty", "another account's", "an earlier epoch's"])
async def test_an_account_is_not_there_only_where_that_is_proved(
    world: World, monkeypatch: pytest.MonkeyPatch, lie: str
) -> None:
    """The directory denies an account that it has published: the store knows nothing, and says so."""
    carol = Owner()
    for owner in (Owner(ALICE), carol):
        world.directory.publish(owner)

    async def deny(self: Directory, request: Any, context: Any) -> directory_pb2.HistoryResponse:
        raise ServiceError(grpc.StatusCode.NOT_FOUND, "LABEL_NOT_FOUND", "no such label")

    async def invent(self: Directory, request: Any, context: Any) -> directory_pb2.AbsenceResponse:
        if lie == "refused":
            raise ServiceError(grpc.StatusCode.FAILED_PRECONDITION, "LABEL_PRESENT", "it is there")
        proofs = {
            "empty": b"",
            "another account's": self.prove_absent(BOB, self.epoch),
            "an earlier epoch's": self.prove_absent(carol.label, self.epoch - 1),
        }
        return directory_pb2.AbsenceResponse(head=self.head(time=NOW), proof=proofs[lie])

    monkeypatch.setattr(Directory, "History", deny)
    monkeypatch.setattr(Directory, "Absence", invent)
    async with world.running() as stub:
        call = world.call(carol, "ListRecords", pb.ListRecordsBody())
        with refused(grpc.StatusCode.UNAVAILABLE, "DIRECTORY_UNAVAILABLE"):
            await answered(stub.ListRecords(pb.ListRecordsRequest(call=call)))


async def test_before_the_first_epoch_nobody_is_there(world: World) -> None:
    async with world.running() as stub:
        world.identities.accept(world.directory.head(time=NOW))
        call = world.call(Owner(BOB), "ListRecords", pb.ListRecordsBody())
        with refused(grpc.StatusCode.UNAVAILABLE, "IDENTITY_UNKNOWN"):
            await answered(stub.ListRecords(pb.ListRecordsRequest(call=call)))


async def test_a_head_below_or_beside_the_newest_is_not_taken(world: World, stub: Any, alice: Owner) -> None:
    newest = await world.identities.newest()
    for head in (Head(0, EMPTY_ROOT), Head(newest.epoch, b"f" * 32)):
        with pytest.raises(HeadRefused):
            world.identities.accept(signed(head, *WITNESSES[:2], time=NOW))
    assert await world.identities.newest() == newest


async def test_a_replayed_call_is_refused_also_after_a_restart(world: World) -> None:
    owner = Owner(ALICE)
    call = world.call(owner, "PutRecords", sizes_of(record(1)))
    async with world.running() as stub:
        await world.publish(owner)
        await put(stub, call, record(1)[1])
        with refused(unauthenticated, "CALL_REPLAYED"):
            await put(stub, call, record(1)[1])
    async with world.running() as stub:
        with refused(unauthenticated, "CALL_REPLAYED"):
            await put(stub, call, record(1)[1])


@pytest.mark.parametrize("offset", [-120_000, 120_001])
async def test_a_call_of_another_time_is_refused(world: World, stub: Any, alice: Owner, offset: int) -> None:
    call = world.call(alice, "ListRecords", pb.ListRecordsBody(), NOW + offset)
    with refused(unauthenticated, "CALL_STALE"):
        await answered(stub.ListRecords(pb.ListRecordsRequest(call=call)))


@pytest.mark.parametrize(
    "changes",
    [
        {"label": BOB},
        {"public_key": public_key(Owner(BOB).seed)},
        {"body": sizes_of(record(2)).SerializeToString()},
        {"timestamp_ms": NOW + 1},
        {"nonce": bytes(16)},
        {"signature": bytes(64)},
        {"signature": bytes(63)},
        {"public_key": b"\x01" + bytes(31)},
        {"label": "491700000001"},
    ],
    ids=lambda changes: ",".join(changes),
)
async def test_a_call_with_an_edited_field_is_refused(
    world: World, stub: Any, alice: Owner, changes: dict[str, Any]
) -> None:
    with pytest.raises(RemoteError, check=lambda e: e.code is unauthenticated):
        await put(stub, world.call(alice, "PutRecords", sizes_of(record(1)), **changes), record(1)[1])


async def test_a_nonce_of_another_length_is_refused_though_signed(world: World, stub: Any, alice: Owner) -> None:
    for nonce in (b"", bytes(15), bytes(17)):
        call = world.call(alice, "ListRecords", pb.ListRecordsBody())
        digest = call_digest(
            world.root.namespace, call.label, call.public_key, "ListRecords", call.body, call.timestamp_ms, nonce
        )
        call.nonce, call.signature = nonce, sign(alice.seed, digest)
        with refused(invalid, "BODY_INVALID"):
            await answered(stub.ListRecords(pb.ListRecordsRequest(call=call)))


async def test_a_call_is_for_one_method_and_one_namespace(world: World, stub: Any, alice: Owner) -> None:
    with refused(unauthenticated, "SIGNATURE_INVALID"):
        await put(stub, world.call(alice, "DropRecords", sizes_of(record(1))), record(1)[1])
    account = Account(alice.label, alice.seed, 1, 1)
    elsewhere = ContactStore(stub, "elsewhere", account, now_ms=lambda: NOW, patience_s=0)
    with pytest.raises(RefusedError, check=lambda e: e.reason == "SIGNATURE_INVALID"):
        await elsewhere.list()


@pytest.mark.parametrize(
    ("chunks", "reason"),
    [
        ([], "SIZE_MISMATCH"),
        ([record(1)[1][:-1]], "SIZE_MISMATCH"),
        ([record(1)[1], b"x"], "SIZE_MISMATCH"),
        ([record(2)[1]], "DIGEST_MISMATCH"),
        ([b"", record(1)[1]], "CHUNK_INVALID"),
        ([bytes((1 << 20) + 1)], "CHUNK_INVALID"),
    ],
)
async def test_data_that_is_not_what_was_signed_is_refused(
    world: World, stub: Any, alice: Owner, chunks: Sequence[bytes], reason: str
) -> None:
    with refused(invalid, reason):
        await put(stub, world.call(alice, "PutRecords", sizes_of(record(1))), *chunks)
    assert await world.device(stub, alice).list() == set()


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (pb.PutRecordsBody(), "CALL_TOO_LARGE"),
        (sizes_of(*(record(n) for n in range(2001))), "CALL_TOO_LARGE"),
        (sizes_of(*(record(n, (2 << 20) + 28) for n in range(8))), "CALL_TOO_LARGE"),
        (sizes_of(record(1, 288)), "RECORD_SIZE"),
        (sizes_of(record(1, (4 << 20) + 28)), "RECORD_SIZE"),
        (pb.PutRecordsBody(records=[pb.RecordSize(key=pb.RecordKey(generation=1, id=b"x"), size=284)]), "BODY_INVALID"),
    ],
    ids=["nothing", "too many", "too much", "a card that nobody sealed", "too large", "no key"],
)
async def test_a_put_out_of_bounds_is_refused(
    world: World, stub: Any, alice: Owner, body: pb.PutRecordsBody, reason: str
) -> None:
    with refused(invalid, reason):
        await put(stub, world.call(alice, "PutRecords", body))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"size": (16 << 20) + 29}, "CALL_TOO_LARGE"),
        ({"check_value": bytes(31)}, "BODY_INVALID"),
        ({"generation": 0}, "BODY_INVALID"),
        ({"generation": 2**63}, "BODY_INVALID"),
        ({"version": 2**63}, "BODY_INVALID"),
        ({"digest": bytes(32)}, "DIGEST_MISMATCH"),
        ({"size": 7}, "SIZE_MISMATCH"),
    ],
    ids=str,
)
async def test_a_manifest_out_of_bounds_is_refused(
    world: World, stub: Any, alice: Owner, changes: dict[str, Any], reason: str
) -> None:
    data = b"sealed manifest"
    fields = {"generation": 1, "version": 1, "check_value": bytes(32), "size": len(data)}
    body = pb.SwapManifestBody(**{**fields, "digest": hashlib.sha256(data).digest(), **changes})
    call = world.call(alice, "SwapManifest", body)
    with refused(invalid, reason):
        await answered(stub.SwapManifest(iter([pb.SwapManifestRequest(call=call), pb.SwapManifestRequest(chunk=data)])))
    assert await world.device(stub, alice).manifest() is None


async def test_more_keys_than_a_call_takes_are_refused(world: World, alice: Owner) -> None:
    world.limits = Limits(call_records=2, call_keys=3)
    keys = [pb.RecordKey(**record(n)[0]._asdict()) for n in range(4)]
    async with world.running() as stub:
        for asked in ([], keys[:3]):
            call = world.call(alice, "GetRecords", pb.GetRecordsBody(keys=asked))
            with refused(invalid, "CALL_TOO_LARGE"):
                await answered(stub.GetRecords(pb.GetRecordsRequest(call=call)))
        call = world.call(alice, "DropRecords", pb.DropRecordsBody(keys=keys))
        with refused(invalid, "CALL_TOO_LARGE"):
            await answered(stub.DropRecords(pb.DropRecordsRequest(call=call)))


async def test_a_body_that_cannot_be_read_is_refused(world: World, stub: Any, alice: Owner) -> None:
    with refused(invalid, "BODY_INVALID"):
        await put(stub, world.call(alice, "PutRecords", b"\xff"))
    with refused(invalid, "BODY_INVALID"):
        await answered(stub.PutRecords(iter([pb.PutRecordsRequest(chunk=b"no call")])))


async def test_an_account_has_a_quota(world: World) -> None:
    world.limits = Limits(account_records=2, calls=3)
    owner = Owner(ALICE)
    async with world.running() as stub:
        await world.publish(owner)
        device = world.device(stub, owner)
        await device.put([record(1), record(2)])
        with pytest.raises(RefusedError, check=lambda e: e.reason == "ACCOUNT_QUOTA"):
            await device.put([record(3)])
        await device.list()
        with pytest.raises(RefusedError, check=lambda e: e.reason == "CALL_QUOTA"):
            await device.list()


async def test_an_upload_that_does_not_end_is_ended(world: World) -> None:
    world.limits = Limits(uploads=1, upload_s=0.1)
    owner = Owner(ALICE)
    async with world.running() as stub:
        await world.publish(owner)
        idle = stub.PutRecords()
        await idle.write(pb.PutRecordsRequest(call=world.call(owner, "PutRecords", sizes_of(record(1)))))
        with refused(grpc.StatusCode.DEADLINE_EXCEEDED, "UPLOAD_TIME"):
            await answered(idle)
        await world.device(stub, owner).put([record(1)])


async def test_uploads_beyond_their_places_are_asked_to_come_again(world: World) -> None:
    world.limits = Limits(uploads=1)
    owner = Owner(ALICE)
    async with world.running() as stub:
        await world.publish(owner)
        idle = stub.PutRecords()
        await idle.write(pb.PutRecordsRequest(call=world.call(owner, "PutRecords", sizes_of(record(1)))))

        async def put_until_refused() -> None:
            while True:  # the idle one may not have its place yet
                await world.device(stub, owner).put([record(1)])

        with pytest.raises(TryLaterError, check=lambda e: e.reason == "UPLOADS_BUSY"):
            await put_until_refused()
        idle.cancel()


async def test_who_is_not_known_takes_no_place_among_the_uploads(world: World) -> None:
    world.limits = Limits(uploads=1)
    owner, thief = Owner(ALICE), Owner(ALICE)
    async with world.running() as stub:
        await world.publish(owner)
        silent, strange = stub.PutRecords(), stub.PutRecords()
        await strange.write(pb.PutRecordsRequest(call=world.call(thief, "PutRecords", sizes_of(record(1)))))
        await world.device(stub, owner).put([record(1)])
        silent.cancel()
        strange.cancel()


async def test_no_account_takes_all_places_among_the_uploads(world: World) -> None:
    world.limits = Limits(uploads=2, account_uploads=1)
    greedy, owner = Owner(ALICE), Owner(BOB)
    async with world.running() as stub:
        await world.publish(greedy)
        await world.publish(owner)
        calls = [world.call(greedy, "PutRecords", sizes_of(record(1))) for _ in range(2)]
        streams = [stub.PutRecords() for _ in calls]
        for stream, call in zip(streams, calls, strict=True):
            await stream.write(pb.PutRecordsRequest(call=call))
        ended = [asyncio.ensure_future(answered(stream)) for stream in streams]
        (first,), _ = await asyncio.wait(ended, return_when=asyncio.FIRST_COMPLETED)
        with refused(grpc.StatusCode.UNAVAILABLE, "UPLOADS_BUSY"):
            await first
        await world.device(stub, owner).put([record(1)])
        for stream in streams:
            stream.cancel()
        await asyncio.wait(ended)


async def test_plaintext_is_refused(world: World, tmp_path: Path) -> None:
    addresses: list[str] = []

    def add(server: grpc.aio.Server) -> None:
        store = ContactsStore(tmp_path / "contacts.db")
        identities = Identities(DirectoryServiceStub(grpc.aio.insecure_channel("127.0.0.1:1")), world.root)
        add_ContactsServiceServicer_to_server(ContactsServicer(store, identities, world.root), server)
        bind = server.add_secure_port

        def bound(address: str, credentials: Any) -> int:
            port = bind(address, credentials)
            addresses.append(f"127.0.0.1:{port}")
            return port

        server.add_secure_port = bound  # type: ignore[method-assign]

    async with loopback(tmp_path, add), grpc.aio.insecure_channel(addresses[0]) as channel:
        call = world.call(Owner(ALICE), "ListRecords", pb.ListRecordsBody())
        with refused(grpc.StatusCode.UNAVAILABLE, "UNREACHABLE"):
            await answered(ContactsServiceStub(channel).ListRecords(pb.ListRecordsRequest(call=call), timeout=20))
