"""Who can write to a database, or has a role of the server, plants code in it that would run as a service reads and
writes its rows: whatever it is, the service refuses the database at its opening, and nothing of it has run."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing
from pathlib import Path
from sqlite3 import OperationalError, connect
from typing import Any

import pytest

from ipls.akd import DirectoryKey
from ipls.store.directory import open_directory_store
from ipls.store.directory.fsck import Fsck
from ipls.store.engine import sqlite
from ipls.store.engine.postgres import Database
from ipls.store.errors import StoreDamaged
from ipls.store.registration import open_registration_store
from ipls.store.registration.sqlite import SCHEMA as REGISTRATION
from tests.store.engine.test_files import NAMESPACE, ROLES, content, refused, unmark
from tests.store.postgres import PostgresDatabase, PostgresServer

PLANTS = {
    "trigger": "CREATE TRIGGER planted AFTER INSERT ON {table} BEGIN DELETE FROM {table}; END",
    "view": "CREATE VIEW planted AS SELECT * FROM {table}",
    "generated column": "ALTER TABLE {table} ADD COLUMN planted AS (hex(zeroblob(1000)))",
    "altered table": "ALTER TABLE {table} ADD COLUMN planted",
    "index with an expression": "CREATE INDEX planted ON {table} (hex(rowid_of))",
    "extra table": "CREATE TABLE planted (value)",
    "virtual table": "CREATE VIRTUAL TABLE planted USING fts5 (value)",
    "name of two lines": 'CREATE TABLE "planted\nby somebody" (value)',
}
LACKS = {
    "view in the place of a table": """
        ALTER TABLE {table} RENAME TO planted; CREATE VIEW {table} AS SELECT * FROM planted""",
    "table that is gone": "DROP TABLE {table}",
}
"""What an old file, which has still to get all that is to be in it, is made whole of, or known as another's by."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "profile.db"  # a profile's name is not to be chosen


def plant(path: Path, statement: str) -> None:
    with closing(connect(path)) as db:
        db.execute("PRAGMA foreign_keys=OFF")
        tables = "SELECT name FROM sqlite_schema WHERE type = 'table' AND sql NOT LIKE '%VIRTUAL%' ORDER BY rowid"
        (table,) = db.execute(tables).fetchone()
        (column,) = db.execute(f"SELECT name FROM pragma_table_info('{table}')").fetchone()
        db.executescript(statement.format(table=table).replace("rowid_of", column))


@pytest.mark.parametrize("what", [*PLANTS, *LACKS])
@pytest.mark.parametrize("role", ROLES)
def test_a_file_with_code_or_tables_of_somebody_else_is_refused_as_it_is(path: Path, role: str, what: str) -> None:
    with ROLES[role](path):
        pass
    plant(path, (PLANTS | LACKS)[what])
    _is_refused(path, role)


@pytest.mark.parametrize("what", PLANTS)
@pytest.mark.parametrize("role", ROLES)
def test_so_is_one_that_does_not_say_whose_it_is(path: Path, role: str, what: str) -> None:
    with ROLES[role](path):
        pass
    unmark(path)
    plant(path, PLANTS[what])
    _is_refused(path, role)


def _is_refused(path: Path, role: str) -> None:
    before = content(path)
    for _ in range(2):
        reason, message = refused(role, path)
        assert reason == ("PROFILE_STORAGE" if "profile" in role else "DATABASE_ALTERED")
        assert str(path) in message
        assert "is not as this software makes it; put a copy from before in its place" in message
    assert content(path) == before


def test_no_check_is_made_of_a_directory_with_code_in_it(tmp_path: Path) -> None:
    key = DirectoryKey.from_seed(bytes(32))
    path = tmp_path / "directory.db"
    open_directory_store(path, NAMESPACE, key.public_key).close()
    plant(path, "DROP VIEW floor; CREATE VIEW floor AS SELECT 5 AS epoch")
    with pytest.raises(StoreDamaged, check=lambda error: error.reason == "DATABASE_ALTERED"):
        Fsck(path, NAMESPACE, key)


