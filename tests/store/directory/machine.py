"""The directory's database as a state machine (hypothesis) beside a plain model.

Any order of publishes, crashes, restarts, prunings and erasures; after each step every proof of every label at every
kept epoch says what the model says.
"""

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import ipls.store.engine.sqlite
from ipls.akd import (
    EMPTY_ROOT,
    DirectoryKey,
    ProofRefused,
    Version,
    make_absence,
    make_history,
    make_lookup,
    shown_leaves,
    verify_absence,
    verify_append_only,
    verify_history,
    verify_lookup,
)
from ipls.akd.keys import Place
from ipls.akd.labels import Label
from ipls.server.directory.epochs import prepare, recompute, write_object
from ipls.store.directory import DirectoryStore, EpochRow, PreparedEpoch, StoredHead, open_directory_store
from ipls.store.errors import StoreError
from ipls.store.log import FileLog

NAMESPACE = "test.ipls"
NOW_MS = 1_700_000_000_000
LABELS = [b"+4917000000%d" % number for number in range(4)]
VALUES = [b"key %d" % number for number in range(3)]
NOBODY = b"+49170999"

numbers = st.integers(0, 9)
updates = st.lists(st.tuples(st.sampled_from(LABELS), st.sampled_from(VALUES)), min_size=1, max_size=6)


class RememberingKey(DirectoryKey):
    """Thousands of proofs of few places: their VRF is computed once."""

    def __init__(self, seed: bytes) -> None:
        super().__init__(seed)
        self._one = cache(lambda place: super(RememberingKey, self).prove([place])[0])

    def prove(self, places: Sequence[Place]) -> list[tuple[Label, bytes]]:
        return [self._one(place) for place in places]


KEY = RememberingKey(b"\x07" * 32)


class Crash(BaseException):
    """The process dies. Nothing may catch it."""


class Known(NamedTuple):
    """An update as it was submitted."""

    request_id: bytes
    label: bytes
    value: bytes
    ticket: bytes


@cache
def looked_up(root: bytes, epoch: int, label: bytes, proof: bytes) -> Version:
    return verify_lookup(root, epoch, KEY.public_key, label, proof)


@cache
def history(
    root: bytes, epoch: int, label: bytes, proof: bytes, most_recent: int, leaves: tuple[tuple[int, bytes], ...]
) -> tuple[Version, ...]:
    return verify_history(
        root,
        epoch,
        KEY.public_key,
        label,
        proof,
        most_recent=most_recent,
        allow_missing=True,
        known_leaves=dict(leaves),
    )


absent = cache(lambda *arguments: verify_absence(arguments[0], arguments[1], KEY.public_key, *arguments[2:]))
only_appended = cache(verify_append_only)


class Model:
    """What should be there. `epochs[E]` has each label's versions at E, newest first, whole; `roots[E]` the head."""

    def __init__(self) -> None:
        self.epochs: list[dict[bytes, list[Version]]] = [{}]
        self.roots = [EMPTY_ROOT]
        self.known: list[Known] = []
        self.settled: list[int | None] = []  # of each known update: the epoch at which it holds
        self.turns: list[int] = []  # of each known update
        self.leaves: dict[bytes, dict[int, bytes]] = {}
        self.erased: dict[bytes, int] = {}  # through which version
        self.floor = 0
        self.pins: set[int] = set()

    @property
    def newest(self) -> int:
        return len(self.epochs) - 1

    def kept(self, epoch: int) -> bool:
        return epoch >= self.floor or epoch in self.pins

    def versions(self, label: bytes, epoch: int) -> list[Version]:
        through = self.erased.get(label, 0)
        whole = self.epochs[epoch].get(label, [])
        return [version._replace(value=b"") if version.version <= through else version for version in whole]

    def changed(self) -> list[bytes]:
        """The labels of more than one version."""
        return [label for label, versions in self.epochs[-1].items() if len(versions) > 1]

    def batch(self, size: int) -> list[int]:
        """Each label's oldest waiting update, in turn by label, as places in `known`."""
        first: dict[bytes, int] = {}
        for at, update in enumerate(self.known):
            if self.settled[at] is None:
                first.setdefault(update.label, at)
        return sorted(first.values(), key=lambda at: (self.turns[at], at))[:size]

    def turn(self, label: bytes) -> int:
        """Of an update that is queued now: with the first that wait, and after the label's own."""
        waiting = [(self.known[at].label, turn) for at, turn in enumerate(self.turns) if self.settled[at] is None]
        own = [turn + 1 for whose, turn in waiting if whose == label]
        return max([min((turn for _, turn in waiting), default=0), *own])

    def changes(self, at: int) -> bool:
        update = self.known[at]
        current = self.epochs[-1].get(update.label)
        return not current or current[0].value != update.value

    def publish(self, batch: Sequence[int], root: bytes) -> None:
        epoch = self.newest + 1
        model = {label: list(versions) for label, versions in self.epochs[-1].items()}
        for at in batch:
            versions = model.setdefault(self.known[at].label, [])
            versions.insert(0, Version(len(versions) + 1, epoch, self.known[at].value))
            self.settled[at] = epoch
        self.epochs.append(model)
        self.roots.append(root)


