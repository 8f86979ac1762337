"""The contact store's service of lines, called as devices and thieves would; the stub that devices call it by, too."""

import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from ipls._grpc import grpc
from ipls.client.errors import TryLaterError
from ipls.client.line_store import KeptLine
from ipls.contacts.sealing import name_of
from ipls.proto.contacts.v2 import contacts_pb2 as pb
from ipls.server.contacts.calls import Limits
from ipls.store.line import Quota
from tests.contacts.writers import Writer, line_of
from tests.hsm.rig import Owner
from tests.server.contact_stores import ALICE, BOB, World, answered, invalid, record, refused, unauthenticated
from tests.server.phones import Phone, registered, told
from tests.trust.roots import NOW


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = World(tmp_path)
    async with world.running():
        yield world


async def test_what_is_written_is_read(world: World) -> None:
    phone = await registered(world)
    assert await phone.store.read(0) is None
    made = [await phone.begin()]
    made += [await phone.edit(phone.writer.record(str(n))) for n in range(3)]
    read = await phone.store.read(0)
    assert read is not None
    assert (read.line, read.seed) == (phone.line, phone.seed)
    assert (read.head_n, read.head, read.base_n) == (4, phone.chain, 1)
    assert read.links == [each.link for each in made]
    assert read.commits == {each.n: each.signed for each in made}
    read = await phone.store.read(3)
    assert read is not None
    assert (read.links, read.commits) == ([made[3].link], {4: made[3].signed})
    read = await phone.store.read(0, until=2)
    assert read is not None
    assert (read.head_n, read.head, read.base_n) == (2, made[1].chain, 1)
    assert (read.links, list(read.commits)) == ([each.link for each in made[:2]], [1, 2])
    read = await phone.store.read(9)  # of a device that has seen more
    assert read is not None
    assert (read.head_n, read.links, read.commits) == (4, [], {})
    assert await phone.get(*(each.records[0] for each in made[1:])) == [True] * 3


async def test_after_a_base_links_lead_to_it(world: World) -> None:
    phone = await registered(world)
    made = [await phone.begin(), await phone.edit(), await phone.edit()]
    made.append(await phone.commit(phone.writer.base(4, phone.chain)))
    made.append(await phone.edit())
    read = await phone.store.read(1)
    assert read is not None
    assert (read.base_n, list(read.commits)) == (4, [4, 5])
    assert read.links == [each.link for each in made[1:]]
    assert await phone.store.links(phone.line, 1, 3) == [each.link for each in made[1:3]]
    assert await phone.store.links(bytes(32), 0, 1) == []


async def test_a_line_that_was_left_shows_its_links(world: World) -> None:
    phone = await registered(world)
    made, left = [await phone.begin(), await phone.edit()], phone.line
    await phone.begin()
    assert await phone.store.links(left, 0, 2) == [each.link for each in made]
    with told("LINE_REPLACED"):
        phone.line = left
        await phone.edit()


async def test_an_edit_is_one_call_of_under_4_kb(world: World) -> None:
    phone = await registered(world)
    await phone.begin()
    made = phone.writer.edit(2, phone.chain, phone.writer.record("x" * 200), drops=[bytes(32)])
    sent: list[Any] = []
    upload = world.lines.Commit

    def commit(requests: Any, **options: Any) -> Any:
        async def noted() -> AsyncIterator[Any]:
            async for request in requests:
                sent.append(request)
                yield request

        return upload(noted(), **options)

    world.lines.Commit = commit
    await phone.commit(made)
    assert [part.WhichOneof("part") for part in sent] == ["call", "chunk"]
    assert sum(part.ByteSize() for part in sent) < 2048  # and the transport's own


async def test_linked_devices_write_and_read(world: World) -> None:
    phone = await registered(world)
    laptop = Phone(world, phone.writer.device())
    await phone.begin(devices=[laptop.writer])
    asked = len(world.directory.asked)
    made = await laptop.at(phone).edit(laptop.writer.record("a"))
    assert await laptop.get(*made.records) == await laptop.have(*made.records) == [True]
    assert len(world.directory.asked) == asked  # by the identity that was proved
    await phone.at(laptop).edit(devices=phone.writer.listing(3, []))
    removed = Phone(world, laptop.writer, retry_for_s=0)
    with pytest.raises(TryLaterError, check=lambda error: error.reason == "IDENTITY_UNKNOWN"):
        await removed.at(phone).edit()


