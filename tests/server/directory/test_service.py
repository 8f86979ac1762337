"""The directory: epochs that only a quorum makes visible, proved reads, and a door for one certificate."""

import asyncio
from contextlib import closing
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from ipls._grpc import grpc
from ipls.admin.certificates import Authority
from ipls.akd import (
    EMPTY_ROOT,
    ProofRefused,
    make_history,
    shown_leaves,
    verify_absence,
    verify_history,
    verify_lookup,
)
from ipls.config import RedisConfig
from ipls.proto.directory.v1 import directory_pb2 as pb
from ipls.proto.directory.v1.directory_pb2_grpc import DirectoryServiceStub, UpdateServiceStub
from ipls.proto.witness.v1.head_pb2 import SignedHead
from ipls.rpc.channel import open_channel
from ipls.rpc.errors import RemoteError, remote_error
from ipls.server.directory.cache import RedisProofCache
from ipls.server.directory.errors import PublisherStopped
from ipls.server.directory.witnesses import Witnesses
from ipls.store.directory import EpochRow, PendingUpdate, open_directory_store
from ipls.store.directory.sqlite import SqliteDirectory
from ipls.store.errors import StoreDamaged
from ipls.trust.heads import timestamp, verify_head
from tests.logs import begun_again, heard
from tests.server.directories import ALICE, BOB, NOW, World, record
from tests.server.sessions import Session


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def failure(call: Any) -> RemoteError:
    """What an awaited or streamed call is refused with."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await (call.read() if hasattr(call, "read") else call)
    return remote_error(caught.value)


def verified(world: World, signed: SignedHead) -> tuple[int, bytes]:
    return verify_head(world.root, signed, now_ms=world.now_ms)


# Epochs and reads.


async def test_updates_become_epochs_whose_every_read_is_proved(world: World) -> None:
    async with world.witness(), world.directory() as client:
        start = await client.first_head()
        assert verified(world, start.head) == (0, EMPTY_ROOT)
        values = {1: record(1), 2: record(2), 3: record(3)}
        for epoch, value in values.items():
            assert await client.publish(epoch, ALICE, value) == epoch
        assert await client.publish(9, BOB, record(9)) == 4
        for asked, newest in ((0, 3), (4, 3), (3, 3), (2, 2), (1, 1)):
            lookup = await client.reads.Lookup(pb.LookupRequest(label=ALICE, epoch=asked))
            epoch, root = verify_head(world.root, lookup.head, now_ms=world.now_ms)
            assert epoch == (asked or 4)
            found = verify_lookup(root, epoch, world.root.vrf_public_key, ALICE, lookup.proof)
            assert found == (newest, newest, values[newest])
            for most_recent in (0, 1, 2):
                head, proof = await client.history(ALICE, asked, most_recent)
                assert head == lookup.head
                versions = verify_history(root, epoch, world.root.vrf_public_key, ALICE, proof, most_recent=most_recent)
                assert [v.version for v in versions] == list(range(newest, 0, -1))[: most_recent or None]
        head = await client.reads.GetHead(pb.GetHeadRequest(epoch=2))
        assert verified(world, head.head)[0] == 2
        names = sorted(entry.name for entry in world.log.list())
        assert [name.split("/")[0] for name in names] == ["1", "2", "3", "4"]
        for before, after in pairwise(names):
            assert before.split("/")[2] == after.split("/")[1]


async def test_what_is_not_there_is_not_found(world: World) -> None:
    async with world.witness(), world.directory() as client:
        await client.publish(1, ALICE, record(1))
        await client.publish(2, BOB, record(2))
        for call in (
            client.reads.Lookup(pb.LookupRequest(label=b"+491700000003")),
            client.history(BOB, 1),
        ):
            error = await failure(call)
            assert (error.code, error.reason) == (grpc.StatusCode.NOT_FOUND, "LABEL_NOT_FOUND")
        for call in (
            client.reads.GetHead(pb.GetHeadRequest(epoch=3)),
            client.reads.Lookup(pb.LookupRequest(label=ALICE, epoch=1 << 63)),
        ):
            error = await failure(call)
            assert (error.code, error.reason) == (grpc.StatusCode.NOT_FOUND, "EPOCH_UNKNOWN")
        for label in (b"", b"491700000001", b"+49170x", b"+\xff", b"+" + b"1" * 16, "+٤٩".encode()):
            error = await failure(client.reads.Lookup(pb.LookupRequest(label=label)))
            assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "LABEL_INVALID")
        watch = client.updates.WatchUpdate(pb.WatchUpdateRequest(ticket=b"?" * 16))
        assert (await failure(watch)).reason == "TICKET_UNKNOWN"


async def test_what_is_not_there_is_proved_not_to_be(world: World) -> None:
    async with world.witness(), world.directory() as client:
        await client.first_head()
        for epoch in (0, 1, 2):
            absence = await client.reads.Absence(pb.AbsenceRequest(label=BOB))
            at, root = verified(world, absence.head)
            assert at == epoch
            verify_absence(root, epoch, world.root.vrf_public_key, BOB, absence.proof)
            if epoch:
                error = await failure(client.reads.Absence(pb.AbsenceRequest(label=ALICE)))
                assert (error.code, error.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "LABEL_PRESENT")
            await client.publish(epoch + 1, ALICE, record(epoch + 1))
        await client.publish(9, BOB, record(9))
        old = await client.reads.Absence(pb.AbsenceRequest(label=BOB, epoch=3))
        epoch, root = verified(world, old.head)
        verify_absence(root, epoch, world.root.vrf_public_key, BOB, old.proof)
        assert (await failure(client.reads.Absence(pb.AbsenceRequest(label=BOB, epoch=4)))).reason == "LABEL_PRESENT"
        assert (await failure(client.reads.Absence(pb.AbsenceRequest(label=BOB, epoch=5)))).reason == "EPOCH_UNKNOWN"
        assert (await failure(client.reads.Absence(pb.AbsenceRequest(label=b"49")))).reason == "LABEL_INVALID"


async def test_a_batch_answers_as_single_calls_do(world: World) -> None:
    labels = [ALICE, b"+491700000003", BOB, ALICE]
    async with world.witness(), world.directory() as client:
        for number, label in enumerate((ALICE, BOB, ALICE), 1):
            await client.publish(number, label, record(number))
        for epoch in (0, 3, 1):
            batch = await client.reads.BatchLookup(pb.BatchLookupRequest(labels=labels, epoch=epoch))
            assert len(batch.results) == len(labels)
            for label, result in zip(labels, batch.results, strict=True):
                if result.WhichOneof("proof") == "lookup":
                    single = await client.reads.Lookup(pb.LookupRequest(label=label, epoch=epoch))
                    assert (batch.head, result.lookup) == (single.head, single.proof)
                else:
                    absence = await client.reads.Absence(pb.AbsenceRequest(label=label, epoch=epoch))
                    assert (batch.head, result.absence) == (absence.head, absence.proof)
            assert [result.WhichOneof("proof") for result in batch.results] == [
                "lookup",
                "absence",
                "absence" if epoch == 1 else "lookup",
                "lookup",
            ]
        full = await client.reads.BatchLookup(pb.BatchLookupRequest(labels=[b"+4930%d" % n for n in range(64)]))
        assert len(full.results) == 64
        for wrong, reason in (([], "BATCH_SIZE"), ([ALICE] * 65, "BATCH_SIZE"), ([ALICE, b"49"], "LABEL_INVALID")):
            error = await failure(client.reads.BatchLookup(pb.BatchLookupRequest(labels=wrong)))
            assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, reason)


async def test_erased_values_are_served_empty_and_their_leaves_stay(world: World) -> None:
    key = world.root.vrf_public_key
    async with world.witness(), world.directory() as client:
        for epoch in (1, 2, 3):
            await client.publish(epoch, ALICE, record(epoch))
        head, proof = await client.history(ALICE)
        epoch, root = verified(world, head)
        verify_history(root, epoch, key, ALICE, proof)
        leaves = shown_leaves(proof)
        for asked in (1, 2, 3):  # so that the proofs are made, and kept
            await client.reads.Lookup(pb.LookupRequest(label=ALICE, epoch=asked))
            await client.history(ALICE, asked, 1)
        for through, reason in ((3, "VERSION_NEWEST"), (2**64 - 1, "VERSION_NEWEST")):
            request = pb.EraseValuesRequest(label=ALICE, through_version=through)
            error = await failure(client.updates.EraseValues(request))
            assert (error.code, error.reason) == (grpc.StatusCode.FAILED_PRECONDITION, reason)
        for label, reason in ((BOB, "VERSION_NEWEST"), (b"49", "LABEL_INVALID")):
            request = pb.EraseValuesRequest(label=label, through_version=1)
            assert (await failure(client.updates.EraseValues(request))).reason == reason
        request = pb.EraseValuesRequest(label=ALICE, through_version=2)
        assert [(await client.updates.EraseValues(request)).erased for _ in range(2)] == [2, 0]
    async with world.witness(), world.directory() as client:
        head, proof = await client.history(ALICE)
        assert (head.epoch, head.root_hash) == (epoch, root)
        assert record(1) not in proof
        assert record(2) not in proof
        shown = verify_history(root, epoch, key, ALICE, proof, allow_missing=True, known_leaves=leaves)
        assert [(v.version, v.epoch, v.value) for v in shown] == [(3, 3, record(3)), (2, 2, b""), (1, 1, b"")]
        with pytest.raises(ProofRefused, check=lambda e: e.reason == "VALUE_MISSING"):
            verify_history(root, epoch, key, ALICE, proof)
        _, newest = await client.history(ALICE, most_recent=1)
        assert verify_history(root, epoch, key, ALICE, newest, most_recent=1)[0].value == record(3)
        assert await client.publish(4, ALICE, record(2)) == 4  # an erased value may come again


async def test_a_value_erased_while_its_proofs_are_kept_is_not_served(world: World) -> None:
    async with world.witness(), world.directory() as client:
        for epoch in (1, 2):
            await client.publish(epoch, ALICE, record(epoch))
        calls = [
            lambda: client.reads.Lookup(pb.LookupRequest(label=ALICE, epoch=1)),
            lambda: client.history(ALICE, 1, 1),
            lambda: client.history(ALICE, 1),
            lambda: client.reads.BatchLookup(pb.BatchLookupRequest(labels=[ALICE], epoch=1)),
        ]
        for call in calls:
            await call()
        await client.updates.EraseValues(pb.EraseValuesRequest(label=ALICE, through_version=1))
        for call in calls:
            error = await failure(call())
            assert (error.code, error.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "VALUE_ERASED")


async def test_heads_are_streamed_as_they_are_signed_and_renewed(world: World) -> None:
    async with world.witness(), world.directory() as client:
        watch = client.reads.WatchHeads(pb.WatchHeadsRequest(), timeout=60)
        assert verified(world, (await watch.read()).head)[0] == 0
        for epoch in (1, 2):
            await client.submit(epoch, ALICE, record(epoch))
            assert verified(world, (await watch.read()).head)[0] == epoch
    # A quarter of the maximum age later the newest head is signed anew, without an epoch.
    world.now_ms += world.root.max_head_age_ms // 4
    async with world.witness(), world.directory() as client:
        watch = client.reads.WatchHeads(pb.WatchHeadsRequest(), timeout=60)
        head = (await watch.read()).head
        if timestamp(head.cosignatures[0]) < world.now_ms:  # the first answer may come before the renewal
            head = (await watch.read()).head
        assert verified(world, head)[0] == 2
        assert timestamp(head.cosignatures[0]) == world.now_ms


async def test_a_running_directory_renews_its_head(world: World) -> None:
    """Also where the time went by without it, as that in which the machine slept: no timer counts that."""
    async with world.witness(), world.directory() as client:
        watch = client.reads.WatchHeads(pb.WatchHeadsRequest(), timeout=60)
        assert timestamp((await watch.read()).head.cosignatures[0]) == NOW
        for later in (world.root.max_head_age_ms // 4, 70 * 60_000):
            world.now_ms = NOW + later
            assert timestamp((await watch.read()).head.cosignatures[0]) == NOW + later


async def test_what_was_queued_by_a_clock_a_day_ahead_does_not_wait_for_that_day(world: World) -> None:
    async with world.witness(), world.publisher(max_age_s=1.0) as (publisher, store, _):
        await publisher.take_over()
        await publisher.advance()
        store.submit(bytes(16), ALICE, record(1), NOW + 24 * 3_600_000, daily_quota=9, queue_max=9)
        await publisher.advance()
        head = store.head()
        assert head is not None
        assert head.epoch == 1


# The queue.


async def test_one_update_a_label_and_epoch_and_no_epoch_for_nothing(world: World) -> None:
    async with world.directory() as client:  # no witness yet: all of it waits
        batch = [(ALICE, 1), (ALICE, 2), (BOB, 3), (ALICE, 2), (ALICE, 1), (BOB, 3)]
        tickets = [await client.submit(n, label, record(key)) for n, (label, key) in enumerate(batch)]
        assert await client.submit(0, ALICE, record(1)) == tickets[0]
        watch = client.updates.WatchUpdate(pb.WatchUpdateRequest(ticket=tickets[0]), timeout=60)
        assert (await watch.read()).state == pb.WatchUpdateResponse.STATE_QUEUED
        async with world.witness():
            # Alice's second "2" and Bob's second "3" change nothing: they hold where they were looked at.
            assert [await client.published(ticket) for ticket in tickets] == [1, 2, 1, 2, 3, 1]
            assert (await watch.read()).epoch == 1
            assert await client.submit(0, ALICE, record(1)) == tickets[0]
            assert await client.publish(7, ALICE, record(1)) == 3
            assert (await client.first_head()).head.epoch == 3


async def test_a_full_epoch_does_not_wait_for_its_age(world: World) -> None:
    async with world.witness(), world.directory(epoch_max_age_s=3600, epoch_max_updates=2) as client:
        first = await client.submit(1, ALICE, record(1))
        second = await client.submit(2, BOB, record(2))
        assert await client.published(first) == await client.published(second) == 1


async def test_an_epoch_waits_for_its_oldest_updates_age(world: World) -> None:
    async with world.witness(), world.publisher(max_age_s=2) as (publisher, store, _):
        await publisher.take_over()
        for age, label in ((0, ALICE), (1999, BOB)):
            world.now_ms = NOW + age
            store.submit(label.ljust(16), label, record(1), world.now_ms, daily_quota=1, queue_max=9)
            await publisher.advance()
            head = store.head()
            assert head is not None
            assert head.epoch == 0
        world.now_ms = NOW + 2000
        await publisher.advance()
        head = store.head()
        assert head is not None
        assert head.epoch == 1
        assert store.waiting().updates == 0  # both of them are in it


async def test_the_queue_is_bounded(world: World) -> None:
    async with world.directory(queue_max=3) as client:
        for request in (1, 2):
            await client.submit(request, ALICE, record(request))
        await client.submit(3, BOB, record(3))
        error = await failure(client.submit(4, BOB, record(4)))
        assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "QUEUE_FULL")
        assert error.retry_after_s
        error = await failure(client.submit(3, ALICE, record(3)))
        assert (error.code, error.reason) == (grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"request_id": b"short"}, "REQUEST_ID_INVALID"),
        ({"label": b"alice"}, "LABEL_INVALID"),
        ({"value": b""}, "IDENTITY_RECORD_INVALID"),
        ({"value": b"\x01" + b"\x01" + bytes(31)}, "IDENTITY_RECORD_INVALID"),  # a small-order key
    ],
)
async def test_an_update_must_be_well_formed(world: World, change: dict[str, bytes], reason: str) -> None:
    async with world.directory() as client:
        fields = {"request_id": bytes(16), "label": ALICE, "value": record(1), **change}
        error = await failure(client.updates.SubmitUpdate(pb.SubmitUpdateRequest(**fields)))
        assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, reason)


# Who may come in.


async def test_only_the_messaging_services_certificate_may_submit(world: World, tmp_path: Path) -> None:
    thief = tmp_path / "thief"
    thief.mkdir()
    Authority(thief, "test.ipls").issue_client("messaging", "messaging-service")
    update = pb.SubmitUpdateRequest(request_id=bytes(16), label=ALICE, value=record(6))
    async with world.directory() as client:
        channels = {
            "no certificate": (open_channel(client.internal_address, world.ca), grpc.StatusCode.UNAVAILABLE),
            "another authority's": (
                open_channel(
                    client.internal_address,
                    world.ca,
                    certificate=thief / "messaging.pem",
                    key=thief / "messaging.key",
                ),
                grpc.StatusCode.UNAVAILABLE,
            ),
            "another role's": (
                world.as_client("stranger", client.internal_address),
                grpc.StatusCode.PERMISSION_DENIED,
            ),
            "the public port": (
                world.as_client("messaging", client.public_address),
                grpc.StatusCode.PERMISSION_DENIED,
            ),
        }
        for channel, code in channels.values():
            async with channel:
                stub = UpdateServiceStub(channel)
                assert (await failure(stub.SubmitUpdate(update))).code is code
                assert (await failure(stub.WatchUpdate(pb.WatchUpdateRequest()))).code is code
                assert (await failure(stub.EraseValues(pb.EraseValuesRequest(label=ALICE)))).code is code
        for address in (client.public_address, client.internal_address):
            async with grpc.aio.insecure_channel(address) as channel:
                plain = await failure(DirectoryServiceStub(channel).GetHead(pb.GetHeadRequest()))
                assert plain.code is grpc.StatusCode.UNAVAILABLE
    store = open_directory_store(world.folder / "directory.db", world.root.namespace, world.key.public_key)
    assert store.waiting().updates == 0
    store.close()


# The witnesses.


async def test_without_a_witness_reads_go_on_updates_wait_and_it_recovers_by_itself(world: World) -> None:
    async with world.directory() as client:
        error = await failure(client.reads.GetHead(pb.GetHeadRequest()))
        assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "DIRECTORY_NOT_READY")
        assert error.retry_after_s
        opening = await failure(Session.open(client, ALICE, 1))  # nobody's key is unknown yet
        assert (opening.code, opening.reason) == (grpc.StatusCode.UNAVAILABLE, "DIRECTORY_NOT_READY")
        async with world.witness():
            assert await client.publish(1, ALICE, record(1)) == 1
        ticket = await client.submit(2, ALICE, record(2))
        lookup = await client.reads.Lookup(pb.LookupRequest(label=ALICE))
        assert verified(world, lookup.head)[0] == 1
        async with world.witness():
            assert await client.published(ticket) == 2


async def test_an_unsigned_epoch_is_never_visible(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async with world.witness(), world.directory() as client:
        await client.publish(1, ALICE, record(1))
        proposed, decided = asyncio.Event(), asyncio.Event()
        sign = Witnesses.sign

        async def slowly(self: Witnesses, *arguments: Any, **options: Any) -> SignedHead:
            signed = await sign(self, *arguments, **options)
            proposed.set()
            await decided.wait()
            return signed

        monkeypatch.setattr(Witnesses, "sign", slowly)
        ticket = await client.submit(2, ALICE, record(2))
        await asyncio.wait_for(proposed.wait(), 60)
        # The row is durable and in the log, the witness has signed: and still nobody can see it here.
        assert (await client.reads.GetHead(pb.GetHeadRequest())).head.epoch == 1
        assert (await failure(client.reads.GetHead(pb.GetHeadRequest(epoch=2)))).reason == "EPOCH_UNKNOWN"
        signed, proof = await client.history(ALICE)
        head = verify_head(world.root, signed, now_ms=NOW)
        assert len(verify_history(*head[::-1], world.root.vrf_public_key, ALICE, proof)) == 1
        watch = client.updates.WatchUpdate(pb.WatchUpdateRequest(ticket=ticket), timeout=60)
        assert (await watch.read()).state == pb.WatchUpdateResponse.STATE_QUEUED
        assert [entry.name[:2] for entry in world.log.list()] == ["1/", "2/"]
        decided.set()
        assert (await watch.read()).epoch == 2


async def test_only_short_proofs_are_kept_in_memory(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    made = list[int]()

    def counted(*arguments: Any) -> bytes:
        made.append(len(arguments[-1]))
        return make_history(*arguments)

    monkeypatch.setattr("ipls.server.directory.service.make_history", counted)
    async with world.witness(), world.directory() as client:
        await client.publish(1, ALICE, record(1))
        await client.publish(2, ALICE, record(2))
        for most_recent in (1, 1, 0, 0, 2**32 - 1, 2**32 - 1):
            await client.history(ALICE, most_recent=most_recent)
    assert made == [1, 2, 2, 2, 2]


async def test_an_update_that_changes_nothing_needs_no_witness(world: World) -> None:
    async with world.directory() as client:
        async with world.witness():
            await client.publish(1, ALICE, record(1))
        same = await client.submit(2, ALICE, record(1))
        other = await client.submit(3, BOB, record(2))
        assert await client.published(same) == 1
        async with world.witness():
            assert await client.published(other) == 2


# Histories in pieces.


async def test_a_history_over_a_message_comes_in_pieces_that_hold(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ipls.rpc.channel.CHUNK", 1000)
    monkeypatch.setattr("ipls.server.directory.service.CHUNK", 1000)
    async with world.witness(), world.directory() as client:
        for number in range(1, 6):
            await client.publish(number, ALICE, record(number))
        pieces = [piece async for piece in client.reads.History(pb.HistoryRequest(label=ALICE))]
        assert len(pieces) > 2
        assert [len(piece.chunk) for piece in pieces[:-1]] == [1000] * (len(pieces) - 1)
        assert [piece.HasField("head") for piece in pieces] == [True] + [False] * (len(pieces) - 1)
        proof = b"".join(piece.chunk for piece in pieces)
        epoch, root = verified(world, pieces[0].head)
        assert len(verify_history(root, epoch, world.root.vrf_public_key, ALICE, proof)) == 5


async def test_long_histories_are_sent_to_few_at_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ipls.rpc.channel.CHUNK", 1000)
    monkeypatch.setattr("ipls.server.directory.service.CHUNK", 1000)
    monkeypatch.setattr("ipls.server.directory.service.MAX_LONG_HISTORIES", 0)
    monkeypatch.setattr("ipls.server.directory.service.MAX_VERSIONS", 2)
    async with world.witness(), world.directory() as client:
        for number in range(1, 4):
            await client.publish(number, ALICE, record(number))
        error = await failure(client.history(ALICE))
        assert (error.code, error.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "HISTORY_TOO_LONG")
        error = await failure(client.history(ALICE, most_recent=2))
        assert (error.code, error.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "SERVICE_BUSY")
        assert error.retry_after_s


# What goes on beside the calls, and fails once.


class FailingOnce:
    """In the place of a method: its first call fails, and tells nobody what of."""

    def __init__(self, owner: type, name: str, error: Exception) -> None:
        self._method = getattr(owner, name)
        self._error: Exception | None = error
        self.called_again = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def __get__(self, instance: object, owner: type) -> Any:
        return partial(self._call, instance)

    def _call(self, *arguments: Any) -> Any:
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        self._loop.call_soon_threadsafe(self.called_again.set)
        return self._method(*arguments)


@pytest.mark.parametrize("error", [StoreDamaged("DATABASE_UNREADABLE", "a damaged page"), ZeroDivisionError()])
async def test_it_notices_changes_again_after_a_failure(
    world: World, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(SqliteDirectory, "news", FailingOnce(SqliteDirectory, "news", error))
    with begun_again("notice changes", error=type(error).__name__) as again:
        async with world.witness(), world.directory() as client:
            await again.wait()
            watch = client.reads.WatchHeads(pb.WatchHeadsRequest(), timeout=60)
            assert (await watch.read()).head.epoch == 0
            store = open_directory_store(world.folder / "directory.db", world.root.namespace, world.key.public_key)
            with closing(store):  # as another process does, which this one hears of by noticing
                store.submit(bytes(16), ALICE, record(1), NOW, daily_quota=9, queue_max=9)
            assert (await watch.read()).head.epoch == 1


async def test_a_publisher_that_must_not_go_on_ends_the_process(tmp_path: Path) -> None:
    world = World(tmp_path, start_root=b"r" * 32)
    async with world.witness():
        with capture_logs() as lines, pytest.raises(PublisherStopped) as caught:
            await serving(world)
    assert caught.value.reason == "START_NOT_EMPTY"
    ended = [line for line in lines if line["event"] == "task ended, and the process with it"]
    assert [(line["task"], line["reason"]) for line in ended] == [("publish", "START_NOT_EMPTY")]


async def serving(world: World) -> None:
    async with world.directory():
        await asyncio.Event().wait()


async def test_a_damaged_row_ends_no_reads(world: World) -> None:
    async with world.witness():
        async with world.directory() as client:
            await client.publish(1, ALICE, record(1))
        async with world.publisher() as (publisher, store, _):
            await publisher.take_over()
            row = EpochRow(2, store.head().root_hash, b"n" * 32, (PendingUpdate(1, ALICE, record(2)),), b"blob")
            store.insert_step(store.lease().term, row)
        with heard(event="no epoch", reason="STEP_DIFFERS") as failed:
            async with world.directory(lease_s=0.5) as client:
                await failed.wait()
                lookup = await client.reads.Lookup(pb.LookupRequest(label=ALICE))
                assert verified(world, lookup.head)[0] == 1


@pytest.mark.parametrize(("task", "method"), [("follow Redis", "follow"), ("announce heads", "announce")])
async def test_announcements_go_on_after_a_failure_that_nobody_foresaw(
    world: World, monkeypatch: pytest.MonkeyPatch, task: str, method: str
) -> None:
    failing = FailingOnce(RedisProofCache, method, ZeroDivisionError())
    monkeypatch.setattr(RedisProofCache, method, failing)
    nowhere = RedisConfig(url=f"unix://{world.folder}/nowhere.sock")
    with begun_again(task, error="ZeroDivisionError") as again:
        async with world.witness(), world.directory(redis=nowhere) as client:
            await again.wait()
            await failing.called_again.wait()
            assert await client.publish(1, ALICE, record(1)) == 1
