"""Following: a profile and its account's line kept the same, for as long as this runs.

The profile is opened for writing for each sync alone, and let go at once where another process waits for its turn.
Others' commits show on the store's stream, what other processes do to the profile by SQLite's `data_version`, looked
at five times a second: a number in memory that processes share. A bell of our own would take every writer's help, and
not ring for one that was killed.

Tested by tests/client/test_following.py.
"""

import asyncio
import random
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import aclosing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from ipls.client.device import Channels, Device, open_channels
from ipls.client.errors import ClientError, ProfileError
from ipls.client.events import CaughtUp, Event, FollowBegun, FollowMended, FollowTrouble, JourneyStep, Report, silent
from ipls.client.line_store import LineStore
from ipls.client.profile import Account, Pinned, Profile, StorageError, exists, locked, storage_error
from ipls.client.profile_key import IN_FILE, KeyAccess
from ipls.clock import system_now_ms
from ipls.contacts.errors import ContactsError
from ipls.crypto.keys import SeedSigner
from ipls.errors import IplsError
from ipls.proto.contacts.v2.contacts_pb2_grpc import ContactsServiceStub
from ipls.runtime.tasks import TaskScope, race
from ipls.units import HOUR_MS

Head = tuple[int, bytes]
"""A line's newest commit: its number, and the chain there."""

LOOK_EVERY_S = 0.2
"""At the profile, and at the clock."""
GIVE_WAY_S = 0.05
"""Who waits for the profile has it after so long, and before it is taken again."""
CHECK_EVERY_MS = 6 * HOUR_MS
"""Of the own history, the contacts' keys, what is damaged here and what the line needs: `Device.store`. So often, and
where the last is due."""
ASK_EVERY_S = 900.0
"""So often the store is asked for the head, whatever its stream says or does not."""
PATIENCE_S = 5.0
"""With a service that is away, before that is told."""

_FATAL = {"IDENTITY_SUPERSEDED", "NOT_REGISTERED", "PROFILE_ABSENT", "PROFILE_DAMAGED", "PROFILE_KEY_LOST"}


async def follow(
    folder: Path,
    *,
    key: KeyAccess = IN_FILE,
    report: Report = silent,
    now_ms: Callable[[], int] = system_now_ms,
    retry_for_s: float = PATIENCE_S,
) -> NoReturn:
    """Send what is done to the profile in `folder`, by whichever process, and take in what other devices do, each as it
    happens, until this is cancelled; nothing is lost by that, or by a crash.

    `report` hears of each sync (CaughtUp), and once of each thing that is in the way (FollowTrouble, FollowMended),
    besides what the syncs check. `key` as in `Device.open`; a passphrase is asked for here, and once.

    Raises ProfileError: PROFILE_FOLLOWED where another process does it, NOT_REGISTERED, IDENTITY_SUPERSEDED, and as
    `Device.open`, if the profile is removed, renamed or locked meanwhile, too; RefusedError FOLLOW_REPLACED where a
    copy of the profile is followed elsewhere.
    """
    _check_there(folder)
    with _alone(folder):
        while True:
            profile = await _opened(folder, key)
            try:
                pinned, account = profile.get(Pinned), profile.account
                assert pinned is not None
                report(FollowBegun())
                options: dict[str, Any] = {"report": report, "now_ms": now_ms, "retry_for_s": retry_for_s}
                async with open_channels(pinned) as channels:
                    await _Following(profile, pinned, account, channels, options).run()
            except StorageError as error:
                raise storage_error(error) from error
            finally:
                profile.close()
            key = replace(key, opened=b"")


def _check_there(folder: Path) -> None:
    if not exists(folder):
        raise ProfileError("PROFILE_ABSENT", "there is no such profile, or not any more")


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    try:
        with locked(folder / "following") as mine:
            if not mine():
                raise ProfileError("PROFILE_FOLLOWED", "another process follows this profile already")
            yield
    except OSError as error:
        raise storage_error(error) from error