async def test_devices_of_an_earlier_identity_are_out(world: World) -> None:
    phone = await registered(world)
    laptop = Phone(world, phone.writer.device())
    await phone.begin(devices=[laptop.writer])
    thief = phone.writer.renewed()
    await world.publish(Owner(ALICE, thief.seed))
    for device in (laptop, phone):
        with told("IDENTITY_SUPERSEDED"):
            await device.store.read(0)
    again = phone.writer.renewed()
    assert again.version == 2
    await world.publish(Owner(ALICE, phone.writer.seed))  # the very key of the first version, as the third
    with told("IDENTITY_SUPERSEDED"):
        await laptop.store.read(0)
    assert await phone.store.read(0)


async def test_two_writers_at_one_head_are_told_apart(world: World) -> None:
    phone = await registered(world)
    laptop = Phone(world, phone.writer.device())
    await phone.begin(devices=[laptop.writer])
    laptop.at(phone)
    made = await phone.edit(phone.writer.record("a"))
    with told("LINE_CONFLICT"):
        await laptop.edit(laptop.writer.record("b"))
    assert await phone.get(laptop.writer.record("b")) == [False]
    await laptop.at(phone).edit()
    await phone.commit(made)  # again: it stands


async def test_what_is_refused_says_why(world: World) -> None:
    phone = await registered(world)
    laptop = Phone(world, phone.writer.device())
    with told("LINE_REPLACED"):
        phone.line = bytes(32)
        await phone.edit()
    await phone.begin(devices=[laptop.writer])
    with told("BODY_INVALID", "version"):
        await phone.edit(identity_version=2)
    with told("IDENTITY_ONLY"):
        await laptop.at(phone).commit(laptop.writer.base(2, phone.chain))
    with told("IDENTITY_ONLY"):
        await laptop.store.begin(bytes(16), laptop.writer.base(1, line_of(bytes(16), ALICE)).signed, bytes(284))
    with told("SNAPSHOT_ABSENT"):
        await phone.commit(phone.writer.base(2, phone.chain)._replace(snapshot=None))
    with told("SNAPSHOT_ABSENT"):
        await phone.commit(phone.writer.base(2, phone.chain)._replace(snapshot=bytes(284)))
    with told("BODY_INVALID", "no base"):
        await phone.commit(phone.writer.edit(2, phone.chain)._replace(snapshot=bytes(284)))
    with told("RECORD_SIZE"):
        await phone.store.put_records([bytes(283)])
    with told("RECORD_SIZE"):
        await phone.store.put_snapshot(bytes(500))
    assert await phone.store.links(phone.line, 0, 9) == []  # it has no such place
    assert (await phone.edit()).n == 2


async def test_where_a_line_stands_version_1_is_read(world: World, tmp_path: Path) -> None:
    async with world.running() as stub:
        phone = await registered(world)
        old = world.device(stub, Owner(ALICE, phone.writer.seed))
        world.stored_before(ALICE, record(1))
        await phone.begin()
        assert await old.get([record(1)[0]]) == [record(1)[1]]


async def test_staged_things_are_told_apart(world: World) -> None:
    phone = await registered(world)
    await phone.begin()
    staged = phone.writer.record("a")
    await phone.store.put_records([staged])
    assert (await phone.have(staged), await phone.get(staged)) == ([False], [True])
    assert await phone.store.have([name_of(staged)], staged=True) == {name_of(staged)}


async def test_many_records_come_in_as_many_calls_as_it_takes(world: World) -> None:
    phone = await registered(world)
    small = [phone.writer.record(f"small {n}") for n in range(1100)]
    large = [phone.writer.record(f"{n} " + "x" * (1 << 20)) for n in range(6)]
    made = await phone.begin(*small, *large)
    assert made.snapshot is not None
    assert all(await phone.get(*small, phone.writer.record("absent"), *large, made.snapshot)) is False
    names = [name_of(each) for each in [*small, *large, made.snapshot]]
    batches = [batch async for batch in phone.store.get(names)]
    assert {name for batch in batches for name in batch} == set(names)
    assert [len(batch) for batch in batches] == [1000, 103, 4]
    assert await phone.store.have(names) == set(names[:-1])


