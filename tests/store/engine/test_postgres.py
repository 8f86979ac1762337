"""What every store in a PostgreSQL server relies on; of its standbys see tests/store/vault/test_postgres.py."""

from contextlib import closing

import pytest

from ipls.store.engine.postgres import Database
from ipls.store.errors import StoreDamaged
from tests.store.postgres import PostgresServer

TABLES = "CREATE TABLE number (id integer UNIQUE DEFERRABLE INITIALLY DEFERRED)"


def test_a_commit_is_on_the_disk_whatever_the_role_is_set_to(postgres: PostgresServer) -> None:
    place = postgres.new().place
    postgres.execute("ALTER ROLE vault SET synchronous_commit = off")
    try:
        with closing(Database(place.postgres, "a test", TABLES)) as database, database.read() as connection:
            assert connection.execute("SHOW synchronous_commit").fetchone() == ("on",)
    finally:
        postgres.execute("ALTER ROLE vault RESET ALL")


def test_a_commit_that_fails_is_undone_and_the_next_transaction_succeeds(postgres: PostgresServer) -> None:
    with closing(Database(postgres.new().place.postgres, "a test", TABLES)) as database:
        with pytest.raises(StoreDamaged), database.write() as connection:
            connection.execute("INSERT INTO number VALUES (1), (1)")
        with database.write() as connection:
            connection.execute("INSERT INTO number VALUES (2)")
        with database.read() as connection:
            assert connection.execute("SELECT id FROM number").fetchall() == [(2,)]