def test_nothing_planted_runs_as_the_pages_of_a_file_are_checked(tmp_path: Path) -> None:
    """SQLite's own check runs the expressions of indexes; this one fails where it runs."""
    path = tmp_path / "registration.db"
    open_registration_store(path).close()
    with closing(connect(path)) as db:
        db.executescript("""
            INSERT INTO sent(label, at_ms) VALUES ('+49', -9223372036854775808);
            CREATE INDEX planted ON sent(label);
            PRAGMA writable_schema=ON;
            UPDATE sqlite_schema SET sql = 'CREATE INDEX planted ON sent(abs(at_ms))' WHERE name = 'planted'""")
    reader = connect(f"{path.as_uri()}?mode=ro", uri=True)
    with closing(reader), pytest.raises(OperationalError, match="overflow"):
        reader.execute("PRAGMA integrity_check").fetchall()
    for check in (sqlite.defects, sqlite.reindex):
        with pytest.raises(StoreDamaged, check=lambda error: error.reason == "DATABASE_ALTERED"):
            check(path, REGISTRATION)


RAN = "nextval('planted.ran') > 0"
AT_CALL = f"LANGUAGE sql AS $$ SELECT (SELECT {RAN})::int $$"
IN_POSTGRES = {
    "function that fits better": f"CREATE FUNCTION hashtext(name) RETURNS int {AT_CALL}",
    "operator that fits better": f"""
        CREATE FUNCTION planted.equal(bytea, text) RETURNS boolean LANGUAGE sql AS $$ SELECT {RAN} $$;
        CREATE OPERATOR = (LEFTARG = bytea, RIGHTARG = text, FUNCTION = planted.equal)""",
    "trigger": f"""
        CREATE FUNCTION planted.tell() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM {RAN}; RETURN NEW; END $$;
        CREATE TRIGGER planted BEFORE INSERT ON {{table}} EXECUTE FUNCTION planted.tell()""",
    "rule": "CREATE RULE planted AS ON INSERT TO {table} DO ALSO SELECT nextval('planted.ran')",
    "row security": f"""
        ALTER TABLE {{table}} ENABLE ROW LEVEL SECURITY; ALTER TABLE {{table}} FORCE ROW LEVEL SECURITY;
        CREATE POLICY planted ON {{table}} USING ({RAN})""",
    "row security without a policy": "ALTER TABLE {table} ENABLE ROW LEVEL SECURITY",
    "view": "CREATE VIEW planted AS SELECT nextval('planted.ran')",
    "view in the place of a table": """
        ALTER TABLE {table} SET SCHEMA planted; ALTER TABLE planted.{table} RENAME TO planted;
        CREATE VIEW {table} AS SELECT * FROM planted.planted""",
    "default": "ALTER TABLE {table} ADD COLUMN planted bigint; ALTER TABLE {table} ALTER planted SET DEFAULT 5",
    "generated column": "ALTER TABLE {table} ADD COLUMN planted int GENERATED ALWAYS AS (5 + 5) STORED",
    "check": f"ALTER TABLE {{table}} ADD CONSTRAINT planted CHECK ({RAN})",
    "index with an expression": "CREATE INDEX planted ON {table} (abs(5))",
    "column of another type": "ALTER TABLE {table} ALTER {column} TYPE text USING NULL",
    "extra table": "CREATE TABLE planted (value int)",
    "table that inherits": "CREATE TABLE planted.planted () INHERITS ({table})",
    "reference from outside": """
        ALTER TABLE {table} ADD COLUMN planted int UNIQUE;
        CREATE TABLE planted.planted (value int REFERENCES {table} (planted))""",
    "table that a crash empties": "ALTER TABLE {table} SET UNLOGGED",
    "table of another owner": "ALTER TABLE {table} OWNER TO stranger",
    "table that is gone": "DROP TABLE {table}",
}
Open = Callable[[PostgresDatabase], AbstractContextManager[Any]]
STORES: dict[str, tuple[Open, str, str]] = {
    "vault": (lambda database: closing(database.open()), "records", "record"),
    "registration": (lambda database: closing(open_registration_store(database.place)), "registration", "expires_ms"),
}


