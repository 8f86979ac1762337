"""The contact store's service, called as devices and thieves would."""

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.message import Message

from ipls._grpc import grpc
from ipls.client.errors import RefusedError, TryLaterError
from ipls.client.profile import Account
from ipls.config import ContactsConfig, TlsFiles
from ipls.crypto.keys import public_key, sign
from ipls.proto.contacts.v1 import contacts_pb2 as pb
from ipls.proto.contacts.v1.contacts_pb2_grpc import (
    ContactsServiceStub,
    add_ContactsServiceServicer_to_server,
)
from ipls.proto.contacts.v2 import contacts_pb2 as lines_pb
from ipls.proto.directory.v1.directory_pb2 import WatchHeadsRequest
from ipls.proto.directory.v1.directory_pb2_grpc import (
    DirectoryServiceStub,
    add_DirectoryServiceServicer_to_server,
)
from ipls.rpc.errors import RemoteError
from ipls.runtime.service import Service
from ipls.server.contacts import app
from ipls.server.contacts.calls import Limits, SignedCalls
from ipls.server.contacts.identities import Identities
from ipls.server.contacts.service import ContactsServicer
from ipls.store.contacts import Manifest, open_contacts_store
from ipls.trust.calls import call_digest
from tests.hsm.rig import Owner
from tests.logs import begun_again
from tests.server.contact_stores import (
    ALICE,
    BOB,
    World,
    answered,
    invalid,
    put,
    record,
    refused,
    sizes_of,
    unauthenticated,
)
from tests.server.loopback import listening
from tests.server.old_client import ContactStore, StoredManifest
from tests.trust.roots import NOW


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture
async def stub(world: World) -> AsyncIterator[Any]:
    async with world.running() as stub:
        yield stub


@pytest.fixture
async def alice(world: World, stub: Any) -> Owner:
    owner = Owner(ALICE)
    await world.publish(owner)
    return owner


async def test_what_was_stored_before_there_were_lines_is_read(world: World, stub: Any, alice: Owner) -> None:
    device, manifest = world.device(stub, alice), Manifest(3, 1, b"c" * 32, os.urandom(3 << 20))
    records = [record(n) for n in range(5)] + [record(9, (2 << 20) + 28)]
    assert await device.manifest() is None
    world.stored_before(ALICE, *records, manifest=manifest)
    assert await device.list() == {key for key, _ in records}
    assert await device.get([key for key, _ in reversed(records)]) == [data for _, data in reversed(records)]
    assert await device.manifest() == StoredManifest(1, 3, b"c" * 32, manifest.ciphertext)
    with pytest.raises(RefusedError, check=lambda e: e.reason == "RECORD_ABSENT"):
        await device.get([record(10)[0]])


async def test_one_get_brings_as_much_as_a_call_carries(world: World, stub: Any, alice: Owner) -> None:
    device = world.device(stub, alice)
    records = [record(n, (2 << 20) + 28) for n in range(5)]
    world.stored_before(ALICE, *records)
    assert await device.get([key for key, _ in records]) == [data for _, data in records[:3]]
    assert await device.get([key for key, _ in records[3:]]) == [data for _, data in records[3:]]


async def test_as_it_was_then_nothing_is_written_any_more(world: World, stub: Any, alice: Owner) -> None:
    """Whether the account has a line or not, and whoever asks."""
    world.stored_before(ALICE, record(1), manifest=Manifest(1, 1, bytes(32), b"one"))
    key = pb.RecordKey(**record(1)[0]._asdict())
    for owner in (alice, Owner(BOB)):
        put_call = world.call(owner, "PutRecords", pb.PutRecordsBody(records=[pb.RecordSize(key=key, size=284)]))
        swap_call = world.call(owner, "SwapManifest", pb.SwapManifestBody(expected_version=1, version=2, generation=1))
        drop_call = world.call(owner, "DropRecords", pb.DropRecordsBody(keys=[key]))
        for call in (
            stub.PutRecords(iter([pb.PutRecordsRequest(call=put_call), pb.PutRecordsRequest(chunk=bytes(284))])),
            stub.SwapManifest(iter([pb.SwapManifestRequest(call=swap_call)])),
            stub.DropRecords(pb.DropRecordsRequest(call=drop_call)),
        ):
            with refused(grpc.StatusCode.FAILED_PRECONDITION, "LINE_EXISTS"):
                await answered(call)
    assert await world.device(stub, alice).list() == {record(1)[0]}
    manifest = await world.device(stub, alice).manifest()
    assert manifest is not None
    assert manifest.ciphertext == b"one"


