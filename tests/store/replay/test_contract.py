"""Single use of signed calls, to which every store that takes them is held on every backend."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from ipls.store.contacts import ContactsStore, open_contacts_store
from ipls.store.errors import StoreRefused, StoreUnavailable
from ipls.store.readers import ReadersStore, open_readers_store
from tests.faults.disks import nothing_is_written
from tests.store.contacts.test_contract import BACKENDS as CONTACTS
from tests.store.places import new_place
from tests.store.readers.test_contract import BACKENDS as READERS

Store = ContactsStore | ReadersStore
Open = Callable[[], Store]

STORES = [*((open_contacts_store, kind) for kind in CONTACTS), *((open_readers_store, kind) for kind in READERS)]
LABEL, OTHER = "+491700000001", "+491700000002"
NOW, WINDOW = 1_000_000_000, 120_000


@pytest.fixture(params=STORES)
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> Open:
    """Once more each time, as another process would."""
    opener, kind = request.param
    place = new_place(kind, request, tmp_path)
    return lambda: opener(place.location)


@pytest.fixture
def store(open_store: Open) -> Store:
    return open_store()


def admit(
    store: Store,
    nonce: int,
    timestamp: int = NOW,
    now: int = NOW,
    *,
    max_calls: int = 100,
    label: str = LABEL,
    reading: bool = True,
) -> None:
    nonce_bytes = nonce.to_bytes(16, "big")
    store.admit(label, nonce_bytes, timestamp, now_ms=now, window_ms=WINDOW, max_calls=max_calls, reading=reading)


def refused(reason: str) -> object:
    return pytest.raises(StoreRefused, check=lambda error: error.reason == reason)


def test_a_nonce_is_good_once_also_after_a_restart_and_in_another_process(store: Store, open_store: Open) -> None:
    admit(store, 1)
    admit(store, 2)
    for other in (store, open_store()):
        with refused("CALL_REPLAYED"):
            admit(other, 1)
    store.close()
    with refused("CALL_REPLAYED"):
        admit(open_store(), 1, now=NOW + WINDOW - 1)


def test_a_nonce_is_one_labels(store: Store) -> None:
    admit(store, 1)
    admit(store, 1, label=OTHER)


def test_a_forgotten_time_stays_refused_when_the_clock_is_set_back(store: Store, open_store: Open) -> None:
    admit(store, 1)
    admit(store, 2, NOW + WINDOW, NOW + WINDOW)  # forgets the first
    store.close()
    with refused("CALL_STALE"):
        admit(open_store(), 1)


@pytest.mark.parametrize("ahead", [24 * 3_600_000, -24 * 3_600_000])
def test_a_clock_that_was_a_day_off_refuses_no_call_afterwards_and_admits_none_again(
    store: Store, open_store: Open, ahead: int
) -> None:
    admit(store, 1, max_calls=3)
    for nonce in (2, 3, 4):  # what clients of the same machine sign meanwhile
        admit(store, nonce, NOW + ahead, NOW + ahead, max_calls=3)
    store.close()
    store = open_store()
    for nonce in (5, 6):
        admit(store, nonce, NOW + 1000, NOW + 1000, max_calls=3)
    for nonce, at in ((1, NOW), (2, NOW + ahead)):  # a day later the second's time has come again
        with pytest.raises(StoreRefused, check=lambda error: error.reason in ("CALL_STALE", "CALL_REPLAYED")):
            admit(store, nonce, at, max(at, NOW))


@pytest.mark.parametrize("offset", [-WINDOW, WINDOW + 1])
def test_a_call_out_of_the_window_is_refused(store: Store, offset: int) -> None:
    with refused("CALL_STALE"):
        admit(store, 1, NOW + offset)


def test_calls_in_a_window_are_bounded(store: Store) -> None:
    for n in range(3):
        admit(store, n, max_calls=3)
    with pytest.raises(StoreRefused) as refusal:
        admit(store, 4, max_calls=3)
    assert (refusal.value.reason, refusal.value.retry_after_s) == ("CALL_QUOTA", WINDOW / 1000)
    admit(store, 5, NOW + WINDOW, NOW + WINDOW, max_calls=3)


def test_one_labels_flood_pushes_out_and_refuses_none_of_anothers_calls(store: Store) -> None:
    """Signed for the earliest and the latest time that is admitted, as its clock allows, while time goes by."""
    others, nonces = list[tuple[int, int]](), iter(range(10_000))
    for now in range(NOW, NOW + 2 * WINDOW, WINDOW // 2):
        for timestamp in (now - WINDOW + 1, now + WINDOW):
            for _ in range(6):
                with suppress(StoreRefused):
                    admit(store, next(nonces), timestamp, now, max_calls=5)
        for timestamp in (now - WINDOW + 1, now, now + WINDOW):
            others.append((next(nonces), timestamp))
            admit(store, *others[-1], now, label=OTHER)
        for nonce, timestamp in others:
            with pytest.raises(StoreRefused, check=lambda error: error.reason in ("CALL_STALE", "CALL_REPLAYED")):
                admit(store, nonce, timestamp, now, label=OTHER)


def test_where_the_disk_takes_nothing_a_read_is_admitted_once_and_nothing_else(store: Store, open_store: Open) -> None:
    admit(store, 1)
    with nothing_is_written():
        admit(store, 2)
        for nonce in (1, 2):
            with refused("CALL_REPLAYED"):
                admit(store, nonce)
        with refused("CALL_STALE"):
            admit(store, 3, NOW - WINDOW)
        with pytest.raises(StoreUnavailable):
            admit(store, 4, reading=False)
    for nonce in (1, 2):  # what memory has admitted counts when there is room again
        with refused("CALL_REPLAYED"):
            admit(store, nonce)
    admit(store, 4, reading=False)
