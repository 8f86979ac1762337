"""Other people's keys: what a directory that lies about one of many contacts is refused, and what a person is told."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest

from ipls.akd import EMPTY_ROOT
from ipls.client.contact_identities import (
    DISCOVERED_A_DAY,
    DISCOVERED_AGAIN_MS,
    MAX_SILENT,
    OVERDUE_MS,
    ContactIdentities,
    IdentityRound,
)
from ipls.client.directory import DirectoryReader
from ipls.client.errors import ProfileError, RefusedError, TryLaterError
from ipls.client.events import ContactIdentityChanged, ContactIdentityDiffers, ContactIdentityUnproved, Event
from ipls.client.profile import Account, Contact, ContactIdentity, Profile
from ipls.contacts.envelope import Envelope, Verified
from ipls.crypto.keys import public_key
from ipls.proto.directory.v1.directory_pb2 import (
    AbsenceRequest,
    AbsenceResponse,
    HistoryRequest,
    HistoryResponse,
    OpenSessionResponse,
)
from ipls.proto.directory.v1.directory_pb2_grpc import (
    DirectoryServiceServicer,
    DirectoryServiceStub,
    add_DirectoryServiceServicer_to_server,
)
from ipls.rpc.errors import ServiceError
from ipls.trust.evidence import judge_evidence
from ipls.trust.heads import Head
from ipls.trust.identity import encode_record
from ipls.trust.root import TrustRoot
from ipls.trust.safety import Comparison, Party, SafetyNumber
from ipls.units import DAY_MS
from tests.attack.directory import Directory
from tests.server.loopback import loopback
from tests.trust.roots import NAMESPACE, NOW, THIEF, WITNESSES, seed, signed, three_of

ME = "+491700000000"
PEOPLE = [f"+49170000000{n}" for n in range(1, 6)]
BOB = PEOPLE[2]
STRANGER = "+491709999999"
KEYS = {label: public_key(seed(100 + n)) for n, label in enumerate(PEOPLE)}
NEW_KEY, THIEFS = public_key(seed(200)), public_key(THIEF)

Answer = Callable[[HistoryRequest], Awaitable[HistoryResponse]]


class Tree(Directory):
    """As the directory has it, with a quorum of witnesses: everybody's first key in epoch 1."""

    def __init__(self, bob: bytes = KEYS[BOB], without: str = "") -> None:
        super().__init__(seed(1))
        keys = KEYS | {BOB: bob}
        self.publish([(label.encode(), encode_record(key)) for label, key in keys.items() if label != without])

    def registers(self, label: str, key: bytes) -> None:
        self.publish([(label.encode(), encode_record(key))])

    def goes_on(self, epochs: int = 1) -> None:
        for _ in range(epochs):
            self.registers(f"+48{self.epoch}", THIEFS)

    def newest(self, label: str) -> int:
        return max((version for owner, version in self.versions if owner == label.encode()), default=0)

    def head(self, now_ms: int) -> Any:
        return signed(Head(self.epoch, self.tree().root()), *WITNESSES[:2], time=now_ms)

    def answer(self, label: str, now_ms: int, version: int = 0, of: str = "") -> HistoryResponse:
        proof = self.history(self.tree(), (of or label).encode(), [version or self.newest(label)], self.epoch)
        return HistoryResponse(head=self.head(now_ms), chunk=proof.SerializeToString())


class Town(DirectoryServiceServicer):
    """An honest directory, but for `lies`: what it answers of a number instead."""

    def __init__(self) -> None:
        self.tree = Tree()
        self.lies: dict[str, Answer] = {}
        self.asked: list[str] = []
        self.now_ms = NOW

    async def OpenSession(self, request: Any, context: Any) -> OpenSessionResponse:
        return OpenSessionResponse(token=b"token")

    async def History(self, request: HistoryRequest, context: Any) -> AsyncIterator[HistoryResponse]:
        label = request.label.decode()
        assert (request.most_recent, request.epoch) == (1, 0)
        self.asked.append(label)
        if label in self.lies:
            yield await self.lies[label](request)
        elif self.tree.newest(label):
            yield self.tree.answer(label, self.now_ms)
        else:
            raise ServiceError("LABEL_NOT_FOUND", "no such label")

    async def Absence(self, request: AbsenceRequest, context: Any) -> AbsenceResponse:
        markers = [1 << bit for bit in range(self.tree.epoch.bit_length())]
        proof = self.tree.absence(self.tree.tree(), request.label, markers)
        return AbsenceResponse(head=self.tree.head(self.now_ms), proof=proof.SerializeToString())

    def lie(self, tree: Tree, **how: Any) -> None:
        """Of Bob alone: what another tree shows, which the witnesses signed too."""

        async def answer(request: HistoryRequest) -> HistoryResponse:
            return tree.answer(BOB, self.now_ms, **how)

        self.lies[BOB] = answer

    def refuses(self, label: str, reason: str) -> None:
        async def answer(request: HistoryRequest) -> HistoryResponse:
            raise ServiceError(reason, "says the directory")

        self.lies[label] = answer

    @property
    def root(self) -> TrustRoot:
        return three_of(vrf_public_key=self.tree.public_key, start_root=EMPTY_ROOT)


