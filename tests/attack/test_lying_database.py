"""A vault's database that answers one question, two, or all from one on otherwise than before: out of an older copy,
the vault's other future, what it has not written yet, another vault's, or as if nothing were there.

Nothing comes of it but a refusal, or what the vault would have answered over a database that its anchor vouches for.
Around a hand-off no two tokens serve one shard, and none is handed on twice.
"""

import inspect
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import count
from typing import NamedTuple

import pytest

from ipls.hsm.core.heads import HeadKeeper
from ipls.hsm.core.rotation import Rotation
from ipls.hsm.state import replay
from ipls.hsm.state.anchor import genesis, read_anchor
from ipls.hsm.state.handoff import hand_off, take_over
from ipls.hsm.state.owner import Owner
from ipls.hsm.state.store import StateStore
from ipls.store.vault import Changes, LogRow, VaultStore
from ipls.trust.heads import Head
from ipls.vault.session.effects import (
    AddApprover,
    Approve,
    Checkpoint,
    Delete,
    FinishRotation,
    Handshake,
    List,
    Operation,
    RemoveApprover,
    Retrieve,
    SetChangeDelay,
    Store,
)
from ipls.vault.state import journal as ledger
from tests.attack.vault_state import OWNERS, State, outcome, wrapped
from tests.hsm.core.test_rotation import NEW, Wrapping
from tests.hsm.state_stores import MemoryNotary, MemoryStore, perform
from tests.trust.roots import NOW as HEAD_TIME
from tests.trust.roots import WITNESSES, signed, three_of

ALICE, BOB, CAROL, *_ = OWNERS


class Lie(NamedTuple):
    """The numbers of the questions, or of the first of all those, that are answered out of another database."""

    database: VaultStore
    at: tuple[int, ...]
    onward: bool = False

    def covers(self, number: int) -> bool:
        return number in self.at or (self.onward and number > self.at[0])

    def about(self, truth: VaultStore) -> "Liar":
        return Liar(truth, self)


class Liar(VaultStore):
    """Tells the truth where it does not lie. Writes go where they belong."""

    def __init__(self, truth: VaultStore, lie: Lie) -> None:
        self._truth = truth
        self._lie = lie
        self.asked: list[str] = []

    def _of(self, question: str) -> VaultStore:
        number = len(self.asked)
        self.asked.append(question)
        return self._lie.database if self._lie.covers(number) else self._truth

    def append_all(self, steps: Iterable[Changes]) -> None:
        self._truth.append_all(steps)

    def mend(self, sequence: int, row: LogRow) -> None:
        self._truth.mend(sequence, row)

    def record(self, key: bytes) -> bytes | None:
        return self._of("record").record(key)

    def next_key(self, key: bytes) -> bytes | None:
        return self._of("next_key").next_key(key)

    def nodes(self, prefixes: Sequence[bytes]) -> dict[bytes, bytes]:
        return self._of("nodes").nodes(prefixes)

    def last(self) -> LogRow | None:
        return self._of("last").last()

    def log(self, first: int, count: int) -> list[LogRow]:
        return self._of("log").log(first, count)

    def newest(self, key: bytes) -> LogRow | None:
        return self._of("newest").newest(key)

    def uses(self, key: bytes, first: int, count: int) -> list[LogRow]:
        return self._of("uses").uses(key, first, count)


def notary(values: Sequence[bytes] = (), key_id: bytes = b"this token") -> MemoryNotary:
    made = MemoryNotary()
    made.key_id, made.values = key_id.ljust(32), list(values)
    return made


def state_of(store: VaultStore, anchor_service: MemoryNotary) -> State:
    return State(StateStore(store, anchor_service))


class World(NamedTuple):
    """The database that an anchor vouches for, and others that there are or were."""

    truth: MemoryStore
    anchor: list[bytes]
    older: MemoryStore
    branch: MemoryStore  # as long as the truth, from the older one on, by the same log key
    newer: MemoryStore  # the truth, and what a vault wrote that died before its anchor
    other: MemoryStore  # another vault's of the fleet


