"""Accounts' lines in a file of SQLite, beside what else the contact store has in it.

Records and snapshots are rows of `blob`, their bytes of `sealed`: a row changes often, its bytes never. A *lot* is what
one identity version stored, between two rotations; a rotation hides lots, and what was staged is a lot that comes in
their place: however many records, it is a few rows.

Tested by tests/store/line/test_contract.py.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple

from ipls.contacts.admission import Admitted, Healed, Standing
from ipls.contacts.commits import Base, Link, Signed
from ipls.contacts.sealing import NAME_BYTES, name_of
from ipls.crypto.keys import KEY_BYTES
from ipls.store.engine.sqlite import Connection, Database
from ipls.store.errors import StoreDamaged, StoreRefused
from ipls.store.line.contract import (
    KEPT_MS,
    KEPT_OWN_MS,
    LINKS_MS,
    STAGED_MS,
    Hidden,
    KeptBlob,
    KeptLine,
    LineStore,
    Place,
    Quota,
    View,
)

STATEMENTS = """
CREATE TABLE IF NOT EXISTS line (
    id INTEGER PRIMARY KEY, label TEXT NOT NULL, line BLOB NOT NULL, seed BLOB NOT NULL, n INTEGER NOT NULL,
    chain BLOB NOT NULL, base_n INTEGER NOT NULL, generation INTEGER NOT NULL, write_key BLOB NOT NULL,
    version INTEGER NOT NULL, identity_key BLOB NOT NULL, devices BLOB NOT NULL, left_ms INTEGER);
