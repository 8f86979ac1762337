"""The story: a number registered, an address book stored, the phone lost, all of it back; then three attacks.

Tested by tests/e2e/test_demo.py.
"""

import shutil
import time
from collections import Counter
from pathlib import Path
from typing import Any

from ipls.client import events
from ipls.client.device import Device
from ipls.client.outbox import code_from
from ipls.demo.attacks import OperatorAttack, Refusal
from ipls.demo.reporter import Reporter
from ipls.proto.vault.v1.vault_pb2 import SessionRequest
from ipls.proto.witness.v1.head_pb2 import SignedHead

NUMBER = "+15555550142"
ATTACKS = 3


class Story:
    """Tells it once, to `reporter`, in the deployment in `folder` with the address book `source`."""

    def __init__(self, folder: Path, source: bytes, reporter: Reporter) -> None:
        self._folder = folder
        self._source = source
        self._reporter = reporter
        self._operator = OperatorAttack(folder, NUMBER)
        self._frames: list[SessionRequest] = []
        self._cards: list[bytes] = []
        self._restored: list[bytes] = []
        self._skipped = 0
        self._refused = 0
        self._seconds = 0.0

    @property
    def identical(self) -> bool:
        """Whether exactly the cards that went in came out, byte for byte."""
        return Counter(self._cards) == Counter(self._restored)

    @property
    def good(self) -> bool:
        """Everything identical, every attack refused."""
        return self.identical and self._refused == ATTACKS

    def outcome(self) -> tuple[dict[str, Any], str]:
        """The last JSON object and the last line."""
        summary = {
            "contacts": len(self._cards),
            "skipped": self._skipped,
            "restored": len(self._restored),
            "identical": self.identical,
            "thefts_refused": self._refused,
            "seconds": round(self._seconds, 2),
        }
        line = (
            f"{len(self._restored)} of {len(self._cards)} contacts restored on a new device, "
            f"{'identical' if self.identical else 'NOT IDENTICAL'}, in {self._seconds:.1f} s; "
            f"{self._refused} of {ATTACKS} thefts refused."
        )
        return summary, line

    async def tell(self) -> None:
        """From the first phone to the last attack. Raises ClientError, CardError, ConfigError."""
        started = time.monotonic()
        await self._first_phone()
        head = await self._second_phone()
        self._seconds = time.monotonic() - started
        await self._attacks(head)

    def _device(self, name: str) -> Device:
        return Device.open(self._folder / "profiles" / name, self._folder / "endpoints.json", report=self._hear)

    def _hear(self, event: events.Event) -> None:
        if isinstance(event, events.FrameSent):
            self._frames.append(event.frame)
        else:
            self._reporter.event(event)

    async def _first_phone(self) -> None:
        say = self._reporter.say
        self._reporter.chapter("A phone registers its number; the directory proves its identity key")
        async with self._device("phone") as phone:
            await phone.register(NUMBER, code_from(self._folder / "data/registration.outbox"))
            self._reporter.chapter("It encrypts its address book; the contact key goes into the HSM token")
            (imported,) = phone.address_book.import_cards(self._source)
            for bad in imported.bad:
                say(f"line {bad.line}: skipped, {bad.reason}")
            self._skipped = len(imported.bad)
            self._cards = phone.address_book.cards()
            say(f"{len(self._cards)} cards read, {self._skipped} skipped")
            if not self._cards:
                say("! no card found; is it an exported address book (.vcf)?")
            stored = await phone.store()
            say(f"{stored.contacts} contacts stored, generation {stored.generation}, commit {stored.n}")

    async def _second_phone(self) -> SignedHead:
        """Lose the first phone, restore on another; the head under which the second one's key was published."""
        say = self._reporter.say
        self._reporter.chapter("The phone is lost")
        shutil.rmtree(self._folder / "profiles/phone")
        say("its profile, with the identity key and the contact key, is gone")
        self._operator.copy_directory()
        self._reporter.chapter("A new phone registers the number: a new identity key, an epoch later")
        async with self._device("new-phone") as phone:
            await phone.register(NUMBER, code_from(self._folder / "data/registration.outbox"))
            head = phone.head
            assert head is not None, "registering verifies heads"
            self._reporter.chapter(
                "It restores: vault session, key, line of commits, records, all checked; then a new key"
            )
            self._frames.clear()
            restored = await phone.restore()
            self._restored = phone.address_book.cards()
            say(f"{restored.contacts} contacts back, key rotated to generation {restored.generation}")
        return head

    async def _attacks(self, head: SignedHead) -> None:
        self._reporter.chapter("Theft 1: the operator asks the vault with a key that was never published")
        self._count("unpublished key", ["the vault"], [await self._operator.unpublished_key(head)])
        self._reporter.chapter("Theft 2: a fork, a second directory on a copy from before, with the thief's key in it")
        refusals = await self._operator.fork(head)
        self._count("fork", ["the witnesses", "the vault"], refusals)
        self._reporter.chapter("Theft 3: the frames of the honest restore, sent again")
        self._count("replay", ["the vault"], [await self._operator.replay(self._frames)])
        self._reporter.chapter("What is not refused, but seen")
        self._reporter.say(
            "An operator who publishes a key of its own for the number, in a real epoch that the witnesses sign, is "
            "not refused: whoever controls registration can do that, and retrieve the key."
        )
        self._reporter.say(
            "It is seen: the key stands in the number's history for ever. The owner's device finds it on its next sync "
            "(`ipls client monitor`), every new device shows it on restore, and the epoch's append-only proof lies in "
            "the public log."
        )

    def _count(self, attack: str, asked: list[str], refusals: list[Refusal | None]) -> None:
        for where, refusal in zip(asked, refusals, strict=True):
            if refusal is None:
                self._reporter.succeeded(attack, where)
            else:
                self._reporter.refused(attack, refusal.where, refusal.reason, refusal.message)
        self._refused += None not in refusals
