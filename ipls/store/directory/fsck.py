"""The stored tree checked against the user versions that it was made from, byte for byte.

Every leaf is made again (VRF, commitment, epoch), then every tile from the leaves. The directory may run meanwhile: its
database is only read, in short transactions, and judged as of the head, floor and pins at the beginning. What
publishing and pruning have changed since is told from damage by their own rules. Progress is in a file of its own, so
that a run that was killed goes on where it was.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from ipls.akd import AkdError, DirectoryKey, Row, Version
from ipls.akd.labels import BITS, Label
from ipls.akd.publish import make_leaves
from ipls.akd.rebuild import (
    Grown,
    Kept,
    Key,
    bucket_body,
    decode_grown,
    grow_children,
    grow_leaves,
    rebuilt_root,
)
from ipls.akd.tiles import BUCKET_LEAVES, STEP, Subtree, decode_tile, tile_prefix
from ipls.store.directory.sqlite import SCHEMA as DIRECTORY
from ipls.store.engine.sqlite import Connection, Schema, open_database, open_read_only, transaction, translated
from ipls.store.errors import StoreError, StoreRefused

LEAVES_AT_ONCE = 5000
"""About how many leaves a part of the tree has; a part is checked in memory and done or not done."""

VERSIONS_AT_ONCE = 250

_LEVELS = range(0, BITS, STEP)

_SCHEMA = Schema(
    "a check of the directory",
    """