CREATE UNIQUE INDEX IF NOT EXISTS line_present ON line (label) WHERE left_ms IS NULL;
CREATE INDEX IF NOT EXISTS line_name ON line (label, line);
CREATE INDEX IF NOT EXISTS line_left ON line (left_ms) WHERE left_ms IS NOT NULL;
CREATE TABLE IF NOT EXISTS link (
    line INTEGER NOT NULL, n INTEGER NOT NULL, generation INTEGER NOT NULL, commit_hash BLOB NOT NULL,
    chain BLOB NOT NULL, PRIMARY KEY (line, n)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS line_commit (
    id INTEGER PRIMARY KEY, line INTEGER NOT NULL, n INTEGER NOT NULL, label TEXT NOT NULL, version INTEGER NOT NULL,
    base INTEGER NOT NULL, data BLOB NOT NULL, author BLOB NOT NULL, write BLOB NOT NULL, hidden_by INTEGER,
    until_ms INTEGER);
CREATE UNIQUE INDEX IF NOT EXISTS line_commit_n ON line_commit (line, n);
CREATE INDEX IF NOT EXISTS line_commit_base ON line_commit (line, n) WHERE base;
CREATE INDEX IF NOT EXISTS line_commit_until ON line_commit (until_ms) WHERE until_ms IS NOT NULL;
CREATE TABLE IF NOT EXISTS lot (
    id INTEGER PRIMARY KEY, label TEXT NOT NULL, version INTEGER NOT NULL, kind INTEGER NOT NULL,
    staged INTEGER NOT NULL, hidden_by INTEGER, until_ms INTEGER);
CREATE INDEX IF NOT EXISTS lot_label ON lot (label, kind, staged);
CREATE INDEX IF NOT EXISTS lot_until ON lot (until_ms) WHERE until_ms IS NOT NULL;
CREATE TABLE IF NOT EXISTS blob (
    id INTEGER PRIMARY KEY, label TEXT NOT NULL, name BLOB NOT NULL, kind INTEGER NOT NULL, size INTEGER NOT NULL,
    lot INTEGER NOT NULL, damaged INTEGER NOT NULL, hidden_by INTEGER, until_ms INTEGER);
CREATE UNIQUE INDEX IF NOT EXISTS blob_name ON blob (label, name, kind);
CREATE INDEX IF NOT EXISTS blob_lot ON blob (lot);
CREATE INDEX IF NOT EXISTS blob_until ON blob (until_ms) WHERE until_ms IS NOT NULL;
CREATE TABLE IF NOT EXISTS sealed (blob INTEGER PRIMARY KEY, data BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS version1 (label TEXT PRIMARY KEY, until_ms INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS version1_until ON version1 (until_ms);
CREATE TABLE IF NOT EXISTS usage (
    label TEXT NOT NULL, version INTEGER NOT NULL, things INTEGER NOT NULL, size INTEGER NOT NULL,
    PRIMARY KEY (label, version)) WITHOUT ROWID;
"""
_RECORD, _SNAPSHOT = 0, 1
_AT_ONCE = 500
"""Names that one statement looks for."""
_STANDING = "line, seed, n, chain, base_n, generation, write_key, version, identity_key, devices"
_PRESENT = f"SELECT id, {_STANDING} FROM line WHERE label = ? AND left_ms IS NULL"  # noqa: S608  # ours
_NEW = f"INSERT INTO line (label, {_STANDING}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"  # noqa: S608  # ours
_BLOB = """
SELECT blob.id, blob.damaged, blob.until_ms IS NOT NULL, lot.id, lot.version, lot.staged, lot.until_ms IS NOT NULL
FROM blob JOIN lot ON lot.id = blob.lot WHERE blob.label = ? AND blob.name = ? AND blob.kind = ?
"""
_NAMED = "blob.label = ? AND blob.name IN ({})"
_SIZE = f"SELECT name, size FROM blob WHERE {_NAMED}"  # noqa: S608  # ours, as all of these
_DATA = f"SELECT name, data FROM blob JOIN sealed ON sealed.blob = blob.id WHERE {_NAMED}"  # noqa: S608
_STAGED = f"""
SELECT blob.name, 1 FROM blob JOIN lot ON lot.id = blob.lot WHERE {_NAMED} AND blob.kind = {_RECORD:d}
AND NOT blob.damaged AND blob.until_ms IS NULL AND (lot.staged OR lot.until_ms IS NULL)
"""  # noqa: S608
_STAYS = f"{_STAGED} AND NOT lot.staged"


class _Blob(NamedTuple):
    id: int
    damaged: bool
    hidden: bool
    """By itself."""
    lot: int
    version: int
    staged: bool
    lot_ends: bool

    @property
    def present(self) -> bool:
        return not (self.hidden or self.staged or self.lot_ends)


class SqliteLines(LineStore):
    """See `LineStore`, here and for each method. `reads` is another connection to the file of `writes`."""

    def __init__(self, writes: Database, reads: Database) -> None:
        self._writes = writes
        self._reads = reads

    def standing(self, label: str) -> Standing | None:
        with self._reads.read() as db:
            row = db.execute(_PRESENT, (label,)).fetchone()
        return _standing(row[1:]) if row else None

    def stands(self, label: str, place: Place) -> bool:
        with self._reads.read() as db:
            return _stands(db, label, place)

    def view(self, label: str, which: bytes | int, until: int) -> View | None:
        values: tuple[object, ...]
        if isinstance(which, int):
            rows, values = "label = ? AND id = ?", (label, which)
        elif which:
            rows, values = "label = ? AND line = ? ORDER BY left_ms IS NOT NULL, left_ms DESC", (label, which)
        else:
            rows, values = "label = ? AND left_ms IS NULL", (label,)
        with self._reads.read() as db:
            query = f"SELECT id, line, seed, n, chain FROM line WHERE {rows} LIMIT 1"  # noqa: S608  # ours
            found = db.execute(query, values).fetchone()
            if found is None:
                return None
            id, name, seed, n, chain = found
            if until and until != n:
                link = db.execute("SELECT n, chain FROM link WHERE line = ? AND n = ?", (id, until)).fetchone()
                if link is None:
                    return None
                n, chain = link
            bases = "SELECT coalesce(max(n), 0) FROM line_commit WHERE line = ? AND n <= ? AND base"
            return View(id, name, seed, n, chain, db.execute(bases, (id, n)).fetchone()[0])

    def links(self, view: View, after: int, limit: int) -> list[Link]:
        query = "SELECT generation, commit_hash FROM link WHERE line = ? AND n > ? AND n <= ? ORDER BY n LIMIT ?"
        with self._reads.read() as db:
            return [Link(*row) for row in db.execute(query, (view.id, after, view.n, limit))]

    def commits(self, view: View, after: int, size: int) -> list[tuple[int, Signed]]:
        query = "SELECT n, data, author, write FROM line_commit WHERE line = ? AND n > ? AND n <= ? ORDER BY n"
        found: list[tuple[int, Signed]] = []
        with self._reads.read() as db:
            for n, *signed in db.execute(query, (view.id, after, view.n)):
                size -= sum(map(len, signed))
                if found and size < 0:
                    break
                found.append((n, Signed(*signed)))
        return found

    def sizes(self, label: str, names: Sequence[bytes]) -> list[int]:
        with self._reads.read() as db:
            found = _by_name(db, _SIZE, label, names)
        return [found.get(name, 0) for name in names]

    def get(self, label: str, names: Sequence[bytes]) -> list[bytes | None]:
        return _get(self._reads, label, names)

    def missing(self, label: str, names: Sequence[bytes], *, staged: bool) -> list[int]:
        with self._reads.read() as db:
            there = _by_name(db, _STAGED if staged else _STAYS, label, names)
        return [place for place, name in enumerate(names) if name not in there]

    def kept_lines(self, label: str) -> list[KeptLine]:
        query = """
            SELECT line.id, line.line, base.n, coalesce(
                (SELECT min(n) - 1 FROM line_commit WHERE line = line.id AND n > base.n AND base), line.n),
                base.version, base.hidden_by, base.until_ms
            FROM line JOIN line_commit AS base ON base.line = line.id AND base.base
            WHERE line.label = ? AND base.until_ms IS NOT NULL ORDER BY line.id, base.n
        """
        with self._reads.read() as db:
            rows = db.execute(query, (label,)).fetchall()
        return [KeptLine(id, line, base_n, n, Hidden(*hidden)) for id, line, base_n, n, *hidden in rows]

    def kept_blobs(self, label: str, place: bytes, limit: int) -> tuple[list[KeptBlob], bytes]:
        query = """
            SELECT some.name, some.size, some.kind, lot.staged, lot.version, coalesce(some.hidden_by, lot.hidden_by),
                min(coalesce(some.until_ms, lot.until_ms), coalesce(lot.until_ms, some.until_ms))
            FROM (SELECT * FROM blob WHERE label = ? AND (name, kind) > (?, ?) ORDER BY name, kind LIMIT ?) AS some
            JOIN lot ON lot.id = some.lot ORDER BY some.name, some.kind
        """
        after = (place[:NAME_BYTES], place[-1]) if place else (b"", 0)
        with self._reads.read() as db:
            rows = db.execute(query, (label, *after, limit)).fetchall()
        kept = [
            KeptBlob(name, size, kind == _SNAPSHOT, Hidden(*hidden))
            for name, size, kind, staged, *hidden in rows
            if hidden[-1] is not None and not staged
        ]
        return kept, rows[-1][0] + bytes(rows[-1][2:3]) if rows else b""

    def damaged(self) -> Iterator[bytes]:
        query = "SELECT id, name FROM blob WHERE id > ? ORDER BY id LIMIT 100"
        last = 0
        while True:
            with self._reads.read() as db:
                rows = db.execute(query, (last,)).fetchall()
            if not rows:
                return
            for id, name in rows:
                with self._reads.read() as db:
                    data = db.execute("SELECT data FROM sealed WHERE blob = ?", (id,)).fetchone()
                    gone = data is None and not db.execute("SELECT 1 FROM blob WHERE id = ?", (id,)).fetchone()
                if not gone and not (data and _is_of(data[0], name)):
                    yield name
            last = rows[-1][0]

    def append(
        self,
        label: str,
        before: Standing,
        admitted: Admitted,
        records: Sequence[bytes],
        snapshot: bytes | None,
        *,
        quota: Quota,
        now_ms: int,
    ) -> None:
        after = admitted.standing
        with self._writes.write() as db:
            row = db.execute(_PRESENT, (label,)).fetchone()
            if row is None or _standing(row[1:]) != before:
                if _stands(db, label, Place(before.line, after.n, before.chain, admitted.link.commit_hash)):
                    return
                raise _conflict()
            account = _Account(db, label, after.version, now_ms)
            account.take(row[0], admitted, snapshot, rotates=after.generation != before.generation)
            for record in records:
                account.put(_RECORD, record, present=True)
            account.settle(quota)
            _stand(db, row[0], after)

    def heal(
        self,
        label: str,
        before: Standing | None,
        healed: Healed,
        version: int,
        snapshot: bytes | None,
        *,
        quota: Quota,
        now_ms: int,
    ) -> None:
        after = healed.standing
        with self._writes.write() as db:
            row = db.execute(_PRESENT, (label,)).fetchone()
            if (_standing(row[1:]) if row else None) != before:
                raise _conflict()
            account = _Account(db, label, version, now_ms)
            known = 0 if healed.gap or before is None else before.n
            if healed.gap:
                account.leave()
            line = account.new_line(after) if healed.gap else row[0]
            links = zip(healed.links, healed.chains, strict=True)
            rows = [(line, n, *link, chain) for n, (link, chain) in enumerate(links, 1) if n > known]
            db.executemany("INSERT INTO link VALUES (?, ?, ?, ?, ?)", rows)
            for n, admitted in healed.commits.items():
                if n >= after.base_n:
                    account.keep(line, n, admitted)
            base = healed.commits[after.base_n].commit.base if after.base_n in healed.commits else None
            if base:
                account.replace_base(line, after.base_n, base, snapshot)
            account.adopt()
            account.settle(quota)
            _stand(db, line, after)

    def begin(self, label: str, admitted: Admitted, snapshot: bytes | None, *, quota: Quota, now_ms: int) -> None:
        after = admitted.standing
        with self._writes.write() as db:
            if _stands(db, label, Place(after.line, 1, after.line, admitted.link.commit_hash)):
                return
            if db.execute("SELECT 1 FROM line WHERE label = ? AND line = ?", (label, after.line)).fetchone():
                raise StoreRefused("LINE_CONFLICT", "the line has another first commit, or was left")
            account = _Account(db, label, after.version, now_ms)
            account.leave()
            line = account.new_line(after)
            account.take(line, admitted, snapshot, rotates=True)
            account.settle(quota)
            account.end_version1(KEPT_OWN_MS if after.version == 1 else KEPT_MS)

    def put(
        self, label: str, version: int, records: Sequence[bytes], snapshot: bytes | None, *, quota: Quota, now_ms: int
    ) -> None:
        with self._writes.write() as db:
            account = _Account(db, label, version, now_ms)
            for record in records:
                account.put(_RECORD, record, present=False)
            if snapshot is not None:
                account.put(_SNAPSHOT, snapshot, present=False)
            account.settle(quota)

    def delete(self, label: str, version: int, now_ms: int) -> None:
        with self._writes.write() as db:
            _Account(db, label, version, now_ms).end()

    def mark_damaged(self, label: str, names: Sequence[bytes]) -> None:
        found = self.get(label, names)  # first: what SQLite can't read takes a transaction with it
        with self._writes.write() as db:
            for name, data in zip(names, found, strict=True):
                if data is None:
                    db.execute("UPDATE blob SET damaged = 1 WHERE label = ? AND name = ?", (label, name))

    def expire(self, now_ms: int, limit: int) -> bool:
        unreadable = {id for which in _EXPIRED for id in self._unreadable(which, now_ms, limit)}
        with self._writes.write() as db:
            gone = [
                *(_expire_blobs(db, which, now_ms, limit, unreadable) for which in _EXPIRED),
                _expire_commits(db, now_ms, limit),
                _expire_links(db, now_ms - LINKS_MS, limit),
                _expire_version1(db, now_ms, limit),
            ]
            empty = "until_ms <= ? AND NOT EXISTS (SELECT 1 FROM blob WHERE lot = lot.id)"
            ended = db.execute(f"DELETE FROM lot WHERE {empty}", (now_ms,)).rowcount  # noqa: S608  # ours
            return any(gone) or ended > 0

    def _unreadable(self, which: str, now_ms: int, limit: int) -> Iterator[int]:
        """Of what is let go next, what can't be deleted either."""
        with self._reads.read() as db:
            rows = db.execute(which, (now_ms, limit)).fetchall()
        for id, *_ in rows:
            try:
                with self._reads.read() as db:
                    db.execute("SELECT data FROM sealed WHERE blob = ?", (id,)).fetchone()
            except StoreDamaged:
                yield id


class _Account:
    """What a version of an account changes, in a transaction."""

    def __init__(self, db: Connection, label: str, version: int, now_ms: int) -> None:
        self._db = db
        self._label = label
        self._version = version
        self._now_ms = now_ms
        self._things = Counter[int]()
        self._bytes = Counter[int]()
        self._lots: dict[tuple[int, int, bool], int] = {}
        """Those that are open: which take what comes, until they are hidden or adopted."""

    def take(self, line: int, admitted: Admitted, snapshot: bytes | None, *, rotates: bool) -> None:
        """A commit at its place, and what it hides. Raises StoreRefused SNAPSHOT_ABSENT."""
        commit, n = admitted.commit, admitted.standing.n
        if commit.base:
            self.replace_base(line, n, commit.base, snapshot)
            if rotates:
                self._hide_rows("lot", "label = ? AND kind = ? AND NOT staged", self._label, _RECORD)
            self.adopt()
        for name in commit.drops:
            blob = self._find(name, _RECORD)
            if blob and blob.present:
                self._hide(blob)
        link = (line, n, *admitted.link, admitted.standing.chain)
        self._db.execute("INSERT INTO link VALUES (?, ?, ?, ?, ?)", link)
        self.keep(line, n, admitted)

    def new_line(self, standing: Standing) -> int:
        """It is the account's, without a link or commit yet."""
        line = self._db.execute(_NEW, (self._label, *standing[:9], b"".join(standing.devices))).lastrowid
        assert line is not None
        return line

    def keep(self, line: int, n: int, admitted: Admitted) -> None:
        """A commit's bytes, unless they are there; it is of the version that brings it."""
        commit, signed = admitted.commit, admitted.signed
        query = "SELECT id, version, data FROM line_commit WHERE line = ? AND n = ?"
        there = self._db.execute(query, (line, n)).fetchone()
        if there and there[2] == signed.commit:
            return
        if there:
            self._db.execute("DELETE FROM line_commit WHERE id = ?", there[:1])
            self._count(there[1], -len(there[2]))
        self._db.execute(
            """INSERT INTO line_commit (line, n, label, version, base, data, author, write)
               VALUES (?, ?, ?, ?, ?, ?, ?, ?)""",
            (line, n, self._label, self._version, commit.base is not None, *signed),
        )
        self._count(self._version, len(signed.commit))

    def replace_base(self, line: int, n: int, base: Base, snapshot: bytes | None) -> None:
        """The base `n` takes the place of what came before it. Raises StoreRefused SNAPSHOT_ABSENT."""
        self._hide_rows("line_commit", "line = ? AND n < ?", line, n)
        self._replace_snapshot(base.snapshot, base.size, snapshot)

    def adopt(self) -> None:
        """What the version has staged is the line's."""
        self._lots.clear()
        self._db.execute(
            "UPDATE lot SET staged = 0, until_ms = NULL WHERE label = ? AND kind = ? AND staged AND version = ?",
            (self._label, _RECORD, self._version),
        )

    def leave(self) -> None:
        """The account has no line; what was its line's is hidden, but for its snapshot, which the next one replaces."""
        row = self._db.execute("SELECT id FROM line WHERE label = ? AND left_ms IS NULL", (self._label,)).fetchone()
        if row is not None:
            self._db.execute("UPDATE line SET left_ms = ? WHERE id = ?", (self._now_ms, row[0]))
            self._hide_rows("line_commit", "line = ?", row[0])

    def end(self) -> None:
        """All of it: what is the version's own has its time now, the rest as what is hidden."""
        db, own = self._db, (self._now_ms, self._label, self._version)
        self.leave()
        self._hide_rows("lot", "label = ?", self._label)
        for table in ("lot", "line_commit"):
            db.execute(f"UPDATE {table} SET until_ms = ? WHERE label = ? AND version >= ?", own)  # noqa: S608  # ours
        db.execute("UPDATE lot SET until_ms = ? WHERE label = ? AND staged", own[:2])
        earlier = self._version > 1
        db.execute(
            "UPDATE line SET left_ms = ? WHERE label = ?", (self._now_ms - LINKS_MS + KEPT_MS * earlier, self._label)
        )
        self.end_version1(KEPT_MS if earlier else 0)

    def end_version1(self, after_ms: int) -> None:
        """What the account has in the service's version 1 is kept so long, but no longer than was said before."""
        self._db.execute(
            """INSERT INTO version1 VALUES (?, ?)
               ON CONFLICT DO UPDATE SET until_ms = min(until_ms, excluded.until_ms)""",
            (self._label, self._now_ms + after_ms),
        )

    def put(self, kind: int, data: bytes, *, present: bool) -> None:
        """`present`: a commit brings it; otherwise it waits for a base, unless it is, or was, a commit's."""
        name = name_of(data)
        blob = self._find(name, kind)
        if blob is None:
            lot = self._lot(kind, self._version, staged=not present)
            self._db.execute(
                "INSERT INTO blob (id, label, name, kind, size, lot, damaged) VALUES (?, ?, ?, ?, ?, ?, 0)",
                (self._keep_bytes(data), self._label, name, kind, len(data), lot),
            )
            self._count(self._version, len(data))
            return
        if blob.damaged:
            blob = self._renew(blob, data)
        if blob.staged:
            self._move(blob, kind, len(data), self._version, staged=not present)
        elif not blob.present:
            self._move(blob, kind, len(data), blob.version, staged=False)

    def settle(self, quota: Quota) -> None:
        """Write down what is held now. Raises StoreRefused ACCOUNT_QUOTA."""
        db, label = self._db, self._label
        _note(db, label, self._things, self._bytes)
        held = {
            version: used
            for version, *used in db.execute("SELECT version, things, size FROM usage WHERE label = ?", (label,))
        }
        if self._bytes[self._version] <= 0:
            return
        others = [used for version, used in held.items() if version not in (min(held), self._version)]
        for limit, used, of_others in zip(quota, held[self._version], zip((0, 0), *others, strict=True), strict=True):
            most = limit if self._version == min(held) else (limit - sum(of_others)) // 2
            if used > most:
                raise StoreRefused(
                    "ACCOUNT_QUOTA",
                    "the account holds as much as it may, what was dropped of late too; try again later",
                )

    def _keep_bytes(self, data: bytes) -> int:
        """The id of the row that is theirs: one above all, those too of which only the bytes, or no bytes, are left."""
        above = "SELECT max(coalesce(max(blob), 0), (SELECT coalesce(max(id), 0) FROM blob)) + 1 FROM sealed"
        id = self._db.execute(f"INSERT INTO sealed (blob, data) VALUES (({above}), ?)", (data,)).lastrowid  # noqa: S608
        assert id is not None
        return id

    def _renew(self, blob: _Blob, data: bytes) -> _Blob:
        """With these bytes, under another id: what was there stays, perhaps in pages that nothing can be done with."""
        id = self._keep_bytes(data)
        self._db.execute("UPDATE blob SET id = ?, damaged = 0 WHERE id = ?", (id, blob.id))
        return blob._replace(id=id)

    def _find(self, name: bytes, kind: int) -> _Blob | None:
        row = self._db.execute(_BLOB, (self._label, name, kind)).fetchone()
        return _Blob(*row) if row else None

    def _lot(self, kind: int, version: int, *, staged: bool) -> int:
        """The one that takes what comes now."""
        key = (kind, version, staged)
        if key not in self._lots:
            self._lots[key] = self._open_lot(*key)
        return self._lots[key]

    def _open_lot(self, kind: int, version: int, staged: bool) -> int:
        db = self._db
        ends = self._now_ms + STAGED_MS if staged else None
        open_ = "label = ? AND kind = ? AND staged = ? AND version = ? AND (staged OR until_ms IS NULL)"
        row = db.execute(f"SELECT id FROM lot WHERE {open_} LIMIT 1", (self._label, kind, staged, version)).fetchone()  # noqa: S608
        if row is not None:
            if staged:
                db.execute("UPDATE lot SET until_ms = ? WHERE id = ?", (ends, row[0]))
            return int(row[0])
        made = db.execute(
            "INSERT INTO lot (label, version, kind, staged, until_ms) VALUES (?, ?, ?, ?, ?)",
            (self._label, version, kind, staged, ends),
        ).lastrowid
        assert made is not None
        return made

    def _move(self, blob: _Blob, kind: int, size: int, version: int, *, staged: bool) -> None:
        lot = self._lot(kind, version, staged=staged)
        self._db.execute("UPDATE blob SET lot = ?, hidden_by = NULL, until_ms = NULL WHERE id = ?", (lot, blob.id))
        if version != blob.version:
            self._count(blob.version, -size)
            self._count(version, size)

    def _until_ms(self, version: int) -> int:
        return self._now_ms + (KEPT_MS if version < self._version else KEPT_OWN_MS)

    def _hide(self, blob: _Blob) -> None:
        hide = "UPDATE blob SET hidden_by = ?, until_ms = ? WHERE id = ?"
        self._db.execute(hide, (self._version, self._until_ms(blob.version), blob.id))

    def _hide_rows(self, table: str, which: str, *values: object) -> None:
        self._db.execute(
            f"""UPDATE {table} SET hidden_by = ?, until_ms = CASE WHEN version < ? THEN ? ELSE ? END
                WHERE until_ms IS NULL AND {which}""",  # noqa: S608  # ours
            (self._version, self._version, self._now_ms + KEPT_MS, self._now_ms + KEPT_OWN_MS, *values),
        )

    def _replace_snapshot(self, name: bytes, size: int, data: bytes | None) -> None:
        present = """SELECT name FROM blob JOIN lot ON lot.id = blob.lot WHERE lot.label = ? AND lot.kind = ?
                     AND NOT lot.staged AND blob.until_ms IS NULL"""
        for (old,) in self._db.execute(present, (self._label, _SNAPSHOT)).fetchall():
            blob = self._find(old, _SNAPSHOT)
            assert blob is not None
            self._hide(blob)
        if data is None:
            found = self._db.execute(
                "SELECT data FROM blob JOIN sealed ON blob.id = sealed.blob WHERE label = ? AND name = ? AND kind = ?",
                (self._label, name, _SNAPSHOT),
            ).fetchone()
            if found is None or len(found[0]) != size or not _is_of(found[0], name):
                raise StoreRefused("SNAPSHOT_ABSENT", "the base's snapshot is not here: put it first")
            data = found[0]
        self.put(_SNAPSHOT, data, present=True)

    def _count(self, version: int, size: int) -> None:
        """One more, or, of a size below 0, one less."""
        self._things[version] += 1 if size > 0 else -1
        self._bytes[version] += size


def _note(db: Connection, label: str, things: Counter[int], size: Counter[int]) -> None:
    for version in things:
        db.execute(
            """INSERT INTO usage VALUES (?, ?, ?, ?)
               ON CONFLICT DO UPDATE SET things = things + excluded.things, size = size + excluded.size""",
            (label, version, things[version], size[version]),
        )
    db.execute("DELETE FROM usage WHERE label = ? AND things = 0", (label,))


_ENDED = """SELECT blob.id, blob.label, lot.version, blob.size FROM blob JOIN lot ON lot.id = blob.lot
            WHERE {} LIMIT ?"""
_EXPIRED = (
    _ENDED.format("blob.until_ms <= ?"),
    _ENDED.format("blob.lot = (SELECT id FROM lot WHERE until_ms <= ? LIMIT 1)"),
)


def _expire_blobs(db: Connection, which: str, now_ms: int, limit: int, unreadable: Collection[int]) -> int:
    """Bytes in pages that are damaged stay: to delete them fails, and everything with it."""
    rows = db.execute(which, (now_ms, limit)).fetchall()
    db.executemany("DELETE FROM sealed WHERE blob = ?", [row[:1] for row in rows if row[0] not in unreadable])
    db.executemany("DELETE FROM blob WHERE id = ?", [row[:1] for row in rows])
    _give_back(db, [row[1:] for row in rows])
    return len(rows)


def _expire_commits(db: Connection, now_ms: int, limit: int) -> int:
    rows = db.execute(
        "SELECT id, label, version, length(data) FROM line_commit WHERE until_ms <= ? LIMIT ?", (now_ms, limit)
    ).fetchall()
    db.executemany("DELETE FROM line_commit WHERE id = ?", [row[:1] for row in rows])
    _give_back(db, [row[1:] for row in rows])
    return len(rows)


def _expire_links(db: Connection, left_ms: int, limit: int) -> int:
    row = db.execute("SELECT id FROM line WHERE left_ms <= ? LIMIT 1", (left_ms,)).fetchone()
    if row is None:
        return 0
    some = "SELECT n FROM link WHERE line = ? LIMIT ?"
    db.execute(f"DELETE FROM link WHERE line = ? AND n IN ({some})", (*row, *row, limit))  # noqa: S608  # ours
    if not db.execute("SELECT 1 FROM link WHERE line = ?", row).fetchone():
        db.execute("DELETE FROM line WHERE id = ?", row)
    return 1


def _expire_version1(db: Connection, now_ms: int, limit: int) -> int:
    """Of one account whose time has come; its line is there, so that nothing comes after."""
    row = db.execute("SELECT label FROM version1 WHERE until_ms <= ? AND until_ms > 0 LIMIT 1", (now_ms,)).fetchone()
    if row is None:
        return 0
    some = "SELECT rowid FROM record WHERE label = ? LIMIT ?"
    gone = db.execute(f"DELETE FROM record WHERE rowid IN ({some})", (*row, limit)).rowcount  # noqa: S608  # ours
    if gone < limit:
        db.execute("DELETE FROM manifest WHERE label = ?", row)
        db.execute("UPDATE version1 SET until_ms = 0 WHERE label = ?", row)  # and no later line begins it again
    return 1


def _give_back(db: Connection, gone: Sequence[tuple[str, int, int]]) -> None:
    for label in {label for label, *_ in gone}:
        things, size = Counter[int](), Counter[int]()
        for whose, version, each in gone:
            if whose == label:
                things[version] -= 1
                size[version] -= each
        _note(db, label, things, size)


def _stand(db: Connection, line: int, after: Standing) -> None:
    db.execute(
        """UPDATE line SET n = ?, chain = ?, base_n = ?, generation = ?, write_key = ?, version = ?, identity_key = ?,
           devices = ? WHERE id = ?""",
        (*after[2:9], b"".join(after.devices), line),
    )


def _conflict() -> StoreRefused:
    return StoreRefused("LINE_CONFLICT", "another commit is the line's head")


def _standing(row: Sequence[Any]) -> Standing:
    *fields, devices = row
    return Standing._make([*fields, tuple(devices[at : at + KEY_BYTES] for at in range(0, len(devices), KEY_BYTES))])


def _stands(db: Connection, label: str, place: Place) -> bool:
    """The chain before it is its line's id, where it is the first."""
    found = db.execute(
        """SELECT link.commit_hash, coalesce(last.chain, line.line)
           FROM line JOIN link ON link.line = line.id AND link.n = ?
           LEFT JOIN link AS last ON last.line = line.id AND last.n = link.n - 1
           WHERE line.label = ? AND line.line = ? AND line.left_ms IS NULL""",
        (place.n, label, place.line),
    ).fetchone()
    return found is not None and found == (place.commit_hash, place.before)


def _by_name(db: Connection, query: str, label: str, names: Sequence[bytes]) -> dict[bytes, Any]:
    """What the query, which has a place for them, finds of each of these names."""
    found: dict[bytes, Any] = {}
    for at in range(0, len(names), _AT_ONCE):
        some = names[at : at + _AT_ONCE]
        found.update(db.execute(query.format(", ".join("?" * len(some))), (label, *some)))
    return found


def _get(database: Database, label: str, names: Sequence[bytes]) -> list[bytes | None]:
    """Where a page is damaged, each is read by itself: it costs none of those that have no part in it."""
    try:
        with database.read() as db:
            found = _by_name(db, _DATA, label, names)
    except StoreDamaged:
        if len(names) == 1:
            return [None]
        return [data for name in names for data in _get(database, label, [name])]
    return [data if _is_of(data := found.get(name), name) else None for name in names]


def _is_of(data: object, name: bytes) -> bool:
    return isinstance(data, bytes) and name_of(data) == name
