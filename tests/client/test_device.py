"""The device's journeys against the real services."""

import asyncio
import itertools
import random
import sqlite3
import stat
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from ipls.admin import deployment
from ipls.client.address_book import AddressBook
from ipls.client.approvals import Approval, ApprovalRequest
from ipls.client.device import Device
from ipls.client.errors import ClientError, ProfileError
from ipls.client.events import (
    AccessEntry,
    CodeAwaited,
    ContactIdentityChanged,
    Event,
    HeadChecked,
    HistoryChecked,
    IdentityChange,
    JourneyStep,
    Progress,
    VaultAccepted,
)
from ipls.client.profile import Profile
from ipls.client.sync import SyncResult
from ipls.clock import system_now_ms
from ipls.errors import IplsError
from ipls.trust.safety import Comparison, SafetyNumber
from ipls.units import DAY_MS
from tests.client.deployment import Crash, Deployment, book, cards_of


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with Deployment(tmp_path_factory.mktemp("deployment")).running() as world:
        yield world


async def test_a_lost_phone_is_restored_on_another(world: Deployment) -> None:
    label, cards = world.label(), book(50)
    old = await world.stored(label, cards)
    events: list[Event] = []
    new = await world.registered(label)
    async with world.device(new, events.append) as device:
        restored = await device.restore()
        assert (restored.contacts, restored.received, restored.generation, restored.rotated) == (50, 50, 2, True)
        assert device.address_book.cards() == cards_of(cards)
        assert device.address_book.find("person 7")[0].name == "Person 7"
    async with world.device(old) as device:
        assert device.address_book.cards() == cards_of(cards)
        assert device.address_book.export() == cards
    kinds = {type(event) for event in events}
    assert {HeadChecked, HistoryChecked, VaultAccepted} <= kinds
    assert [(e.version, e.origin) for e in events if isinstance(e, IdentityChange)] == [(1, "earlier"), (2, "own")]
    names = [event.name for event in events if isinstance(event, JourneyStep)]
    assert names == [
        "key retrieved",
        "changes received",
        "key made",
        "key stored",
        "key read back",
        "records staged",
        "base made",
        "base stands",
        "rotation finished",
        "checkpoint set",
    ]


async def test_a_contact_that_is_damaged_here_is_shown_as_that_and_brought_back_from_the_store(
    world: Deployment,
) -> None:
    """Not taken for one that was removed: the next store would have it dropped for good."""
    label, cards = world.label(), book(5)
    profile = await world.stored(label, cards)
    with closing(sqlite3.connect(profile / "profile.db")) as db, db:
        db.execute("UPDATE contacts SET sealed = zeroblob(length(sealed)) WHERE number = 2")
    async with world.device(profile) as device:
        assert [contact.unreadable for contact in device.address_book.contacts()] == [False] * 4 + [True]
        assert [contact.name for contact in device.address_book.find("Person 3")] == ["Person 3", ""]
        assert (device.status().contacts, device.status().unreadable, len(device.address_book.cards())) == (4, 1, 4)
        device.address_book.import_cards(book(1, "More"))
        assert (await device.store()).contacts == 6
        assert [contact.name for contact in device.address_book.find("Person")] == [f"Person {n}" for n in range(5)]
        assert device.status().unreadable == 0
    await world.restores(label, cards + book(1, "More"))


async def test_every_use_of_the_key_is_shown(world: Deployment) -> None:
    label = world.label()
    await world.stored(label, book(3))
    thief = await world.registered(label)
    async with world.device(thief) as device:
        await device.restore()
    events: list[Event] = []
    owner = await world.registered(label)
    async with world.device(owner, events.append) as device:
        await device.restore()
        released = [
            (use.generation, use.identity_version, use.origin) for use in events if isinstance(use, AccessEntry)
        ]
        # Read back by the first phone; taken, and read back after its rotation, by the second; and by this one.
        assert released == [(1, 1, "earlier"), (1, 2, "earlier"), (2, 2, "earlier"), (2, 3, "own"), (3, 3, "own")]
        uses = await device.uses()
    assert [use.number for use in uses] == list(range(1, len(uses) + 1))
    assert [use for use in uses if use.operation == "retrieve"] == [
        use for use in events if isinstance(use, AccessEntry)
    ]
    assert {use.operation for use in uses} == {"handshake", "store", "retrieve", "finish_rotation"}