CREATE TABLE IF NOT EXISTS run(
    identity BLOB NOT NULL, head INTEGER NOT NULL, root_hash BLOB NOT NULL, floor INTEGER NOT NULL,
    versions INTEGER NOT NULL,
    label BLOB NOT NULL DEFAULT x'', version INTEGER NOT NULL DEFAULT 0,
    leaves_done INTEGER NOT NULL DEFAULT 0, parts_done INTEGER NOT NULL DEFAULT 0,
    tiles INTEGER NOT NULL DEFAULT 0, depth INTEGER NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS pin(epoch INTEGER PRIMARY KEY);
CREATE TABLE IF NOT EXISTS pending(prefix BLOB NOT NULL, epoch INTEGER NOT NULL, PRIMARY KEY(prefix, epoch))
    WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS leaf(position BLOB PRIMARY KEY, epoch INTEGER NOT NULL, stored BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS grown(
    prefix BLOB NOT NULL, epoch INTEGER NOT NULL, body BLOB NOT NULL, PRIMARY KEY(prefix, epoch)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS difference(what TEXT NOT NULL, prefix BLOB NOT NULL, epoch INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS remedy(prefix BLOB NOT NULL, epoch INTEGER NOT NULL, body BLOB);
""",
    frozenset({"run", "leaf", "grown"}),
)


class Difference(NamedTuple):
    """`what` is wrong with the tile or, where `prefix` is empty, with the epoch as a whole."""

    what: str
    prefix: bytes
    epoch: int


_OF_TILES = ("tile is extra", "tile differs", "tile is missing")


class Report(NamedTuple):
    """What was checked, the epochs from `floor` to `head` and the pinned ones; and what is not as it must be."""

    head: int
    floor: int
    pins: tuple[int, ...]
    versions: int
    tiles: int
    differences: list[Difference]


class Fsck:
    """One check of a directory's database, begun or gone on with. Its progress is in `state`, beside the database."""

    def __init__(
        self, database: Path, namespace: str, key: DirectoryKey, *, leaves_at_once: int = LEAVES_AT_ONCE
    ) -> None:
        """Raises StoreRefused DATABASE_MISSING, DATABASE_FOREIGN, and EPOCH_UNKNOWN before the first epoch.

        It and `run` raise StoreDamaged where a file is damaged below its rows, StoreUnavailable where another check is
        at work.
        """
        if not database.is_file():
            raise StoreRefused("DATABASE_MISSING", f"{database}: no database here")
        self.state = database.with_name(database.name + ".fsck")
        self._key = key
        self._leaves_at_once = leaves_at_once
        self._files = f"{database} or {self.state}"
        self._database = open_read_only(database, DIRECTORY)
        self._state = open_database(self.state, _SCHEMA)
        try:
            with translated(self._files):
                self._kept = self._begun(database, namespace.encode() + b"\0" + key.public_key)
        except StoreError:
            self.close()
            raise

    def _begun(self, database: Path, identity: bytes) -> Kept:
        self._state.execute("PRAGMA locking_mode=EXCLUSIVE")
        stored = dict(self._database.execute("SELECT name, value FROM setting"))
        if stored.get("namespace", b"") + b"\0" + stored.get("vrf_public_key", b"") != identity:
            raise StoreRefused("DATABASE_FOREIGN", f"{database} belongs to another namespace or VRF key")
        if not self._can_go_on(identity):
            self._begin(identity)
        pins = tuple(epoch for (epoch,) in self._state.execute("SELECT epoch FROM pin ORDER BY epoch"))
        floor, head = self._run("floor, head")
        return Kept(floor, head, pins)

    def close(self) -> None:
        """Give the files back; progress stays."""
        self._database.close()
        self._state.close()

    def run(
        self,
        progress: Callable[[str, int, int], None],
        mend: Callable[[Iterable[tuple[bytes, int, bytes | None]]], None] | None = None,
    ) -> Report:
        """Check what is left to check. `progress` hears (what, done, of how many); it may raise, to stop here.

        `mend` is called with (prefix, epoch, right body or None for no tile) of what differs, if tiles alone differ:
        then the versions give the roots that the witnesses signed, and so do the tiles that are made from them.
        When all is done the progress file is removed, and the next check is a new one.
        """
        with translated(self._files):
            self._make_leaves(progress)
            self._check_parts(progress)
            count, tiles = self._run("leaves_done, tiles")
            found = [Difference(*row) for row in self._state.execute("SELECT * FROM difference ORDER BY rowid")]
            if mend and found and all(difference.what in _OF_TILES for difference in found):
                mend(self._state.execute("SELECT prefix, epoch, body FROM remedy"))
        self.close()
        self.state.unlink()
        return Report(self._kept.head, self._kept.floor, self._kept.pins, count, tiles, found)

    def _run(self, columns: str) -> Any:
        return self._state.execute(f"SELECT {columns} FROM run").fetchone()  # noqa: S608 - our own words

    @contextmanager
    def _snapshot(self) -> Iterator[Connection]:
        """One state of the directory's database. Short, so that its write-ahead log can be worked off."""
        self._database.execute("BEGIN")
        try:
            yield self._database
        finally:
            self._database.execute("ROLLBACK")

    def _can_go_on(self, identity: bytes) -> bool:
        begun = self._run("identity, head, root_hash")
        if begun is None or begun[0] != identity:
            return False
        root = self._database.execute("SELECT root_hash FROM head WHERE epoch = ?", begun[1:2]).fetchone()
        return bool(root == begun[2:])  # else the database was replaced

    def _begin(self, identity: bytes) -> None:
        """Fix what is to be checked."""
        with self._snapshot() as db:
            head = db.execute("SELECT epoch, root_hash FROM head ORDER BY epoch DESC LIMIT 1").fetchone()
            if head is None:
                raise StoreRefused("EPOCH_UNKNOWN", "this directory has no epoch yet")
            (floor,) = db.execute("SELECT epoch FROM floor").fetchone()
            pins = db.execute("SELECT epoch FROM pin").fetchall()
            above = db.execute("SELECT DISTINCT epoch FROM version WHERE epoch > ?", head[:1]).fetchall()
            (versions,) = db.execute("SELECT count(*) FROM version WHERE epoch <= ?", head[:1]).fetchone()
            superseded = db.execute("SELECT prefix, epoch FROM superseded WHERE at <= ?", (floor,))
            awaited = db.execute("SELECT position, epoch, stored FROM awaited WHERE epoch <= ?", head[:1])
            with transaction(self._state) as state:
                for table in ("run", "pin", "pending", "leaf", "grown", "difference", "remedy"):
                    state.execute(f"DELETE FROM {table}")  # noqa: S608 - our own words
                state.execute(
                    "INSERT INTO run(identity, head, root_hash, floor, versions) VALUES (?, ?, ?, ?, ?)",
                    (identity, *head, floor, versions),
                )
                state.executemany("INSERT INTO pin VALUES (?)", pins)
                state.executemany("INSERT OR IGNORE INTO pending VALUES (?, ?)", superseded)
                state.executemany("INSERT INTO leaf VALUES (?, ?, ?)", awaited)
                _add(state, [Difference("user version above the head", b"", epoch) for (epoch,) in above])

    def _make_leaves(self, progress: Callable[[str, int, int], None]) -> None:
        query = """SELECT label, version, epoch, value, value = x'' AND EXISTS(SELECT 1 FROM version later
                       WHERE later.label = v.label AND later.version > v.version AND later.epoch <= ?3)
                   FROM version v WHERE (label, version) > (?1, ?2) AND epoch <= ?3
                   ORDER BY label, version LIMIT ?4"""
        while True:
            label, version, done, total = self._run("label, version, leaves_done, versions")
            progress("user versions", done, total)
            rows = self._database.execute(query, (label, version, self._kept.head, VERSIONS_AT_ONCE)).fetchall()
            if not rows:
                return
            versions = [(name, Version(*made)) for name, *made, _ in rows]
            good = [(name, made) for name, made in versions if 1 <= made.version <= made.epoch]
            erased = [
                bool(row[4]) for row, (_, made) in zip(rows, versions, strict=True) if 1 <= made.version <= made.epoch
            ]
            bad = [
                Difference("user version impossible", b"", made.epoch)
                for _, made in versions
                if not 1 <= made.version <= made.epoch
            ]
            leaves = make_leaves(self._key, good)
            for at in (at for at, gone in enumerate(erased) if gone):
                leaves[at] = self._as_stored(leaves[at])
            with transaction(self._state) as state:
                state.executemany(  # one that was awaited at the beginning may have its version by now
                    "INSERT OR IGNORE INTO leaf VALUES (?, ?, ?)",
                    [(_position(leaf.label.bits), leaf.epoch, leaf.stored) for leaf in leaves],
                )
                _add(state, bad)
                state.execute(
                    "UPDATE run SET label = ?, version = ?, leaves_done = leaves_done + ?", (*rows[-1][:2], len(rows))
                )

    def _as_stored(self, leaf: Subtree) -> Subtree:
        """An erased version's leaf with the commitment in the tree: only the head's root still vouches for it."""
        query = "SELECT * FROM tile WHERE prefix = ? AND epoch <= ? ORDER BY epoch DESC LIMIT 1"
        for level in _LEVELS:
            row = self._database.execute(query, (tile_prefix(leaf.label.bits, level), self._kept.head)).fetchone()
            try:
                entries = decode_tile(Row(*row)).entries if row else ()
            except AkdError:
                entries = ()
            if not entries:
                break  # missing or damaged: to be found when the tiles are compared
            for entry in entries:
                if entry.label == leaf.label:
                    return leaf._replace(stored=entry.stored)
        return leaf

    def _check_parts(self, progress: Callable[[str, int, int], None]) -> None:
        """The tree in parts of which each is checked or not: first those with the leaves, then what is above them."""
        (leaves,) = self._state.execute("SELECT count(*) FROM leaf").fetchone()
        lowest = next(level for level in _LEVELS if leaves >> level <= self._leaves_at_once)
        parts = [(level, index) for level in range(lowest, -1, -STEP) for index in range(1 << level)]
        (done,) = self._run("parts_done")
        for number, (level, index) in enumerate(parts):
            if number >= done:
                progress("parts of the tree", number, len(parts))
                self._check_part(level, index, lowest)
        progress("parts of the tree", len(parts), len(parts))

    def _check_part(self, level: int, index: int, lowest: int) -> None:
        """Make the tiles beneath the prefix of `level` bits with the number `index`, and compare."""
        first, end = index << BITS - level, index + 1 << BITS - level
        rows: dict[Key, bytes] = {}
        found: list[Difference] = []
        remedies: list[tuple[bytes, int, bytes | None]] = []
        if level == lowest:
            grown = grow_leaves(level, self._leaves(first, end - 1), self._kept, rows)
            levels = range(level + STEP, BITS, STEP)
        else:
            children = [self._grown(level + STEP, 16 * index + step) for step in range(16)]
            grown = grow_children(level, [child for child in children if child], self._kept, rows)
            levels = range(level + STEP, level + 2 * STEP, STEP)
        if level == 0:
            rows |= {(b"\0", state.epoch): state.encode(0) for state in grown}
            levels = range(0, levels.stop, STEP)
        tiles, depth = len(rows), max((prefix[0] for prefix, _ in rows), default=0)
        with self._snapshot() as db:
            for difference, right in self._compare(db, levels, first, end, rows):
                found.append(difference)
                remedies.append((difference.prefix, difference.epoch, right))
            if level == 0:
                found += self._compare_heads(db, grown, max(depth, *self._run("depth")))
        with transaction(self._state) as state:
            prefix = tile_prefix(first, level)
            state.executemany(
                "INSERT INTO grown VALUES (?, ?, ?)", [(prefix, made.epoch, made.encode(level)) for made in grown]
            )
            _add(state, found)
            state.executemany("INSERT INTO remedy VALUES (?, ?, ?)", remedies)
            state.execute(
                "UPDATE run SET parts_done = parts_done + 1, tiles = tiles + ?, depth = max(depth, ?)", (tiles, depth)
            )

    def _leaves(self, first: int, last: int, limit: int = -1) -> list[Subtree]:
        query = "SELECT position, epoch, stored FROM leaf WHERE position BETWEEN ? AND ? ORDER BY position LIMIT ?"
        rows = self._state.execute(query, (_position(first), _position(last), limit))
        return [
            Subtree(Label(int.from_bytes(position, "big"), BITS), epoch, stored) for position, epoch, stored in rows
        ]

    def _grown(self, level: int, index: int) -> list[Grown]:
        prefix = tile_prefix(index << BITS - level, level)
        rows = self._state.execute("SELECT * FROM grown WHERE prefix = ? ORDER BY epoch", (prefix,))
        return [decode_grown(Row(*row)) for row in rows]

    def _compare(
        self, db: Connection, levels: Sequence[int], first: int, end: int, wanted: dict[Key, bytes]
    ) -> Iterator[tuple[Difference, bytes | None]]:
        """Each difference, and what would be right."""
        query = "SELECT prefix, epoch, body FROM tile WHERE prefix >= ? AND prefix < ? ORDER BY prefix, epoch"
        for level in levels:
            for prefix, epoch, body in db.execute(query, _bounds(level, first, end)):
                right = wanted.pop((prefix, epoch), None)
                if right is None and not self._is_due(db, Row(prefix, epoch, body)):
                    yield Difference("tile is extra", prefix, epoch), None
                elif right is not None and body != right:
                    yield Difference("tile differs", prefix, epoch), right
        for (prefix, epoch), right in sorted(wanted.items()):
            if not self._is_pruned(db, prefix, epoch):
                yield Difference("tile is missing", prefix, epoch), right

    def _is_due(self, db: Connection, row: Row) -> bool:
        """Whether a row that no kept epoch reads may be there: pruning has not come to it, or a later epoch wrote it.

        Pruning may also hold it for a pin: its rule goes by the epoch in the key, and a split may write a row later.
        """
        (newest,) = db.execute("SELECT max(epoch) FROM head").fetchone()
        pending = "SELECT 1 FROM pending WHERE prefix = ? AND epoch = ?"
        if self._kept.head < row.epoch <= newest or self._state.execute(pending, row[:2]).fetchone():
            return True
        level, bits = row.prefix[0] if row.prefix else 0, int.from_bytes(row.prefix[1:33].ljust(32, b"\0"), "big")
        if level not in _LEVELS[1:] or tile_prefix(bits, level) != row.prefix:
            return False
        # A bucket above that overflowed later: its leaves' tiles keep the epochs of the leaves.
        split = "SELECT 1 FROM tile WHERE prefix = ? AND epoch > ?"
        if not db.execute(split, (tile_prefix(bits, level - STEP), self._kept.head)).fetchone():
            return False
        leaves = self._leaves(bits, _last(bits, level), BUCKET_LEAVES + 1)
        return (
            1 < len(leaves) <= BUCKET_LEAVES
            and max(leaf.epoch for leaf in leaves) == row.epoch
            and bucket_body(level, leaves) == row.body
        )

    def _is_pruned(self, db: Connection, prefix: bytes, epoch: int) -> bool:
        """Whether the tile may have gone since this check began, by the present floor and pins."""
        bits = int.from_bytes(prefix[1:].ljust(32, b"\0"), "big")
        query = "SELECT min(epoch) FROM leaf WHERE position BETWEEN ? AND ? AND epoch > ?"
        bounds = _position(bits), _position(_last(bits, prefix[0]))
        (superseded,) = self._state.execute(query, (*bounds, epoch)).fetchone()
        if superseded is None:
            query = "SELECT min(epoch) FROM tile WHERE prefix = ? AND epoch > ?"
            (superseded,) = db.execute(query, (prefix, self._kept.head)).fetchone()
        query = """SELECT ?2 <= epoch AND NOT EXISTS (SELECT 1 FROM pin WHERE epoch >= ?1 AND epoch < ?2) FROM floor"""
        return superseded is not None and db.execute(query, (epoch, superseded)).fetchone() == (1,)

    def _compare_heads(self, db: Connection, grown: Sequence[Grown], depth: int) -> Iterator[Difference]:
        kept = self._kept
        for epoch in (*(pin for pin in kept.pins if pin < kept.floor), *range(kept.floor, kept.head + 1)):
            stored = db.execute("SELECT root_hash FROM head WHERE epoch = ?", (epoch,)).fetchone()
            if stored != (rebuilt_root(grown, epoch),):
                yield Difference("root differs", b"", epoch)
        if db.execute("SELECT depth FROM head WHERE epoch = ?", (kept.head,)).fetchone() != (depth,):
            yield Difference("depth differs", b"", kept.head)


def _add(state: Connection, found: Iterable[Difference]) -> None:
    state.executemany("INSERT INTO difference VALUES (?, ?, ?)", found)


def _position(bits: int) -> bytes:
    return bits.to_bytes(32, "big")


def _last(bits: int, level: int) -> int:
    """The last position under a prefix of `level` bits."""
    return bits | (1 << BITS - level) - 1


def _bounds(level: int, first: int, end: int) -> tuple[bytes, bytes]:
    """From and below which keys a level's tiles between two positions stand; what is no prefix falls in between."""
    low = tile_prefix(first, level) if first else bytes((level,)) if level else b""
    if end < 1 << BITS:
        return low, tile_prefix(end, level)
    return low, bytes((level + STEP,)) if level + STEP < BITS else b"\xff" * 40
