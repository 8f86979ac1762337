"""A vault's state: genesis, check, recovery. Its hand-off is in tests/server/vault/test_handoff.py, the end of a
storage root in tests/hsm/core/test_rotation.py.
"""

import shutil
import sqlite3
import tomllib
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import tomli_w

from ipls.admin import deployment, vault
from ipls.config import VaultPostgresConfig, load_core
from ipls.hsm.anchor_service import open_anchor_service
from ipls.hsm.state.store import StateStore
from ipls.store.errors import StoreError
from ipls.store.vault import open_vault_store
from ipls.vault.errors import SessionRefused
from ipls.vault.state.journal import other_key
from tests.hsm.state_stores import perform
from tests.store.postgres import PostgresDatabase, PostgresServer

KEYS = [other_key("test", number) for number in range(600)]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Of a new deployment."""
    deployment.create(tmp_path / "made", "test", port=0)
    return tmp_path / "made/ipls.toml"


def write(config: Path, count: int = len(KEYS)) -> None:
    settings = load_core(config).vault
    with closing(open_vault_store(settings.database)) as store, open_anchor_service(settings) as anchor_service:
        state_store = StateStore(store, anchor_service)
        for first in range(0, count, 100):
            perform(state_store, lambda first=first: [state_store.put(key, key) for key in KEYS[first : first + 100]])


def read(config: Path) -> list[bytes | None]:
    settings = load_core(config).vault
    with closing(open_vault_store(settings.database)) as store, open_anchor_service(settings) as anchor_service:
        state_store = StateStore(store, anchor_service)
        return perform(state_store, lambda: [state_store.get(key) for key in KEYS])


def check(config: Path) -> int:
    """How many entries the log has, which all is as."""
    state, found = vault.check(load_core(config).vault)
    for refused in found:
        raise refused
    return state.sequence


def genesis(config: Path) -> None:
    vault.genesis(load_core(config).vault)


def recover(config: Path, damaged: Path | VaultPostgresConfig) -> int:
    """How many entries came back."""
    return vault.recover(load_core(config).vault, damaged).sequence


def refused(work: Callable[..., object], *arguments: object) -> str:
    """The reason why."""
    with pytest.raises((SessionRefused, StoreError)) as refused:
        work(*arguments)
    return refused.value.reason


def edit(config: Path, statement: str) -> None:
    with closing(sqlite3.connect(load_core(config).vault.database)) as connection, connection:
        connection.execute(statement)


def moved_aside(config: Path) -> Path:
    database = load_core(config).vault.database
    aside = database.with_name("aside.db")
    for suffix in ("", "-wal", "-shm"):
        if (file := database.with_name(database.name + suffix)).exists():
            file.rename(aside.with_name(aside.name + suffix))
    return aside


def test_a_new_deployment_has_its_anchor_and_gets_no_other(config: Path) -> None:
    assert check(config) == 0
    assert refused(genesis, config) == "VAULT_ANCHOR_EXISTS"
    moved_aside(config)
    assert refused(genesis, config) == "VAULT_ANCHOR_EXISTS"


def test_a_check_finds_what_was_edited(config: Path) -> None:
    write(config)
    assert check(config) == 600
    for statement, reason in (
        (
            "UPDATE records SET record = zeroblob(32) WHERE key = (SELECT max(key) FROM records)",
            "VAULT_DATABASE_EDITED",
        ),
        ("UPDATE log SET mac = zeroblob(32) WHERE sequence = 300", "VAULT_LOG_BROKEN"),
        ("DELETE FROM log WHERE sequence = 600", "VAULT_DATABASE_BEHIND"),
    ):
        edit(config, statement)
        assert refused(check, config) == reason


def test_a_damaged_database_is_made_again_from_its_log(config: Path) -> None:
    write(config)
    edit(config, "DELETE FROM nodes WHERE length(prefix) > 1")
    edit(config, "UPDATE records SET record = zeroblob(32)")
    assert refused(check, config) == "VAULT_DATABASE_EDITED"
    aside = moved_aside(config)
    assert recover(config, aside) == 600
    assert check(config) == 600
    assert read(config) == KEYS
    assert refused(recover, config, aside) == "VAULT_DATABASE_NOT_EMPTY"


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ("DELETE FROM log WHERE sequence = 600", "VAULT_DATABASE_BEHIND"),
        ("DELETE FROM log WHERE sequence < 10", "VAULT_LOG_BROKEN"),
        ("DELETE FROM log WHERE sequence = 300", "VAULT_LOG_BROKEN"),
        ("UPDATE log SET entry = zeroblob(300) WHERE sequence = 300", "VAULT_LOG_BROKEN"),
        ("UPDATE log SET entry = zeroblob(300) WHERE sequence = 600", "VAULT_LOG_BROKEN"),
        ("DELETE FROM log", "VAULT_DATABASE_BEHIND"),
    ],
)
def test_what_the_log_does_not_prove_does_not_come_back(config: Path, statement: str, reason: str) -> None:
    """Not even in part: the same database can be recovered into once a whole log is found."""
    write(config)
    whole = load_core(config).vault.database.with_name("whole.db")
    shutil.copy(load_core(config).vault.database, whole)
    edit(config, statement)
    aside = moved_aside(config)
    assert refused(recover, config, aside) == reason
    assert refused(check, config) == "VAULT_DATABASE_BEHIND"
    recover(config, whole)
    assert read(config) == KEYS


def test_yesterdays_log_brings_nothing_back(config: Path) -> None:
    write(config, 100)
    yesterday = load_core(config).vault.database.with_name("yesterday.db")
    shutil.copy(load_core(config).vault.database, yesterday)
    write(config)
    moved_aside(config)
    assert refused(recover, config, yesterday) == "VAULT_DATABASE_BEHIND"


def test_a_vault_that_runs_is_left_alone(config: Path) -> None:
    with closing(open_vault_store(load_core(config).vault.database)):
        for command in (genesis, check):
            assert refused(command, config) == "VAULT_RUNNING"


def test_a_file_that_is_no_database_is_said_to_be_none(config: Path) -> None:
    load_core(config).vault.database.write_bytes(b"no database" * 1000)
    assert refused(check, config) == "DATABASE_UNREADABLE"


# PostgreSQL


def configure(config: Path, database: PostgresDatabase) -> None:
    settings = tomllib.loads(config.read_text())
    settings["vault"]["database"] = database.place.model_dump(mode="json")
    config.write_text(tomli_w.dumps(settings))


def test_a_vault_moves_to_postgresql_and_from_one_schema_to_another_by_its_log(
    config: Path, postgres: PostgresServer
) -> None:
    write(config)
    file, first, second = load_core(config).vault.database, postgres.new(), postgres.new()
    configure(config, first)
    assert refused(check, config) == "VAULT_DATABASE_BEHIND"
    assert recover(config, file) == 600
    assert check(config) == 600
    write(config, 100)
    assert first.execute("UPDATE records SET record = ?", b"") == 600
    assert refused(check, config) == "VAULT_DATABASE_EDITED"
    configure(config, second)
    assert refused(recover, config, file) == "VAULT_DATABASE_BEHIND"
    assert recover(config, first.place) == 700
    assert read(config) == KEYS


def test_a_vault_that_runs_on_another_host_is_left_alone(config: Path, postgres: PostgresServer) -> None:
    database = postgres.new()
    configure(config, database)
    with closing(database.elsewhere().open()):
        for command in (genesis, check):
            assert refused(command, config) == "VAULT_RUNNING"


def test_a_server_that_is_not_there_is_said_to_be_none(config: Path, postgres: PostgresServer) -> None:
    database = postgres.new()
    configure(config, database)
    config.write_text(config.read_text().replace(database.place.postgres, f"{database.place.postgres} port=1"))
    assert refused(check, config) == "DATABASE_UNREADABLE"
