"""An account's line at the contact store, against thieves of its number, its linked devices, strangers, and floods."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ipls.client.errors import TryLaterError
from ipls.contacts.commits import Link, chain_link
from ipls.proto.contacts.v2 import contacts_pb2 as pb
from ipls.rpc.errors import RemoteError
from ipls.server.contacts.calls import Limits
from ipls.server.contacts.identities import IN_VAIN
from ipls.store.line import Quota
from tests.contacts.writers import Made, Writer
from tests.hsm.rig import Owner
from tests.server.contact_stores import ALICE, BOB, World, answered
from tests.server.phones import Phone, registered, told
from tests.trust.roots import NOW


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = World(tmp_path)
    async with world.running():
        yield world


async def stolen(world: World, phone: Phone, writer: Writer | None = None) -> Phone:
    """The number, registered by a thief, who has read the line."""
    thief = Phone(world, writer or Writer(version=2, label=ALICE))
    await world.publish(Owner(ALICE, thief.writer.seed))
    return thief.at(phone)


async def test_a_thief_without_the_contact_key_writes_nothing_into_the_line(world: World) -> None:
    phone = await registered(world)
    good = phone.writer.record("good")
    await phone.begin(good)
    thief = await stolen(world, phone)
    for made in (
        thief.writer.edit(2, phone.chain, drops=[bytes(32)]),
        thief.writer.base(2, phone.chain),
        thief.writer.edit(2, phone.chain, identity_version=1, author=phone.writer.public),
    ):
        with told("BODY_INVALID"):
            await thief.at(phone).commit(made)
    read = await thief.store.read(0)
    assert read is not None
    assert (read.head_n, read.head) == (1, phone.chain)
    assert await thief.have(good) == [True]


async def test_nor_by_pretending_to_heal_it(world: World) -> None:
    phone = await registered(world)
    await phone.begin()
    await phone.edit()
    thief = await stolen(world, phone)

    async def heal(*more: Made) -> None:
        thief.made = [*phone.made, *more]
        await thief.heal()

    edit = thief.writer.edit(3, phone.chain)
    with told("BODY_INVALID", "signature"):
        await heal(edit)
    with told("BODY_INVALID", "signature"):
        await heal(thief.writer.base(3, phone.chain))
    links = [*(made.link for made in phone.made[:1]), edit.link]  # another past
    with told("LINE_CONFLICT"):
        await thief.store.heal(phone.line, phone.seed, links, {2: edit.signed}, [], bytes(284))
    read = await thief.store.read(0)
    assert read is not None
    assert (read.head_n, read.head) == (2, phone.chain)


async def test_over_a_gap_of_their_own_making_a_thief_hides_at_most(world: World) -> None:
    """As by beginning another line: what was there is kept, whole."""
    phone = await registered(world)
    good = phone.writer.record("good")
    await phone.begin(good)
    await phone.edit()
    thief = await stolen(world, phone)
    gap = Link(1, bytes(32))
    base = thief.writer.base(4, chain_link(3, phone.chain, gap))
    assert base.snapshot is not None
    links = [*(made.link for made in phone.made), gap, base.link]
    await thief.store.heal(phone.line, phone.seed, links, {4: base.signed}, [], base.snapshot)
    left = "SELECT n FROM line WHERE left_ms IS NOT NULL AND chain = (SELECT chain FROM link WHERE line = 1 AND n = 2)"
    assert world.rows(left) == [(2,)]
    assert world.rows("SELECT n, until_ms - 90 * 86400000 FROM line_commit WHERE line = 1") == [(1, NOW), (2, NOW)]
    assert await thief.have(good) == [True]


async def test_what_a_thief_with_the_contact_key_drops_is_there_for_the_owner(world: World) -> None:
    phone = await registered(world)
    records = [phone.writer.record(str(n)) for n in range(4)]
    first = await phone.begin(*records)
    thief = await stolen(world, phone, phone.writer.renewed())
    await thief.edit(drops=records)
    rotated = Phone(world, thief.writer.rotated()).at(thief)
    await rotated.commit(rotated.writer.base(3, rotated.chain, write_by=thief.writer.key))
    await rotated.begin()
    owner = Phone(world, Writer(version=3, label=ALICE))
    await world.publish(Owner(ALICE, owner.writer.seed))
    assert first.snapshot is not None
    assert await owner.get(*records, first.snapshot) == [True] * 5
    assert await owner.store.links(phone.line, 0, 1) == [first.link]
    await owner.begin(*(owner.writer.record(str(n)) for n in range(4)))


async def test_a_thief_who_fills_the_account_leaves_the_owner_room(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.limits = Limits(line=Quota(40, 1 << 20))
    async with world.running():
        phone = await registered(world)
        await phone.begin(phone.writer.record("good"))
        thief = await stolen(world, phone)
        junk = [thief.writer.record(str(n)) for n in range(21)]
        with told("ACCOUNT_QUOTA"):
            await thief.store.put_records(junk)
        await thief.store.put_records(junk[:20])
        owner = Phone(world, Writer(version=3, label=ALICE))
        await world.publish(Owner(ALICE, owner.writer.seed))
        await owner.begin(*(owner.writer.record(str(n)) for n in range(8)))
        assert await owner.get(phone.writer.record("good")) == [True]
        assert await owner.have(*junk) == [False] * 21


async def test_a_foreign_account_gets_at_nothing(world: World) -> None:
    phone, bob = await registered(world), await registered(world, BOB)
    record = phone.writer.record("a")
    made = await phone.begin(record)
    forged = Phone(world, Writer(label=ALICE, seed=bob.writer.seed), retry_for_s=0).at(phone)
    for call in (
        lambda: forged.store.read(0),
        lambda: forged.get(record),
        lambda: forged.have(record),
        lambda: forged.store.put_records([record]),
        lambda: forged.commit(forged.writer.edit(2, phone.chain)),
        lambda: forged.begin(),
        lambda: forged.heal(),
        lambda: anext(forged.store.follow()),
    ):
        with pytest.raises(TryLaterError, check=lambda error: error.reason == "IDENTITY_UNKNOWN"):
            await call()
    read = await phone.store.read(0)
    assert read is not None
    assert (read.head, bob.line) == (made.chain, b"")


async def test_a_device_of_another_account_gets_at_nothing(world: World) -> None:
    """One that Bob lists calls for Alice's number; and Bob signs a list for her line that has it."""
    phone, bob = await registered(world), await registered(world, BOB)
    record = phone.writer.record("a")
    made = await phone.begin(record)
    bobs = bob.writer.device()
    await bob.begin(devices=[bobs])
    listed_there = replace(phone.writer, seed=bobs.seed)
    device = Phone(world, listed_there, retry_for_s=0).at(phone)
    for call in (
        lambda: device.store.read(0),
        lambda: device.get(record),
        lambda: device.edit(device.writer.record("b")),
        lambda: device.heal(),
        lambda: anext(device.store.follow()),
        lambda: device.store.open_link(bytes(32)),
    ):
        with pytest.raises(TryLaterError, check=lambda error: error.reason == "IDENTITY_UNKNOWN"):
            await call()
    theirs = replace(phone.writer, seed=bob.writer.seed).listing(2, [listed_there])  # signed by Bob, for Alice's line
    with told("BODY_INVALID", "signature"):
        await phone.edit(devices=theirs)
    read = await phone.store.read(0)
    assert read is not None
    assert read.head == made.chain


