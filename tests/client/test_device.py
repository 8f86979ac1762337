"""The device's journeys against the real services."""

import asyncio
import itertools
import os
import random
import shutil
import sqlite3
import stat
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from ipls.admin import deployment
from ipls.client.approvals import Approval, ApprovalRequest
from ipls.client.device import Device
from ipls.client.errors import ProfileError
from ipls.client.events import (
    AccessEntry,
    CodeAwaited,
    Event,
    HeadChecked,
    HistoryChecked,
    IdentityChange,
    JourneyStep,
    Progress,
    VaultAccepted,
)
from ipls.client.vault import VaultSession
from ipls.clock import system_now_ms
from ipls.errors import IplsError
from ipls.store.contacts import Manifest
from ipls.units import DAY_MS
from tests.client.deployment import Deployment, book


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
        assert (restored.contacts, restored.fetched, restored.generation, restored.rotated) == (50, 50, 2, True)
        restored_cards = device.cards()
        assert [item.name for item in device.contacts("person 7")] == ["Person 7"]
    async with world.device(old) as device:
        assert sorted(device.cards()) == sorted(restored_cards)
        assert sorted(device.export().split(b"END:VCARD\r\n")) == sorted(cards.split(b"END:VCARD\r\n"))
    kinds = {type(event) for event in events}
    assert {HeadChecked, HistoryChecked, VaultAccepted} <= kinds
    assert [(e.version, e.origin) for e in events if isinstance(e, IdentityChange)] == [(1, "earlier"), (2, "own")]
    names = [event.name for event in events if isinstance(event, JourneyStep)]
    assert names == [
        "key retrieved",
        "records restored",
        "key made",
        "key stored",
        "key read back",
        "records stored",
        "manifest made",
        "manifest swapped",
        "rotation finished",
        "old records dropped",
    ]


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
        assert len(device.cards()) == 3
        assert (await device.store()).generation == 2
    await restores(world, label, cards)
    async with world.device(await world.registered(label)) as device:
        await device.delete_keys()
        assert "delete" in {use.operation for use in await device.uses()}
    # What an earlier identity stored is kept for 30 days, whoever lets it go.
    await restores(world, label, cards)


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


async def test_a_use_that_was_taken_out_of_the_history_is_missed(world: Deployment) -> None:
    """Yesterday's database, put back after a theft that the owner has seen: with yesterday's token, which SoftHSM lets
    be copied, the vault takes it."""
    owner = await world.stored(world.label(), book(3))
    with world.vault_of_now_put_back():
        async with world.device(owner) as device:
            await device.uses()
    async with world.device(owner) as device:
        with refused("VAULT_HISTORY_REWRITTEN"):
            await device.uses()
            await device.uses()


STORE_STEPS = ["key made", "key stored", "key read back", "records stored", "manifest made", "manifest swapped"]
ROTATE_STEPS = ["key retrieved", "records restored", *STORE_STEPS, "rotation finished"]


@pytest.mark.parametrize("step", STORE_STEPS)
async def test_a_store_cut_off_goes_on(world: Deployment, step: str) -> None:
    label, cards = world.label(), book(5)
    profile = await world.registered(label)
    async with world.device(profile) as device:
        device.import_cards(cards)
    assert await world.cut_off(profile, Device.store, step)
    async with world.device(profile) as device:
        stored = await device.store()
        assert (stored.contacts, stored.generation, stored.version) == (5, 1, 1)
        assert not device.status().unfinished
    await restores(world, label, cards)


@pytest.mark.parametrize("step", ROTATE_STEPS)
@pytest.mark.parametrize("again", [Device.restore, Device.store], ids=["restore", "store"])
async def test_a_restore_cut_off_goes_on(
    world: Deployment, step: str, again: Callable[[Device], Awaitable[object]]
) -> None:
    """With `restore` from any step; with `store` from where everything was there."""
    label, cards = world.label(), book(5)
    await world.stored(label, cards)
    profile = await world.registered(label)
    assert await world.cut_off(profile, Device.restore, step)
    async with world.device(profile) as device:
        if step == "key retrieved" and again is Device.store:
            with refused("RESTORE_FIRST", ProfileError):
                await again(device)
            return
        await again(device)
        assert sorted(device.cards()) == sorted(cards_of(cards))
        status = device.status()
        assert (status.generation, status.unsent, status.unfinished) == (2, 0, False)
    with world.contacts_database() as store:
        assert {key.generation for key, _ in store.page(label, after=None, limit=100)} == {2}
    await restores(world, label, cards)


async def test_a_phone_lost_in_the_middle_of_a_rotation_loses_nothing(world: Deployment) -> None:
    """Between the new key's way to the vault and the manifest's swap, the old key still counts."""
    for step in ("key stored", "records stored", "manifest swapped"):
        label, cards = world.label(), book(5)
        await world.stored(label, cards)
        second = await world.registered(label)
        assert await world.cut_off(second, Device.restore, step)
        await restores(world, label, cards)


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
        assert device.import_cards(book(12)) == (2, 10, [])
        assert device.status().unsent == 2
        assert await device.store() == (12, 2, 1, 2)
        assert await device.store() == (12, 0, 1, 2)
    await restores(world, label, book(12))