async def test_keys_that_are_let_go_come_back_to_nobody_and_the_next_store_begins_anew(world: Deployment) -> None:
    label, cards = world.label(), book(3)
    profile = await world.stored(label, cards)
    async with world.device(profile) as device:
        await device.delete_keys()
        assert (await device.vault_settings()).generations == []
        assert len(device.address_book.cards()) == 3
        assert (await device.store()).generation == 2
    await world.restores(label, cards)
    async with world.device(await world.registered(label)) as device:
        await device.delete_keys()
        assert "delete" in {use.operation for use in await device.uses()}
    # What an earlier identity stored is kept for 90 days, whoever lets it go.
    await world.restores(label, cards)


@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("step", ["key made", "key read back", "base made"])
async def test_keys_are_let_go_while_another_is_on_its_way(world: Deployment, step: str, stored: bool) -> None:
    label, cards = world.label(), book(3)
    profile = await (world.stored(label, cards) if stored else world.registered(label))

    async def journey(device: Device) -> None:
        if stored:
            device._profile.line.note(rotate=True)
        device.address_book.import_cards(cards)
        await device.store()

    assert await world.cut_off(profile, journey, step)
    async with world.device(profile) as device:
        await device.delete_keys()
        await device.store()
        assert (await device.vault_settings()).generations[-1].generation == device.status().generation
    await world.restores(label, cards)


async def test_a_new_phone_waits_unless_a_device_that_the_owner_named_approves(world: Deployment) -> None:
    label, tablet = world.label(), world.profile()
    old = await world.stored(label, book(3))
    async with world.device(tablet) as device:
        approver = device.approver_key()
    async with world.device(old) as device:
        await device.set_change_delay(10 * DAY_MS)
        await device.add_approver(approver)
        await device.restore()  # who sets it is not shut out
    new = await world.registered(label)
    async with world.device(new) as device:
        with refused("VAULT_CHANGE_DELAYED"):
            await device.restore()
        settings = await device.vault_settings()
        assert settings.waits_until_ms > settings.generations[0].stored_ms + 9 * DAY_MS
        with refused("VAULT_CHANGE_DELAYED"):
            await device.set_change_delay(0)
        request = str(await device.approval_request())
        with refused("VAULT_APPROVER_UNKNOWN"):  # its own word is none
            await device.approve(device.sign_approval(ApprovalRequest.parse(request)))
    async with world.device(tablet) as device:
        assert device.approver_key() == approver
        approval = str(device.sign_approval(ApprovalRequest.parse(request)))
    async with world.device(new) as device:
        await device.approve(Approval.parse(approval))
        assert (await device.restore()).contacts == 3
        uses = [(use.operation, use.identity_version, use.delay_ms, use.approver) for use in await device.uses()]
    for use in (
        ("set_change_delay", 1, 10 * DAY_MS, b""),
        ("add_approver", 1, 0, approver),
        ("approve", 2, 0, approver),
    ):
        assert uses.count(use) == 1


STORE_STEPS = [
    "key made",
    "key stored",
    "key read back",
    "records staged",
    "base made",
    "base stands",
    "checkpoint set",
]
ROTATE_STEPS = ["key retrieved", "changes received", *STORE_STEPS, "rotation finished"]


@pytest.mark.parametrize("step", STORE_STEPS)
async def test_a_store_cut_off_goes_on(world: Deployment, step: str) -> None:
    label, cards = world.label(), book(5)
    profile = await world.registered(label)
    async with world.device(profile) as device:
        device.address_book.import_cards(cards)
    assert await world.cut_off(profile, Device.store, step)
    async with world.device(profile) as device:
        stored = await device.store()
        assert (stored.contacts, stored.generation, stored.n) == (5, 1, 1)
        assert not device.status().unfinished
    await world.restores(label, cards)


