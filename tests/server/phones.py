"""Devices that call the contact store about their line, by the stub that real ones have."""

import os
from collections.abc import Sequence
from typing import Any

import pytest

from ipls.client.errors import RefusedError
from ipls.client.line_store import LineStore
from ipls.contacts.commits import Signed
from ipls.contacts.sealing import name_of
from ipls.crypto.keys import SeedSigner
from tests.contacts.writers import Made, Writer, line_of
from tests.hsm.rig import Owner
from tests.server.contact_stores import ALICE, World
from tests.trust.roots import NOW


class Phone:
    """One who writes into a line: an identity, or a device that it linked."""

    def __init__(self, world: World, writer: Writer, now_ms: int = NOW, retry_for_s: float = 30) -> None:
        self.world, self.writer = world, writer
        self.store = LineStore(
            world.lines,
            world.root.namespace,
            writer.label,
            SeedSigner(writer.seed),
            now_ms=lambda: now_ms,
            retry_for_s=retry_for_s,
        )
        self.seed = os.urandom(16)
        self.line, self.n, self.chain = b"", 0, b""
        self.made: list[Made] = []
        """All that stands in the line, as this phone has it."""

    async def begin(self, *records: bytes, devices: Sequence[Writer] = ()) -> Made:
        self.seed = os.urandom(16)
        self.line = line_of(self.seed, self.writer.label)
        await self.store.put_records(records)
        made = self.writer.base(1, self.line, records, devices)
        assert made.snapshot is not None
        await self.store.begin(self.seed, made.signed, made.snapshot)
        self.n, self.chain, self.made = 1, made.chain, [made]
        return made

    async def edit(self, *records: bytes, drops: Sequence[bytes] = (), **changes: Any) -> Made:
        drop = [name_of(each) for each in drops]
        return await self.commit(self.writer.edit(self.n + 1, self.chain, *records, drops=drop, **changes))

    async def commit(self, made: Made) -> Made:
        await self.store.commit(self.line, made.n, made.before, made.signed, made.records, made.snapshot)
        self.n, self.chain, self.made = made.n, made.chain, [*self.made, made]
        return made

    def at(self, other: "Phone") -> "Phone":
        """With the other's head."""
        self.line, self.n, self.chain, self.seed = other.line, other.n, other.chain, other.seed
        self.made = other.made
        return self

    async def heal(self, *records: bytes) -> None:
        """With all that this phone has, from the newest base on."""
        base = max(made.n for made in self.made if made.snapshot)
        commits: dict[int, Signed] = {made.n: made.signed for made in self.made[base - 1 :]}
        snapshot = self.made[base - 1].snapshot
        assert snapshot is not None
        await self.store.heal(self.line, self.seed, [made.link for made in self.made], commits, records, snapshot)

    async def get(self, *records: bytes) -> list[bool]:
        found: dict[bytes, bytes] = {}
        async for batch in self.store.get([name_of(each) for each in records]):
            found |= batch
        return [found.get(name_of(each)) == each for each in records]

    async def have(self, *records: bytes) -> list[bool]:
        there = await self.store.have([name_of(each) for each in records])
        return [name_of(each) in there for each in records]


async def registered(world: World, label: str = ALICE, **changes: Any) -> Phone:
    phone = Phone(world, Writer(label=label, **changes))
    await world.publish(Owner(label, phone.writer.seed))
    return phone


def told(reason: str, text: str = "") -> Any:
    return pytest.raises(RefusedError, check=lambda error: error.reason == reason and text in error.message)