async def test_a_reader_who_takes_long_gets_the_rest_by_another_call(world: World) -> None:
    phone = await registered(world)
    large = [phone.writer.record(f"{n} " + "x" * (1 << 20)) for n in range(3)]
    await phone.begin(*large)
    clock = iter(range(0, 1000, 6))
    type(world).now_s = property(lambda _: float(next(clock)), lambda *_: None)  # type: ignore[attr-defined]
    try:
        batches = [len(batch) async for batch in phone.store.get([name_of(each) for each in large])]
    finally:
        del type(world).now_s  # type: ignore[attr-defined]
    assert batches == [2, 1]


async def test_a_damaged_record_costs_itself_and_is_mended(world: World) -> None:
    phone = await registered(world)
    records = [phone.writer.record(str(n)) for n in range(3)]
    await phone.begin(*records)
    world.change(
        "UPDATE sealed SET data = x'00' WHERE blob = (SELECT id FROM blob WHERE name = ?)", name_of(records[1])
    )
    assert await phone.have(*records) == [True] * 3  # nobody has looked yet
    assert await phone.get(*records) == await phone.have(*records) == [True, False, True]
    await phone.store.put_records([records[1]])
    assert await phone.get(*records) == await phone.have(*records) == [True] * 3


async def test_a_wrong_clock_signs_by_the_stores(world: World) -> None:
    phone = await registered(world)
    await phone.begin()
    for years in (-30, 30):
        wrong = Phone(world, phone.writer, NOW + years * 365 * 86_400_000)
        await wrong.at(phone).edit()
        await phone.at(wrong).edit()


async def test_another_account_sees_and_changes_nothing(world: World) -> None:
    phone, bob = await registered(world), await registered(world, BOB)
    made = await phone.begin(phone.writer.record("a"))
    assert await bob.store.read(0) is None
    assert await bob.get(phone.writer.record("a")) == [False]
    assert await bob.store.links(phone.line, 0, 1) == []
    with told("LINE_REPLACED"):
        await bob.at(phone).edit()
    await bob.begin()
    read = await phone.store.read(0)
    assert read is not None
    assert (read.line, read.head) == (phone.line, made.chain)


def signed(world: World, phone: Phone, method: str, body: Any, version: int = 2) -> pb.SignedCall:
    made = (
        phone.store._sign(method, body) if version == 2 else world.call(Owner(ALICE, phone.writer.seed), method, body)
    )
    return pb.SignedCall.FromString(made.SerializeToString())


async def test_a_call_of_the_other_version_is_refused(world: World) -> None:
    phone = await registered(world)
    with refused(unauthenticated, "SIGNATURE_INVALID"):
        call = signed(world, phone, "Read", pb.ReadBody(), version=1)
        await answered(world.lines.Read(pb.ReadRequest(call=call)))


async def test_a_replayed_call_is_refused(world: World) -> None:
    phone = await registered(world)
    call = signed(world, phone, "Read", pb.ReadBody())
    await answered(world.lines.Read(pb.ReadRequest(call=call)))
    with refused(unauthenticated, "CALL_REPLAYED"):
        await answered(world.lines.Read(pb.ReadRequest(call=call)))


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (b"", "CALL_TOO_LARGE"),
        (bytes(31), "BODY_INVALID"),
        (bytes(64), "BODY_INVALID"),
        (b"".join(n.to_bytes(32, "big") for n in range(1001)), "CALL_TOO_LARGE"),
    ],
    ids=["none", "cut off", "twice", "too many"],
)
async def test_names_out_of_bounds_are_refused(world: World, names: bytes, reason: str) -> None:
    phone = await registered(world)
    call = signed(world, phone, "GetRecords", pb.GetRecordsBody(names=names))
    with refused(invalid, reason):
        await answered(world.lines.GetRecords(pb.GetRecordsRequest(call=call)))


async def test_a_commit_of_10_mb_or_of_200_000_entries_is_refused(world: World) -> None:
    phone = await registered(world)
    await phone.begin()
    large = phone.writer.edit(2, phone.chain, sealed=bytes(10 << 20))
    many = phone.writer.edit(2, phone.chain, sealed=bytes(200_000 * 48))
    for made in (large, many):
        body = pb.CommitBody(line=phone.line, n=2, before=made.before, signed=pb.SignedCommit(**made.signed._asdict()))
        requests = iter([pb.CommitRequest(call=signed(world, phone, "Commit", body))])
        with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "RESOURCE_EXHAUSTED"):  # gRPC's own: nobody decodes it
            await answered(world.lines.Commit(requests))
    near = phone.writer.edit(2, phone.chain, sealed=bytes(200_000))
    with told("BODY_INVALID", "bytes"):
        await phone.commit(near)
    dozen = [phone.writer.record(f"{n} " + "x" * (1 << 20)) for n in range(5)]  # 10 MB of records
    with told("CALL_TOO_LARGE"):
        await phone.edit(*dozen)
    assert (await phone.edit()).n == 2


