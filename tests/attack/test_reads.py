"""Who asks the directory for more than is theirs: numbers one by one, others' pasts; with no, old, false sessions."""

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from ipls._grpc import grpc
from ipls.akd import verify_absence, verify_history, verify_lookup
from ipls.proto.directory.v1 import directory_pb2 as pb
from ipls.server.directory import authorizer
from ipls.server.directory.authorizer import MAX_OPENINGS, MAX_SESSIONS, SESSION_MS
from ipls.trust.calls import CALL_WINDOW_MS
from ipls.units import DAY_MS
from tests.server.directories import ALICE, BOB, NOW, Client, World, record, seed
from tests.server.sessions import Session, key, listing_of, opening, refusal

CAROL = b"+491700000003"
DENIED, UNKNOWN = grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED
EXHAUSTED, LATER = grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest_asyncio.fixture
async def client(world: World) -> AsyncIterator[Client]:
    """Alice has key 1; Bob had keys 2 and 3, and has 4. At most three different labels a day."""
    async with world.witness(), world.directory(daily_labels=3) as client:
        for number, label in enumerate((ALICE, BOB, BOB, BOB), 1):
            assert await client.publish(number, label, record(number)) == number
        yield client


def refused(error: Any, code: grpc.StatusCode, reason: str) -> None:
    assert (error.code, error.reason) == (code, reason)
    assert (error.retry_after_s is not None) == (code in (EXHAUSTED, LATER))


async def test_what_names_a_label_needs_a_session_and_a_head_does_not(client: Client) -> None:
    nobody = Session(client, None)
    for call in (nobody.lookup(ALICE), nobody.history(ALICE), nobody.absence(CAROL), nobody.batch([ALICE])):
        refused(await refusal(call), UNKNOWN, "READ_SESSION_REQUIRED")
    assert (await client.public.GetHead(pb.GetHeadRequest())).head.epoch == 4


async def test_anonymous_reads_are_for_where_they_are_configured(world: World) -> None:
    async with world.witness(), world.directory(anonymous_reads=True) as client:
        await client.publish(1, ALICE, record(1))
        nobody = Session(client, None)
        assert (await nobody.lookup(ALICE)).head.epoch == 1
        await nobody.history(ALICE)
        refused(await refusal(nobody.history(ALICE, most_recent=0)), DENIED, "HISTORY_OF_ANOTHER")
        refused(await refusal(Session(client, b"made up").lookup(ALICE)), UNKNOWN, "READ_SESSION_INVALID")


async def test_a_session_reads_what_holds(world: World, client: Client) -> None:
    alice, vrf = await Session.open(client, ALICE, 1), world.root.vrf_public_key
    found = await alice.lookup(BOB)
    root = found.head.root_hash
    assert verify_lookup(root, 4, vrf, BOB, found.proof).value == record(4)
    _, proof = await alice.history(BOB)
    assert verify_history(root, 4, vrf, BOB, proof, most_recent=1)[0].value == record(4)
    verify_absence(root, 4, vrf, CAROL, (await alice.absence(CAROL)).proof)
    _, proof = await alice.history(ALICE, most_recent=0)
    assert [version.version for version in verify_history(root, 4, vrf, ALICE, proof)] == [1]


async def test_others_pasts_are_not_shown_at_any_epoch(client: Client) -> None:
    alice = await Session.open(client, ALICE, 1)
    for call in (
        alice.history(BOB, most_recent=0),
        alice.history(BOB, most_recent=2),
        *(alice.history(BOB, epoch) for epoch in (2, 3)),
        *(alice.lookup(BOB, epoch) for epoch in (2, 3)),
        alice.absence(BOB, 1),  # would tell when he came
    ):
        refused(await refusal(call), DENIED, "HISTORY_OF_ANOTHER")
    await alice.history(ALICE, 2, 0)  # one's own, at any epoch
    bob = await Session.open(client, BOB, 4)
    await bob.lookup(ALICE, 3)  # her newest then and now
    _, proof = await bob.history(BOB, most_recent=0)
    assert record(2) in proof


