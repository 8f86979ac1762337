"""The contract of the contact store, which every backend is held to."""

from hashlib import sha256
from pathlib import Path

import pytest

from ipls.store.contacts import ContactsStore, Manifest, RecordKey, open_contacts_store
from ipls.store.errors import StoreDamaged, StoreRefused
from tests.store.contacts.before import store_before
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


def put(place: Place, *records: tuple[RecordKey, bytes], manifest: Manifest | None = None) -> None:
    store_before(place.location, LABEL, records, manifest)


def refused(reason: str):
    return pytest.raises(StoreRefused, check=lambda error: error.reason == reason)


def test_records_come_back_in_the_order_asked_for(store: ContactsStore, place: Place) -> None:
    records = [record(n) for n in range(5)]
    put(place, *records)
    keys = [key for key, _ in reversed(records)]
    assert store.sizes(LABEL, keys) == [284] * 5
    assert store.read(LABEL, keys) == b"".join(data for _, data in reversed(records))


def test_ciphertexts_of_one_contact_stand_side_by_side(store: ContactsStore, place: Place) -> None:
    key, data = record(1)
    other = key._replace(digest=sha256(b"x" * 284).digest())
    put(place, (key, data), (other, b"x" * 284))
    assert store.read(LABEL, [key, other]) == data + b"x" * 284


def test_an_account_sees_only_its_own(store: ContactsStore, place: Place) -> None:
    put(place, record(1))
    with refused("RECORD_ABSENT"):
        store.read(OTHER, [record(1)[0]])
    assert store.page(OTHER, after=None, limit=10) == []
    assert store.read(LABEL, [record(1)[0]]) == record(1)[1]


def test_listing_pages_through_everything(store: ContactsStore, place: Place) -> None:
    put(place, *(record(n, generation) for n in range(7) for generation in (1, 2)))
    seen, after = [], None
    while page := store.page(LABEL, after=after, limit=3):
        seen += page
        after = page[-1][0]
    assert len(seen) == 14
    assert seen == sorted(seen)


def test_the_manifest_is_its_accounts(store: ContactsStore, place: Place) -> None:
    assert store.manifest(LABEL) is None
    put(place, manifest=Manifest(2, 1, b"c" * 32, b"two"))
    assert store.manifest(LABEL) == Manifest(2, 1, b"c" * 32, b"two")
    assert store.manifest(OTHER) is None


def test_a_record_that_is_not_the_named_one_is_not_given(store: ContactsStore, place: Place) -> None:
    (key, _), good = record(1), record(2)
    put(place, (key, b"x" * 284), good)
    with pytest.raises(StoreDamaged, check=lambda error: error.reason == "RECORD_DAMAGED"):
        store.read(LABEL, [key])
    assert store.read(LABEL, [good[0]]) == good[1]
    assert list(store.damaged()) == [key]