async def test_an_account_has_a_quota(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.limits = Limits(line=Quota(4, 1 << 20))
    async with world.running():
        phone = await registered(world)
        await phone.begin()
        with told("ACCOUNT_QUOTA"):
            await phone.store.put_records([phone.writer.record(str(n)) for n in range(3)])
        bob = await registered(world, BOB)
        await bob.begin()


async def test_what_is_kept_survives_a_restart(world: World) -> None:
    phone = await registered(world)
    made = await phone.begin(phone.writer.record("a"))
    async with world.running():
        phone = Phone(world, phone.writer).at(phone)
        world.identities.accept(world.directory.head(time=NOW))
        read = await phone.store.read(0)
        assert read is not None
        assert read.head == made.chain
        assert await phone.get(phone.writer.record("a")) == [True]


# What the store lost


def lose(world: World) -> None:
    """All of it."""
    for table in ("line", "link", "line_commit", "lot", "blob", "sealed", "usage"):
        world.change(f"DELETE FROM {table}")


@contextmanager
def copied(world: World) -> Iterator[Callable[[], None]]:
    """The database as it is now; call what this gives to put it back so."""
    with closing(sqlite3.connect(":memory:")) as copy, closing(sqlite3.connect(world.folder / "contacts.db")) as file:
        file.backup(copy)
        yield lambda: copy.backup(file)


async def test_a_store_that_lost_all_is_healed_by_the_identity(world: World) -> None:
    phone = await registered(world)
    laptop = Phone(world, phone.writer.device())
    records = [phone.writer.record(str(n)) for n in range(3)]
    await phone.begin(*records[:1], devices=[laptop.writer])
    await phone.edit(records[1])
    await laptop.at(phone).edit(records[2])
    lose(world)
    with pytest.raises(TryLaterError):  # the store knows no such device any more
        await Phone(world, laptop.writer, retry_for_s=0).at(laptop).heal(*records)
    await phone.at(laptop).heal(*records)
    read = await phone.store.read(0)
    assert read is not None
    assert (read.head_n, read.head, read.links) == (3, laptop.chain, [made.link for made in phone.made])
    assert read.commits == {made.n: made.signed for made in phone.made}
    assert await phone.have(*records) == [True] * 3
    await laptop.edit()
    await phone.at(laptop).commit(phone.writer.base(5, phone.chain, devices=[laptop.writer]))


async def test_a_store_that_is_behind_is_healed_by_any_device(world: World, tmp_path: Path) -> None:
    phone = await registered(world)
    laptop = Phone(world, phone.writer.device())
    await phone.begin(devices=[laptop.writer])
    await phone.edit()
    with copied(world) as back:
        made = await phone.edit(phone.writer.record("a"))
        await laptop.at(phone).edit()
        back()
    with told("LINE_CONFLICT"):
        await phone.at(laptop).edit()
    await laptop.heal(*made.records)
    assert await laptop.have(*made.records) == [True]
    await phone.edit()
    with told("LINE_CONFLICT"):  # it has gone on since: nothing to heal
        await laptop.heal()


async def test_over_a_gap_the_identity_heals_alone_and_what_was_there_is_kept(world: World) -> None:
    phone = await registered(world)
    laptop = Phone(world, phone.writer.device())
    await phone.begin(devices=[laptop.writer])
    with copied(world) as back:
        record = phone.writer.record("a")
        await phone.edit(record)
        await phone.commit(phone.writer.base(3, phone.chain, [record], [laptop.writer]))
        await phone.edit()
        back()
    with told("IDENTITY_ONLY"):
        await laptop.at(phone).heal(record)
    await phone.heal(record)
    read = await phone.store.read(0)
    assert read is not None
    assert (read.head_n, read.base_n, list(read.commits)) == (4, 3, [3, 4])
    assert await phone.have(record) == [True]
    assert world.rows("SELECT n FROM line WHERE left_ms IS NOT NULL") == [(1,)]


async def test_a_commit_that_was_damaged_comes_back(world: World) -> None:
    phone = await registered(world)
    await phone.begin()
    await phone.edit()
    world.change("UPDATE line_commit SET data = x'00' WHERE n = 2")
    await phone.edit()
    await phone.heal()
    read = await phone.store.read(0)
    assert read is not None
    assert read.commits == {made.n: made.signed for made in phone.made}


async def test_what_does_not_lead_over_the_head_heals_nothing(world: World) -> None:
    phone = await registered(world)
    await phone.begin()
    await phone.edit()
    fork = Phone(world, phone.writer).at(phone)
    await phone.edit()
    fork.made = [*fork.made, fork.writer.edit(3, fork.chain), fork.writer.edit(4, fork.chain)]
    with told("LINE_CONFLICT"):
        await fork.heal()
    short = Phone(world, phone.writer).at(phone)
    short.made = phone.made[:2]
    with told("LINE_CONFLICT"):
        await short.heal()
    with told("LINE_REPLACED"):
        fork.seed = bytes(16)
        fork.line = line_of(fork.seed, ALICE)
        await fork.heal()
    with told("BODY_INVALID", "of these bytes"):
        fork.seed = bytes(15) + b"\1"
        await fork.heal()
    assert [made.n for made in phone.made] == [1, 2, 3]
    await phone.edit()


# What is kept


async def test_what_a_later_identity_hid_is_listed_and_read(world: World) -> None:
    """A phone without a list of its own takes the last version that it accepts."""
    phone = await registered(world)
    records = [phone.writer.record(str(n)) for n in range(3)]
    first = await phone.begin(*records)
    await phone.edit(drops=records[:1])
    assert await phone.store.read_kept(KeptLine(1, phone.line, 1, 9, 1, 1, 0)) is None
    thief = Phone(world, phone.writer.renewed()).at(phone)
    await world.publish(Owner(ALICE, thief.writer.seed))
    rotated = Phone(world, thief.writer.rotated()).at(thief)
    await rotated.commit(rotated.writer.base(3, rotated.chain, write_by=thief.writer.key))
    owner = Phone(world, Writer(label=ALICE, version=3))
    await world.publish(Owner(ALICE, owner.writer.seed))
    kept = await owner.store.kept()
    [line] = kept.lines
    assert (line.line, line.base_n, line.n) == (phone.line, 1, 2)
    assert (line.version, line.hidden_by, line.until_ms) == (1, 2, NOW + 90 * 86_400_000)
    read = await owner.store.read_kept(line)
    assert read is not None
    assert (read.head_n, read.head, read.links) == (2, phone.chain, [made.link for made in phone.made])
    assert read.commits == {made.n: made.signed for made in phone.made}
    assert first.snapshot is not None
    of_thief = {each.name for each in kept.records if each.hidden_by == 2}
    assert of_thief == {name_of(each) for each in [*records[1:], first.snapshot]}
    assert await owner.get(*records[1:], first.snapshot) == [True] * 3
    other = Phone(world, (await registered(world, BOB)).writer)
    assert await other.store.kept() == ([], [])
    assert await other.store.read_kept(line) is None


async def test_the_identity_alone_deletes_the_account(world: World) -> None:
    phone = await registered(world)
    laptop = Phone(world, phone.writer.device())
    await phone.begin(phone.writer.record("a"), devices=[laptop.writer])
    with told("IDENTITY_ONLY"):
        await laptop.store.delete_account()
    async with aclosing(laptop.store.follow()) as heads:
        await anext(heads)
        await phone.store.delete_account()
        await phone.store.delete_account()
        assert await phone.store.read(0) is None
        again = Phone(world, laptop.writer, retry_for_s=0)
        with pytest.raises(TryLaterError, check=lambda error: error.reason == "IDENTITY_UNKNOWN"):
            await again.store.read(0)
    await phone.begin()


async def test_a_list_of_200_000_contacts_is_kept(world: World) -> None:
    phone = await registered(world)
    await phone.begin()
    made = await phone.commit(phone.writer.base(2, phone.chain, [n.to_bytes(4, "big") for n in range(200_000)]))
    assert made.snapshot is not None
    assert len(made.snapshot) == (16 << 20) + 28
    assert await phone.get(made.snapshot) == [True]
    again = phone.writer.base(3, phone.chain)
    assert again.snapshot is not None
    await phone.store.put_snapshot(again.snapshot)
    await phone.commit(again._replace(snapshot=None))
    assert await phone.get(again.snapshot, made.snapshot) == [True, True]