def new_world() -> World:
    store, anchor_service = MemoryStore(), notary()
    genesis(store, anchor_service)
    begin(store, anchor_service)
    older, anchor = store.copy(), list(anchor_service.values)
    branch = older.copy()
    go_on(branch, notary(anchor), [BOB, ALICE])
    go_on(store, anchor_service, [ALICE, BOB])
    newer = store.copy()
    go_on(newer, notary(anchor_service.values), [CAROL])
    other, another = MemoryStore(), notary()
    genesis(other, another)
    begin(other, another)
    go_on(other, another, [ALICE, BOB])
    return World(store, anchor_service.values, older, branch, newer, other)


def begin(store: VaultStore, anchor_service: MemoryNotary) -> None:
    state = state_of(store, anchor_service)
    for label in (ALICE, BOB, CAROL):
        state.do(label, Handshake())
        state.store(label, 1)
        state.do(label, AddApprover(b"device".ljust(32)))
    HeadKeeper(three_of(), state.state_store, lambda: HEAD_TIME)
    perform(state.state_store, lambda: heads(state).offer(by_two(Head(1, b"1" * 32))))


def go_on(store: VaultStore, anchor_service: MemoryNotary, labels: Sequence[str]) -> None:
    state = state_of(store, anchor_service)
    for label in labels:
        state.store(label, 2)
        assert state.key(label) == wrapped(label, 2)


def heads(state: State) -> HeadKeeper:
    return HeadKeeper(three_of(), state.state_store, lambda: HEAD_TIME)


def by_two(head: Head):
    return signed(head, *WITNESSES[:2], time=HEAD_TIME)


# Whatever a vault does: what each step of it comes to, the second by what is known from the first

Work = Callable[[VaultStore, MemoryNotary], list[str]]


def in_one_process(*steps: Callable[[State], object]) -> Work:
    """Works of one state store."""

    def work(store: VaultStore, anchor_service: MemoryNotary) -> list[str]:
        state = State(StateStore(store, anchor_service))
        return [str(outcome(lambda step=step: step(state))) for step in steps]

    return work


def account(operation: Operation) -> Work:
    return in_one_process(lambda state: state.do(ALICE, List()), lambda state: state.do(ALICE, operation))


def work(step: Callable[[State], object]) -> Callable[[State], object]:
    return lambda state: perform(state.state_store, lambda: step(state))


def rotate(state: State) -> object:
    return Rotation(state.state_store, Wrapping()).step(NEW, b"")


def checked_offline(store: VaultStore, anchor_service: MemoryNotary) -> list[str]:
    def check() -> object:
        state = replay.catch_up(store, anchor_service, read_anchor(anchor_service).state)
        for found in replay.check(store, anchor_service, state):
            for refused in found:
                raise refused
        return state

    return [str(outcome(check))]


WORKS: dict[str, Work] = {
    "start": in_one_process(work(lambda state: None), work(lambda state: None)),
    "handshake": account(Handshake()),
    "store": account(Store(2, b"3" * 16, bytes(16), wrapped(ALICE, 3))),
    "store again": account(Store(1, b"\2" * 16, bytes(16), wrapped(ALICE, 2))),
    "retrieve": account(Retrieve(0)),
    "retrieve the last but one": account(Retrieve(1)),
    "finish rotation": account(FinishRotation(2)),
    "delete": account(Delete()),
    "list": account(List()),
    "history": in_one_process(lambda state: state.do(ALICE, List()), lambda state: state.uses(ALICE, 1)),
    "history's end": in_one_process(lambda state: state.do(ALICE, List()), lambda state: state.uses(ALICE, 4)),
    "change delay": account(SetChangeDelay(1000)),
    "add approver": account(AddApprover(b"another".ljust(32))),
    "remove approver": account(RemoveApprover(b"device".ljust(32))),
    "checkpoint": account(Checkpoint(b"l" * 32, 1, b"c" * 32)),
    "approve": account(Approve(b"device".ljust(32))),
    "root rotation": in_one_process(work(lambda state: None), work(rotate)),
    "heads": in_one_process(
        work(lambda state: heads(state).judge_by()),
        work(lambda state: heads(state).judge_by(by_two(Head(2, b"2" * 32)))),
        work(lambda state: heads(state).evidence()),
    ),
    "walk": in_one_process(State.check, State.check),
    "vault check": checked_offline,
}


