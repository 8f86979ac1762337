"""Writes around a hand-off that were acknowledged and lost, each of the eight or not: all 256 patterns.

What was lost is gone at once, as by a disk that forgets, or with the rest at a later power cut. A token serves then, or
each refusal names commands of which one helps: the shard goes on where a copy of the database has what was lost, and is
begun anew where none has.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress

import pytest

from ipls.hsm.state import replay
from ipls.hsm.state.anchor import genesis
from ipls.hsm.state.handoff import hand_off, take_over
from ipls.hsm.state.owner import Owner
from ipls.hsm.state.store import StateStore
from ipls.store.vault import Changes
from ipls.vault.errors import SessionRefused
from ipls.vault.state.journal import other_key
from tests.hsm.state_stores import MemoryNotary, MemoryStore, perform

WRITES = 8
"""Entry and anchor of the old token's last write, and of its hand-off; the hand-off's file; the next token's anchor;
entry and anchor of its first write."""
KEY = other_key("test")
COMMAND = re.compile(r"`ipls vault ([a-z-]+)`")


class Disk:
    """Of all hosts together. What it is given is there, or is lost."""

    def __init__(self) -> None:
        self.lost = set[int]()
        self.writes: list[Callable[[], None]] = []

    def write(self, write: Callable[[], None]) -> None:
        self.writes.append(write)
        if len(self.writes) - 1 not in self.lost:
            write()


class Database(MemoryStore):
    """And copies that lost nothing, one of each state that it had."""

    def __init__(self, disk: Disk) -> None:
        super().__init__()
        self.disk = disk
        self.copies = [MemoryStore()]

    def append_all(self, steps: Iterable[Changes]) -> None:
        written = list(steps)
        self.disk.write(lambda: MemoryStore.append_all(self, written))
        for copy in tuple(self.copies):
            if len(copy.rows) == written[0].log[0].sequence - 1:
                self.copies.append(copy.copy())
                self.copies[-1].append_all(written)


class Token(MemoryNotary):
    def __init__(self, name: str, disk: Disk) -> None:
        super().__init__()
        self.key_id = name.encode().ljust(32)
        self.disk = disk

    def replace(self, expected: Sequence[bytes], new: bytes) -> None:
        if sorted(expected) != sorted(self.values):
            raise SessionRefused("VAULT_ANCHOR_MOVED", "another")
        self.disk.write(lambda: setattr(self, "values", [new]))


class Deployment:
    """Old and next token over one database, and the file that goes from one to the other."""

    def __init__(self) -> None:
        self.disk = Disk()
        self.database = Database(self.disk)
        self.old, self.new = Token("old", self.disk), Token("new", self.disk)
        self.file = b""
        genesis(self.database, self.old)
        self.serve(self.old)
        self.before, self.anchor = self.database.copy(), self.old.values
        self.disk.writes.clear()

    def lose_at_once(self, lost: set[int]) -> None:
        self.disk.lost = lost
        self.move()
        self.disk.lost = set()

    def lose_at_a_power_cut(self, lost: set[int]) -> None:
        assert self.move() == []
        writes = list(self.disk.writes)
        assert len(writes) == WRITES
        self.database.__dict__ |= self.before.__dict__
        self.old.values, self.new.values, self.file = self.anchor, [], b""
        for number, write in enumerate(writes):
            if number not in lost:
                write()

    def serve(self, token: Token) -> None:
        state_store = StateStore(self.database, token)
        perform(state_store, lambda: state_store.put(KEY, b"record of " + token.key_id))

    def hand_off(self) -> None:
        handed = hand_off(self.database, self.old, Owner(self.new.key_id, 2))
        self.disk.write(lambda: setattr(self, "file", handed))

    def move(self) -> list[tuple[Token, SessionRefused]]:
        """A move of the shard, one command after the other: whose were refused."""
        steps = (
            (self.old, lambda: self.serve(self.old)),
            (self.old, self.hand_off),
            (self.new, lambda: take_over(self.database, self.new, self.file)),
            (self.new, lambda: self.serve(self.new)),
        )
        found = []
        for token, step in steps:
            try:
                step()
            except SessionRefused as refused:
                found.append((token, refused))
        return found

    def goes_on(self, _: Token | None = None) -> bool:
        """Whether a token serves when the same commands were given again; never do two."""
        self.move()
        serving = 0
        for token in (self.old, self.new):
            with suppress(SessionRefused):
                self.serve(token)
                serving += 1
        assert serving <= 1
        return serving == 1

    # What a refusal names

    def recover(self, token: Token) -> bool:
        """From any copy: into an empty database, in the place of the one that lost something."""
        for copy in self.database.copies:
            target = Database(self.disk)
            target.copies = self.database.copies
            try:
                replay.recover(copy, target, token)
            except SessionRefused:
                continue
            self.database = target
            return self.goes_on()
        return False

    def genesis(self, _: Token) -> bool:
        """On another HSM, to which the next bundle gives the shard."""
        another, self.database = Token("another", self.disk), Database(self.disk)
        genesis(self.database, another)
        self.serve(another)
        return True


WAYS: dict[str, Callable[[Deployment, Token], bool]] = {
    "hand-off": Deployment.goes_on,
    "take-over": Deployment.goes_on,
    "check": Deployment.goes_on,
    "recover": Deployment.recover,
    "genesis": Deployment.genesis,
}


@pytest.mark.parametrize("copies", [True, False])
@pytest.mark.parametrize("lose", [Deployment.lose_at_once, Deployment.lose_at_a_power_cut])
def test_every_refusal_names_a_way_out_that_works(lose: Callable[[Deployment, set[int]], None], copies: bool) -> None:
    found = Counter[str]()
    for pattern in range(2**WRITES):
        deployment = Deployment()
        lose(deployment, {number for number in range(WRITES) if pattern >> number & 1})
        if not copies:
            deployment.database.copies.clear()
        found["served" if deployment.goes_on() else way_out(deployment)] += 1
    assert found.keys() == {"served", "recover" if copies else "genesis"}


def way_out(deployment: Deployment) -> str:
    """The first command that helps, of those that each refusal names; a shard is begun anew when none does."""
    refusals = [(token, COMMAND.findall(refused.message)) for token, refused in deployment.move()]
    assert all(commands for _, commands in refusals)
    for way, try_ in WAYS.items():
        if any(way in named and try_(deployment, token) for token, named in refusals):
            return way
    return "nothing"