async def test_another_account_sees_nothing(world: World, stub: Any, alice: Owner) -> None:
    bob = Owner(BOB)
    await world.publish(bob)
    world.stored_before(ALICE, record(1))
    thief = world.device(stub, bob)
    assert await thief.list() == set()
    with pytest.raises(RefusedError, check=lambda e: e.reason == "RECORD_ABSENT"):
        await thief.get([record(1)[0]])


async def test_a_replayed_call_is_refused_also_after_a_restart(world: World) -> None:
    owner = Owner(ALICE)
    call = world.upload(owner, sizes_of(record(1)))
    async with world.running():
        await world.publish(owner)
        await put(world, call, record(1)[1])
        with refused(unauthenticated, "CALL_REPLAYED"):
            await put(world, call, record(1)[1])
    async with world.running():
        with refused(unauthenticated, "CALL_REPLAYED"):
            await put(world, call, record(1)[1])


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
        await put(world, world.upload(alice, sizes_of(record(1)), **changes), record(1)[1])


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
        await put(world, world.upload(alice, sizes_of(record(1)), method="PutSnapshot"), record(1)[1])
    account = Account(alice.label, alice.seed, 1, 1)
    elsewhere = ContactStore(stub, "elsewhere", account, now_ms=lambda: NOW, retry_for_s=0)
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
        await put(world, world.upload(alice, sizes_of(record(1))), *chunks)
    assert world.rows("SELECT count(*) FROM blob") == [(0,)]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (sizes_of(*(record(n) for n in range(1001))), "CALL_TOO_LARGE"),
        (sizes_of(*(record(n, (2 << 20) + 28) for n in range(4))), "CALL_TOO_LARGE"),
        (sizes_of(record(1, 288)), "RECORD_SIZE"),
        (sizes_of(record(1, (4 << 20) + 28)), "RECORD_SIZE"),
    ],
    ids=["too many", "too much", "a card that nobody sealed", "too large"],
)
async def test_a_put_out_of_bounds_is_refused(
    world: World, stub: Any, alice: Owner, body: Message, reason: str
) -> None:
    with refused(invalid, reason):
        await put(world, world.upload(alice, body))


async def test_more_keys_than_a_call_takes_are_refused(world: World, alice: Owner) -> None:
    world.limits = Limits(call_records=2)
    keys = [pb.RecordKey(**record(n)[0]._asdict()) for n in range(4)]
    async with world.running() as stub:
        for asked in ([], keys[:3]):
            call = world.call(alice, "GetRecords", pb.GetRecordsBody(keys=asked))
            with refused(invalid, "CALL_TOO_LARGE"):
                await answered(stub.GetRecords(pb.GetRecordsRequest(call=call)))


async def test_a_body_that_cannot_be_read_is_refused(world: World, stub: Any, alice: Owner) -> None:
    with refused(invalid, "BODY_INVALID"):
        await put(world, world.upload(alice, b"\xff"))
    with refused(invalid, "BODY_INVALID"):
        await answered(world.lines.PutRecords(iter([lines_pb.PutRecordsRequest(chunk=b"no call")])))


async def test_an_account_has_a_quota_of_calls(world: World) -> None:
    world.limits = Limits(calls=3)
    owner = Owner(ALICE)
    async with world.running() as stub:
        await world.publish(owner)
        for _ in range(3):
            await put(world, world.upload(owner, sizes_of(record(1))), record(1)[1])
        with pytest.raises(RefusedError, check=lambda e: e.reason == "CALL_QUOTA"):
            await world.device(stub, owner).list()


@asynccontextmanager
async def idle_upload(world: World, owner: Owner) -> AsyncIterator[None]:
    """The account's one upload that has its place, known by another that was refused it."""
    calls = [world.upload(owner, sizes_of(record(1))) for _ in range(2)]
    streams = [world.lines.PutRecords() for _ in calls]
    for stream, call in zip(streams, calls, strict=True):
        await stream.write(lines_pb.PutRecordsRequest(call=call))
    ended = [asyncio.ensure_future(answered(stream)) for stream in streams]
    (first,), _ = await asyncio.wait(ended, return_when=asyncio.FIRST_COMPLETED)
    with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "SERVICE_BUSY"):
        await first
    yield
    for stream in streams:
        stream.cancel()
    await asyncio.wait(ended)