class Phone:
    """A device that knows everybody's first key, and has them all in use."""

    def __init__(self, town: Town, profile: Profile, stub: DirectoryServiceStub) -> None:
        self.town, self.profile = town, profile
        self.events: list[Event] = []

        def now_ms() -> int:
            return town.now_ms

        reader = DirectoryReader(stub, town.root, profile, now_ms=now_ms, report=self.events.append, retry_for_s=0)

        async def by_newest_root() -> DirectoryReader:
            return reader

        self.identities = ContactIdentities(
            profile, NAMESPACE, by_newest_root, now_ms=now_ms, report=self.events.append
        )

    async def check(self, *numbers: str, for_s: float = 600) -> IdentityRound:
        """A sync's, after a day."""
        self.town.now_ms += DAY_MS
        self.town.asked.clear()
        return await self.identities.check(lambda: numbers, for_s=for_s)

    def told(self) -> list[Event]:
        kinds = ContactIdentityChanged | ContactIdentityDiffers | ContactIdentityUnproved
        return [event for event in self.events if isinstance(event, kinds)]

    def proved(self) -> list[str]:
        """Whom the last round proved."""
        return [each.label for each in self.identities.known() if each.proved_ms == self.town.now_ms]

    def evidence(self) -> list[str]:
        return [judge_evidence(self.town.root, file.read_bytes()).kind for file in self.profile.evidence.files()]


@asynccontextmanager
async def phone(folder: Path) -> AsyncIterator[Phone]:
    town = Town()
    async with loopback(folder, lambda s: add_DirectoryServiceServicer_to_server(town, s)) as channel:
        with closing(Profile(folder / "phone")) as profile:
            profile.put(Account(ME, seed(99), 1, 1))
            phone = Phone(town, profile, DirectoryServiceStub(channel))
            for label in PEOPLE:
                await phone.identities.use(label)
            town.tree.goes_on()
            yield phone


async def test_keys_that_stay_are_proved_and_not_told_of(tmp_path: Path) -> None:
    async with phone(tmp_path) as device:
        found = await device.check()
        assert found == IdentityRound(5, [], [], 0, "")
        assert device.proved() == PEOPLE
        known = {
            each.label: (each.public_key, each.version, each.epoch, each.since_ms) for each in device.identities.known()
        }
        assert known == {label: (key, 1, 1, NOW) for label, key in KEYS.items()}
        assert device.told() == []


async def test_a_changed_key_is_told_once_with_epoch_and_dates_until_it_is_acknowledged(tmp_path: Path) -> None:
    async with phone(tmp_path) as device:
        device.town.tree.registers(BOB, NEW_KEY)
        found = await device.check()
        assert [(each.label, each.public_key, each.version, each.epoch) for each in found.changed] == [
            (BOB, NEW_KEY, 2, 3)
        ]
        assert device.told() == [ContactIdentityChanged(BOB, 2, 3, NOW + DAY_MS, NOW, False)]
        assert len((await device.check()).changed) == 1
        assert [each.label for each in device.identities.changed()] == [BOB]
        assert len(device.told()) == 1
        device.identities.acknowledge(BOB, 1)  # of what was told before: another one by now
        assert [each.label for each in device.identities.changed()] == [BOB]
        device.identities.acknowledge(BOB, 2)
        assert (device.identities.changed(), (await device.check()).changed) == ([], [])
        device.town.tree.registers(BOB, THIEFS)
        await device.check()
        assert [event.version for event in device.told() if isinstance(event, ContactIdentityChanged)] == [2, 3]


