"""The contract of the readers' store, which every backend is held to; of signed calls see tests/store/replay."""

from collections.abc import Callable
from pathlib import Path

import pytest

from ipls.store.errors import StoreRefused
from ipls.store.readers import ReadersStore, open_readers_store
from ipls.units import DAY_MS
from tests.faults.disks import nothing_is_written
from tests.store.places import Place, new_place

BACKENDS = ["sqlite"]
Open = Callable[[], ReadersStore]
ALICE, BOB = b"+491700000001", b"+491700000002"
NOW = 1_700_000_000_000


@pytest.fixture(params=BACKENDS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return new_place(request.param, request, tmp_path)


@pytest.fixture
def open_store(place: Place) -> Open:
    """Once more each time, as another process would."""
    return lambda: open_readers_store(place.location)


@pytest.fixture
def store(open_store: Open) -> ReadersStore:
    return open_store()


def count(store: ReadersStore, *labels: bytes, reader: bytes = ALICE, now: int = NOW, daily: int = 3) -> None:
    store.count(reader, labels, now, daily_labels=daily)


def retry_after_s(store: ReadersStore, *labels: bytes, now: int = NOW) -> float | None:
    """Of a refusal."""
    with pytest.raises(StoreRefused) as refusal:
        count(store, *labels, now=now)
    assert refusal.value.reason == "LABEL_QUOTA"
    return refusal.value.retry_after_s


def test_a_label_counts_once_a_day_in_every_process_and_after_a_restart(store: ReadersStore, open_store: Open) -> None:
    count(store, b"1", b"2")
    other = open_store()
    for each in (store, other):
        count(each, b"1", b"2")
    count(other, b"3")
    store.close()
    again = open_store()
    assert retry_after_s(again, b"4") == DAY_MS / 1000
    count(again, b"1", b"2", b"3", now=NOW + DAY_MS - 1)
    count(again, b"4", b"5", b"6", now=NOW + DAY_MS)


def test_labels_that_would_be_over_the_quota_are_not_counted(store: ReadersStore) -> None:
    count(store, b"1", b"2")
    assert retry_after_s(store, b"3", b"4", now=NOW + 1000) == (DAY_MS - 1000) / 1000
    count(store, b"3", now=NOW + 1000)


def test_an_account_has_a_quota_of_its_own(store: ReadersStore) -> None:
    count(store, b"1", b"2", b"3")
    count(store, b"1", b"2", b"3", reader=BOB)


def test_its_keys_are_its_own_and_the_same_in_every_process(
    store: ReadersStore, open_store: Open, tmp_path: Path
) -> None:
    keys = [store.derived_key(purpose) for purpose in ("one", "other")]
    assert len({*keys, open_readers_store(tmp_path / "another.db").derived_key("one")}) == 3
    store.close()
    assert [open_store().derived_key(purpose) for purpose in ("one", "other")] == keys


def test_no_number_lies_in_it(store: ReadersStore, place: Place) -> None:
    count(store, BOB)
    store.admit(ALICE.decode(), bytes(16), NOW, now_ms=NOW, window_ms=1000, max_calls=9, reading=True)
    everything = repr(place.tables())
    assert "asked" in everything
    assert ALICE[1:].decode() not in everything
    assert BOB[1:].decode() not in everything


def test_where_the_disk_takes_nothing_labels_count_as_well(store: ReadersStore) -> None:
    count(store, b"1", b"2")
    with nothing_is_written():
        count(store, b"1", b"3")
        retry_after_s(store, b"4")
        count(store, b"1", b"2", b"3")
    count(store, b"3")
    retry_after_s(store, b"4")
    count(store, b"4", b"5", b"6", now=NOW + DAY_MS)
