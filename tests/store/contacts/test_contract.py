"""The contract of the contact store, which every backend is held to."""

import os
import pickle
import signal
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest

from ipls.store.contacts import ContactsStore, Manifest, RecordKey, open_contacts_store
from ipls.store.errors import StoreRefused
from tests.store.places import Place, new_place

LABEL, OTHER = "+491700000001", "+491700000002"


BACKENDS = ["sqlite"]


@pytest.fixture(params=BACKENDS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return new_place(request.param, request, tmp_path)


@pytest.fixture
def store(place: Place) -> ContactsStore:
    return open_contacts_store(place.location)


def record(n: int, generation: int = 1) -> tuple[RecordKey, bytes]:
    data = n.to_bytes(4, "big") * 71
    return RecordKey(generation, n.to_bytes(16, "big"), sha256(data).digest()), data


def put(store: ContactsStore, *records: tuple[RecordKey, bytes], label: str = LABEL, max_records: int = 100) -> None:
    store.put(label, records, max_records=max_records, max_bytes=1 << 20)


def refused(reason: str):
    return pytest.raises(StoreRefused, check=lambda error: error.reason == reason)


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


def test_what_was_acknowledged_survives_kill_9(place: Place) -> None:
    script = """
import sys
import pickle
from hashlib import sha256
from ipls.store.contacts import RecordKey, open_contacts_store
store = open_contacts_store(pickle.loads(bytes.fromhex(sys.argv[1])))
for n in range(10**9):
    data = n.to_bytes(4, "big") * 71
    records = [(RecordKey(g, n.to_bytes(16, "big"), sha256(data).digest()), data) for g in (1, 2, 3)]
    store.put("+491700000001", records, max_records=10**9, max_bytes=10**12)
    print(n, flush=True)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", script, pickle.dumps(place.location).hex()], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    acknowledged = [int(process.stdout.readline()) for _ in range(25)]
    os.kill(process.pid, signal.SIGKILL)
    acknowledged += [int(line) for line in process.stdout.read().split()]
    process.wait()
    kept = [key for key, _ in open_contacts_store(place.location).page(LABEL, after=None, limit=10**6)]
    assert len(kept) % 3 == 0
    assert len(kept) >= 3 * len(acknowledged)
