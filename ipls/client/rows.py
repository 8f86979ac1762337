"""Rows that are sealed at rest: the tables of a profile, each row under the profile's key and bound to its place.

A table is one line, `LINKS = Table("link", Link, "n")`: its name, the NamedTuple that its rows are (fields of bytes,
str, int from 0 on, or bool), and the field by which a row is found. Append it to `TABLES` in `ipls/client/profile.py`,
at the end: a file that was made before gets it at its next opening. A field may be added at the end of a NamedTuple if
it has a default, which rows of before then have. What there is one of is no table of its own: see `single`.

    names    HKDF-SHA-256(profile key, info "ipls/profile/v1 name"), 32 bytes
    seals    HKDF-SHA-256(profile key, info "ipls/profile/v1 seal"), 32 bytes
    key      HMAC-SHA-256(names, lp(table) || lp(row key))[:16]          as the file has it: it tells nothing
    sealed   nonce (12 random bytes) || AES-256-GCM-SIV(seals, nonce, fields)   AAD lp(table) || lp(key)
    fields   lp of each: bytes, UTF-8, or u64

A row that was changed, cut, or comes from another place or profile is `Unreadable`, and no other is. What stays in
sight are the tables, the number and order of their rows, and sizes; a row that is taken out, or put back as it once
was, is not noticed.
"""

import hmac
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from functools import cache
from typing import Any, Generic, NamedTuple, TypeVar, get_type_hints

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCMSIV
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from ipls.client.errors import ProfileError
from ipls.crypto.encoding import lp, u64
from ipls.store.engine.sqlite import Connection, transaction

KEY_BYTES = 32
_NONCE = 12

Row = TypeVar("Row", bound=tuple[Any, ...])


class Table(NamedTuple, Generic[Row]):
    """`key`: the field by which a row is found; or, of the rows of which there is one each, its name."""

    name: str
    kind: type[Row]
    key: str | bytes


class Unreadable(NamedTuple):
    """A row that does not open: its 16-byte key in the file, if it still has one."""

    key: bytes


def single(kind: type[Row], name: str) -> Table[Row]:
    """For what there is one row of; all of these share a table."""
    return Table("single", kind, name.encode())


def schema(tables: Iterable[Table[Any]]) -> str:
    """The statements that make them."""
    return "".join(
        f"CREATE TABLE IF NOT EXISTS {name} (number INTEGER PRIMARY KEY, key BLOB UNIQUE, sealed BLOB);\n"
        for name in dict.fromkeys(table.name for table in tables)
    )


def empty(connection: Connection, tables: Iterable[Table[Any]]) -> bool:
    """Whether there is no row at all."""
    return not any(connection.execute(f"SELECT 1 FROM {table.name} LIMIT 1").fetchone() for table in tables)  # noqa: S608


