"""Whom the contact store lets in: who is the account's newest identity, as the directory proves it."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from ipls._grpc import grpc
from ipls.akd import EMPTY_ROOT
from ipls.client.errors import TryLaterError
from ipls.proto.contacts.v1 import contacts_pb2 as pb
from ipls.proto.directory.v1 import directory_pb2
from ipls.rpc.errors import RemoteError, ServiceError
from ipls.trust.errors import HeadRefused
from ipls.trust.heads import Head
from tests.hsm.rig import Owner
from tests.server.contact_stores import ALICE, BOB, Directory, World, answered, record, refused
from tests.trust.roots import NOW, WITNESSES, signed


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
    world.stored_before(ALICE, record(1))
    new = Owner(ALICE)
    await world.publish(new)
    call = world.call(alice, "ListRecords", pb.ListRecordsBody())
    with refused(grpc.StatusCode.PERMISSION_DENIED, "IDENTITY_SUPERSEDED"):
        await answered(stub.ListRecords(pb.ListRecordsRequest(call=call)))
    assert await world.device(stub, new).list() == {record(1)[0]}


async def test_an_erased_key_lets_nobody_in(world: World, stub: Any, alice: Owner) -> None:
    new = Owner(ALICE)
    await world.publish(new)
    world.directory.erase(alice, 1)
    call = world.call(alice, "ListRecords", pb.ListRecordsBody())
    with refused(grpc.StatusCode.UNAVAILABLE, "IDENTITY_UNKNOWN"):
        await answered(stub.ListRecords(pb.ListRecordsRequest(call=call)))
    assert await world.device(stub, new).list() == set()


async def test_an_identity_is_proved_once_an_epoch(world: World, stub: Any, alice: Owner) -> None:
    device = world.device(stub, alice)
    for _ in range(3):
        await device.list()
    assert world.directory.asked == ["History"]


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
        lambda d, o: d.update(chunk=d["chunk"][:-1]),
        lambda d, o: d.update(chunk=b""),
        lambda d, o: d.update(chunk=o),
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
    answer = {"chunk": world.directory.prove(ALICE, epoch)}
    forge(answer, world.directory.prove(BOB, epoch))

    async def lie(self: Directory, request: Any, context: Any) -> AsyncIterator[directory_pb2.HistoryResponse]:
        yield directory_pb2.HistoryResponse(head=self.head(time=NOW), **answer)

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

    async def deny(self: Directory, request: Any, context: Any) -> AsyncIterator[directory_pb2.HistoryResponse]:
        raise ServiceError("LABEL_NOT_FOUND", "no such label")
        yield directory_pb2.HistoryResponse()

    async def invent(self: Directory, request: Any, context: Any) -> directory_pb2.AbsenceResponse:
        if lie == "refused":
            raise ServiceError("LABEL_PRESENT", "it is there")
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