async def test_a_key_that_went_and_came_back_is_told_of_and_one_published_anew_is_not(tmp_path: Path) -> None:
    """Somebody else had the number meanwhile; most recent 1 does not show who."""
    async with phone(tmp_path) as device:
        device.town.tree.registers(BOB, KEYS[BOB])
        assert (await device.check()).changed == []
        device.town.tree.registers(BOB, THIEFS)
        device.town.tree.registers(BOB, KEYS[BOB])
        assert [(each.version, each.public_key) for each in (await device.check()).changed] == [(4, KEYS[BOB])]


async def test_a_key_published_anew_does_not_hide_a_change_that_nobody_acknowledged(tmp_path: Path) -> None:
    async with phone(tmp_path) as device:
        for _ in range(2):
            device.town.tree.registers(BOB, THIEFS)
            await device.check()
        assert [each.version for each in device.identities.changed()] == [3]


# A directory that lies about one of five


def rolled_back(town: Town) -> None:
    """The same head, Bob's old version as if there were no other."""
    town.tree.registers(BOB, NEW_KEY)
    town.lie(town.tree, version=1)


def earlier(town: Town) -> None:
    """A head that was true before the one that this device has seen."""
    town.lie(Tree())


def anothers_key(town: Town) -> None:
    town.lie(town.tree, of=PEOPLE[0])


def another_key(town: Town) -> None:
    """The witnesses signed another tree, in which Bob's one version has the thief's key."""
    town.tree = Tree(bob=THIEFS)
    town.tree.goes_on(5)


def version_taken_away(town: Town) -> None:
    """Likewise, a tree in which Bob never was."""
    town.tree = Tree(without=BOB)
    town.tree.goes_on(5)


def planted_in_the_past(town: Town) -> None:
    """Likewise, one with a second version as of an epoch in which this device saw that there was none."""
    town.tree = Tree()
    town.tree.registers(BOB, THIEFS)
    town.tree.goes_on(5)


def fork(town: Town) -> None:
    """Two heads of one epoch."""
    tree = Tree(bob=THIEFS)
    tree.goes_on(town.tree.epoch - tree.epoch)
    town.lie(tree)


def erased(town: Town) -> None:
    town.refuses(BOB, "VALUE_ERASED")


def denied(town: Town) -> None:
    """It says that there is no such number; what it proves that by is not there."""
    town.refuses(BOB, "LABEL_NOT_FOUND")


@pytest.mark.parametrize(
    ("lie", "reason", "evidence"),
    [
        (rolled_back, "IDENTITY_UNPROVEN", []),
        (earlier, "HEAD_BELOW_HIGHEST", []),
        (anothers_key, "IDENTITY_UNPROVEN", []),
        (denied, "CHILD_LEADS_ON", []),
        (erased, "VALUE_ERASED", []),
        (another_key, "HISTORY_REWRITTEN", ["rewrite"]),
        (version_taken_away, "HISTORY_REWRITTEN", ["rewrite"]),
        (planted_in_the_past, "HISTORY_REWRITTEN", []),
        (fork, "HEAD_FORK", ["two_heads"]),
    ],
)
async def test_a_lie_about_one_contact_is_refused_told_and_costs_nobody_else(
    tmp_path: Path, lie: Callable[[Town], None], reason: str, evidence: list[str]
) -> None:
    async with phone(tmp_path) as device:
        await device.check()
        before = {each.label: each for each in device.identities.known()}
        lie(device.town)
        found = await device.check()
        assert found.unproved == [(BOB, reason)]
        assert (found.asked, found.left, found.changed) == (5, 0, [])
        assert device.told() == [ContactIdentityUnproved(BOB, reason)]
        assert device.evidence() == evidence
        kept = device.profile.contact_identity(BOB)
        assert kept == before[BOB]._replace(asked_ms=device.town.now_ms)
        assert device.proved() == [label for label in PEOPLE if label != BOB]


