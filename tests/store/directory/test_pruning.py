"""Pruning: whatever is published, pinned and pruned in whatever order, a kept epoch is whole and the rest is gone."""

import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipls.store.errors import StoreError
from ipls.units import DAY_MS
from tests.store.directory.published import KEY, NAMESPACE, NOW_MS, Published, label

PUBLISH = st.tuples(st.just("publish"), st.sets(st.integers(0, 19), min_size=1, max_size=6))
FLOOR = st.tuples(st.just("floor"), st.integers(0, 9))
PRUNE = st.tuples(st.just("prune"), st.integers(1, 7))
PIN = st.tuples(st.just("pin"), st.integers(0, 9))
UNPIN = st.tuples(st.just("unpin"), st.integers(0, 9))
STORIES = st.lists(st.one_of(PUBLISH, PUBLISH, FLOOR, PRUNE, PIN, UNPIN), min_size=3, max_size=12)


@pytest.fixture
def published(tmp_path: Path) -> Iterator[Published]:
    """Epoch 1 has 30 labels; in each of 2 to 9 three of them change."""
    published = Published(tmp_path / "directory.db")
    published.publish(*range(30))
    for epoch in range(2, 10):
        published.publish(*range(epoch, epoch + 3))
    yield published
    published.store.close()


def refused(reason: str) -> object:
    return pytest.raises(StoreError, check=lambda e: e.reason == reason)


@settings(max_examples=12, deadline=None)
@given(STORIES, st.booleans())
def test_kept_epochs_prove_every_label_and_what_goes_is_what_the_rule_names(
    story: list[tuple[str, object]], many: bool
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        published = Published(Path(folder) / "directory.db")
        store = published.store
        published.publish(*range(17 if many else 3))
        pins = set[int]()
        for what, value in story:
            newest = len(published.made)
            match what, value:
                case "publish", set(numbers):
                    published.publish(*numbers)
                case "floor", int(epoch):
                    before = store.floor()
                    store.raise_floor(published.term, epoch)
                    assert store.floor() == max(before, min(epoch, newest))
                case "prune", int(limit):
                    store.prune_tiles(published.term, (0, 0), limit)
                case "pin", int(epoch):
                    if epoch > newest:
                        with refused("EPOCH_UNKNOWN"):
                            store.pin(epoch)
                    elif epoch < store.floor() and epoch not in pins:
                        with refused("EPOCH_PRUNED"):
                            store.pin(epoch)
                    else:
                        store.pin(epoch)
                        pins.add(epoch)
                case "unpin", int(epoch):
                    if epoch in pins:
                        store.unpin(epoch)
                        pins.remove(epoch)
                    else:
                        with refused("PIN_UNKNOWN"):
                            store.unpin(epoch)
        assert store.pins() == tuple(sorted(pins))
        report = published.fsck(leaves_at_once=8)  # with rows that wait to be pruned
        assert report.differences == []
        published.prune(3)
        assert published.rows() == published.needed()
        assert published.fsck(leaves_at_once=8) == report
        assert report.tiles <= len(published.rows())  # a pin may hold a row that a split wrote after it
        for epoch in range(1, len(published.models)):
            if epoch >= store.floor() or epoch in pins:
                published.check_epoch(epoch)
            else:
                with refused("EPOCH_PRUNED"):
                    published.check_epoch(epoch)
        store.close()


def test_pruning_killed_before_any_commit_goes_on(published: Published) -> None:
    published.store.raise_floor(published.term, 7)
    code = f"""
import os, signal, sys
from contextlib import contextmanager
from pathlib import Path
import ipls.store.engine.sqlite as engine
from ipls.store.directory import open_directory_store
real, left = engine.transaction, int(sys.argv[1])
@contextmanager
def mortal(connection):
    global left
    with real(connection) as db:
        yield db
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
engine.transaction = mortal
store = open_directory_store(Path({str(published.path)!r}), {NAMESPACE!r}, {KEY.public_key!r})
after = (0, 0)
while after:
    after = store.prune_tiles({published.term}, after, 10)
"""
    stored = len(published.rows())
    for commits in (2, 4):  # the first is the store's opening
        child = subprocess.run([sys.executable, "-c", code, str(commits)], capture_output=True, timeout=60)
        assert child.returncode == -signal.SIGKILL, child.stderr
        assert len(published.rows()) in (stored, stored - 20)
        assert published.fsck().differences == []
        published.check_epoch(7)
    published.prune()
    assert published.rows() == published.needed()


def test_readers_meanwhile_get_a_whole_epoch_or_are_told(published: Published) -> None:
    told, faults = set[int](), list[BaseException]()
    started, stop = threading.Barrier(3), threading.Event()

    def read(epochs: list[int]) -> None:
        started.wait(timeout=60)
        while not stop.is_set():
            for epoch in epochs:
                try:
                    published.check_epoch(epoch)
                except BaseException as error:  # to be seen by the test's own thread
                    if isinstance(error, StoreError) and error.reason == "EPOCH_PRUNED":
                        told.add(epoch)
                    else:
                        faults.append(error)
                        return

    published.store.pin(4)
    readers = [threading.Thread(target=read, args=(epochs,)) for epochs in ([4, 9], [2, 5, 7])]
    for reader in readers:
        reader.start()
    started.wait(timeout=60)
    for floor in range(3, 10):
        published.store.raise_floor(published.term, floor)
        published.prune(4)
    stop.set()
    for reader in readers:
        reader.join(timeout=60)
    assert faults == []
    assert told <= {2, 5, 7}
    assert published.rows() == published.needed()


def test_a_read_that_pruning_overtook_is_refused_and_not_wrong(published: Published) -> None:
    """The head was read, then floor and tiles went: an older tile, kept for a pin, must not stand in for epoch 5's."""
    published.store.pin(3)
    head = published.store.head(5)
    assert head
    published.store.raise_floor(published.term, 9)
    published.prune()
    with refused("EPOCH_PRUNED"):
        published.store.read([b"\0"], head.epoch)
    assert published.store.read([b"\0"], 3)[b"\0"].epoch == 3


def test_old_settled_updates_are_forgotten_and_waiting_ones_never(published: Published) -> None:
    store = published.store

    def submit(request: int, now_ms: int) -> bytes:
        return store.submit(request.to_bytes(16, "big"), label(99), b"value", now_ms, daily_quota=9, queue_max=99)

    waiting = submit(1000, NOW_MS)
    later = NOW_MS + 3 * DAY_MS
    settled = 30 + 8 * 3
    assert store.prune_tickets(published.term, NOW_MS, 100) == 0
    assert [store.prune_tickets(published.term, later, 40), store.prune_tickets(published.term, later, 40)] == [
        40,
        settled - 40,
    ]
    assert store.published_at(waiting) is None
    published.publish()
    assert store.published_at(waiting) == 10
    assert store.prune_tickets(published.term, later, 40) == 1
    with refused("TICKET_UNKNOWN"):
        store.published_at(waiting)
    assert published.fsck().differences == []