async def test_every_number_looks_the_same_to_a_stranger(world: World) -> None:
    """With a line, without one, not registered: one answer, and two questions to the directory."""
    alice = await registered(world)
    await alice.begin()
    await registered(world, BOB)
    seen = set()
    for label in (ALICE, BOB, "+491700000003"):
        stranger = Phone(world, Writer(label=label), retry_for_s=0)
        world.directory.asked.clear()
        with pytest.raises(TryLaterError) as raised:
            await stranger.store.read(0)
        seen.add((raised.value.reason, raised.value.message, len(world.directory.asked)))
    assert len(seen) == 1
    assert world.rows("SELECT count(*) FROM nonce WHERE label = '+491700000003'") == [(0,)]


async def test_who_asks_in_vain_from_their_network_shuts_no_account_of_it_out(world: World) -> None:
    """The directory is asked for what the line knows at the account's own cost, also after a restart."""
    phone = await registered(world)
    laptop = Phone(world, phone.writer.device())
    await phone.begin(devices=[laptop.writer])
    async with world.running():
        world.identities.accept(world.directory.head(time=NOW))
        for _ in range(IN_VAIN):
            await refusal(Phone(world, Writer(label=ALICE), retry_for_s=0), "IDENTITY_UNKNOWN")
        await refusal(Phone(world, Writer(label=ALICE), retry_for_s=0), "SERVICE_BUSY")
        for device in (laptop, phone):
            assert await Phone(world, device.writer, retry_for_s=0).store.read(0)