async def test_numbers_cannot_be_tried_beyond_the_quota(world: World, client: Client) -> None:
    alice = await Session.open(client, ALICE, 1)
    known = [BOB, b"+4930001"]
    for _ in range(3):  # repeated, they are free; the own one always is
        await alice.lookup(BOB)
        await alice.absence(b"+4930001")  # that a label is absent is an answer too
        await alice.batch([ALICE, *known])
    refused(await refusal(alice.batch([*known, b"+4930002", b"+4930003"])), EXHAUSTED, "LABEL_QUOTA")
    refused(await refusal(alice.lookup(b"+4930002")), grpc.StatusCode.NOT_FOUND, "LABEL_NOT_FOUND")  # counted as well
    for session in (alice, await Session.open(client, ALICE, 1)):
        for call in (session.lookup(b"+4930003"), session.history(b"+4930003"), session.absence(b"+4930003")):
            error = await refusal(call)
            refused(error, EXHAUSTED, "LABEL_QUOTA")
            assert error.retry_after_s == DAY_MS / 1000
        await session.lookup(BOB)
    bob = await Session.open(client, BOB, 4)
    await bob.absence(b"+4930003")  # another account's quota is its own
    world.now_ms += DAY_MS
    later = await Session.open(client, ALICE, 1, world.now_ms)
    await later.absence(b"+4930003")


async def test_quota_and_session_hold_in_every_process_and_after_a_restart(world: World, client: Client) -> None:
    alice = await Session.open(client, ALICE, 1)
    for number in range(3):
        await alice.absence(b"+493000%d" % number)
    async with world.directory(daily_labels=3) as other:
        there = Session(other, alice.token)
        await there.absence(b"+4930000")
        refused(await refusal(there.absence(b"+4930009")), EXHAUSTED, "LABEL_QUOTA")


async def test_registering_again_brings_no_new_quota(world: World, client: Client) -> None:
    alice = await Session.open(client, ALICE, 1)
    for number in range(3):
        await alice.absence(b"+493000%d" % number)
    await client.publish(9, ALICE, record(9))
    again = await Session.open(client, ALICE, 9)
    refused(await refusal(again.absence(b"+4930009")), EXHAUSTED, "LABEL_QUOTA")


async def test_no_number_lies_in_the_file_of_readers(world: World, client: Client) -> None:
    alice = await Session.open(client, ALICE, 1)
    await alice.lookup(BOB)
    for file in world.folder.glob("directory.db.readers*"):
        data = file.read_bytes()
        assert ALICE[1:] not in data
        assert BOB[1:] not in data


LIES: dict[str, tuple[Callable[[pb.OpenSessionRequest], object], str]] = {
    "another label": (lambda r: setattr(r, "label", BOB.decode()), "SIGNATURE_INVALID"),
    "another time": (lambda r: setattr(r, "timestamp_ms", NOW + 1), "SIGNATURE_INVALID"),
    "another nonce": (lambda r: setattr(r, "nonce", bytes(16)), "SIGNATURE_INVALID"),
    "another key": (lambda r: setattr(r, "public_key", record(4)[1:]), "SIGNATURE_INVALID"),
    "no key": (lambda r: setattr(r, "public_key", bytes(32)), "KEY_INVALID"),
    "a cut signature": (lambda r: setattr(r, "signature", r.signature[:63]), "SIGNATURE_LENGTH"),
    "no number": (lambda r: setattr(r, "label", "4917"), "LABEL_INVALID"),
}


@pytest.mark.parametrize("lie", LIES)
async def test_a_call_that_was_not_signed_so_opens_nothing(client: Client, lie: str) -> None:
    request = opening(ALICE, key(1))
    change, reason = LIES[lie]
    change(request)
    refused(await refusal(client.public.OpenSession(request)), UNKNOWN, reason)


async def test_a_call_for_another_namespace_or_by_a_stranger_opens_nothing(client: Client) -> None:
    foreign = opening(ALICE, key(1), namespace="other.ipls")
    refused(await refusal(client.public.OpenSession(foreign)), UNKNOWN, "SIGNATURE_INVALID")
    for label in (ALICE, CAROL):  # alike, whether the number is registered or not
        error = await refusal(client.public.OpenSession(opening(label, seed(77))))
        refused(error, UNKNOWN, "READER_UNKNOWN")


async def test_a_call_opens_one_session_and_only_near_its_time(world: World, client: Client) -> None:
    request = opening(ALICE, key(1))
    await client.public.OpenSession(request)
    async with world.directory() as other:
        for stub in (client.public, other.public):
            refused(await refusal(stub.OpenSession(request)), UNKNOWN, "CALL_REPLAYED")
    short = opening(ALICE, key(1))
    short.nonce = short.nonce[1:]
    refused(await refusal(client.public.OpenSession(short)), grpc.StatusCode.INVALID_ARGUMENT, "BODY_INVALID")
    for wrong in (NOW - CALL_WINDOW_MS, NOW + CALL_WINDOW_MS + 1):
        error = await refusal(client.public.OpenSession(opening(ALICE, key(1), wrong)))
        refused(error, UNKNOWN, "CALL_STALE")
    world.now_ms += CALL_WINDOW_MS
    refused(await refusal(client.public.OpenSession(request)), UNKNOWN, "CALL_STALE")