def tell(run: Callable[[Lie], Liar], *databases: VaultStore) -> None:
    """Has any question lied at, any two, and all from any on, out of each of these databases; `run` returns the liar
    that was asked."""
    for database in databases:
        for first in count():
            if first >= len(run(Lie(database, (first,), onward=True)).asked):
                break
            for second in count(first):
                if second >= len(run(Lie(database, (first, second))).asked):
                    break


@pytest.fixture(scope="module")
def world() -> World:
    return new_world()


REFUSED = {"VAULT_DATABASE_BEHIND", "VAULT_DATABASE_EDITED", "VAULT_DATABASE_FORKED", "VAULT_LOG_BROKEN"}


@pytest.mark.parametrize("name", WORKS)
def test_nothing_that_a_database_says_the_second_time_is_believed(world: World, name: str) -> None:
    honest = [WORKS[name](store.copy(), notary(world.anchor)) for store in (world.truth, world.newer)]

    def run(lie: Lie) -> Liar:
        truth, anchor_service = world.truth.copy(), notary(world.anchor)
        liar = lie.about(truth)
        for step, found in enumerate(WORKS[name](liar, anchor_service)):
            left = found.startswith("RotationProgress") and not found.endswith("left=0)")  # not wrapped anew, and said
            assert found in REFUSED or left or found in [each[step] for each in honest], lie
        if lie.database is not world.newer:  # what it alone has is lost again
            assert WORKS["walk"](truth, anchor_service) == ["None", "None"], lie
        return liar

    tell(run, world.older, world.branch, world.newer, world.other, MemoryStore())


def test_no_kind_of_question_is_left_out(world: World) -> None:
    asked = set[str]()
    for each in WORKS.values():
        for first in range(9):  # the last kinds are asked where something is damaged
            liar = Lie(MemoryStore(), (first,)).about(world.truth.copy())
            each(liar, notary(world.anchor))
            asked.update(liar.asked)
    kinds = {name for name, each in inspect.getmembers(VaultStore, inspect.isfunction) if not name.startswith("_")}
    assert asked == kinds - {"close", "append", "append_all", "mend"}


def test_a_history_without_end_is_refused(world: World) -> None:
    """The database gives the same rows again and again."""

    class Endless(MemoryStore):
        asked = 0

        def uses(self, key: bytes, first: int, count: int) -> list[LogRow]:
            self.asked += 1
            assert self.asked < 100
            return super().uses(key, 1, 1)

    endless, anchor_service = Endless(), notary(world.anchor)
    endless.__dict__ |= world.truth.copy().__dict__
    state = State(StateStore(endless, anchor_service))
    for first in range(1, 8):
        found = outcome(lambda first=first: state.uses(ALICE, first))
        assert found == "VAULT_DATABASE_EDITED" or not found.entries


def test_a_beginning_is_made_over_nothing_alone(world: World) -> None:
    def run(lie: Lie) -> Liar:
        liar, anchor_service = lie.about(MemoryStore()), notary()
        found = outcome(lambda: genesis(liar, anchor_service))
        assert (found, len(anchor_service.values)) in ((None, 1), ("VAULT_DATABASE_NOT_EMPTY", 0))
        return liar

    tell(run, world.truth, world.other)