async def refusal(phone: Phone, reason: str) -> None:
    with pytest.raises(TryLaterError, check=lambda error: error.reason == reason):
        await phone.store.read(0)


async def test_a_flood_of_an_accounts_calls_costs_itself(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.limits = Limits(calls=5)
    async with world.running():
        phone, bob = await registered(world), await registered(world, BOB)
        await phone.begin()
        for _ in range(4):
            await phone.edit()
        with told("CALL_QUOTA"):
            await phone.edit()
        await bob.begin()


async def test_a_deletion_is_not_repeated_against_the_account_that_comes_after(world: World) -> None:
    """By whoever saw the call go by; and by the key of before."""
    phone = await registered(world)
    await phone.begin()
    call: Any = phone.store._sign("DeleteAccount", pb.DeleteAccountBody())
    request = pb.DeleteAccountRequest(call=call)
    await answered(world.lines.DeleteAccount(request))
    heir = Phone(world, Writer(version=2, label=ALICE))
    await world.publish(Owner(ALICE, heir.writer.seed))
    await heir.begin()
    with pytest.raises(RemoteError, check=lambda error: error.reason in ("CALL_REPLAYED", "IDENTITY_SUPERSEDED")):
        await answered(world.lines.DeleteAccount(request))
    with told("IDENTITY_SUPERSEDED"):
        await phone.store.delete_account()
    assert await heir.store.read(0)


async def test_nor_against_what_its_own_phone_begins_anew(world: World) -> None:
    phone = await registered(world)
    await phone.begin()
    call: Any = phone.store._sign("DeleteAccount", pb.DeleteAccountBody())
    request = pb.DeleteAccountRequest(call=call)
    await answered(world.lines.DeleteAccount(request))
    anew = Phone(world, phone.writer)
    await anew.begin()
    with pytest.raises(RemoteError, check=lambda error: error.reason == "CALL_REPLAYED"):
        await answered(world.lines.DeleteAccount(request))
    assert await anew.store.read(0)


async def test_an_upload_of_other_bytes_than_were_signed_is_refused(world: World) -> None:
    phone = await registered(world)
    await phone.begin()
    record = phone.writer.record("a")
    made = phone.writer.edit(2, phone.chain, record)
    body = pb.CommitBody(line=phone.line, n=2, before=phone.chain, signed=pb.SignedCommit(**made.signed._asdict()))
    body.records.add(name=bytes(32), size=len(record))
    call: Any = phone.store._sign("Commit", body)
    with pytest.raises(Exception, match="not what the call was signed for"):
        await answered(world.lines.Commit(iter([pb.CommitRequest(call=call), pb.CommitRequest(chunk=record)])))
    assert await phone.get(record) == [False]