async def test_a_number_that_is_on_nobodys_service_is_said_as_that_until_it_is(tmp_path: Path) -> None:
    async with phone(tmp_path) as device:
        found = await device.identities.use(STRANGER)
        assert (found.public_key, found.version, found.proved_ms, found.changed) == (b"", 0, NOW, False)
        with pytest.raises(RefusedError) as error:
            await device.identities.safety_number(STRANGER)
        assert error.value.reason == "LABEL_NOT_FOUND"
        assert STRANGER not in error.value.message
        device.town.tree.goes_on()
        assert (await device.check()).unproved == []
        device.town.tree.registers(STRANGER, NEW_KEY)
        assert (await device.check()).changed == []
        assert (await device.identities.use(STRANGER)).public_key == NEW_KEY
        assert device.told() == []


async def test_a_number_is_asked_for_only_where_it_is_one_and_there_is_an_account(tmp_path: Path) -> None:
    async with phone(tmp_path) as device:
        device.town.asked.clear()
        for label, reason in (("Bob", "LABEL_INVALID"), (ME, "SAFETY_NUMBER_INVALID")):
            with pytest.raises(ProfileError) as error:
                await device.identities.safety_number(label)
            assert error.value.reason == reason
        with pytest.raises(RefusedError) as unproved:
            device.identities.compare(STRANGER, number_of(STRANGER, NEW_KEY))
        assert unproved.value.reason == "IDENTITY_UNPROVEN"
        assert device.town.asked == []


# Silence


async def test_silence_about_one_costs_nobody_else_an_answer(tmp_path: Path) -> None:
    async with phone(tmp_path) as device:
        device.town.refuses(PEOPLE[0], "SERVICE_BUSY")
        found = await device.check()
        assert found == IdentityRound(5, [], [], 0, "")
        assert device.proved() == PEOPLE[1:]
        assert device.told() == []


async def test_whoever_is_kept_waiting_for_is_last_at_the_next_sync(tmp_path: Path) -> None:
    """The directory takes the question about the first one and never answers."""
    async with phone(tmp_path) as device:
        device.town.now_ms += 1
        for label in PEOPLE[1:]:  # so that the first was asked for longest ago
            await device.identities.use(label)
        held = asyncio.Event()

        async def never(request: HistoryRequest) -> HistoryResponse:
            await held.wait()
            raise AssertionError

        device.town.lies[PEOPLE[0]] = never
        found = await device.check(for_s=0)
        assert (found.asked, found.left, found.stopped) == (1, 4, "DEADLINE_EXCEEDED")
        device.town.refuses(PEOPLE[0], "SERVICE_BUSY")
        found = await device.check()
        assert device.town.asked == [*PEOPLE[1:], PEOPLE[0]]
        assert device.proved() == PEOPLE[1:]


async def test_a_directory_that_is_away_is_left_alone_after_two_numbers(tmp_path: Path) -> None:
    """And nobody who is silenced keeps the others from their turn."""
    async with phone(tmp_path) as device:
        for label in PEOPLE[:4]:
            device.town.refuses(label, "SERVICE_BUSY")
        found = await device.check()
        assert (found.asked, found.left, found.stopped) == (MAX_SILENT, 3, "SERVICE_BUSY")
        await device.check()
        assert PEOPLE[4] in (await asked_in(device, 2))


async def asked_in(device: Phone, rounds: int) -> set[str]:
    """By these many syncs."""
    asked: set[str] = set()
    for _ in range(rounds):
        await device.check()
        asked |= {*device.town.asked}
    return asked


@pytest.mark.parametrize("reason", ["LABEL_QUOTA", "IDENTITY_SUPERSEDED"])
async def test_what_the_directory_has_against_this_device_is_no_ones_key(tmp_path: Path, reason: str) -> None:
    async with phone(tmp_path) as device:
        device.town.refuses(PEOPLE[1], reason)
        found = await device.check()
        assert (found.asked, found.left, found.stopped, found.unproved) == (2, 3, reason, [])
        assert device.told() == []


