"""What a PostgreSQL server does to registrations that a file does not: it goes away, and comes back."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from ipls.config import PostgresConfig
from ipls.store.errors import StoreDamaged, StoreUnavailable
from ipls.store.registration import open_registration_store
from tests.store.postgres import PASSWORD, PostgresDatabase, PostgresServer
from tests.store.registration.test_contract import CODE, LABEL, NOW, ONE, begin

STARTING = 6


@pytest.fixture
def database(postgres: PostgresServer) -> PostgresDatabase:
    return postgres.new()


def test_a_lost_connection_fails_one_call_and_the_next_makes_another(database: PostgresDatabase) -> None:
    with closing(open_registration_store(database.place)) as store:
        begin(store, ONE)
        for _ in range(2):
            database.disconnect()
            with pytest.raises(StoreUnavailable):
                store.attempt(ONE, LABEL, NOW)
            assert store.attempt(ONE, LABEL, NOW) == CODE


def test_processes_that_start_together_share_the_tables(database: PostgresDatabase) -> None:
    def start(_: int) -> None:
        open_registration_store(database.place).close()

    with ThreadPoolExecutor(STARTING) as pool:
        list(pool.map(start, range(STARTING)))


def test_a_table_that_is_gone_is_a_damaged_database(database: PostgresDatabase) -> None:
    with closing(open_registration_store(database.place)) as store:
        database.execute("DROP TABLE registration")
        with pytest.raises(StoreDamaged):
            store.approved(ONE, LABEL)


def test_a_server_that_lets_nobody_in_is_said_without_the_password(postgres: PostgresServer, tmp_path: Path) -> None:
    passfile = tmp_path / "pgpass"
    passfile.touch(0o600)
    passfile.write_text(f"*:*:*:*:not-{PASSWORD}\n")
    wrong = f"{postgres.conninfo('vault', 'public')} passfile={passfile}"
    with pytest.raises(StoreUnavailable) as failure:
        open_registration_store(PostgresConfig(postgres=wrong))
    assert PASSWORD not in str(failure.value)
