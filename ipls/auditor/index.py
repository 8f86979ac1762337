"""The names of a log as it was listed, on disk: they come in the order of their bytes and are walked by epoch.

Tested by tests/auditor/test_run.py.
"""

from collections.abc import Iterable, Iterator

from ipls.auditlog.listing import LogObject
from ipls.store.engine.sqlite import temporary, transaction


class Index:
    """One listing's objects, in a temporary file of SQLite's that ends with the process."""

    def __init__(self) -> None:
        self._connection = temporary()
        self._connection.execute(
            "CREATE TABLE object(epoch INTEGER PRIMARY KEY, old_root BLOB, new_root BLOB, size INTEGER)"
        )

    def add(self, objects: Iterable[LogObject]) -> None:
        """Epochs that are not there yet."""
        with transaction(self._connection) as connection:
            connection.executemany("INSERT INTO object VALUES (?, ?, ?, ?)", objects)

    def get(self, epoch: int) -> LogObject | None:
        """The object of an epoch."""
        return next(iter(self._select("WHERE epoch = ?", epoch)), None)

    @property
    def last(self) -> int:
        """The newest epoch, 0 where there is none."""
        return int(self._connection.execute("SELECT coalesce(max(epoch), 0) FROM object").fetchone()[0])

    def between(self, first: int, last: int) -> Iterator[LogObject]:
        """The objects of first..last that are there, by epoch."""
        return self._select("WHERE epoch BETWEEN ? AND ? ORDER BY epoch", first, last)

    def _select(self, where: str, *values: int) -> Iterator[LogObject]:
        # `where` is one of the two above.
        return map(LogObject._make, self._connection.execute(f"SELECT * FROM object {where}", values))  # noqa: S608