async def test_a_key_that_was_not_proved_for_a_week_is_told_of(tmp_path: Path) -> None:
    async with phone(tmp_path) as device:
        device.town.refuses(BOB, "SERVICE_BUSY")
        for _ in range(OVERDUE_MS // DAY_MS):
            await device.check()
            assert device.identities.overdue() == []
        await device.check()
        assert [each.label for each in device.identities.overdue()] == [BOB]
        del device.town.lies[BOB]
        await device.check()
        assert device.identities.overdue() == []


async def test_one_who_never_had_an_answer_is_overdue_after_a_week_too(tmp_path: Path) -> None:
    async with phone(tmp_path) as device:
        device.town.refuses(STRANGER, "SERVICE_BUSY")
        with pytest.raises(TryLaterError):
            await device.identities.use(STRANGER)
        assert device.identities.overdue() == []
        for _ in range(8):
            await device.check()
        assert [each.label for each in device.identities.overdue()] == [STRANGER]


# Safety numbers


def number_of(label: str, key: bytes, namespace: str = NAMESPACE) -> SafetyNumber:
    """As the other one has it."""
    return SafetyNumber.between(namespace, Party(label, key), Party(ME, public_key(seed(99))))


async def test_a_safety_number_that_matches_verifies_the_key_and_none_else(tmp_path: Path) -> None:
    async with phone(tmp_path) as device:
        assert await device.identities.safety_number(BOB) == number_of(BOB, KEYS[BOB])
        for scanned, says in (
            (number_of(BOB, THIEFS), Comparison.DIFFERS),
            (number_of(PEOPLE[0], KEYS[PEOPLE[0]]), Comparison.OTHER_PAIR),
            (number_of(BOB, KEYS[BOB], "elsewhere"), Comparison.OTHER_PAIR),
        ):
            assert device.identities.compare(BOB, scanned) is says
            assert not device.identities.verified(BOB)
        assert device.identities.compare(BOB, number_of(BOB, KEYS[BOB])) is Comparison.MATCHES
        assert device.identities.verified(BOB)
        assert device.profile.verified(BOB) == Verified(BOB, KEYS[BOB], 1, 1)


async def test_another_key_is_not_verified_and_that_one_was_is_told(tmp_path: Path) -> None:
    async with phone(tmp_path) as device:
        device.identities.compare(BOB, number_of(BOB, KEYS[BOB]))
        device.town.tree.registers(BOB, NEW_KEY)
        await device.check()
        assert device.told() == [ContactIdentityChanged(BOB, 2, 3, NOW + DAY_MS, NOW, True)]
        device.identities.acknowledge(BOB, 2)
        assert not device.identities.verified(BOB)
        assert device.identities.compare(BOB, number_of(BOB, KEYS[BOB])) is Comparison.DIFFERS
        assert device.identities.compare(BOB, number_of(BOB, NEW_KEY)) is Comparison.MATCHES
        assert device.identities.verified(BOB)


async def test_what_was_compared_on_another_device_counts_here_once_it_is_proved(tmp_path: Path) -> None:
    """One of a later epoch waits for that; an older one that comes late takes nothing back."""
    async with phone(tmp_path) as device:
        put(device.profile, (STRANGER, Verified(STRANGER, NEW_KEY, 2, 40)))
        assert (await device.check()).unproved == []
        assert device.told() == []
        assert not device.identities.verified(STRANGER)
        for epoch, key in ((39, THIEFS), (40, NEW_KEY)):
            device.town.tree.goes_on(epoch - device.town.tree.epoch - 1)
            device.town.tree.registers(STRANGER, key)
        assert (await device.check()).unproved == []
        assert device.identities.verified(STRANGER)
        put(device.profile, (STRANGER, Verified(STRANGER, THIEFS, 1, 39)))
        await device.check()
        assert device.identities.verified(STRANGER)
        device.town.tree.registers(STRANGER, THIEFS)
        assert [each.version for each in (await device.check()).changed] == [3]


def put(profile: Profile, *contacts: tuple[str, Verified | None]) -> None:
    """People with these numbers, and keys of theirs as another device of the account compared them."""
    profile.put_contacts(
        Contact(
            bytes([n]) * 16,
            Envelope(f"BEGIN:VCARD\r\nFN:P\r\nTEL:{number}\r\nEND:VCARD".encode(), verified=(key,) if key else ()),
        )
        for n, (number, key) in enumerate(contacts)
    )


async def test_a_compared_key_is_kept_with_the_contacts_that_have_the_number(tmp_path: Path) -> None:
    async with phone(tmp_path) as device:
        profile, compared = device.profile, Verified(BOB, KEYS[BOB], 1, 1)
        national = f"0{BOB[3:6]} {BOB[6:]}"
        put(profile, (PEOPLE[0], Verified(PEOPLE[0], KEYS[PEOPLE[0]], 1, 1)), (national, None), (BOB, None))
        device.identities.compare(BOB, number_of(BOB, KEYS[BOB]))
        assert [each.envelope.verified[0].label for each in profile.contacts()] == [PEOPLE[0], BOB, BOB]
        assert profile.contacts()[1].envelope.verified == (compared,)
        assert profile.settings.verified == ()
        profile.remove_contacts(each.id for each in profile.contacts())
        device.identities.compare(BOB, number_of(BOB, KEYS[BOB]))
        assert profile.settings.verified == (compared,)  # nobody has the number
        assert device.identities.forget(BOB)
        await device.check()
        assert (profile.settings.verified, profile.verified(BOB)) == ((), None)
        assert not device.identities.forget(BOB)


@pytest.mark.parametrize("broken", [False, True])
async def test_a_compared_key_costs_a_large_contact_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: bool
) -> None:
    """Where the list takes the contact, but not with the key, it is kept with the settings, and forgotten there. Of a
    broken one no value can be left out."""
    monkeypatch.setattr("ipls.contacts.whole.MAX_WHOLE", 1000)  # for 31 MiB
    async with phone(tmp_path) as device:
        opened = "NOTE;QUOTED-PRINTABLE:open=\r\n" if broken else ""
        large = Envelope(f"BEGIN:VCARD\r\nTEL:{BOB}\r\n{opened}PHOTO:{'A' * 900}\r\nEND:VCARD".encode())
        device.profile.put_contacts([Contact(bytes(16), large)])
        assert device.identities.compare(BOB, number_of(BOB, KEYS[BOB])) is Comparison.MATCHES
        (contact,) = device.profile.contacts()
        assert (contact.envelope, device.profile.line.beside) == (large, {})
        assert [each.label for each in device.profile.settings.verified] == [BOB]
        assert device.identities.forget(BOB)
        assert device.profile.settings.verified == ()


