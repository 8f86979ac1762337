"""The contract of the directory's database, which every backend is held to."""

import hashlib
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from ipls.akd import EMPTY_ROOT, Publication, Row, Version
from ipls.store.directory import (
    DirectoryStore,
    EpochRow,
    Leaf,
    Lease,
    PendingUpdate,
    PreparedEpoch,
    StoredHead,
    open_directory_store,
)
from ipls.store.errors import StoreDamaged, StoreRefused
from ipls.units import DAY_MS
from tests.store.places import Place, new_place

NAMESPACE, VRF_KEY = "test.ipls", b"v" * 32
ALICE, BOB = b"+491700000001", b"+491700000002"
NOW = 1_700_000_000_000


BACKENDS = ["sqlite"]
Open = Callable[..., DirectoryStore]


@pytest.fixture(params=BACKENDS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return new_place(request.param, request, tmp_path)


@pytest.fixture
def open_store(place: Place) -> Open:
    """Once more each time, as another process would."""
    return lambda namespace=NAMESPACE, key=VRF_KEY: open_directory_store(place.location, namespace, key)


@pytest.fixture
def store(open_store: Open) -> Iterator[DirectoryStore]:
    store = open_store()
    yield store
    store.close()


def digest(text: object) -> bytes:
    return hashlib.sha256(str(text).encode()).digest()


def submit(
    store: DirectoryStore,
    name: object,
    label: bytes = ALICE,
    value: bytes = b"key",
    now_ms: int = NOW,
    daily_quota: int = 10,
    queue_max: int = 100,
) -> bytes:
    return store.submit(digest(name)[:16], label, value, now_ms, daily_quota=daily_quota, queue_max=queue_max)


def step_of(store: DirectoryStore, *batch: PendingUpdate) -> EpochRow:
    head = store.head()
    assert head is not None
    return EpochRow(head.epoch + 1, head.root_hash, digest(head.epoch + 1), batch, b"blob" * 1000)


def made(step: EpochRow, rows: list[Row] | None = None, version: int = 1) -> PreparedEpoch:
    publication = Publication(
        epoch=step.epoch,
        old_root=step.old_root,
        new_root=step.new_root,
        blob=step.blob,
        rows=rows or [],
        depth=4,
        versions=[(q.label, Version(version, step.epoch, q.value)) for q in step.batch],
        superseded=[(b"\0", step.epoch - 1)],
    )
    return PreparedEpoch(publication)


def lead(store: DirectoryStore) -> int:
    return store.take_lease(store.lease())


def term(store: DirectoryStore) -> int:
    """Of the holder of the lease."""
    return store.lease().term


def start(store: DirectoryStore) -> None:
    store.commit_start(lead(store), StoredHead(0, EMPTY_ROOT, 0, b"signed 0"))


def publish(store: DirectoryStore, rows: list[Row] | None = None, version: int = 1) -> EpochRow:
    step = step_of(store, *store.next_batch(100))
    store.insert_step(term(store), step)
    store.commit(term(store), step, made(step, rows, version), b"signed")
    return step


def refused(reason: str) -> object:
    return pytest.raises(StoreRefused, check=lambda e: e.reason == reason)


def test_a_file_belongs_to_one_namespace_and_vrf_key(store: DirectoryStore, open_store: Open) -> None:
    for namespace, key in ((NAMESPACE, b"w" * 32), ("other", VRF_KEY)):
        with refused("DATABASE_FOREIGN"):
            open_store(namespace, key)
    open_store().close()


# The lease.


def test_the_lease_is_taken_by_comparing_and_swapping(store: DirectoryStore, open_store: Open) -> None:
    with closing(open_store()) as other:
        free = store.lease()
        assert not free.held
        assert other.take_lease(free) == 1
        with refused("LEASE_LOST"):
            store.take_lease(free)
        seen = store.lease()
        other.beat(1)
        with refused("LEASE_LOST"):
            store.take_lease(seen)  # its holder gave a sign of life since
        assert store.take_lease(store.lease(), 41) == 42
        with refused("LEASE_LOST"):
            other.beat(1)
        other.release(1)  # it is not its own any more
        assert store.lease().held
        store.release(42)
        assert store.take_lease(other.lease(), 3) == 43


def test_every_write_of_the_publisher_is_a_sign_of_life_and_needs_its_term(store: DirectoryStore, place: Place) -> None:
    start(store)
    for n, label in enumerate((ALICE, BOB)):
        submit(store, n, label)
    first, second = store.next_batch(2)
    step = step_of(store, first)
    head = store.head()
    assert head is not None
    writes = {
        "beat": lambda term: store.beat(term),
        "insert_step": lambda term: store.insert_step(term, step),
        "commit": lambda term: store.commit(term, step, made(step), b"signed 1"),
        "settle": lambda term: store.settle(term, [second], 1),
        "reveal": lambda term: store.reveal(term, [(second, 1)], [(BOB, Version(1, 1, b"key"))], []),
        "renew": lambda term: store.renew(term, head._replace(epoch=1, root_hash=step.new_root)),
        "raise_floor": lambda term: store.raise_floor(term, 1),
        "prune_tiles": lambda term: store.prune_tiles(term, (0, 0), 9),
        "prune_tickets": lambda term: store.prune_tickets(term, NOW, 9),
    }
    for name, write in writes.items():
        old, new = term(store), store.take_lease(store.lease())
        before = place.tables()
        for wrong in (old, new + 1):
            with refused("LEASE_LOST"):
                write(wrong)
        assert place.tables() == before, name
        seen = store.lease()
        write(new)
        assert store.lease() == Lease(new, seen.beat + 1, True), name
    with refused("HEAD_EXISTS"):
        store.commit_start(term(store), head)
    store.release(term(store))
    with refused("LEASE_LOST"):
        store.commit_start(term(store), head)


def test_other_processes_see_that_there_is_news(store: DirectoryStore, open_store: Open) -> None:
    with closing(open_store()) as other:
        seen = [other.news()]

        def tells(heads: bool, queued: bool) -> bool:
            seen.append(other.news())
            before, now = seen[-2:]
            return (before.heads != now.heads, before.queued != now.queued) == (heads, queued)

        assert tells(False, False)
        start(store)
        assert tells(True, False)
        submit(store, 1)
        submit(store, 2)
        assert tells(False, True)
        step = step_of(store, *store.next_batch(9))
        store.insert_step(term(store), step)
        store.beat(term(store))
        assert tells(False, False)
        head = store.commit(term(store), step, made(step), b"signed 1")
        assert tells(True, False)
        store.renew(term(store), head._replace(signed=b"renewed"))
        assert tells(True, False)
        store.settle(term(store), store.next_batch(9), 1)
        assert tells(True, False)


# Adopted epochs.


def test_adopted_leaves_are_awaited_until_their_versions_are_known(store: DirectoryStore) -> None:
    start(store)
    ticket = submit(store, 1)
    leaf, other = Leaf(digest("leaf"), 1, digest("commitment")), Leaf(digest("other"), 1, digest("another"))
    step = step_of(store)
    store.insert_step(term(store), step)
    assert store.unfinished_step() == step
    assert not store.awaits(1)
    store.commit(term(store), step, made(step)._replace(awaited=[leaf, other]), b"signed 1")
    assert (store.awaits(0), store.awaits(1)) == (False, True)
    assert (store.awaited(leaf.position, 0), store.awaited(leaf.position, 1)) == (None, leaf)
    assert store.published_at(ticket) is None
    found = [(queued, 1) for queued in store.next_batch(1)]
    store.reveal(term(store), found, [(ALICE, Version(1, 1, b"key"))], [leaf.position])
    assert store.published_at(ticket) == 1
    assert store.versions(ALICE, 1) == [Version(1, 1, b"key")]
    assert store.awaited(leaf.position, 1) is None
    assert store.awaits(1)
    submit(store, 2, BOB)
    step = step_of(store, *store.next_batch(1))
    store.insert_step(term(store), step)
    store.commit(term(store), step, made(step)._replace(revealed=[other.position]), b"signed 2")
    assert not store.awaits(2)


def test_a_repeated_request_gets_its_ticket_and_queues_nothing(store: DirectoryStore) -> None:
    ticket = submit(store, 1)
    assert submit(store, 1, now_ms=NOW + DAY_MS, queue_max=1) == ticket
    assert store.waiting() == (1, NOW, 0)
    with refused("REQUEST_ID_REUSED"):
        submit(store, 1, value=b"another key")
    with refused("REQUEST_ID_REUSED"):
        submit(store, 1, label=BOB)
    assert len({ticket, submit(store, 2), submit(store, 3)}) == 3


def test_the_queue_is_bounded(store: DirectoryStore) -> None:
    submit(store, 1, queue_max=2)
    submit(store, 2, queue_max=2)
    with pytest.raises(StoreRefused) as caught:
        submit(store, 3, queue_max=2)
    assert caught.value.reason == "QUEUE_FULL"
    assert caught.value.retry_after_s
    start(store)
    publish(store)
    submit(store, 3, queue_max=2)


def waiting(store: DirectoryStore) -> list[bytes]:
    """Values, each label's oldest."""
    return [queued.value for queued in store.next_batch(9)]


def test_beyond_a_labels_daily_quota_the_newest_takes_the_place_of_those_that_wait(store: DirectoryStore) -> None:
    start(store)
    submit(store, 0, BOB, b"bob's")
    tickets = [submit(store, n, value=b"%d" % n, now_ms=NOW + n * 3_600_000, daily_quota=3) for n in (1, 2, 3)]
    assert [store.published_at(ticket) for ticket in tickets] == [None, None, None]
    newest = submit(store, 4, value=b"4", now_ms=NOW + 4 * 3_600_000, daily_quota=3, queue_max=3)
    assert (waiting(store), store.waiting().updates) == ([b"bob's", b"4"], 2)
    assert [store.published_at(ticket) for ticket in (*tickets, newest)] == [0, 0, 0, None]
    assert submit(store, 2, value=b"2", daily_quota=3) == tickets[1]  # it is no new one
    publish(store)
    assert store.published_at(newest) == 1
    submit(store, 5, value=b"5", now_ms=NOW + 4 * DAY_MS, daily_quota=3)
    submit(store, 6, value=b"6", now_ms=NOW + 4 * DAY_MS, daily_quota=3)
    assert store.waiting().updates == 2  # of another day: in order


def test_what_is_in_an_epochs_row_keeps_its_place(store: DirectoryStore) -> None:
    start(store)
    first, second = submit(store, 1, value=b"1"), submit(store, 2, value=b"2")
    step = step_of(store, *store.next_batch(9))
    store.insert_step(term(store), step)
    third = submit(store, 3, value=b"3", daily_quota=2)
    assert [store.published_at(ticket) for ticket in (first, second, third)] == [None, 0, None]
    store.commit(term(store), step, made(step), b"signed")
    assert [store.published_at(ticket) for ticket in (first, second, third)] == [1, 0, None]
    assert waiting(store) == [b"3"]


def test_a_batch_has_each_labels_oldest_update(store: DirectoryStore) -> None:
    start(store)
    tickets = [
        submit(store, n, label, value) for n, (label, value) in enumerate([(ALICE, b"1"), (ALICE, b"2"), (BOB, b"3")])
    ]
    assert [(q.label, q.value) for q in store.next_batch(10)] == [(ALICE, b"1"), (BOB, b"3")]
    assert [(q.label, q.value) for q in store.next_batch(1)] == [(ALICE, b"1")]
    publish(store)
    assert [store.published_at(t) for t in tickets] == [1, None, 1]
    assert [(q.label, q.value) for q in store.next_batch(10)] == [(ALICE, b"2")]
    store.settle(term(store), store.next_batch(10), 1)
    assert store.published_at(tickets[1]) == 1
    assert store.waiting() == (0, 0, 0)
    with refused("TICKET_UNKNOWN"):
        store.published_at(b"?" * 16)


def test_what_is_held_is_in_no_batch_until_it_is_let_go(store: DirectoryStore) -> None:
    start(store)
    for n, label in enumerate((ALICE, ALICE, BOB)):
        submit(store, n, label, b"%d" % n, now_ms=NOW + n)
    store.hold(term(store), store.next_batch(1))
    submit(store, 3, ALICE, b"3")  # what comes later waits behind what is held
    submit(store, 4, BOB, b"4")
    assert (waiting(store), store.waiting()) == ([b"2"], (2, NOW, 3))
    store.let_go(term(store))
    assert (waiting(store), store.waiting()) == ([b"0", b"2"], (5, NOW, 0))


def test_who_was_refused_hears_of_it_and_later_updates_are_tried(store: DirectoryStore) -> None:
    start(store)
    tickets = [submit(store, n, value=b"%d" % n) for n in range(2)]
    store.refuse(term(store), store.next_batch(1), 0)
    with refused("LEAF_EXISTS"):
        store.published_at(tickets[0])
    assert (store.published_at(tickets[1]), waiting(store)) == (None, [b"1"])
    assert submit(store, 0, value=b"0") == tickets[0]
    for act in (store.hold, lambda term, batch: store.refuse(term, batch, 0), lambda term, _: store.let_go(term)):
        with refused("LEASE_LOST"):
            act(term(store) - 1, store.next_batch(1))


def test_a_label_with_many_updates_delays_no_other(store: DirectoryStore) -> None:
    start(store)
    for number in range(9):
        submit(store, number, ALICE, b"a%d" % number)
    submit(store, 10, BOB, b"b0")
    submit(store, 11, BOB, b"b1")
    served = list[bytes]()
    for epoch in range(1, 12):
        if epoch == 4:
            submit(store, 12, b"+491700000003", b"c0")
        (queued,) = store.next_batch(1)
        served.append(queued.value)
        store.settle(term(store), [queued], epoch)
    assert served == [b"a0", b"b0", b"a1", b"b1", b"c0", *(b"a%d" % number for number in range(2, 8))]


def test_an_epoch_has_one_row_for_ever(store: DirectoryStore) -> None:
    with refused("STEP_GAP"):
        store.insert_step(lead(store), EpochRow(1, EMPTY_ROOT, digest(1), (), b""))
    start(store)
    submit(store, 1)
    step = step_of(store, *store.next_batch(10))
    store.insert_step(term(store), step)
    assert store.unfinished_step() == step
    with refused("STEP_EXISTS"):
        store.insert_step(term(store), step._replace(new_root=digest("other")))
    with refused("STEP_GAP"):
        store.insert_step(term(store), step._replace(epoch=2))
    assert store.unfinished_step() == step


def test_readers_see_the_old_epoch_or_the_new_one(store: DirectoryStore) -> None:
    start(store)
    ticket = submit(store, 1)
    step = step_of(store, *store.next_batch(10))
    store.insert_step(term(store), step)
    seen: list[tuple[object, ...]] = []

    def look() -> None:
        head = store.head()
        assert head is not None
        seen.append((head.epoch, store.versions(ALICE, 9), store.read([b"\0"], 9), store.published_at(ticket)))

    def rows() -> Iterator[Row]:
        yield Row(b"\0", 1, b"tile")
        look()  # from the middle of the transaction

    look()
    store.commit(term(store), step, made(step, rows()), b"signed 1")
    look()
    old = (0, [], {}, None)
    assert seen == [old, old, (1, [Version(1, 1, b"key")], {b"\0": Row(b"\0", 1, b"tile")}, 1)]
    assert store.head() == StoredHead(1, step.new_root, 4, b"signed 1")
    assert store.unfinished_step() is None


def test_a_commit_that_fails_leaves_nothing(store: DirectoryStore) -> None:
    start(store)
    submit(store, 1)
    publish(store)
    submit(store, 2, value=b"next")
    step = step_of(store, *store.next_batch(10))
    store.insert_step(term(store), step)
    with pytest.raises(StoreDamaged):  # version 1 is there already
        store.commit(term(store), step, made(step, [Row(b"\0", 2, b"tile")], version=1), b"signed 2")
    assert store.head(2) is None
    assert store.read([b"\0"], 9) == {}
    assert store.waiting().updates == 1
    store.commit(term(store), step, made(step, [Row(b"\0", 2, b"tile")], version=2), b"signed 2")
    assert [v.value for v in store.versions(ALICE, 2)] == [b"next", b"key"]


def test_versions_by_epoch(store: DirectoryStore) -> None:
    start(store)
    for n in range(1, 4):
        submit(store, n, value=b"%d" % n)
        publish(store, version=n)
    assert [v.version for v in store.versions(ALICE, 3)] == [3, 2, 1]
    assert [v.version for v in store.versions(ALICE, 2)] == [2, 1]
    assert [v.version for v in store.versions(ALICE, 3, 2)] == [3, 2]
    assert store.versions(ALICE, 0) == store.versions(BOB, 3) == []
    assert store.head(2) is not None
    assert store.head(4) is None


def test_erased_values_are_gone_from_the_whole_file(store: DirectoryStore, open_store: Open, place: Place) -> None:
    start(store)
    values = [b"first value", b"second value", b"first value", b"newest value"]
    for n, value in enumerate(values, 1):
        submit(store, n, value=value)
        submit(store, f"other {n}", BOB, b"Bob's %d" % n)
        publish(store, version=n)
    submit(store, "same", value=b"newest value")
    store.settle(term(store), store.next_batch(10), 4)
    submit(store, "waiting", value=b"first value")
    assert store.erase_values(ALICE, 3) == 3
    assert store.versions(ALICE, 4) == [Version(4, 4, b"newest value"), *(Version(n, n, b"") for n in (3, 2, 1))]
    assert [v.value for v in store.versions(BOB, 4)] == [b"Bob's 4", b"Bob's 3", b"Bob's 2", b"Bob's 1"]
    assert [(q.label, q.value) for q in store.next_batch(10)] == [(ALICE, b"first value")]
    queued = place.rows("SELECT value FROM queue WHERE label = ? ORDER BY seq", ALICE)
    assert [value for (value,) in queued] == [b"", b"", b"", b"newest value", b"newest value", b"first value"]
    batches = b"".join(batch for (batch,) in place.rows("SELECT batch FROM step"))
    for value, count in ((b"first value", 0), (b"second value", 0), (b"newest value", 1), (b"Bob's", 4)):
        assert batches.count(value) == count
    assert store.erase_values(ALICE, 3) == store.erase_values(ALICE, 0) == 0
    with closing(open_store()) as again:
        assert again.versions(ALICE, 3) == [Version(n, n, b"") for n in (3, 2, 1)]


def test_the_newest_value_is_never_erased(store: DirectoryStore) -> None:
    start(store)
    for n in (1, 2):
        submit(store, n, value=b"%d" % n)
        publish(store, version=n)
    submit(store, 3, value=b"3")
    store.insert_step(term(store), step_of(store, *store.next_batch(10)))  # the epoch is not signed yet
    for label, through in ((ALICE, 2), (ALICE, 3), (ALICE, 2**64 - 1), (BOB, 0), (BOB, 1)):
        with refused("VERSION_NEWEST"):
            store.erase_values(label, through)
    assert [v.value for v in store.versions(ALICE, 9)] == [b"2", b"1"]


def test_read_gives_the_newest_tile_not_above_the_epoch(store: DirectoryStore) -> None:
    start(store)
    prefixes = [n.to_bytes(3, "big") for n in range(2500)]
    for epoch in (1, 2, 3):
        submit(store, epoch)
        some = prefixes if epoch == 1 else prefixes[:10]
        publish(store, [Row(p, epoch, b"%d" % epoch) for p in some], version=epoch)
    found = store.read([*prefixes, b"absent"], 2)
    assert found == {p: Row(p, 2, b"2") if n < 10 else Row(p, 1, b"1") for n, p in enumerate(prefixes)}
    assert store.read(prefixes, 0) == store.read([], 3) == {}


def test_only_the_newest_heads_signatures_are_renewed(store: DirectoryStore) -> None:
    start(store)
    submit(store, 1)
    step = publish(store)
    store.renew(term(store), StoredHead(1, step.new_root, 4, b"renewed"))
    assert store.head() == StoredHead(1, step.new_root, 4, b"renewed")
    for stale in (StoredHead(0, EMPTY_ROOT, 0, b"x"), StoredHead(1, EMPTY_ROOT, 4, b"x")):
        with refused("HEAD_STALE"):
            store.renew(term(store), stale)
    with refused("HEAD_EXISTS"):
        start(store)


def test_what_was_acknowledged_outlives_a_kill(store: DirectoryStore, place: Place) -> None:
    start(store)
    code = f"""
import os, pickle, signal
from ipls.store.directory import EpochRow, open_directory_store
store = open_directory_store(pickle.loads({pickle.dumps(place.location)!r}), {NAMESPACE!r}, {VRF_KEY!r})
term = store.take_lease(store.lease(), 41)
ticket = store.submit(b"r" * 16, {ALICE!r}, b"key", 1, daily_quota=1, queue_max=1)
store.insert_step(term, EpochRow(1, {EMPTY_ROOT!r}, b"n" * 32, tuple(store.next_batch(1)), b"blob"))
print(term, ticket.hex(), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert child.returncode == -signal.SIGKILL, child.stderr
    last, ticket = child.stdout.split()
    assert last == "42"
    assert store.take_lease(store.lease()) == 43
    assert store.published_at(bytes.fromhex(ticket)) is None
    step = store.unfinished_step()
    assert step == EpochRow(1, EMPTY_ROOT, b"n" * 32, (PendingUpdate(1, ALICE, b"key"),), b"blob")