@pytest.fixture
def server(postgres: PostgresServer) -> Iterator[PostgresServer]:
    """With a role that is nobody's, and its schema, in which a sequence tells whether code has run."""
    postgres.execute("CREATE ROLE stranger; CREATE SCHEMA planted; CREATE SEQUENCE planted.ran")
    postgres.execute("GRANT USAGE ON SCHEMA planted TO PUBLIC; GRANT ALL ON SEQUENCE planted.ran TO PUBLIC")
    yield postgres
    postgres.execute("DROP SCHEMA planted CASCADE; DROP OWNED BY stranger CASCADE; DROP ROLE stranger")


def has_run(server: PostgresServer) -> bool:
    (ran,) = server.execute("SELECT is_called FROM planted.ran").fetchone()
    return bool(ran)


@pytest.mark.parametrize("what", IN_POSTGRES)
@pytest.mark.parametrize("store", STORES)
def test_a_schema_with_code_or_tables_of_somebody_else_is_refused(
    server: PostgresServer, store: str, what: str
) -> None:
    open_store, table, column = STORES[store]
    database = server.new()
    with open_store(database):
        pass
    database.execute(IN_POSTGRES[what].format(table=table, column=column))
    for _ in range(2):
        with pytest.raises(StoreDamaged) as refusal, open_store(database):
            pass
        assert refusal.value.reason == "DATABASE_ALTERED"
        assert f"schema {database.schema}: " in str(refusal.value)
        assert "\n" not in str(refusal.value)
    assert not has_run(server)


@pytest.mark.parametrize("store", STORES)
def test_nothing_is_made_where_somebody_was_before(server: PostgresServer, store: str) -> None:
    database = server.new()
    database.execute(IN_POSTGRES["function that fits better"])
    with pytest.raises(StoreDamaged, check=lambda error: error.reason == "DATABASE_ALTERED"):
        STORES[store][0](database)
    assert database.rows("SELECT relname FROM pg_class WHERE relnamespace = ?::regnamespace", database.schema) == []
    assert not has_run(server)


@pytest.mark.parametrize("store", STORES)
def test_no_schema_is_looked_into_but_the_stores_own(server: PostgresServer, store: str) -> None:
    """Another schema of its role's path, even before the built-in functions, has functions that fit."""
    server.execute(f"CREATE FUNCTION planted.hashtext(name) RETURNS int {AT_CALL}")
    server.execute(f"CREATE FUNCTION planted.hashtext(text) RETURNS int {AT_CALL}")
    database = server.new()
    conninfo = f"{database.place.postgres},planted,pg_catalog"
    database.place = database.place.model_copy(update={"postgres": conninfo})
    with STORES[store][0](database):
        pass
    assert not has_run(server)


@pytest.mark.parametrize(
    "what",
    [
        "CREATE TEMPORARY TABLE number (id integer PRIMARY KEY)",
        "CREATE TEMPORARY VIEW planted AS SELECT 5 AS id",
        f"CREATE FUNCTION pg_temp.hashtext(name) RETURNS int {AT_CALL}",
    ],
)
def test_a_connection_with_something_temporary_in_it_is_refused(server: PostgresServer, what: str) -> None:
    """Behind a pooler it may have been another client's."""
    database = server.new()

    def was_anothers(connection: Any) -> None:
        connection.execute(what)

    with pytest.raises(StoreDamaged):
        Database(database.place.postgres, "a test", "CREATE TABLE number (id integer PRIMARY KEY)", was_anothers)
    assert not has_run(server)


def test_a_temporary_table_made_later_hides_none_of_ours(server: PostgresServer) -> None:
    database = server.new()
    tables = "CREATE TABLE number (id integer PRIMARY KEY)"
    with closing(Database(database.place.postgres, "a test", tables)) as there, there.read() as connection:
        connection.execute("CREATE TEMPORARY TABLE number (id integer)")
        connection.execute("INSERT INTO number VALUES (7)")
    assert database.rows("SELECT id FROM number") == [(7,)]