async def test_a_device_knows_what_another_one_compared_and_that_the_key_changed_since(tmp_path: Path) -> None:
    async with phone(tmp_path) as device:
        put(device.profile, (BOB, Verified(BOB, KEYS[BOB], 1, 1)), (STRANGER, Verified(STRANGER, NEW_KEY, 1, 3)))
        device.town.tree.registers(STRANGER, NEW_KEY)  # in epoch 3
        await device.check()
        assert device.identities.verified(BOB)
        assert device.identities.verified(STRANGER)
        assert device.told() == []
        device.profile.drop_contact_identity(STRANGER)  # as on a phone that was restored
        device.town.tree.registers(STRANGER, THIEFS)
        assert [each.label for each in (await device.check()).changed] == [STRANGER]
        assert not device.identities.verified(STRANGER)


@pytest.mark.parametrize(
    "false",
    [
        Verified(BOB, THIEFS, 1, 1),
        Verified(BOB, THIEFS, 2, 2),
        Verified(BOB, THIEFS, 1 << 62, 1 << 62),
    ],
)
async def test_a_false_compared_key_makes_no_key_count_as_compared(tmp_path: Path, false: Verified) -> None:
    """Nobody else is hurt by it, the directory is not accused, and the person can forget it."""
    async with phone(tmp_path) as device:
        put(device.profile, (BOB, false))
        assert await device.check() == IdentityRound(5, [], [], 0, "")
        assert device.told() == ([ContactIdentityDiffers(BOB)] if false.epoch < 1 << 62 else [])
        assert not device.identities.verified(BOB)
        assert len(device.proved()) == 5
        assert device.evidence() == []
        assert (await device.identities.use(BOB)).public_key == KEYS[BOB]
        device.town.tree.registers(BOB, NEW_KEY)
        assert [each.version for each in (await device.check()).changed] == [2]
        assert device.identities.compare(BOB, number_of(BOB, NEW_KEY)) is Comparison.MATCHES
        await device.check()
        assert device.identities.verified(BOB)
        assert [each.public_key for each in device.profile.contacts()[0].envelope.verified] == [NEW_KEY]
        device.identities.forget(BOB)
        await device.check()
        assert BOB not in device.town.asked