async def test_what_a_new_phone_had_before_the_restore_is_kept(world: Deployment) -> None:
    label = world.label()
    await world.stored(label, book(3))
    profile = await world.registered(label)
    async with world.device(profile) as device:
        device.import_cards(book(2, "New"))
        with refused("RESTORE_FIRST", ProfileError):
            await device.store()
        await device.restore()
    await restores(world, label, book(3) + book(2, "New"))


async def test_cards_of_many_sizes_come_back(world: Deployment) -> None:
    """More of them than one call carries."""
    label = world.label()
    photo = b"BEGIN:VCARD\r\nFN:Photo %d\r\nPHOTO:" + b"x" * 1_500_000 + b"\r\nEND:VCARD\r\n"
    cards = book(3) + b"".join(photo.replace(b"%d", b"%d" % n) for n in range(5)) + book(3, "More")
    await world.stored(label, cards)
    await restores(world, label, cards)


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
        device.import_cards(cards)
        await device.store()
    steps = itertools.count()
    profile = await world.registered(label)
    async with world.device(profile, report) as device:
        assert (await device.restore()).rotated
        assert sorted(device.cards()) == sorted(cards_of(cards))
        assert not device.status().unfinished
    await restores(world, label, cards)


# Attacks: the contact store's operator


async def test_a_record_swapped_for_another_is_refused(world: Deployment) -> None:
    label = world.label()
    await world.stored(label, book(3))
    with sqlite3.connect(world.config.contacts.database) as db:
        first, second = db.execute("SELECT rowid, ciphertext FROM record WHERE label = ? LIMIT 2", (label,))
        db.execute("UPDATE record SET ciphertext = ? WHERE rowid = ?", (second[1], first[0]))
    await restore_refused(world, label, "RECORD_DAMAGED")  # by our own store; another's: test_hostile_store.py


async def test_a_record_dropped_is_missed(world: Deployment) -> None:
    label = world.label()
    await world.stored(label, book(3))
    with world.contacts_database() as store:
        store.drop(label, [store.page(label, after=None, limit=1)[0][0]])
    await restore_refused(world, label, "RECORD_ABSENT")


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("ciphertext", os.urandom(1052), "RECORD_INVALID"),
        ("version", 9, "RECORD_INVALID"),
        ("generation", 2, "VAULT_GENERATION_UNKNOWN"),
        ("check_value", bytes(32), "KEY_CHECK_FAILED"),
    ],
)
async def test_an_edited_manifest_is_refused(world: Deployment, column: str, value: object, reason: str) -> None:
    label = world.label()
    await world.stored(label, book(3))
    with sqlite3.connect(world.config.contacts.database) as db:
        db.execute(f"UPDATE manifest SET {column} = ? WHERE label = ?", (value, label))
    await restore_refused(world, label, reason)


async def test_another_accounts_manifest_is_refused(world: Deployment) -> None:
    label, other = world.label(), world.label()
    for each in (label, other):
        await world.stored(each, book(3))
    with world.contacts_database() as store:
        manifest = store.manifest(other)
    assert manifest is not None
    replace_manifest(world, label, manifest)
    await restore_refused(world, label, "KEY_CHECK_FAILED")


async def test_a_manifest_rolled_back_is_seen_by_a_device_that_saw_a_later_one(world: Deployment) -> None:
    label = world.label()
    profile = await world.stored(label, book(3))
    with world.contacts_database() as store:
        old = store.manifest(label)
        old_records = [(key, store.read(label, [key])) for key, _ in store.page(label, after=None, limit=10)]
    async with world.device(profile) as device:
        device.import_cards(book(5))
        await device.store()
    assert old is not None
    replace_manifest(world, label, old)
    with world.contacts_database() as store:
        store.put(label, old_records, max_records=100, max_bytes=1 << 20)
    async with world.device(profile) as device:
        for journey in (device.store, device.restore):
            with refused("MANIFEST_ROLLED_BACK"):
                await journey()
        assert len(device.cards()) == 5
    # A new phone has seen no manifest: it can't tell, and gets the old list.
    new = await world.registered(label)
    async with world.device(new) as device:
        assert (await device.restore()).contacts == 3


async def test_two_manifests_of_one_version_are_seen_by_a_device_that_saw_one_of_them(world: Deployment) -> None:
    """The store shows each of two copies of a phone its own list."""
    label = world.label()
    profile, copy = await world.stored(label, book(3)), world.profile()
    with world.contacts_database() as store:
        first = store.manifest(label)
    assert first is not None
    shutil.copytree(profile, copy)
    for phone, cards in ((profile, book(4)), (copy, book(5))):
        replace_manifest(world, label, first)
        async with world.device(phone) as device:
            device.import_cards(cards)
            assert (await device.store()).version == 2
    async with world.device(profile) as device:
        for journey in (device.store, device.restore):
            with refused("MANIFEST_FORK"):
                await journey()
        assert len(device.cards()) == 4