async def _opened(folder: Path, key: KeyAccess) -> Profile:
    """To read, after what an earlier version left was brought up to date, which takes the writer's turn."""
    while True:
        _check_there(folder)
        try:
            writer = Profile(folder, key, wait_s=0)
        except ProfileError as error:
            if error.reason != "PROFILE_BUSY":
                raise
            await asyncio.sleep(LOOK_EVERY_S)
        else:
            writer.close()
            return Profile(folder, replace(key, opened=writer.key), reading=True)


class _Gate:
    """Shut after each failure, for longer each time; by chance for more or less, so that all the devices of a service
    that was away don't come at one moment."""

    def __init__(self, first_s: float = 0.5, longest_s: float = 60.0) -> None:
        self._first_s = self._next_s = first_s
        self._longest_s = longest_s
        self._until = 0.0

    def shut(self) -> float:
        """Fail; for how long, in seconds."""
        pause_s = self._next_s * random.uniform(0.5, 1)  # noqa: S311  # no secret
        self._next_s = min(2 * self._next_s, self._longest_s)
        self._until = time.monotonic() + pause_s
        return pause_s

    def open(self) -> None:
        """It went well, or something else is to be tried now."""
        self._next_s, self._until = self._first_s, 0.0

    @property
    def is_open(self) -> bool:
        return time.monotonic() >= self._until