@pytest.mark.parametrize("first", range(0, len(ROTATE_STEPS), 3), ids=lambda at: ", ".join(ROTATE_STEPS[at : at + 3]))
@pytest.mark.parametrize("again", [Device.restore, Device.store], ids=["restore", "store"])
async def test_a_restore_cut_off_goes_on(
    world: Deployment, first: int, again: Callable[[Device], Awaitable[object]]
) -> None:
    """By either command, from any step. Of three phones each restores what the one before it left: a number gets five
    codes an hour."""
    label, cards = world.label(), book(5)
    await world.stored(label, cards)
    for generation, step in enumerate(ROTATE_STEPS[first : first + 3], 2):
        profile = await world.registered(label)
        assert await world.cut_off(profile, Device.restore, step), step
        async with world.device(profile) as device:
            await again(device)
            assert device.address_book.cards() == cards_of(cards), step
            status = device.status()
            assert (status.generation, status.unsent, status.unfinished) == (generation, 0, False), step
    await world.restores(label, cards)


async def test_a_phone_lost_in_the_middle_of_a_rotation_loses_nothing(world: Deployment) -> None:
    """Between the new key's way to the vault and its base in the line, the old key still counts."""
    for step in ("key stored", "records staged", "base stands"):
        label, cards = world.label(), book(5)
        await world.stored(label, cards)
        second = await world.registered(label)
        assert await world.cut_off(second, Device.restore, step)
        await world.restores(label, cards)


async def test_a_registration_cut_off_goes_on_with_its_key(world: Deployment) -> None:
    label, profile = world.label(), world.profile()

    async def register(device: Device) -> None:
        await device.register(label, world.code)

    assert await world.cut_off(profile, register, "registration sent")
    async with world.device(profile) as device:
        account = await device.register(label, no_code)
        assert account.version == 1
        assert await device.register(label, no_code) == account


async def test_a_wrong_code_leaves_the_right_one_good_for_a_later_call(world: Deployment) -> None:
    label, profile, asked, told = world.label(), world.profile(), [], []

    async def wrong(request_id: bytes) -> str:
        asked.append(request_id)
        return "no code"

    async with world.device(profile, told.append) as device:
        for _ in range(2):
            with refused("CODE_WRONG"):
                await device.register(label, wrong)
    (request_id,) = set(asked)
    sent = world.config.registration.outbox.read_text()
    assert sent.count(request_id.hex()) == 1
    first, again = [event for event in told if isinstance(event, CodeAwaited)]
    assert f"{label[:3]}…{label[-2:]} " in first.sent_to
    assert label not in first.sent_to
    assert 590 <= again.holds_s <= first.holds_s <= 600
    async with world.device(profile) as device:
        assert (await device.register(label, world.code, continuing=True)).version == 1
    assert world.config.registration.outbox.read_text() == sent


async def test_a_code_that_never_came_or_is_over_is_sent_again(world: Deployment) -> None:
    label, profile, codes = world.label(), world.profile(), iter(["", "no code", "no code"])
    now_ms = system_now_ms()

    def lines() -> int:
        return len(world.config.registration.outbox.read_text().splitlines())

    async def typed(request_id: bytes) -> str:
        return next(codes)

    before = lines()
    async with world.device(profile, now_ms=lambda: now_ms) as device:
        with refused("CODE_WRONG"):
            await device.register(label, typed)
        assert lines() == before + 2
        now_ms += 10 * 60_000
        with refused("CODE_WRONG"):
            await device.register(label, typed)
        assert lines() == before + 3


