"""The contract of the registration service's store, which every backend is held to."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from ipls.store.errors import StoreRefused
from ipls.store.registration import (
    ATTEMPTS,
    CODE_LIFE_MS,
    KEPT_MS,
    PEERS,
    REPEATING_PEERS,
    CodeHash,
    RegistrationStore,
    open_registration_store,
)
from ipls.units import HOUR_MS
from tests.store.places import Place, new_place

BACKENDS = ["sqlite", "postgres"]
Open = Callable[[], RegistrationStore]
NOW = 1_700_000_000_000
LABEL, OTHER = "+491700000001", "+491700000002"
CODE, NEXT = CodeHash(bytes(16), bytes(32)), CodeHash(b"s" * 16, b"d" * 32)
ONE, TWO, THREE = (bytes([n]) * 16 for n in (1, 2, 3))
RACERS = 6
PEER = "192.0.2.1"


@pytest.fixture(params=BACKENDS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return new_place(request.param, request, tmp_path)


@pytest.fixture
def open_store(place: Place) -> Open:
    """Once more each time, as another process would."""
    return lambda: open_registration_store(place.location)


@pytest.fixture
def store(open_store: Open) -> RegistrationStore:
    return open_store()


def begin(
    store: RegistrationStore,
    request: bytes,
    label: str = LABEL,
    code: CodeHash = CODE,
    now: int = NOW,
    limit: int = 9,
    peer: str = PEER,
) -> None:
    store.begin(request, label, peer, now, codes_per_hour=limit)
    store.sent(request, label, code, now)


def refused(reason: str) -> object:
    return pytest.raises(StoreRefused, check=lambda error: error.reason == reason)


def race(open_store: Open, call: Callable[[RegistrationStore, int], object]) -> int:
    """How many of several processes succeed."""
    stores = [open_store() for _ in range(RACERS)]

    def run(number: int) -> bool:
        with suppress(StoreRefused):
            call(stores[number], number)
            return True
        return False

    with ThreadPoolExecutor(RACERS) as pool:
        return sum(pool.map(run, range(RACERS)))


def test_what_was_begun_and_approved_is_there_after_a_restart(store: RegistrationStore, open_store: Open) -> None:
    begin(store, ONE, code=NEXT)
    store.close()
    store = open_store()
    assert store.attempt(ONE, LABEL, NOW) == NEXT
    assert store.approved(ONE, LABEL) is None
    store.approve(ONE, b"record")
    store.close()
    store = open_store()
    store.approve(ONE, b"record")
    assert (store.approved(ONE, LABEL), store.approved(ONE, OTHER), store.approved(TWO, LABEL)) == (
        b"record",
        None,
        None,
    )


def test_a_request_is_one_labels_and_one_records(store: RegistrationStore) -> None:
    begin(store, ONE)
    with refused("REQUEST_ID_REUSED"):
        begin(store, ONE, OTHER)
    begin(store, ONE, code=NEXT)
    assert store.attempt(ONE, LABEL, NOW) == NEXT
    store.approve(ONE, b"record")
    with refused("REQUEST_ID_REUSED"):
        store.approve(ONE, b"another")
    with refused("REQUEST_ID_REUSED"):
        store.approve(TWO, b"record")
    with refused("REQUEST_ID_REUSED"):
        begin(store, ONE)
    assert store.approved(ONE, LABEL) == b"record"


def test_an_approval_ends_the_earlier_ones_of_its_number(store: RegistrationStore) -> None:
    for request, label in ((ONE, LABEL), (TWO, LABEL), (THREE, OTHER)):
        begin(store, request, label)
    for request in (ONE, THREE, TWO):
        store.approve(request, request)
    assert store.approved(ONE, LABEL) is None
    assert (store.approved(TWO, LABEL), store.approved(THREE, OTHER)) == (TWO, THREE)


def test_attempts_are_counted_and_a_new_code_has_them_again(store: RegistrationStore) -> None:
    begin(store, ONE)
    for _ in range(2):
        for _ in range(ATTEMPTS):
            store.attempt(ONE, LABEL, NOW)
        with refused("CODE_ATTEMPTS"):
            store.attempt(ONE, LABEL, NOW)
        begin(store, ONE)
    for request, label in ((ONE, OTHER), (TWO, LABEL)):
        with refused("CODE_NOT_REQUESTED"):
            store.attempt(request, label, NOW)
    with refused("CODE_EXPIRED"):
        store.attempt(ONE, LABEL, NOW + CODE_LIFE_MS)


def test_of_many_processes_at_once_no_more_attempts_succeed_than_there_are(
    store: RegistrationStore, open_store: Open
) -> None:
    begin(store, ONE)
    assert race(open_store, lambda each, _: each.attempt(ONE, LABEL, NOW)) == ATTEMPTS < RACERS


def test_of_racing_approvals_one_wins(store: RegistrationStore, open_store: Open) -> None:
    begin(store, ONE)
    assert race(open_store, lambda each, number: each.approve(ONE, b"%d" % number)) == 1
    assert store.approved(ONE, LABEL) is not None


def test_codes_to_a_number_are_bounded_also_where_processes_race(store: RegistrationStore, open_store: Open) -> None:
    assert race(open_store, lambda each, number: begin(each, bytes([number]) * 16, limit=3)) == 3
    for check in (
        lambda: store.check_rate(LABEL, PEER, NOW + 1000, codes_per_hour=3),
        lambda: begin(store, THREE, limit=3, now=NOW + 1000),
    ):
        with pytest.raises(StoreRefused) as refusal:
            check()
        assert (refusal.value.reason, refusal.value.retry_after_s) == ("CODE_RATE", HOUR_MS / 1000 - 1)
    store.check_rate(OTHER, PEER, NOW, codes_per_hour=3)
    begin(store, THREE, now=NOW + HOUR_MS, limit=3)


def test_codes_that_were_sent_by_a_clock_a_day_ahead_hold_nobody_up(store: RegistrationStore) -> None:
    for request in (ONE, TWO):
        begin(store, request, now=NOW + 24 * HOUR_MS, limit=2)
    begin(store, THREE, now=NOW, limit=2)
    store.check_rate(LABEL, PEER, NOW, codes_per_hour=2)


def test_one_peers_codes_are_not_anothers_and_all_together_are_bounded(store: RegistrationStore) -> None:
    for number in range(REPEATING_PEERS):
        for code in range(3):
            request = bytes([number, code]) * 8
            begin(store, request, now=NOW + 1000 * number, limit=3, peer=f"192.0.2.{number}")
        with refused("CODE_RATE"):
            begin(store, ONE, now=NOW + 1000 * number, limit=3, peer=f"192.0.2.{number}")
    for number in range(3 * REPEATING_PEERS, 3 * PEERS):  # from here on each has one, whatever the others had
        peer = f"203.0.113.{number}"
        begin(store, bytes([number]) * 16, now=NOW + 1000 * REPEATING_PEERS, limit=3, peer=peer)
        with refused("CODE_RATE"):
            begin(store, bytes([number]) * 16, now=NOW + 1000 * REPEATING_PEERS, limit=3, peer=peer)
    with pytest.raises(StoreRefused) as refusal:
        store.check_rate(LABEL, "198.51.100.1", NOW + 1000 * PEERS, codes_per_hour=3)
    assert (refusal.value.reason, refusal.value.retry_after_s) == ("CODE_RATE", HOUR_MS / 1000 - PEERS)
    begin(store, ONE, now=NOW + HOUR_MS, limit=3, peer="198.51.100.1")


def test_a_code_that_was_not_sent_is_no_code(store: RegistrationStore) -> None:
    begin(store, ONE, code=NEXT, limit=3)
    for _ in range(5):
        store.begin(ONE, LABEL, PEER, NOW, codes_per_hour=3)
        store.not_sent(LABEL, PEER, NOW)
    assert store.attempt(ONE, LABEL, NOW) == NEXT
    store.begin(TWO, LABEL, PEER, NOW, codes_per_hour=3)
    with refused("CODE_NOT_REQUESTED"):
        store.attempt(TWO, LABEL, NOW)
    begin(store, TWO, limit=3)
    with refused("CODE_RATE"):
        begin(store, THREE, limit=3)


def test_of_two_labels_that_race_for_a_request_one_has_it(store: RegistrationStore) -> None:
    for label in (LABEL, OTHER):
        store.begin(ONE, label, PEER, NOW, codes_per_hour=3)
    store.sent(ONE, LABEL, CODE, NOW)
    with refused("REQUEST_ID_REUSED"):
        store.sent(ONE, OTHER, NEXT, NOW)
    assert store.attempt(ONE, LABEL, NOW) == CODE


def test_what_is_refused_changes_nothing(store: RegistrationStore, place: Place) -> None:
    begin(store, ONE)
    store.approve(ONE, b"record")
    begin(store, TWO)
    before = place.tables()
    for call in (
        lambda: begin(store, ONE),
        lambda: begin(store, TWO, limit=2),
        lambda: store.approve(ONE, b"another"),
        lambda: store.approve(THREE, b"record"),
        lambda: store.attempt(TWO, LABEL, NOW + CODE_LIFE_MS),
    ):
        with pytest.raises(StoreRefused):
            call()
    assert place.tables() == before


def test_a_number_is_kept_no_longer_than_it_is_needed(store: RegistrationStore, place: Place) -> None:
    begin(store, ONE, limit=1)
    begin(store, TWO, OTHER, now=NOW + HOUR_MS + KEPT_MS, limit=1)
    for table in ("registration", "sent"):
        assert place.rows(f"SELECT label FROM {table}") == [(OTHER,)]


def test_what_nobody_finished_is_kept_for_an_hour_and_what_was_let_through_for_a_day(
    store: RegistrationStore, place: Place
) -> None:
    for request in (ONE, TWO):
        begin(store, request)
    store.approve(TWO, b"record")
    begin(store, THREE, OTHER, now=NOW + 2 * HOUR_MS)
    assert store.approved(TWO, LABEL) == b"record"
    assert place.rows("SELECT request_id FROM registration ORDER BY 1") == [(TWO,), (THREE,)]


def test_a_database_from_before_peers_were_noted_keeps_its_registrations(
    store: RegistrationStore, open_store: Open, place: Place
) -> None:
    begin(store, ONE)
    store.approve(ONE, b"record")
    store.close()
    place.change("ALTER TABLE sent DROP COLUMN peer")
    store = open_store()
    assert store.approved(ONE, LABEL) == b"record"
    begin(store, TWO, limit=1)