def test_what_is_recovered_is_whole_or_nothing(world: World) -> None:
    """Whichever of the two lies, the one recovered from or the one recovered into."""

    def run(lie: Lie, *, source: bool) -> Liar:
        target, anchor_service = MemoryStore(), notary(world.anchor)
        liar = lie.about(world.truth if source else target)
        from_, into = (liar, target) if source else (world.truth, liar)
        found = outcome(lambda: replay.recover(from_, into, anchor_service))
        assert found in {*REFUSED, "VAULT_DATABASE_NOT_EMPTY"} or isinstance(found, ledger.State), lie
        if target.rows:
            assert WORKS["vault check"](target, anchor_service) == WORKS["vault check"](world.truth, anchor_service)
        else:
            assert not isinstance(found, ledger.State), lie
        return liar

    tell(partial(run, source=True), world.older, world.branch, world.other, MemoryStore())
    tell(partial(run, source=False), world.older, world.branch, world.other, MemoryStore(), world.truth)


# A hand-off


class Host:
    """A token, which is asked over a database."""

    def __init__(self, name: str, values: Sequence[bytes] = ()) -> None:
        self.anchor_service = notary(values, name.encode())

    def copy(self) -> "Host":
        copy = Host("", self.anchor_service.values)
        copy.anchor_service.key_id = self.anchor_service.key_id
        return copy

    @property
    def owner(self) -> Owner:
        return Owner(self.anchor_service.key_id, 2)

    def hand_to(self, other: "Host", store: VaultStore) -> bytes | None:
        """The hand-off, if it is signed."""
        found = outcome(lambda: hand_off(store, self.anchor_service, other.owner))
        return found if isinstance(found, bytes) else None

    def takes(self, handed: bytes | None, store: VaultStore) -> bool:
        return handed is not None and isinstance(outcome(lambda: take_over(store, self.anchor_service, handed)), tuple)

    def serves(self, store: VaultStore) -> bool:
        """Whether it answers, the same store asked twice."""
        state = State(StateStore(store, self.anchor_service))
        return any(outcome(lambda: state.key(ALICE)) == wrapped(ALICE, 2) for _ in range(2))


@pytest.mark.parametrize("liar_at", range(6))
def test_whatever_it_says_around_a_hand_off_one_token_serves(world: World, liar_at: int) -> None:
    """The database lies at one of the steps, then it is as honest as it can be to any of the tokens."""
    base, truth = Host("old", world.anchor), world.truth.copy()
    before, third = truth.copy(), Host("third")
    handed = base.hand_to(next_ := Host("new"), truth)
    at_hand_off, new = truth.copy(), next_.copy()
    assert new.takes(handed, truth)
    assert new.serves(truth)
    after = truth.copy()
    databases = before, at_hand_off, after, world.older, world.branch, world.newer, world.other, MemoryStore()

    def run(lie: Lie) -> Liar:
        old, new, store = Host("old", world.anchor), Host("new"), before.copy()
        stores: list[VaultStore] = [store] * 6
        stores[liar_at] = liar = lie.about(store)
        signed_over = [each for each in [old.hand_to(new, stores[0])] if each]
        served = old.serves(stores[1])
        assert not (signed_over and served), lie
        for place, other in ((2, third.copy()), (3, new)):  # done again, to another and to the same
            if (again := old.hand_to(other, stores[place])) is not None:
                signed_over.append(again)
                served = False
        assert len(set(signed_over)) <= 1, lie
        taken = [host for each in signed_over for host in (new, third.copy()) if host.takes(each, stores[4])]
        serving = [host for host in (old, *taken) if host.serves(stores[5])]
        for database in (before, at_hand_off, after, store):
            serving += [host for host in (old, *taken) if host.serves(database.copy())]
        assert len({host.anchor_service.key_id for host in serving}) <= 1, lie
        if signed_over:
            assert old not in serving, lie
        return liar

    tell(run, *databases)