async def test_a_manifest_withheld_is_missed_by_the_device_that_wrote_it(world: Deployment) -> None:
    label = world.label()
    profile = await world.stored(label, book(3))
    with sqlite3.connect(world.config.contacts.database) as db:
        db.execute("DELETE FROM manifest WHERE label = ?", (label,))
    async with world.device(profile) as device:
        with refused("MANIFEST_ROLLED_BACK"):
            await device.store()
    await restore_refused(world, label, "NOTHING_STORED")


# Attacks: the vault


async def test_a_key_that_the_vault_does_not_give_back_seals_nothing(
    world: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    label = world.label()
    await world.stored(label, book(3))
    profile = await world.registered(label)
    honest = VaultSession.retrieve

    async def lie(session: VaultSession, generation: int) -> bytes:
        return await honest(session, generation) if generation == 1 else bytes(32)

    with monkeypatch.context() as patch:
        patch.setattr(VaultSession, "retrieve", lie)
        async with world.device(profile) as device:
            with refused("KEY_READ_BACK"):
                await device.restore()  # what was there comes back; the rotation after it does not go on
            assert (len(device.cards()), device.status().unfinished) == (3, True)
    with world.contacts_database() as store:
        assert {key.generation for key, _ in store.page(label, after=None, limit=100)} == {1}
    await restores(world, label, book(3))


# Attacks: whoever controls the number


async def test_a_key_that_a_thief_planted_is_not_used(world: Deployment) -> None:
    """A thief has the number for a while and stores a key; the contact store's operator points the owner to it."""
    label, cards = world.label(), book(3)
    await world.stored(label, cards)
    async with world.device(await world.registered(label)) as thief:
        await thief._vault.run(lambda session: session.store(1, os.urandom(16), os.urandom(32)))
    with world.contacts_database() as store:
        honest = store.manifest(label)
    assert honest is not None
    replace_manifest(world, label, honest._replace(generation=2))
    await restore_refused(world, label, "KEY_CHECK_FAILED")
    replace_manifest(world, label, honest)
    await restores(world, label, cards)  # the owner's key is still there


async def test_a_stolen_number_shows_and_shuts_the_old_device_out(world: Deployment) -> None:
    label = world.label()
    profile = await world.stored(label, book(3))
    await world.registered(label)  # the thief
    events: list[Event] = []
    async with world.device(profile, events.append) as device:
        with refused("IDENTITY_SUPERSEDED", ProfileError):
            await device.store()
        assert next((e.version, e.origin) for e in events if isinstance(e, IdentityChange)) == (2, "foreign")
        assert [version.version for version in device.status().foreign] == [2]
        # The owner takes it back, and with it comes a new contact key.
        assert (await device.register(label, world.code)).version == 3
        assert [version.origin for version in await device.monitor()] == ["own", "foreign", "own"]
        assert (await device.store()).generation == 2


async def test_a_history_that_changed_is_refused(world: Deployment) -> None:
    profile = await world.registered(world.label())
    with closing(sqlite3.connect(profile / "profile.db")) as db, db:
        db.execute("INSERT INTO version VALUES (2, 3, ?, 'own')", (bytes(32),))  # proved once, now not there
    async with world.device(profile) as device:
        with refused("HISTORY_REWRITTEN"):
            await device.monitor()


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
        imported = device.import_cards(book(3) + b"BEGIN:VCARD\r\nFN:cut off")
        assert (imported.added, len(imported.skipped)) == (3, 1)
        everybody = device.contacts()
        assert [contact.name for contact in everybody] == ["Person 0", "Person 1", "Person 2"]
        assert device.contacts("pErSoN 1") == device.contacts("5550001") == [everybody[1]]
        assert device.contacts("nobody") == []
        assert device.card(everybody[2].id[:8]) == cards_of(book(3))[2]
        with refused("CONTACT_UNKNOWN", ProfileError):
            device.card("zz")
        with refused("CONTACT_AMBIGUOUS", ProfileError):
            device.card("")
        with refused("NOT_REGISTERED", ProfileError):
            await device.store()


def cards_of(data: bytes) -> list[bytes]:
    return [card + b"END:VCARD" for card in data.split(b"END:VCARD\r\n")[:-1]]


def refused(reason: str, kind: type[IplsError] = IplsError) -> "pytest.RaisesExc[IplsError]":
    return pytest.raises(kind, check=lambda error: error.reason == reason)


def replace_manifest(world: Deployment, label: str, manifest: Manifest) -> None:
    """What only the store's operator can do."""
    with sqlite3.connect(world.config.contacts.database) as db:
        db.execute("INSERT OR REPLACE INTO manifest VALUES (?, ?, ?, ?, ?)", (label, *manifest))


async def no_code(request_id: bytes) -> str:
    raise AssertionError("no code is needed")


async def restores(world: Deployment, label: str, cards: bytes) -> None:
    """On yet another phone everything comes back."""
    profile = await world.registered(label)
    async with world.device(profile) as device:
        await device.restore()
        assert sorted(device.cards()) == sorted(cards_of(cards))


async def restore_refused(world: Deployment, label: str, reason: str) -> None:
    profile = await world.registered(label)
    async with world.device(profile) as device:
        with refused(reason):
            await device.restore()
        assert device.cards() == []