async def test_a_code_that_nobody_asked_for_is_not_sent_to_be_tried(world: Deployment) -> None:
    before = world.config.registration.outbox.read_text()
    async with world.device(world.profile()) as device:
        with refused("CODE_NOT_REQUESTED"):
            await device.register(world.label(), world.code, continuing=True)
    assert world.config.registration.outbox.read_text() == before


async def test_only_what_changed_is_written_again(world: Deployment) -> None:
    label = world.label()
    profile = await world.stored(label, book(10))
    async with world.device(profile) as device:
        assert device.address_book.import_cards(book(12))[0][:3] == (2, 0, 10)
        assert device.status().unsent == 2
        assert await device.store() == SyncResult(12, received=0, sent=2, unread=0, generation=1, n=2, rotated=False)
        assert await device.store() == SyncResult(12, received=0, sent=0, unread=0, generation=1, n=2, rotated=False)
    await world.restores(label, book(12))


async def test_what_a_new_phone_had_before_the_restore_is_kept(world: Deployment) -> None:
    label = world.label()
    await world.stored(label, book(3))
    profile = await world.registered(label)
    async with world.device(profile) as device:
        device.address_book.import_cards(book(2, "New"))
        stored = await device.store()
        assert (stored.contacts, stored.received, stored.sent, stored.rotated) == (5, 3, 2, True)
    await world.restores(label, book(3) + book(2, "New"))


async def test_cards_of_many_sizes_come_back(world: Deployment) -> None:
    """More of them than one call carries, and one that one record doesn't hold."""
    label = world.label()

    def photo(name: bytes, size: int) -> bytes:
        return b"BEGIN:VCARD\r\nFN:" + name + b"\r\nPHOTO:" + b"x" * size + b"\r\nEND:VCARD\r\n"

    photos = [photo(b"Photo %d" % n, 1_500_000) for n in range(5)]
    cards = book(3) + b"".join(photos) + photo(b"Large", 3 << 20) + book(3, "More")
    await world.stored(label, cards)
    await world.restores(label, cards)