class Rows:
    """Of one open file, under one key. What the file refuses is raised as it is (sqlite3.Error)."""

    def __init__(self, connection: Connection, key: bytes, tables: Iterable[Table[Any]]) -> None:
        """`key`: the profile's, KEY_BYTES long. `tables`: all that are in the file."""
        connection.text_factory = bytes  # what damage made a text of need not be one
        self._db = connection
        self._names, seals = (_derive(key, use) for use in ("name", "seal"))
        self._cipher = AESGCMSIV(seals)
        self._tables = list(tables)
        self._singles = {self._name(table, table.key) for table in self._tables if isinstance(table.key, bytes)}
        self._instead: Mapping[Any, Any] = {}

    def aside(self, tables: Mapping[Table[Any], Table[Any]]) -> "Rows":
        """Of the same file, where each of these tables means the other one that it is mapped to."""
        other = copy(self)
        other._instead = tables
        return other

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All changes of the block or none; one in another is part of that."""
        if self._db.in_transaction:
            yield
        else:
            with transaction(self._db):
                yield

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """What is read in the block is of one moment, whatever another process writes."""
        self._db.execute("BEGIN")
        try:
            yield
        finally:
            self._db.execute("ROLLBACK")

    def get(self, table: Table[Row], key: bytes | str | int) -> Row | Unreadable | None:
        """The row that is found by this key, if there is one."""
        table = self._meant(table)
        name = self._name(table, key)
        found = self._db.execute(f"SELECT sealed FROM {table.name} WHERE key = ?", (name,)).fetchone()  # noqa: S608
        return self._open(table, name, *found) if found else None

    def only(self, table: Table[Row]) -> Row | None:
        """The row of a `single`. Raises ProfileError PROFILE_DAMAGED if it can't be read, or there is one that nobody
        can tell from it."""
        table = self._meant(table)
        assert isinstance(table.key, bytes)
        # All of them, a dozen: one that only an index has lost is there.
        there = dict(self._stored(table))
        name = self._name(table, table.key)
        if name in there:
            return self._whole(table, name, there[name])
        if there.keys() - self._singles:
            raise _damaged()
        return None

    def iterate(self, table: Table[Row]) -> Iterator[Row | Unreadable]:
        """All rows, in the order in which their keys first came."""
        table = self._meant(table)
        for name, sealed in self._stored(table):
            row = self._open(table, name, sealed)
            yield row

    def readable(self, table: Table[Row]) -> Iterator[Row]:
        """Likewise, without those that can't be read."""
        return (row for row in self.iterate(table) if not isinstance(row, Unreadable))

    def find(self, table: Table[Row], key: bytes | str | int) -> Row | None:
        """As `get`, where one that can't be read is as one that is not there."""
        row = self.get(table, key)
        return None if isinstance(row, Unreadable) else row

    def all(self, table: Table[Row]) -> list[Row]:
        """Likewise, where one that can't be read matters. Raises ProfileError PROFILE_DAMAGED."""
        table = self._meant(table)
        return [self._whole(table, name, sealed) for name, sealed in self._stored(table)]

    def count(self, table: Table[Any]) -> int:
        """How many rows there are, readable or not."""
        table = self._meant(table)
        (count,) = self._db.execute(f"SELECT count(*) FROM {table.name}").fetchone()  # noqa: S608
        return int(count)

    def put(self, table: Table[Row], *rows: Row) -> None:
        """As `put_many`."""
        self.put_many(table, rows)

    def put_many(self, table: Table[Row], rows: Iterable[Row]) -> None:
        """Add rows, or write those anew whose key is there: all or none."""
        table = self._meant(table)
        with self.transaction():
            self._db.executemany(
                f"INSERT INTO {table.name} (key, sealed) VALUES (?, ?)"  # noqa: S608
                " ON CONFLICT (key) DO UPDATE SET sealed = excluded.sealed",
                (self._seal(table, row) for row in rows),
            )

    def delete(self, table: Table[Any], keys: Iterable[bytes | str | int]) -> None:
        """Take out the rows that are found by these keys: all or none."""
        table = self._meant(table)
        with self.transaction():
            names = ((self._name(table, key),) for key in keys)
            self._db.executemany(f"DELETE FROM {table.name} WHERE key = ?", names)  # noqa: S608

    def drop(self, table: Table[Any], row: Unreadable) -> None:
        """Take out a row that can't be read."""
        self._db.execute(f"DELETE FROM {table.name} WHERE key = ?", (row.key,))  # noqa: S608  # ours

    def remove(self, table: Table[Any]) -> None:
        """Take out the row of a `single`, if there is one."""
        table = self._meant(table)
        assert isinstance(table.key, bytes)
        self.delete(table, [table.key])

    def clear(self, table: Table[Any]) -> None:
        """Take out all rows of a table that has no `single`."""
        table = self._meant(table)
        self._db.execute(f"DELETE FROM {table.name}")  # noqa: S608

    @property
    def version(self) -> int:
        """Another number once another connection has changed the file. It is read from what processes share in memory:
        no row is, and nothing waits."""
        (number,) = self._db.execute("PRAGMA data_version").fetchone()
        return int(number)

    @property
    def fit(self) -> bool:
        """Whether this is the key of what is there: any row opens by it."""
        return empty(self._db, self._tables) or any(
            self._decrypt(table, *row) is not None for table in self._tables for row in self._stored(table)
        )

    def _meant(self, table: Table[Row]) -> Table[Row]:
        meant: Table[Row] = self._instead.get(table, table)
        return meant

    def _stored(self, table: Table[Any]) -> Iterator[tuple[object, object]]:
        return self._db.execute(f"SELECT key, sealed FROM {table.name} ORDER BY number")  # noqa: S608

    def _name(self, table: Table[Any], key: bytes | str | int) -> bytes:
        return hmac.digest(self._names, _in_table(table.name, _encoded(key)), "sha256")[:16]

    def _seal(self, table: Table[Row], row: Row) -> tuple[bytes, bytes]:
        name = self._name(table, table.key if isinstance(table.key, bytes) else getattr(row, table.key))
        nonce = os.urandom(_NONCE)
        fields = b"".join([lp(_encoded(field)) for field in row])
        return name, nonce + self._cipher.encrypt(nonce, fields, _in_table(table.name, name))

    def _decrypt(self, table: Table[Any], name: object, sealed: object) -> bytes | None:
        if not (isinstance(name, bytes) and isinstance(sealed, bytes)):
            return None
        try:
            return self._cipher.decrypt(sealed[:_NONCE], sealed[_NONCE:], _in_table(table.name, name))
        except (InvalidTag, ValueError):  # ValueError: cut shorter than a nonce
            return None

    def _open(self, table: Table[Row], name: object, sealed: object) -> Row | Unreadable:
        fields = self._decrypt(table, name, sealed)
        if fields is None:
            return Unreadable(name if isinstance(name, bytes) else b"")
        return _decoded(table.kind, fields)

    def _whole(self, table: Table[Row], name: object, sealed: object) -> Row:
        row = self._open(table, name, sealed)
        if isinstance(row, Unreadable):
            raise _damaged()
        return row


def _in_table(table: str, key: bytes) -> bytes:
    return _prefix(table) + lp(key)


@cache
def _prefix(table: str) -> bytes:
    return lp(table.encode())


def _damaged() -> ProfileError:
    return ProfileError("PROFILE_DAMAGED", "a part of the profile that it can't do without is damaged")


def _encoded(value: bytes | str | int) -> bytes:
    if isinstance(value, int):
        return u64(value)
    return value.encode() if isinstance(value, str) else value


_DECODERS: dict[type, Callable[[bytes], Any]] = {
    bytes: lambda data: data,
    str: bytes.decode,
    int: int.from_bytes,
    bool: lambda data: data != u64(0),
}


@cache
def _decoders(kind: type) -> list[Callable[[bytes], Any]]:
    return [_DECODERS[hint] for hint in get_type_hints(kind).values()]


def _decoded(kind: type[Row], data: bytes) -> Row:
    """It was sealed here, so it is as `_seal` writes it, by this version or an earlier one."""
    fields, at = [], 0
    for decoder in _decoders(kind):
        if at == len(data):  # the field came later: it has its default
            break
        end = at + 8 + int.from_bytes(data[at : at + 8])
        fields.append(decoder(data[at + 8 : end]))
        at = end
    return kind(*fields)


def _derive(key: bytes, use: str) -> bytes:
    return HKDF(SHA256(), KEY_BYTES, None, f"ipls/profile/v1 {use}".encode()).derive(key)
