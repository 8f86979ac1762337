"""The contact store's database, by its contract."""

import os
import signal
import sqlite3
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest

from ipls.store.contacts import ContactsStore, Manifest, RecordKey
from ipls.store.errors import StoreError

LABEL, OTHER = "+491700000001", "+491700000002"
NOW, WINDOW = 1_000_000_000, 120_000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "contacts.db"


@pytest.fixture
def store(path: Path) -> ContactsStore:
    return ContactsStore(path)


def record(n: int, generation: int = 1) -> tuple[RecordKey, bytes]:
    data = n.to_bytes(4, "big") * 71
    return RecordKey(generation, n.to_bytes(16, "big"), sha256(data).digest()), data


def put(store: ContactsStore, *records: tuple[RecordKey, bytes], label: str = LABEL, max_records: int = 100) -> None:
    store.put(label, records, max_records=max_records, max_bytes=1 << 20)


def admit(store: ContactsStore, nonce: int, timestamp: int = NOW, now: int = NOW, max_calls: int = 100) -> None:
    nonce_bytes = nonce.to_bytes(16, "big")
    store.admit(LABEL, nonce_bytes, timestamp, now_ms=now, window_ms=WINDOW, max_calls=max_calls)


def refused(reason: str):
    return pytest.raises(StoreError, check=lambda error: error.reason == reason)


def test_records_come_back_in_the_order_asked_for(store: ContactsStore) -> None:
    records = [record(n) for n in range(5)]
    put(store, *records)
    keys = [key for key, _ in reversed(records)]
    assert store.sizes(LABEL, keys) == [284] * 5
    assert store.read(LABEL, keys) == b"".join(data for _, data in reversed(records))


def test_ciphertexts_of_one_contact_stand_side_by_side(store: ContactsStore) -> None:
    key, data = record(1)
    other = key._replace(digest=sha256(b"x" * 284).digest())
    put(store, (key, data), (other, b"x" * 284))
    assert store.read(LABEL, [key, other]) == data + b"x" * 284


def test_an_account_sees_only_its_own(store: ContactsStore) -> None:
    put(store, record(1))
    with refused("RECORD_ABSENT"):
        store.read(OTHER, [record(1)[0]])
    store.drop(OTHER, [record(1)[0]])
    assert store.page(OTHER, after=None, limit=10) == []
    assert store.read(LABEL, [record(1)[0]]) == record(1)[1]


def test_listing_pages_through_everything(store: ContactsStore) -> None:
    put(store, *(record(n, generation) for n in range(7) for generation in (1, 2)))
    seen, after = [], None
    while page := store.page(LABEL, after=after, limit=3):
        seen += page
        after = page[-1][0]
    assert len(seen) == 14
    assert seen == sorted(seen)


def test_dropping_twice_is_dropping_once(store: ContactsStore) -> None:
    put(store, record(1), record(2))
    for _ in range(2):
        store.drop(LABEL, [record(1)[0]])
    assert [key for key, _ in store.page(LABEL, after=None, limit=10)] == [record(2)[0]]


def test_a_put_over_quota_changes_nothing(store: ContactsStore) -> None:
    put(store, record(1), max_records=2)
    with refused("ACCOUNT_QUOTA"):
        put(store, record(2), record(3), max_records=2)
    with refused("ACCOUNT_QUOTA"):
        store.put(LABEL, [record(4)], max_records=100, max_bytes=500)
    put(store, record(1), max_records=1)
    assert len(store.page(LABEL, after=None, limit=10)) == 1


def test_manifests_are_swapped_in_order(store: ContactsStore) -> None:
    first, second = Manifest(1, 1, b"c" * 32, b"one"), Manifest(2, 1, b"c" * 32, b"two")
    assert store.manifest(LABEL) is None
    store.swap(LABEL, 0, first)
    store.swap(LABEL, 0, first)  # a repeat
    assert store.manifest(LABEL) == first
    for expected, manifest in (
        (0, second),  # skips the one that is there
        (1, second._replace(version=3)),
        (1, second._replace(generation=0)),
        (0, first._replace(ciphertext=b"other")),
        (2, second._replace(version=3)),
    ):
        with refused("MANIFEST_CONFLICT"):
            store.swap(LABEL, expected, manifest)
    store.swap(LABEL, 1, second)
    with refused("MANIFEST_CONFLICT"):
        store.swap(LABEL, 0, first)  # rolled back
    assert store.manifest(LABEL) == second
    assert store.manifest(OTHER) is None


def test_a_nonce_is_good_once_also_after_a_restart(store: ContactsStore, path: Path) -> None:
    admit(store, 1)
    admit(store, 2)
    with refused("CALL_REPLAYED"):
        admit(store, 1)
    store.close()
    with refused("CALL_REPLAYED"):
        admit(ContactsStore(path), 1, now=NOW + WINDOW - 1)


def test_a_forgotten_time_stays_refused_when_the_clock_is_set_back(store: ContactsStore, path: Path) -> None:
    admit(store, 1)
    admit(store, 2, NOW + WINDOW, NOW + WINDOW)  # forgets the first
    store.close()
    with refused("CALL_STALE"):
        admit(ContactsStore(path), 1)


@pytest.mark.parametrize("offset", [-WINDOW, WINDOW + 1])
def test_a_call_out_of_the_window_is_refused(store: ContactsStore, offset: int) -> None:
    with refused("CALL_STALE"):
        admit(store, 1, NOW + offset)


def test_calls_in_a_window_are_bounded(store: ContactsStore) -> None:
    for n in range(3):
        admit(store, n, max_calls=3)
    with refused("CALL_QUOTA"):
        admit(store, 4, max_calls=3)
    admit(store, 5, NOW + WINDOW, NOW + WINDOW, max_calls=3)


def test_what_was_acknowledged_survives_kill_9(path: Path) -> None:
    script = """
import sys
from pathlib import Path
from hashlib import sha256
from ipls.store.contacts import ContactsStore, RecordKey
store = ContactsStore(Path(sys.argv[1]))
for n in range(10**9):
    data = n.to_bytes(4, "big") * 71
    records = [(RecordKey(g, n.to_bytes(16, "big"), sha256(data).digest()), data) for g in (1, 2, 3)]
    store.put("+491700000001", records, max_records=10**9, max_bytes=10**12)
    print(n, flush=True)
"""
    process = subprocess.Popen([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    acknowledged = [int(process.stdout.readline()) for _ in range(25)]
    os.kill(process.pid, signal.SIGKILL)
    acknowledged += [int(line) for line in process.stdout.read().split()]
    process.wait()
    kept = [key for key, _ in ContactsStore(path).page(LABEL, after=None, limit=10**6)]
    assert len(kept) % 3 == 0
    assert len(kept) >= 3 * len(acknowledged)


def test_the_database_is_the_owners_alone(store: ContactsStore, path: Path) -> None:
    put(store, record(1))
    assert {file.stat().st_mode & 0o777 for file in path.parent.iterdir()} == {0o600}
    assert sqlite3.connect(path).execute("PRAGMA journal_mode").fetchone() == ("wal",)
