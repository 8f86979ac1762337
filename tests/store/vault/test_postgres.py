"""What a PostgreSQL server does that a file does not: it goes away, and comes back."""

import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import tomli_w

from ipls.config import ConfigError, VaultPostgresConfig, load_core
from ipls.store.errors import StoreError
from ipls.store.vault import open_vault_store
from tests.store.postgres import PASSWORD, PostgresDatabase, PostgresServer, postgres_server
from tests.store.vault.test_contract import changes, row
from tests.store.vault_databases import FAILED


@pytest.fixture
def database(postgres: PostgresServer) -> PostgresDatabase:
    return postgres.new()


def test_a_lost_connection_fails_one_call_and_the_next_makes_another(database: PostgresDatabase) -> None:
    with closing(database.open()) as store:
        for number in range(1, 4):
            store.append(changes(row(number)))
            database.disconnect()
            with pytest.raises(FAILED):
                store.last()
            assert store.last() == row(number)
        with pytest.raises(StoreError) as refusal:  # and it has its lock again
            database.elsewhere().open(wait=False)
        assert refusal.value.reason == "VAULT_RUNNING"


def test_who_lost_its_connection_to_another_hosts_vault_writes_nothing_more(database: PostgresDatabase) -> None:
    with closing(database.open()) as store:
        store.append(changes(row(1)))
        database.disconnect()
        with closing(database.elsewhere().open()) as other:
            other.append(changes(row(2)))
            for _ in range(2):
                with pytest.raises(FAILED):
                    store.append(changes(row(3)))
            assert other.last() == row(2)
        assert store.last() == row(2)


@pytest.mark.parametrize("setting", ["work_mem = '1MB'", "synchronous_commit = off", "statement_timeout = 100"])
def test_a_write_that_was_let_off_its_wait_for_standbys_is_not_acknowledged(
    postgres: PostgresServer, setting: str
) -> None:
    """The server then calls the commit done and shows it to all readers; on the standbys it may not be. What the store
    reads afterwards is on them: it waits. No setting of its role lets it off."""
    database = postgres.new()
    postgres.execute(f"ALTER ROLE vault SET {setting}")
    with closing(database.open()) as store:
        store.append(changes(row(1)))
        try:
            standbys(postgres, "'nobody'")
            outcomes: list[object] = []
            writing = in_thread(outcomes, lambda: store.append(changes(row(2))))
            waits_for_standbys(postgres)
            postgres.execute("SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'")
            writing.join()
            [failed] = outcomes
            assert isinstance(failed, FAILED)
            reading = in_thread(outcomes, store.last)
            waits_for_standbys(postgres)
            assert len(outcomes) == 1
        finally:
            standbys(postgres, "DEFAULT")
            postgres.execute("ALTER ROLE vault RESET ALL")
        reading.join()
        assert outcomes[1] == row(2)


def test_a_promoted_standby_has_all_that_was_acknowledged_and_the_vault_goes_on_there(tmp_path: Path) -> None:
    """Its connection string names both."""
    with (
        postgres_server(tmp_path / "primary") as primary,
        postgres_server(tmp_path / "standby", primary) as standby,
    ):
        standbys(primary, "'ANY 1 (standby)'")
        database = primary.new()
        both = f"{database.place.postgres} host=127.0.0.1,127.0.0.1 port={primary.port},{standby.port}"
        with closing(open_vault_store(VaultPostgresConfig(postgres=both, lock=tmp_path / "lock"))) as store:
            for number in range(1, 20):
                store.append(changes(row(number)))
            primary.kill()
            standby.execute("SELECT pg_promote()")
            with pytest.raises(FAILED):
                store.last()
            assert store.log(1, 99) == [row(number) for number in range(1, 20)]
            store.append(changes(row(20)))


def in_thread(outcomes: list[object], call: Callable[[], object]) -> threading.Thread:
    def run() -> None:
        try:
            outcomes.append(call())
        except Exception as error:
            outcomes.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def standbys(server: PostgresServer, names: str) -> None:
    """Those of which one must have each commit."""
    server.execute(f"ALTER SYSTEM SET synchronous_standby_names TO {names}")
    server.execute("SELECT pg_reload_conf()")
    expected = "" if names == "DEFAULT" else names.strip("'")
    while server.execute("SHOW synchronous_standby_names").fetchone() != (expected,):
        pass
    server.execute("CHECKPOINT")  # by the process that puts it into force, which reads the setting first


def waits_for_standbys(server: PostgresServer) -> None:
    while not server.execute("SELECT 1 FROM pg_stat_activity WHERE wait_event = 'SyncRep'").fetchone():
        pass


def test_a_role_that_may_only_read_and_add_is_enough(postgres: PostgresServer) -> None:
    database = postgres.new()
    database.open().close()
    for statement in ("REVOKE ALL ON log, records, nodes FROM vault", "GRANT SELECT, INSERT ON log TO vault"):
        database.execute(statement)
    database.execute("GRANT SELECT, INSERT, UPDATE ON records, nodes TO vault")
    database.execute(f"ALTER SCHEMA {database.schema} OWNER TO host")
    database.execute(f"GRANT USAGE ON SCHEMA {database.schema} TO vault")
    with closing(database.open()) as store:
        store.append(changes(row(1), record=b"before"))
        store.append(changes(row(2), record=b"after"))
        assert store.last() == row(2)


def test_a_server_that_is_not_there_or_lets_nobody_in_is_said_without_the_password(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    passfile = tmp_path / "pgpass"
    passfile.touch(0o600)
    passfile.write_text(f"*:*:*:*:not-{PASSWORD}\n")
    wrong = f"{postgres.conninfo('vault', 'public')} passfile={passfile}"
    for conninfo in (wrong, f"{wrong} port=1"):
        with pytest.raises(FAILED) as failure:
            open_vault_store(VaultPostgresConfig(postgres=conninfo, lock=tmp_path / "lock"))
        assert str(failure.value)
        assert PASSWORD not in str(failure.value)
        assert PASSWORD not in repr(failure.value.__cause__)


@pytest.mark.parametrize(
    "conninfo",
    [
        "host=db password=very-secret",
        "postgresql://vault:very-secret@db/vault",
        "postgresql://db/vault?sslpassword=very-secret",
        "very-secret",
        "host=db very-secret",
    ],
)
def test_a_password_in_the_configuration_is_refused_and_not_repeated(conninfo: str, tmp_path: Path) -> None:
    tls = {"certificate": "c", "key": "k", "ca": "ca"}
    names = dict.fromkeys(("token", "pin", "bundle"), "x")
    vault = names | dict.fromkeys(("listen", "directory"), "127.0.0.1:1") | {"tls": tls, "client": tls}
    database = {"postgres": conninfo, "lock": "vault.lock"}
    (tmp_path / "ipls.toml").write_text(tomli_w.dumps({"trust_root": "x", "vault": vault | {"database": database}}))
    with pytest.raises(ConfigError, match="postgres") as refusal:
        load_core(tmp_path / "ipls.toml")
    assert "very-secret" not in str(refusal.value)
    assert "very-secret" not in str(refusal.value.__cause__)