def refused(reason: str) -> "pytest.RaisesExc[StoreError]":
    return pytest.raises(StoreError, check=lambda error: error.reason == reason)


class DirectoryMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory(prefix="ipls-machine-")
        self._lives = 0
        self.model = Model()
        self.log = FileLog(Path(self._folder.name) / "log")
        self.store = self._open(Path(self._folder.name) / "0")
        self.step: EpochRow | None = None  # the row above the head, and which of `known` are in it
        self.batch: list[int] = []
        self.made: PreparedEpoch | None = None  # forgotten in a crash
        self.logged = False

    def _open(self, folder: Path) -> DirectoryStore:
        folder.mkdir(exist_ok=True)
        self.path = folder / "directory.db"
        store = open_directory_store(self.path, NAMESPACE, KEY.public_key)
        self.term = store.take_lease(store.lease())
        return store

    @initialize(story=st.lists(updates, min_size=2, max_size=4))
    def start(self, story: list[list[tuple[bytes, bytes]]]) -> None:
        self.store.commit_start(self.term, StoredHead(0, EMPTY_ROOT, 0, b"signed"))
        for epoch in story:
            self.advance(epoch, 4)

    def teardown(self) -> None:
        self.store.close()
        self._folder.cleanup()

    # Publishing.

    @rule(some=updates, steps=st.sampled_from([1, 2, 3, 4, 4, 4]))
    def advance(self, some: list[tuple[bytes, bytes]], steps: int) -> None:
        """Updates, and the next so many steps of an epoch, which may be that of a row before."""
        for label, value in some:
            self.submit(label, value)
        for step in (self.prepare, self.write_log, self.commit)[: steps - 1]:
            if step == self.prepare and self.step is None:
                self.prepare(4, 0)
            elif step == self.write_log and self.step and not self.logged:
                self.write_log()
            elif step == self.commit and self.logged:
                self.commit(False)

    def submit(self, label: bytes, value: bytes) -> None:
        request_id = len(self.model.known).to_bytes(16, "big")
        ticket = self.store.submit(request_id, label, value, NOW_MS, daily_quota=999, queue_max=999)
        self.model.turns.append(self.model.turn(label))
        self.model.known.append(Known(request_id, label, value, ticket))
        self.model.settled.append(None)

    @precondition(lambda self: self.model.known)
    @rule(which=numbers)
    def submit_again(self, which: int) -> None:
        """A device or a proxy repeats a request: it is the same update, unless its value was erased meanwhile."""
        at = which % len(self.model.known)
        update, settled = self.model.known[at], self.model.settled[at]

        def again() -> bytes:
            return self.store.submit(*update[:3], NOW_MS, daily_quota=999, queue_max=999)

        through = self.model.erased.get(update.label, 0)
        versions = self.model.epochs[-1].get(update.label, [])
        kept_from = next((v.epoch for v in versions if v.version == through + 1), 0)
        if through and settled is not None and settled < kept_from:
            with refused("REQUEST_ID_REUSED"):
                again()
        else:
            assert again() == update.ticket

    @precondition(lambda self: self.step is None and None in self.model.settled)
    @rule(size=st.integers(1, 4), dies_at=st.sampled_from([0, 0, 0, 1, 2]))
    def prepare(self, size: int, dies_at: int) -> None:
        """The epoch's row; or a death before one of the commits that lead to it."""
        made = None

        def act() -> None:
            nonlocal made
            made = prepare(self.store, KEY, self.term, size)

        done = self._dying(act, dies_at)
        model = self.model
        while done and (batch := model.batch(size)):
            done -= 1
            if same := [at for at in batch if not model.changes(at)]:
                for at in same:
                    model.settled[at] = model.newest
                continue
            if made is not None:
                self.step, self.made = made
            else:  # it died after this commit, before the next: no more than a restart would find
                self.step, self.made = self.store.unfinished_step(), None
            assert self.step is not None
            self.batch = batch
            assert [(q.label, q.value) for q in self.step.batch] == [model.known[at][1:3] for at in batch]
            return
        assert made is None

    @precondition(lambda self: self.step is not None and not self.logged)
    @rule()
    def write_log(self) -> None:
        assert self.step
        write_object(self.log, self.step)
        self.logged = True

    @precondition(lambda self: self.logged)
    @rule(dies=st.booleans())
    def commit(self, dies: bool) -> None:
        assert self.step
        step, made = self.step, self.made or recompute(self.store, KEY, self.step)
        if self._dying(lambda: self.store.commit(self.term, step, made, b"signed"), int(dies)):
            self.model.publish(self.batch, step.new_root)
            self.step, self.logged = None, False

    # Deaths.

    @rule()
    def crash(self) -> None:
        """A kill between two steps: what a new process finds is the files as they are at this moment."""
        self._come_back(self._copy())

    @rule()
    def restart(self) -> None:
        self.store.close()
        self._come_back(self.path.parent)

    def _copy(self) -> Path:
        self._lives += 1
        folder = Path(self._folder.name) / str(self._lives)
        shutil.copytree(self.path.parent, folder)
        return folder

    def _come_back(self, folder: Path) -> None:
        self.store.close()
        before = self.term
        self.store = self._open(folder)
        with refused("LEASE_LOST"):
            self.store.raise_floor(before, self.model.newest)
        self.made = None

    def _dying(self, act: Callable[[], object], at: int) -> int:
        """Acts, and dies just before commit number `at` (0: never). Returns how many commits there were."""
        commits, remains = 0, None
        real = ipls.store.engine.sqlite.transaction

        @contextmanager
        def mortal(connection: object) -> Iterator[object]:
            nonlocal commits, remains
            with real(connection) as db:
                yield db
                if commits + 1 == at:
                    remains = self._copy()
                    raise Crash
            commits += 1

        with patch.object(ipls.store.engine.sqlite, "transaction", mortal):
            try:
                act()
            except Crash:
                assert remains is not None
        if remains:
            self._come_back(remains)
        return commits

    # Pruning and erasing.

    @rule(epoch=numbers)
    def raise_floor(self, epoch: int) -> None:
        self.store.raise_floor(self.term, epoch)
        self.model.floor = max(self.model.floor, min(epoch, self.model.newest))

    @rule(limit=st.integers(1, 9), dies=st.booleans())
    def prune(self, limit: int, dies: bool) -> None:
        self._dying(lambda: self.store.prune_tiles(self.term, (0, 0), limit), int(dies))

    @rule(which=numbers)
    def pin(self, which: int) -> None:
        epoch = which % (self.model.newest + 1)
        if self.model.kept(epoch):
            self.store.pin(epoch)
            self.model.pins.add(epoch)
        else:
            with refused("EPOCH_PRUNED"):
                self.store.pin(epoch)

    @precondition(lambda self: self.model.pins)
    @rule(which=numbers)
    def unpin(self, which: int) -> None:
        epoch = sorted(self.model.pins)[which % len(self.model.pins)]
        self.store.unpin(epoch)
        self.model.pins.remove(epoch)

    @precondition(lambda self: self.model.changed())
    @rule(which=numbers, through=numbers, dies=st.sampled_from([False, False, True]))
    def erase(self, which: int, through: int, dies: bool) -> None:
        changed = self.model.changed()
        label = changed[which % len(changed)]
        newest = len(self.model.epochs[-1][label])
        through = 1 + through % newest
        if through == newest:
            with refused("VERSION_NEWEST"):
                self.store.erase_values(label, through)
        elif self._dying(lambda: self.store.erase_values(label, through), int(dies)):
            self.model.erased[label] = max(self.model.erased.get(label, 0), through)

    # What always holds.

    @invariant()
    def the_queue_is_as_it_should_be(self) -> None:
        model = self.model
        assert [self.store.published_at(update.ticket) for update in model.known] == model.settled
        assert self.store.waiting().updates == model.settled.count(None)
        waiting = [model.known[at] for at in model.batch(99)]
        assert [(q.label, q.value) for q in self.store.next_batch(99)] == [update[1:3] for update in waiting]

    @invariant()
    def heads_rows_and_log_follow_one_another(self) -> None:
        model = self.model
        if self.store.head() is None:  # before `start`
            return
        assert [self.store.head(epoch).root_hash for epoch in range(model.newest + 1)] == model.roots
        assert self.store.head(model.newest + 1) is None
        assert self.store.unfinished_step() == self.step
        named = dict(self._objects())
        assert sorted(named) == [*range(1, model.newest + 1 + self.logged)]
        for epoch in range(1, model.newest + 1):
            old, new, blob = named[epoch]
            assert (old, new) == (model.roots[epoch - 1], model.roots[epoch])
            only_appended(old, new, epoch, blob)

    def _objects(self) -> Iterator[tuple[int, tuple[bytes, bytes, bytes]]]:
        for entry in self.log.list():
            epoch, old, new = entry.name.split("/")
            blob = self.log.get(entry.name)
            assert blob is not None
            yield int(epoch), (bytes.fromhex(old), bytes.fromhex(new), blob)

    @invariant()
    def every_proof_says_what_the_model_says(self) -> None:
        assert (self.store.floor(), self.store.pins()) == (self.model.floor, tuple(sorted(self.model.pins)))
        for epoch in range(1, self.model.newest + 1):
            head = self.store.head(epoch)
            assert head
            for label in (*LABELS, NOBODY):
                if self.model.kept(epoch):
                    self._check(label, head)
                else:
                    with refused("EPOCH_PRUNED"):
                        make_absence(self.store, KEY, epoch, head.depth, label)

    def _check(self, label: bytes, head: StoredHead) -> None:
        epoch, root = head.epoch, head.root_hash
        versions = self.model.versions(label, epoch)
        assert self.store.versions(label, epoch) == versions
        if not versions:
            absent(root, epoch, label, make_absence(self.store, KEY, epoch, head.depth, label))
            return
        leaves = self.model.leaves.setdefault(label, {})
        proof = make_lookup(self.store, KEY, epoch, head.depth, label, versions[0])
        whole = make_history(self.store, KEY, epoch, head.depth, label, versions)
        recent = make_history(self.store, KEY, epoch, head.depth, label, self.store.versions(label, epoch, 2))
        known = tuple(sorted(leaves.items()))
        checks: list[tuple[Callable[[], object], object]] = [
            (lambda: looked_up(root, epoch, label, proof), versions[0]),
            (lambda: history(root, epoch, label, whole, 0, known), tuple(versions)),
            (lambda: history(root, epoch, label, recent, 2, known), tuple(versions[:2])),
        ]
        if not versions[0].value:  # erased, and here it is the newest: no proof of this epoch opens it any more
            for check, _ in checks:
                with pytest.raises(ProofRefused, match="VALUE_MISSING"):
                    check()
            return
        assert [check() for check, _ in checks] == [said for _, said in checks]
        leaves.update({number: leaf for number, leaf in shown_leaves(whole).items() if number not in leaves})


def explore(stories: int, steps: int) -> None:
    """So many stories, each of at most so many steps; raises what went wrong in the shortest one that does."""
    budget = settings(max_examples=stories, stateful_step_count=steps, suppress_health_check=list(HealthCheck))
    run_state_machine_as_test(DirectoryMachine, settings=budget)
