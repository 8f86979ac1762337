"""What every store in a PostgreSQL server relies on; of its standbys see tests/store/vault/test_postgres.py."""

from contextlib import closing

import pytest

from ipls.store.engine.postgres import Database
from ipls.store.errors import StoreDamaged
from tests.store.postgres import PostgresServer


def test_a_commit_is_on_the_disk_whatever_the_role_is_set_to(postgres: PostgresServer) -> None:
    place = postgres.new().place
    postgres.execute("ALTER ROLE vault SET synchronous_commit = off")
    try:
        with closing(Database(place.postgres, "a test")) as database, database.read() as connection:
            assert connection.execute("SHOW synchronous_commit").fetchone() == ("on",)
    finally:
        postgres.execute("ALTER ROLE vault RESET ALL")


def test_a_commit_that_fails_is_undone_and_the_next_transaction_succeeds(postgres: PostgresServer) -> None:
    with closing(Database(postgres.new().place.postgres, "a test")) as database:
        with database.write() as connection:
            connection.execute("CREATE TABLE parent (id integer PRIMARY KEY)")
            connection.execute("CREATE TABLE child (id integer REFERENCES parent DEFERRABLE INITIALLY DEFERRED)")
        with pytest.raises(StoreDamaged), database.write() as connection:
            connection.execute("INSERT INTO child VALUES (1)")
        with database.write() as connection:
            connection.execute("INSERT INTO parent VALUES (1)")
        with database.read() as connection:
            query = "SELECT (SELECT count(*) FROM child), (SELECT count(*) FROM parent)"
            assert connection.execute(query).fetchone() == (0, 1)