async def test_of_a_card_beyond_every_limit_the_largest_value_stays_on_the_device(
    world: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ipls.contacts.whole.MAX_WHOLE", 2 << 20)  # tests/contacts/test_whole.py has the real one
    label, name = world.label(), b"BEGIN:VCARD\r\nFN:Large\r\n"
    large = name + b"PHOTO:" + b"x" * (3 << 20) + b"\r\nEND:VCARD\r\n"
    profile = await world.stored(label, large + book(3))
    async with world.device(profile) as device:
        assert (device.status().contacts, device.status().unsent) == (4, 0)
        assert device.address_book.export() == large + book(3)
    await world.restores(label, name + b"END:VCARD\r\n" + book(3))


# Crashes: the contact store


@pytest.mark.parametrize("seed", range(2))
async def test_a_contact_store_killed_at_any_moment_loses_nothing(world: Deployment, seed: int) -> None:
    """Three times in a store and a restore, some milliseconds after a step: in the middle of the next call, or not."""
    moments = random.Random(seed)
    label, cards = world.label(), book(2500)
    fatal = {moments.randrange(8): moments.uniform(0, 0.05) for _ in range(3)}
    steps = itertools.count()

    def report(event: Event) -> None:
        if isinstance(event, JourneyStep | Progress) and (delay := fatal.get(next(steps))) is not None:
            asyncio.get_running_loop().call_later(delay, world.kill, "contacts")

    profile = await world.registered(label)
    async with world.device(profile, report) as device:
        device.address_book.import_cards(cards)
        await device.store()
    steps = itertools.count()
    profile = await world.registered(label)
    async with world.device(profile, report) as device:
        assert (await device.restore()).rotated
        assert sorted(device.address_book.cards()) == sorted(cards_of(cards))
        assert not device.status().unfinished
    await world.restores(label, cards)


# The profile


async def test_one_command_at_a_time(world: Deployment) -> None:
    profile = await world.registered(world.label())
    async with world.device(profile):
        with refused("PROFILE_BUSY", ProfileError):
            Device.open(profile)
    async with Device.open(profile) as device:
        assert device.status().contacts == 0


async def test_everything_in_a_profile_is_its_owners_alone(world: Deployment) -> None:
    profile = await world.stored(world.label(), book(3))
    assert stat.S_IMODE(profile.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in profile.iterdir()} == {0o600}


async def test_a_profile_keeps_to_its_trust_root(world: Deployment, tmp_path: Path) -> None:
    profile = await world.registered(world.label())
    deployment.create(tmp_path / "other", "test.ipls", port=0)
    with refused("TRUST_ROOT_CHANGED", ProfileError):
        Device.open(profile, tmp_path / "other/endpoints.json")
    with refused("PROFILE_ABSENT", ProfileError):
        Device.open(tmp_path / "nobody")
    assert not (tmp_path / "nobody").exists()


async def test_contacts_are_found_and_shown(world: Deployment) -> None:
    async with world.device(world.profile()) as device:
        (imported,) = device.address_book.import_cards(book(3) + b"BEGIN:VCARD\r\nFN:cut off")
        assert (imported.new, len(imported.bad)) == (3, 1)
        everybody = device.address_book.contacts()
        assert [contact.name for contact in everybody] == ["Person 0", "Person 1", "Person 2"]
        assert device.address_book.find("pErSoN 1") == device.address_book.find("5550001") == [everybody[1]]
        assert device.address_book.find("nobody") == []
        assert device.address_book.card(everybody[2].id[:8]) == cards_of(book(3))[2]
        with refused("CONTACT_UNKNOWN", ProfileError):
            device.address_book.card("zz")
        with refused("CONTACT_AMBIGUOUS", ProfileError):
            device.address_book.card("")
        with refused("NOT_REGISTERED", ProfileError):
            await device.store()


async def no_code(request_id: bytes) -> str:
    raise AssertionError("no code is needed")


def refused(reason: str, kind: type[IplsError] = IplsError) -> "pytest.RaisesExc[IplsError]":
    return pytest.raises(kind, check=lambda error: error.reason == reason)


# Identities: other people's, and versions of the own one


async def test_two_people_compare_and_a_new_phone_of_one_is_told_to_the_other_at_the_next_sync(
    world: Deployment,
) -> None:
    ada, bob = world.label(), world.label()
    adas = await world.stored(ada, book(2))
    bobs = await world.registered(bob)
    async with world.device(adas) as device, world.device(bobs) as other:
        mine = await device.contact_identities.safety_number(bob)
        theirs = await other.contact_identities.safety_number(ada)
        assert device.contact_identities.compare(bob, SafetyNumber.parse(theirs.text)) is Comparison.MATCHES
        assert mine.digits == theirs.digits
    await world.registered(bob)
    events: list[Event] = []
    async with world.device(adas, events.append) as device:
        await device.store()
        assert not device.contact_identities.verified(bob)
        (changed,) = device.contact_identities.changed()
    told = [event for event in events if isinstance(event, ContactIdentityChanged)]
    assert [(event.label, event.version, event.epoch, event.verified) for event in told] == [
        (bob, 2, changed.epoch, True)
    ]
    async with world.device(adas, events.append) as device:
        await device.store()
        device.contact_identities.acknowledge(bob, 2)
        assert device.contact_identities.changed() == []
    assert len([event for event in events if isinstance(event, ContactIdentityChanged)]) == 1


@pytest.mark.parametrize("step", ["commit made", "commit stands", "before it is removed"])
async def test_a_move_that_is_cut_off_loses_nothing_and_goes_on(
    world: Deployment, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = world.label(), world.label()
    source, target = await world.stored(here, book(3)), await world.stored(there, book(1, "Theirs"))

    def crash(event: Event) -> None:
        if isinstance(event, JourneyStep) and event.name == step:
            raise Crash

    def crash_now(*_: object) -> None:
        raise Crash

    async with world.device(source) as device:
        ids = [each.id for each in device.address_book.contacts()[:2]]
        with monkeypatch.context() as patch, suppress(Crash):
            if step == "before it is removed":
                patch.setattr(AddressBook, "remove_moved", crash_now)
            async with world.device(target, crash) as other:
                await device.move_contacts(ids, other)
        assert len(device.address_book.contacts()) == 3  # or else it was not cut off
    async with world.device(source) as device, world.device(target) as other:
        assert [each.id for each in await device.move_contacts(ids, other)] == ids
        assert device.address_book.cards() == cards_of(book(3))[2:]
        assert other.address_book.cards() == cards_of(book(1, "Theirs") + book(2))
        with refused("CONTACT_UNKNOWN"):
            await device.move_contacts(ids, other)
        await device.store()
    await world.restores(here, book(3)[len(book(2)) :])
    await world.restores(there, book(1, "Theirs") + book(2))


async def test_contacts_don_t_move_within_an_account(world: Deployment) -> None:
    """It would remove them."""
    label = world.label()
    first, second = await world.stored(label, book(1)), await world.registered(label)
    async with world.device(first) as device, world.device(second) as other:
        with refused("ACCOUNT_SAME"):
            await device.move_contacts([device.address_book.contacts()[0].id], other)
        assert device.address_book.cards() == cards_of(book(1))


async def test_a_key_that_was_compared_is_known_on_a_restored_phone(world: Deployment) -> None:
    ada, bob = world.label(), world.label()
    adas = await world.stored(ada, f"BEGIN:VCARD\r\nVERSION:3.0\r\nFN:Bob\r\nTEL:{bob}\r\nEND:VCARD\r\n".encode())
    bobs = await world.registered(bob)
    async with world.device(adas) as device, world.device(bobs) as other:
        await device.contact_identities.safety_number(bob)
        theirs = await other.contact_identities.safety_number(ada)
        device.contact_identities.compare(bob, theirs)
        await device.store()
    new = await world.registered(ada)
    async with world.device(new) as device:
        await device.restore()
        assert device.contact_identities.verified(bob)


async def test_a_sync_finds_who_is_on_the_service_where_that_is_switched_on(world: Deployment) -> None:
    ada, bob = world.label(), world.label()
    await world.registered(bob)
    card = f"BEGIN:VCARD\r\nVERSION:3.0\r\nFN:Bob\r\nTEL:0{bob[3:6]} {bob[6:]}\r\nTEL:at work\r\nEND:VCARD\r\n"
    profile = await world.stored(ada, card.encode())
    async with world.device(profile) as device:
        assert device.contact_identities.known() == []
        device.contact_identities.discover(True)
        await device.store()
        assert [(each.label, each.version) for each in device.contact_identities.known()] == [(bob, 1)]


async def test_that_was_me_and_that_was_not_me(world: Deployment) -> None:
    """A second phone of the person's, then a thief's; she takes the number back and the key is made anew."""
    label = world.label()
    old = await world.stored(label, book(3))
    for origin in ("own phone", "thief"):
        await world.registered(label)
        async with world.device(old) as device:
            with pytest.raises(ClientError):
                await device.monitor()
            (foreign,) = device.status().foreign
            if origin == "own phone":
                device.acknowledge_version(foreign.version)
                assert device.status().foreign == []
            else:
                assert device.disown_version(foreign.version) == "register"
    events: list[Event] = []
    async with world.device(old, events.append) as device:
        await device.register(label, world.code)
        assert device.disown_version(foreign.version) == "store"
        generation = device.status().generation
        await device.store()
        assert device.status().generation > generation
        origins = {event.version: event.origin for event in events if isinstance(event, IdentityChange)}
        assert origins == {1: "own", 2: "acknowledged", 3: "foreign", 4: "own"}
        for number in (1, 4, 9):
            with pytest.raises(ProfileError) as error:
                device.acknowledge_version(number)
            assert error.value.reason == "VERSION_UNKNOWN"
    with closing(Profile(old)) as profile:
        assert profile.accepted_versions == {1, 2, 4}
