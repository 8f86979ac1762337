"""The vault's store in a file of SQLite.

Tested by tests/store/vault/test_contract.py.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

from ipls.store.engine.sqlite import Database, Schema
from ipls.store.vault.contract import Changes, LogRow, VaultStore, as_bytes, log_row, take_lock
from ipls.trust.limits import MAX_INT

SCHEMA = Schema(
    "the vault",
    """
CREATE TABLE IF NOT EXISTS records (key BLOB PRIMARY KEY, record BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS nodes (prefix BLOB PRIMARY KEY, body BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS log (
    sequence INTEGER PRIMARY KEY, entry BLOB NOT NULL, mac BLOB NOT NULL, key BLOB NOT NULL, use_number INTEGER
);
CREATE UNIQUE INDEX IF NOT EXISTS uses ON log (key, use_number) WHERE use_number IS NOT NULL;
""",
    frozenset({"records", "nodes", "log"}),
)


class SqliteVault(VaultStore):
    """The lock is a file beside it."""

    def __init__(self, path: Path, *, wait: bool = True) -> None:
        """See `open_vault_store`."""
        self.lock = take_lock(path.with_name(path.name + ".lock"), wait=wait)
        try:
            self._database = Database(path, SCHEMA)
        except BaseException:  # Ctrl-C too
            self.lock.close()
            raise

    def close(self) -> None:
        """See `VaultStore`."""
        self._database.close()
        self.lock.close()

    def append_all(self, steps: Iterable[Changes]) -> None:
        """See `VaultStore`."""
        with self._database.write() as c:
            for changes in steps:
                c.executemany("INSERT INTO log VALUES (?, ?, ?, ?, ?)", changes.log)
                c.executemany("INSERT OR REPLACE INTO records VALUES (?, ?)", changes.records.items())
                c.executemany("INSERT OR REPLACE INTO nodes VALUES (?, ?)", changes.nodes.items())

    def mend(self, sequence: int, row: LogRow) -> None:
        """See `VaultStore`."""
        with self._database.write() as c:
            c.execute(
                "UPDATE log SET sequence = ?, entry = ?, mac = ?, key = ?, use_number = ? WHERE sequence = ?",
                (*row, sequence),
            )

    def record(self, key: bytes) -> bytes | None:
        """See `VaultStore`."""
        with self._database.read() as c:
            row = c.execute("SELECT record FROM records WHERE key = ?", (key,)).fetchone()
        return as_bytes(row[0]) if row else None

    def next_key(self, key: bytes) -> bytes | None:
        """See `VaultStore`."""
        with self._database.read() as c:
            row = c.execute("SELECT key FROM records WHERE key >= ? ORDER BY key LIMIT 1", (key,)).fetchone()
        return as_bytes(row[0]) if row else None

    def nodes(self, prefixes: Sequence[bytes]) -> dict[bytes, bytes]:
        """See `VaultStore`."""
        places = ", ".join("?" * len(prefixes))
        with self._database.read() as c:
            rows = c.execute(f"SELECT prefix, body FROM nodes WHERE prefix IN ({places})", prefixes)  # noqa: S608  # question marks
            return {as_bytes(prefix): as_bytes(body) for prefix, body in rows}

    def last(self) -> LogRow | None:
        """See `VaultStore`."""
        with self._database.read() as c:
            row = c.execute("SELECT * FROM log ORDER BY sequence DESC LIMIT 1").fetchone()
        return log_row(row) if row else None

    def log(self, first: int, count: int) -> list[LogRow]:
        """See `VaultStore`."""
        with self._database.read() as c:
            rows = c.execute("SELECT * FROM log WHERE sequence >= ? ORDER BY sequence LIMIT ?", (first, count))
            return [log_row(row) for row in rows]

    def newest(self, key: bytes) -> LogRow | None:
        """See `VaultStore`."""
        with self._database.read() as c:
            row = c.execute("SELECT * FROM log WHERE key = ? ORDER BY sequence DESC LIMIT 1", (key,)).fetchone()
        return log_row(row) if row else None

    def uses(self, key: bytes, first: int, count: int) -> list[LogRow]:
        """See `VaultStore`."""
        with self._database.read() as c:
            rows = c.execute(
                "SELECT * FROM log WHERE key = ? AND use_number >= ? ORDER BY use_number LIMIT ?",
                (key, min(first, MAX_INT), count),
            )
            return [log_row(row) for row in rows]