async def test_a_token_is_good_as_it_was_given_and_for_its_time(world: World, client: Client) -> None:
    token = (await Session.open(client, ALICE, 1)).token
    assert token is not None
    for bit in range(8 * len(token)):
        forged = bytearray(token)
        forged[bit // 8] ^= 1 << bit % 8
        error = await refusal(Session(client, bytes(forged)).absence(CAROL))
        refused(error, UNKNOWN, "READ_SESSION_INVALID")
    for forged in (b"", token[:-1], token + b"0", os.urandom(60)):
        refused(await refusal(Session(client, forged).absence(CAROL)), UNKNOWN, "READ_SESSION_INVALID")
    world.now_ms += SESSION_MS - 1
    await Session(client, token).absence(CAROL)
    world.now_ms += 1
    refused(await refusal(Session(client, token).absence(CAROL)), UNKNOWN, "READ_SESSION_EXPIRED")


async def test_a_token_that_a_clock_a_day_ahead_gave_does_not_last_a_day(world: World, client: Client) -> None:
    world.now_ms += DAY_MS
    token = (await Session.open(client, ALICE, 1, world.now_ms)).token
    world.now_ms -= DAY_MS - 1000
    refused(await refusal(Session(client, token).absence(CAROL)), UNKNOWN, "READ_SESSION_EXPIRED")
    await (await Session.open(client, ALICE, 1, world.now_ms)).absence(CAROL)


async def test_a_token_of_another_directory_is_none_here(tmp_path: Path, client: Client) -> None:
    folder = tmp_path / "other"
    folder.mkdir()
    elsewhere = World(folder)
    async with elsewhere.witness(), elsewhere.directory() as other:
        await other.publish(1, ALICE, record(1))
        token = (await Session.open(other, ALICE, 1)).token
    refused(await refusal(Session(client, token).lookup(BOB)), UNKNOWN, "READ_SESSION_INVALID")


async def test_a_superseded_key_reads_its_own_label_alone(world: World, client: Client) -> None:
    before = await Session.open(client, ALICE, 1)
    await before.lookup(BOB)
    await client.publish(9, ALICE, record(9))
    for session in (before, await Session.open(client, ALICE, 1)):
        for call in (session.lookup(BOB), session.absence(CAROL), session.batch([ALICE, BOB])):
            refused(await refusal(call), DENIED, "IDENTITY_SUPERSEDED")
        head, proof = await session.history(ALICE, most_recent=0)
        versions = verify_history(head.root_hash, 5, world.root.vrf_public_key, ALICE, proof)
        assert [version.value for version in versions] == [record(9), record(1)]


async def test_a_key_that_waits_for_its_epoch_is_told_to_wait(world: World) -> None:
    async with world.directory() as client:
        async with world.witness():
            await client.publish(1, ALICE, record(1))
        ticket = await client.submit(2, BOB, record(2))
        refused(await refusal(client.public.OpenSession(opening(BOB, key(2)))), LATER, "READER_PENDING")
        async with world.witness():
            await client.published(ticket)
        await (await Session.open(client, BOB, 2)).history(BOB, most_recent=0)


async def test_one_account_cannot_open_sessions_without_end(client: Client) -> None:
    for _ in range(MAX_SESSIONS):
        await Session.open(client, ALICE, 1)
    refused(await refusal(client.public.OpenSession(opening(ALICE, key(1)))), EXHAUSTED, "CALL_QUOTA")
    await Session.open(client, BOB, 4)


async def test_reads_go_on_under_a_flood_of_forged_calls(client: Client) -> None:
    alice = await Session.open(client, ALICE, 1)
    forged = opening(ALICE, key(1))
    forged.signature = bytes(64)
    flood = [asyncio.create_task(refusal(client.public.OpenSession(forged))) for _ in range(8 * MAX_OPENINGS)]
    await alice.lookup(BOB)
    reasons = {error.reason for error in await asyncio.gather(*flood)}
    assert reasons <= {"SIGNATURE_INVALID", "SERVICE_BUSY"}


async def test_no_more_calls_are_checked_or_wait_for_it_than_there_may(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    release, checked = threading.Event(), list[bytes]()

    def held(*call: bytes) -> None:
        checked.append(call[0])
        release.wait(60)

    monkeypatch.setattr(authorizer, "verify", held)
    flood = [
        asyncio.create_task(refusal(client.public.OpenSession(opening(CAROL, key(1))))) for _ in range(MAX_OPENINGS)
    ]
    done, pending = await asyncio.wait(flood, return_when=asyncio.FIRST_COMPLETED)
    refused(done.pop().result(), EXHAUSTED, "SERVICE_BUSY")
    assert len(checked) == 1
    release.set()
    assert {error.reason for error in await asyncio.gather(*pending)} <= {"SERVICE_BUSY", "READER_UNKNOWN"}


async def test_a_flood_of_updates_is_refused_and_reads_go_on(world: World) -> None:
    async with world.directory(queue_max=5) as client:
        async with world.witness():
            await client.publish(1, ALICE, record(1))
        alice = await Session.open(client, ALICE, 1)
        for number in range(5):
            await client.submit(10 + number, b"+493000%d" % number, record(2))
        error = await refusal(client.submit(99, BOB, record(2)))
        refused(error, LATER, "QUEUE_FULL")
        assert (await alice.lookup(ALICE)).head.epoch == 1


LAPTOP = seed(77)


async def as_device(client: Client) -> Session:
    """Alice's laptop, which the identity of key 1 lists."""
    request = opening(ALICE, LAPTOP, listing=listing_of(ALICE, 1, LAPTOP, seed(78)))
    return Session(client, (await client.public.OpenSession(request)).token)


async def test_a_listed_device_reads_as_the_account(world: World, client: Client) -> None:
    laptop = await as_device(client)
    _, proof = await laptop.history(ALICE, most_recent=0)
    root = (await laptop.lookup(BOB)).head.root_hash
    assert [v.value for v in verify_history(root, 4, world.root.vrf_public_key, ALICE, proof)] == [record(1)]
    refused(await refusal(laptop.history(BOB, most_recent=0)), DENIED, "HISTORY_OF_ANOTHER")


@pytest.mark.parametrize(
    "listing",
    [
        listing_of(ALICE, 1, seed(78)),  # another device's
        listing_of(BOB, 4, LAPTOP),  # another account's
        listing_of(ALICE, 1, LAPTOP, namespace="other.ipls"),
        pb.Listing(identity_key=bytes(32), n=7, devices=listing_of(ALICE, 1, LAPTOP).devices),
    ],
)
async def test_who_is_not_listed_by_the_account_reads_nothing(client: Client, listing: pb.Listing) -> None:
    error = await refusal(client.public.OpenSession(opening(ALICE, LAPTOP, listing=listing)))
    refused(error, UNKNOWN, "DEVICE_UNLISTED")


@pytest.mark.parametrize("lie", ["n", "devices", "identity_key", "cut"])
async def test_a_list_that_was_altered_is_none(client: Client, lie: str) -> None:
    listing = listing_of(ALICE, 1, LAPTOP)
    match lie:
        case "n":
            listing.n += 1
        case "devices":
            listing.devices = listing.devices[:33] + b"1" + listing.devices[34:]
        case "identity_key":
            listing.identity_key = listing_of(ALICE, 4).identity_key
        case "cut":
            listing.devices = listing.devices[:-1]
    error = await refusal(client.public.OpenSession(opening(ALICE, LAPTOP, listing=listing)))
    refused(error, UNKNOWN, "DEVICE_UNLISTED")


async def test_a_stranger_who_lists_a_device_lets_it_in_nowhere(client: Client) -> None:
    listing = listing_of(ALICE, 6, LAPTOP)  # a key that is not Alice's
    error = await refusal(client.public.OpenSession(opening(ALICE, LAPTOP, listing=listing)))
    refused(error, UNKNOWN, "READER_UNKNOWN")


async def test_a_device_of_the_identity_before_reads_its_own_label_alone(world: World, client: Client) -> None:
    before = await as_device(client)
    await client.publish(9, ALICE, record(9))
    for session in (before, await as_device(client)):
        refused(await refusal(session.lookup(BOB)), DENIED, "IDENTITY_SUPERSEDED")
        await session.history(ALICE, most_recent=0)


async def test_a_device_that_was_removed_shuts_the_phone_out_of_nothing(client: Client) -> None:
    """It shows the list of before, for as long as it likes: devices have their own sessions, and half of the labels."""
    laptop, phone = await as_device(client), await Session.open(client, ALICE, 1)
    await laptop.absence(b"+4930001")
    refused(await refusal(laptop.absence(b"+4930002")), EXHAUSTED, "LABEL_QUOTA")
    for number in (2, 3):
        await phone.absence(b"+493000%d" % number)
    refused(await refusal(phone.absence(b"+4930004")), EXHAUSTED, "LABEL_QUOTA")  # together not more than one alone
    for _ in range(MAX_SESSIONS - 1):
        await as_device(client)
    request = opening(ALICE, LAPTOP, listing=listing_of(ALICE, 1, LAPTOP))
    refused(await refusal(client.public.OpenSession(request)), EXHAUSTED, "CALL_QUOTA")
    await Session.open(client, ALICE, 1)