class _Following:
    """For as long as the profile has the same account, addresses and files."""

    def __init__(
        self, profile: Profile, pinned: Pinned, account: Account, channels: Channels, options: dict[str, Any]
    ) -> None:
        self._profile, self._pinned, self._account, self._files = profile, pinned, account, profile.files
        self._channels, self._options = channels, options | {"report": self._hear}
        self._report: Report = options["report"]
        self._now_ms: Callable[[], int] = options["now_ms"]
        self._changes = self._looked_at = profile.changes
        """Of the profile, that were looked into; and, whoever made them, for another account."""
        self._behind = True
        """There is something to be sent or taken in, as far as is known."""
        self._head: Head | None = None
        """The profile's, after the last sync."""
        self._claim: Head | None = None
        """The stream's, until it was looked into."""
        self._claimed = asyncio.Event()
        self._checked_ms: int | None = None
        self._due = False
        self._ask_at_s = 0.0
        self._check_gate, self._sync_gate, self._claim_gate = _Gate(), _Gate(), _Gate()
        self._troubles: dict[str, FollowTrouble] = {}
        self._received = self._sent = 0
        """Since the last CaughtUp: what a sync had done that was cut off stays done, and is told with the next."""

    def _hear(self, event: Event) -> None:
        match event:
            case JourneyStep("changes received", _, count):
                self._received += count
            case JourneyStep("commit stands" | "base stands", _, count):
                self._sent += count
        self._report(event)

    async def run(self) -> None:
        """Returns when the profile is to be opened anew."""
        async with TaskScope() as scope:
            stream = scope.start("follow the line's head", self._listen())
            while not self._is_outdated():
                if stream.done():
                    await stream
                if self._sync_is_due():
                    await self._in_turn("sync", self._sync_gate, Device.catch_up)
                if self._check_is_due() and await self._in_turn("check", self._check_gate, _stored):
                    self._checked_ms = self._now_ms()
                with suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_EVERY_S):
                        await self._claimed.wait()
                self._claimed.clear()

    async def _listen(self) -> None:
        """Note each head that the store tells. What it tells faster than that waits with the store."""
        namespace, signer = self._profile.trust_root.root.namespace, SeedSigner(self._account.seed)
        timed = {name: self._options[name] for name in ("now_ms", "retry_for_s")}
        stub = ContactsServiceStub(self._channels["contacts"])
        linked, gate = self._profile.listing is not None, _Gate()
        store = LineStore(stub, namespace, self._account.label, signer, **timed, linked=linked)
        while True:
            try:
                async with aclosing(store.follow()) as heads:
                    async for head in heads:
                        gate.open()
                        self._mended("stream")
                        self._claim = head
                        self._claimed.set()
                        await asyncio.sleep(GIVE_WAY_S)
            except ClientError as error:
                if error.reason == "FOLLOW_REPLACED":
                    raise
                self._trouble("stream", error)
            await asyncio.sleep(gate.shut())

    def _is_outdated(self) -> bool:
        if self._profile.files != self._files:
            return True
        looked_at, self._looked_at = self._looked_at, self._profile.changes
        if looked_at == self._looked_at:
            return False
        return (self._profile.get(Pinned), self._profile.get(Account)) != (self._pinned, self._account)

    def _check_is_due(self) -> bool:
        """Also where the clock was set back."""
        checked_ms = self._checked_ms
        by_time = checked_ms is None or not 0 <= self._now_ms() - checked_ms < CHECK_EVERY_MS
        return (by_time or self._due) and self._check_gate.is_open

    def _sync_is_due(self) -> bool:
        if self._profile.changes != self._changes:  # a person is at it, and may have put right what was in the way
            return True
        if not self._sync_gate.is_open:
            return False
        claim = self._claim not in (None, self._head) and self._claim_gate.is_open
        return self._behind or claim or time.monotonic() >= self._ask_at_s

    async def _in_turn(self, part: str, gate: _Gate, work: Callable[[Device], Coroutine[Any, Any, CaughtUp]]) -> bool:
        """Do what has to write, unless another process has the profile, or wants it meanwhile; whether that went."""
        claim, self._behind = self._claim, True
        try:
            async with Device(
                self._profile.for_writing(), self._pinned, channels=self._channels, **self._options
            ) as device:
                try:
                    done: CaughtUp | None = await race(work(device), self._until_wanted())
                finally:
                    self._changes = self._profile.changes  # still in this turn: the next one is somebody else's
        except (ClientError, ContactsError) as error:
            if isinstance(error, ProfileError) and error.reason in _FATAL:
                raise
            if error.reason != "PROFILE_BUSY":
                gate.shut()
                self._trouble(part, error)
            return False
        if done is None:
            await asyncio.sleep(GIVE_WAY_S)
            return False
        gate.open()
        self._mended(part)
        self._note(done, claim)
        done, self._received, self._sent = replace(done, received=self._received, sent=self._sent), 0, 0
        self._report(done)
        return True

    async def _until_wanted(self) -> None:
        while True:
            await asyncio.sleep(GIVE_WAY_S)
            if self._profile.turn_is_wanted:
                return

    def _note(self, done: CaughtUp, claim: Head | None) -> None:
        """All is the same, as of `claim`."""
        head = (done.n, done.chain)
        if claim == head or head != self._head:
            self._claim_gate.open()
        elif claim is not None:  # the store told of a head that it does not show: that costs less and less
            self._claim_gate.shut()
        if self._claim == claim:
            self._claim = None
        self._head, self._behind, self._due = head, False, done.due
        self._ask_at_s = time.monotonic() + ASK_EVERY_S

    def _trouble(self, part: str, error: IplsError) -> None:
        """Tell of it, unless that is what was told last, of this part or another."""
        trouble = FollowTrouble(error.reason, error.message)
        if _what(trouble) == _what(self._troubles.get(part)):
            return
        self._mended(part)
        if _what(trouble) not in map(_what, self._troubles.values()):
            self._report(trouble)
        self._troubles[part] = trouble

    def _mended(self, part: str) -> None:
        trouble = self._troubles.pop(part, None)
        if trouble and _what(trouble) not in map(_what, self._troubles.values()):
            self._report(FollowMended(trouble.reason, trouble.message))


def _what(trouble: FollowTrouble | None) -> tuple[str, str] | None:
    """Without what comes behind a colon, gRPC's words for one, which differ each time."""
    return None if trouble is None else (trouble.reason, trouble.message.partition(":")[0])


async def _stored(device: Device) -> CaughtUp:
    await device.store()
    return await device.catch_up()
