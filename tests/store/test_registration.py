"""Registrations under way, as they are kept."""

import sqlite3
from contextlib import closing
from pathlib import Path

from ipls.store.registration import KEPT_MS, CodeHash, RegistrationStore
from ipls.units import HOUR_MS

NOW = 1_700_000_000_000
LABEL, OTHER = "+491700000001", "+491700000002"
CODE = CodeHash(bytes(16), bytes(32))


def test_a_number_is_kept_no_longer_than_it_is_needed(tmp_path: Path) -> None:
    with closing(RegistrationStore(tmp_path / "registration.db")) as store:
        store.begin(b"1" * 16, LABEL, CODE, NOW, codes_per_hour=1)
        store.begin(b"2" * 16, OTHER, CODE, NOW + HOUR_MS + KEPT_MS, codes_per_hour=1)
    with closing(sqlite3.connect(tmp_path / "registration.db")) as database:
        for table in ("registration", "sent"):
            assert database.execute(f"SELECT label FROM {table}").fetchall() == [(OTHER,)]


def test_what_nobody_finished_is_kept_for_an_hour_and_what_was_let_through_for_a_day(tmp_path: Path) -> None:
    with closing(RegistrationStore(tmp_path / "registration.db")) as store:
        for request in (b"1" * 16, b"2" * 16):
            store.begin(request, LABEL, CODE, NOW, codes_per_hour=9)
        store.approve(b"2" * 16, b"record")
        store.begin(b"3" * 16, OTHER, CODE, NOW + 2 * HOUR_MS, codes_per_hour=9)
        assert store.approved(b"2" * 16, LABEL) == b"record"
    with closing(sqlite3.connect(tmp_path / "registration.db")) as database:
        assert database.execute("SELECT request_id FROM registration ORDER BY 1").fetchall() == [
            (b"2" * 16,),
            (b"3" * 16,),
        ]