@pytest.mark.parametrize(
    "false",
    [
        Verified("", KEYS[BOB], 1, 1),
        Verified("bob", KEYS[BOB], 1, 1),
        Verified(ME, KEYS[BOB], 1, 1),
        Verified(BOB, KEYS[BOB][:31], 9, 9),
        Verified(BOB, KEYS[BOB], 0, 9),
    ],
)
async def test_what_is_no_compared_key_is_passed_over(tmp_path: Path, false: Verified) -> None:
    async with phone(tmp_path) as device:
        put(device.profile, (BOB, false))
        assert await device.check() == IdentityRound(5, [], [], 0, "")
        assert device.profile.verified(false.label) is None


async def test_what_no_contact_and_not_the_settings_say_was_compared_is_passed_over(tmp_path: Path) -> None:
    """Nobody sees such an entry, or could clear it."""
    async with phone(tmp_path) as device:
        hidden = Envelope(kind=77, verified=(Verified(BOB, THIEFS, 1, 1),)).encode()
        device.profile.line.put({bytes(16): hidden})
        assert await device.check() == IdentityRound(5, [], [], 0, "")
        await device.identities.use(BOB)
        assert device.identities.compare(BOB, number_of(BOB, KEYS[BOB])) is Comparison.MATCHES
        assert device.told() == []


async def test_what_is_forgotten_is_asked_for_no_more(tmp_path: Path) -> None:
    async with phone(tmp_path) as device:
        device.identities.compare(BOB, number_of(BOB, KEYS[BOB]))
        device.identities.forget(BOB)
        await device.check()
        assert BOB not in device.town.asked
        assert (device.profile.verified(BOB), device.profile.contact_identity(BOB)) == (None, None)


# Who of all contacts is on the service

CROWD = [f"+4916{n:08}" for n in range(DISCOVERED_A_DAY + 20)]


async def test_nobody_else_is_asked_about_unless_the_person_switched_it_on(tmp_path: Path) -> None:
    async with phone(tmp_path) as device:
        await device.check(*CROWD)
        assert sorted(device.town.asked) == PEOPLE
        device.identities.discover(True)
        await device.check(STRANGER, ME, "no number", "+49;ext=1", PEOPLE[0])
        assert sorted(device.town.asked) == [*PEOPLE, STRANGER]
        device.identities.discover(False)
        await device.check(*CROWD)
        assert sorted(device.town.asked) == PEOPLE


async def test_who_is_on_the_service_is_kept_with_the_epoch_and_not_told_of_as_a_change(tmp_path: Path) -> None:
    async with phone(tmp_path) as device:
        device.identities.discover(True)
        device.town.tree.registers(STRANGER, NEW_KEY)
        await device.check(STRANGER)
        found = device.profile.contact_identity(STRANGER)
        assert found
        assert (found.version, found.epoch, found.in_use) == (1, 3, False)
        device.town.tree.registers(STRANGER, THIEFS)
        device.town.now_ms += DISCOVERED_AGAIN_MS
        await device.check(STRANGER)
        assert device.told() == []


async def test_a_crowd_is_spread_over_days_after_the_keys_in_use(tmp_path: Path) -> None:
    """Within a quarter of what an account may ask; and again after a month, not at each sync."""
    async with phone(tmp_path) as device:
        device.identities.discover(True)
        device.town.lies = dict.fromkeys(CROWD, gone)
        device.town.tree.goes_on()
        await device.check(*CROWD)
        first = device.town.asked.copy()
        assert (sorted(first[:5]), len(first)) == (PEOPLE, 5 + DISCOVERED_A_DAY)
        device.town.asked.clear()
        await device.identities.check(lambda: CROWD)  # the same day
        assert sorted(device.town.asked) == PEOPLE
        await device.check(*CROWD)
        assert {*device.town.asked[5:]} == {*CROWD} - {*first}
        await device.check(*CROWD)
        assert sorted(device.town.asked) == PEOPLE


async def gone(request: HistoryRequest) -> HistoryResponse:
    raise ServiceError("VALUE_ERASED", "cheap to say")


async def test_a_clock_that_was_years_ahead_puts_nobody_off(tmp_path: Path) -> None:
    async with phone(tmp_path) as device:
        device.identities.discover(True)
        for label in (BOB, STRANGER):
            device.profile.put_contact_identity(
                ContactIdentity(label, 0, asked_ms=device.town.now_ms + 5000 * DAY_MS, in_use=label == BOB)
            )
        await device.check(STRANGER)
        assert device.town.asked[0] == BOB
        assert STRANGER in device.town.asked
