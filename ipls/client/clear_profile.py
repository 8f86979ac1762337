"""A profile as earlier versions left it, its rows in clear: read once, to be sealed.

Tested by tests/client/test_profile.py.
"""

from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from ipls.client.rows import Rows, Table
from ipls.store.engine.sqlite import Connection, Schema, make, open_database, transaction
from ipls.store.errors import StoreDamaged

_CLEAR = Schema(
    "a client's profile",
    """
CREATE TABLE IF NOT EXISTS pinned (one INTEGER PRIMARY KEY CHECK (one = 1), trust_root BLOB, ca BLOB, addresses TEXT);
CREATE TABLE IF NOT EXISTS trust_root (number INTEGER PRIMARY KEY, signed BLOB);
CREATE TABLE IF NOT EXISTS registration (one INTEGER PRIMARY KEY CHECK (one = 1),
    label TEXT, seed BLOB, request_id BLOB, code TEXT, ticket BLOB);
CREATE TABLE IF NOT EXISTS code_sent (one INTEGER PRIMARY KEY CHECK (one = 1), sent_to TEXT, expires_ms INTEGER);
CREATE TABLE IF NOT EXISTS account (one INTEGER PRIMARY KEY CHECK (one = 1),
    label TEXT, seed BLOB, version INTEGER, epoch INTEGER);
CREATE TABLE IF NOT EXISTS manifest (one INTEGER PRIMARY KEY CHECK (one = 1),
    generation INTEGER, version INTEGER, contents BLOB);
CREATE TABLE IF NOT EXISTS swap (one INTEGER PRIMARY KEY CHECK (one = 1),
    generation INTEGER, version INTEGER, check_value BLOB, ciphertext BLOB, contents BLOB);
CREATE TABLE IF NOT EXISTS progress (one INTEGER PRIMARY KEY CHECK (one = 1),
    head BLOB, rotate INTEGER, tidy INTEGER);
CREATE TABLE IF NOT EXISTS bundle (one INTEGER PRIMARY KEY CHECK (one = 1), number INTEGER, digest BLOB);
CREATE TABLE IF NOT EXISTS version (version INTEGER PRIMARY KEY, epoch INTEGER, public_key BLOB, origin TEXT);
CREATE TABLE IF NOT EXISTS history (one INTEGER PRIMARY KEY CHECK (one = 1), proof BLOB);
CREATE TABLE IF NOT EXISTS key_use (number INTEGER PRIMARY KEY, entry BLOB, chain_head BLOB);
CREATE TABLE IF NOT EXISTS approver (one INTEGER PRIMARY KEY CHECK (one = 1), seed BLOB);
CREATE TABLE IF NOT EXISTS leaf (version INTEGER PRIMARY KEY, hash BLOB);
CREATE TABLE IF NOT EXISTS contact_key (
    generation INTEGER PRIMARY KEY, contact_key BLOB, store_id BLOB, confirmed INTEGER);
CREATE TABLE IF NOT EXISTS contact (
    number INTEGER PRIMARY KEY, id BLOB UNIQUE, card BLOB, generation INTEGER, digest BLOB);
""",
    frozenset({"pinned", "account", "contact_key"}),
)


def seal(path: Path, key: Callable[[], bytes], sealed: Schema, tables: Sequence[Table[Any]]) -> bool:
    """Seal the rows of such a file, all or none of them, and leave nothing in clear; whether it is one.

    Nobody else must have it open. `key` gives the profile's, durably kept. Raises StoreError, sqlite3.Error, OSError.
    """
    if not path.exists():
        return False
    try:
        db = open_database(path, _CLEAR, alone=True)
    except StoreDamaged:  # of this version, or for whoever opens it next to refuse
        return False
    with closing(db):
        db.execute("PRAGMA secure_delete=ON")  # what is dropped becomes zeros, in the same transaction
        with transaction(db):
            there = [name for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
            found = [(table, _rows(db, table)) for table in tables if _name(table) in there]
            for name in there:
                db.execute(f"DROP TABLE {name}")
            make(db, sealed)
            rows = Rows(db, key(), tables)
            try:
                for table, clear in found:
                    rows.put_many(table, clear)
            except (TypeError, ValueError, OverflowError) as error:
                raise StoreDamaged("DATABASE_UNREADABLE", f"{path}: a row of it is none") from error
    return True  # and closed: the log, which had it in clear, is gone; after a crash whoever closes it next does that


def _name(table: Table[Any]) -> str:
    return table.key.decode() if isinstance(table.key, bytes) else table.name


def _rows(db: Connection, table: Table[Any]) -> list[Any]:
    """In order; a field that came later has its default. Of what nobody reads any more, none."""
    columns = {name for (name,) in db.execute("SELECT name FROM pragma_table_info(?)", (_name(table),))}
    fields = [field for field in table.kind._fields if field in columns]
    if not fields:
        return []
    rows = db.execute(f"SELECT {', '.join(fields)} FROM {_name(table)} ORDER BY rowid")  # noqa: S608  # names of ours
    return [table.kind(**dict(zip(fields, row, strict=True))) for row in rows]