async def test_uploads_beyond_their_places_are_asked_to_come_again(world: World) -> None:
    world.limits = Limits(uploads=1)
    owner = Owner(ALICE)
    async with world.running():
        await world.publish(owner)
        async with idle_upload(world, owner):
            pass  # as it holds


async def test_who_is_not_known_takes_no_place_among_the_uploads(world: World) -> None:
    world.limits = Limits(uploads=1)
    owner, thief = Owner(ALICE), Owner(ALICE)
    async with world.running():
        await world.publish(owner)
        silent, strange = world.lines.PutRecords(), world.lines.PutRecords()
        await strange.write(lines_pb.PutRecordsRequest(call=world.upload(thief, sizes_of(record(1)))))
        await put(world, world.upload(owner, sizes_of(record(1))), record(1)[1])
        silent.cancel()
        strange.cancel()


async def test_no_account_takes_all_places_among_the_uploads(world: World) -> None:
    world.limits = Limits(uploads=2, account_uploads=1)
    greedy, owner = Owner(ALICE), Owner(BOB)
    async with world.running():
        await world.publish(greedy)
        await world.publish(owner)
        async with idle_upload(world, greedy):
            await put(world, world.upload(owner, sizes_of(record(1))), record(1)[1])


async def test_no_account_takes_all_places(world: World) -> None:
    """By calls that stand, here uploads, of whatever kind the others are."""
    world.limits = Limits(calls_at_once=8, account_calls=1)
    greedy, owner = Owner(ALICE), Owner(BOB)
    async with world.running() as stub:
        await world.publish(greedy)
        await world.publish(owner)
        async with idle_upload(world, greedy):
            with pytest.raises(TryLaterError, check=lambda e: e.reason == "SERVICE_BUSY"):
                await world.device(stub, greedy).list()
            await put(world, world.upload(owner, sizes_of(record(2))), record(2)[1])


async def test_plaintext_is_refused(world: World, tmp_path: Path) -> None:
    store = open_contacts_store(tmp_path / "contacts.db")
    identities = Identities(DirectoryServiceStub(grpc.aio.insecure_channel("127.0.0.1:1")), world.root)
    calls = SignedCalls(store, identities, world.root.namespace)
    add = partial(add_ContactsServiceServicer_to_server, ContactsServicer(store, calls))
    async with listening(tmp_path, add) as server, grpc.aio.insecure_channel(server.address) as channel:
        call = world.call(Owner(ALICE), "ListRecords", pb.ListRecordsBody())
        with refused(grpc.StatusCode.UNAVAILABLE, "UNREACHABLE"):
            await answered(ContactsServiceStub(channel).ListRecords(pb.ListRecordsRequest(call=call), timeout=20))


class FailingOnce:
    """A directory's stub whose first stream of heads fails as nobody foresaw."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = DirectoryServiceStub(channel)
        self._failed = False
        self.asked_again = asyncio.Event()

    def WatchHeads(self, request: WatchHeadsRequest) -> Any:
        if self._failed:
            self.asked_again.set()
            return self._stub.WatchHeads(request)
        self._failed = True
        raise ZeroDivisionError


async def test_heads_are_followed_again_after_a_failure_that_nobody_foresaw(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[FailingOnce] = []

    def stub(channel: grpc.aio.Channel) -> FailingOnce:
        made.append(FailingOnce(channel))
        return made[0]

    monkeypatch.setattr(app, "DirectoryServiceStub", stub)
    async with (
        listening(world.folder, lambda s: add_DirectoryServiceServicer_to_server(world.directory, s)) as directory,
        Service("contacts") as service,
    ):
        folder = directory.ca.parent
        files = TlsFiles(certificate=folder / "server.pem", key=folder / "server.key", ca=directory.ca)
        config = ContactsConfig(
            listen="127.0.0.1:0",
            tls=files,
            directory=directory.address,
            client=files,
            database=world.folder / "contacts.db",
        )
        with begun_again("follow heads", error="ZeroDivisionError") as again:
            await app.run(config, world.root, service)
            await again.wait()
            await made[0].asked_again.wait()
