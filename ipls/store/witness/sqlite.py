"""What a witness may never forget, in a file of SQLite."""

import json
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import NamedTuple

from ipls.store.engine.sqlite import Connection, Database, Schema
from ipls.store.errors import StoreRefused
from ipls.store.files import replace
from ipls.store.witness.contract import CosignLate, Fetched, ProposedEpoch, Signed, State, WitnessStore
from ipls.trust.heads import Head
from ipls.trust.limits import MAX_INT
from ipls.trust.root import TrustRoot

SCHEMA = Schema(
    "a witness",
    """
CREATE TABLE IF NOT EXISTS epoch(
    epoch INTEGER PRIMARY KEY, old_root BLOB NOT NULL, root_hash BLOB NOT NULL,
    blob BLOB, cosignature BLOB, time_ms INTEGER NOT NULL, proposal BLOB NOT NULL DEFAULT x'');
CREATE TABLE IF NOT EXISTS lost(
    epoch INTEGER PRIMARY KEY REFERENCES epoch(epoch), old_root BLOB NOT NULL, root_hash BLOB NOT NULL,
    blob BLOB, head BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS pulled(
    epoch INTEGER PRIMARY KEY, old_root BLOB NOT NULL, root_hash BLOB NOT NULL, blob BLOB);
CREATE TABLE IF NOT EXISTS witness(
    one INTEGER PRIMARY KEY CHECK (one = 1), namespace TEXT NOT NULL, term INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS document(
    namespace TEXT NOT NULL, number INTEGER NOT NULL, digest BLOB NOT NULL, cosignature BLOB NOT NULL,
    PRIMARY KEY (namespace, number));
CREATE TRIGGER IF NOT EXISTS root_is_final BEFORE UPDATE OF epoch, old_root, root_hash ON epoch
    BEGIN SELECT RAISE(ABORT, 'a signed root is never changed'); END;
CREATE TRIGGER IF NOT EXISTS epoch_stays BEFORE DELETE ON epoch
    BEGIN SELECT RAISE(ABORT, 'a signed epoch is never deleted'); END;
CREATE TRIGGER IF NOT EXISTS digest_is_final BEFORE UPDATE OF namespace, number, digest ON document
    BEGIN SELECT RAISE(ABORT, 'a signed digest is never changed'); END;
CREATE TRIGGER IF NOT EXISTS document_stays BEFORE DELETE ON document
    BEGIN SELECT RAISE(ABORT, 'a signed document is never deleted'); END;
CREATE TRIGGER IF NOT EXISTS lost_is_final BEFORE UPDATE OF epoch, old_root, root_hash, head ON lost
    BEGIN SELECT RAISE(ABORT, 'a quorum''s root is never changed'); END;
CREATE TRIGGER IF NOT EXISTS lost_stays BEFORE DELETE ON lost
    BEGIN SELECT RAISE(ABORT, 'a lost epoch is never deleted'); END;
CREATE TRIGGER IF NOT EXISTS lost_is_not_signed BEFORE UPDATE OF cosignature ON epoch
    WHEN EXISTS (SELECT 1 FROM lost WHERE epoch = NEW.epoch)
    BEGIN SELECT RAISE(ABORT, 'a lost epoch is not signed again'); END;
CREATE VIEW IF NOT EXISTS chain AS
    SELECT epoch, coalesce(lost.old_root, epoch.old_root) AS old_root,
        coalesce(lost.root_hash, epoch.root_hash) AS root_hash, iif(lost.epoch IS NULL, epoch.blob, lost.blob) AS blob,
        iif(lost.epoch IS NULL, cosignature, NULL) AS cosignature, time_ms,
        iif(lost.epoch IS NULL, proposal, x'') AS proposal, lost.head
    FROM epoch LEFT JOIN lost USING (epoch);
""",
    frozenset({"epoch", "witness"}),
)

# The columns `blob` are of witnesses of before the log came first, and empty since: every file has them.

SIGNED_TOGETHER = 256
"""Epochs from the log that are signed in one transaction."""


class SqliteWitness(WitnessStore):
    """One file; see `WitnessStore`, here and for each method."""

    def __init__(self, path: Path, namespace: str, mark: Path) -> None:
        """See `open_witness_store`."""
        if not path.exists():
            raise StoreRefused("WITNESS_NO_GENESIS", "this witness has no state; if it had, it needs a new key")
        self._mark = mark
        self._db = Database(path, SCHEMA)
        with self._db.read() as db:
            row, unsigned = db.execute("SELECT namespace FROM witness").fetchone(), _signed_nothing(db)
        if row is None:
            raise StoreRefused("WITNESS_NO_GENESIS", "this witness has no state; if it had, it needs a new key")
        if row[0] != namespace:
            raise StoreRefused("WITNESS_OTHER_NAMESPACE", "this state is of another namespace")
        if not mark.exists() and unsigned:
            self._raise_mark()

    def state(self) -> State:
        with self._db.read() as db:
            return self._state(db)

    def _state(self, db: Connection) -> State:
        row = db.execute(
            "SELECT term, epoch, old_root, root_hash, cosignature, time_ms, proposal, head FROM witness, chain"
            " ORDER BY epoch DESC LIMIT 1"
        ).fetchone()
        return State(*row)

    def root_of(self, epoch: int) -> bytes | None:
        with self._db.read() as db:
            return self._root_of(db, epoch)

    def _root_of(self, db: Connection, epoch: int) -> bytes | None:
        row = db.execute("SELECT root_hash FROM chain WHERE epoch = ?", (min(epoch, MAX_INT),)).fetchone()
        return row[0] if row else None

    def signed(self, epoch: int) -> Signed | None:
        with self._db.read() as db:
            row = db.execute(
                "SELECT epoch, old_root, root_hash, cosignature, time_ms, proposal FROM epoch WHERE epoch = ?",
                (min(epoch, MAX_INT),),
            ).fetchone()
        return Signed(*row) if row else None

    def shown(self, epoch: int) -> Signed | None:
        with self._db.read() as db:
            row = db.execute(
                "SELECT epoch, old_root, root_hash, cosignature, time_ms, proposal FROM chain WHERE epoch = ?",
                (min(epoch, MAX_INT),),
            ).fetchone()
        return Signed(*row) if row else None

    def sign_start(self, cosign: CosignLate) -> None:
        with self._db.read():
            with self._db.write() as db:
                state = self._check_mark(db)
                epoch, root_hash, cosignature = db.execute(
                    "SELECT epoch, root_hash, cosignature FROM epoch ORDER BY epoch LIMIT 1"
                ).fetchone()
                if cosignature is not None:
                    return
                time_ms, cosignature = cosign(epoch, root_hash, state.time_ms)
                db.execute(
                    "UPDATE epoch SET cosignature = ?, time_ms = ? WHERE epoch = ?", (cosignature, time_ms, epoch)
                )
            self._raise_mark()

    def sign(self, step: ProposedEpoch, now_ms: int, cosign: Callable[[int], bytes]) -> bytes:
        with self._db.read():
            with self._db.write() as db:
                state = self._check_mark(db)
                time_ms = max(now_ms, state.time_ms)
                is_next = state.is_next(step)
                cosignature = cosign(time_ms)
                if is_next:
                    _insert(db, Signed(step.epoch, step.old_root, step.new_root, cosignature, time_ms, step.proposal))
                else:
                    db.execute(
                        "UPDATE epoch SET cosignature = ?, time_ms = ? WHERE epoch = ?",
                        (cosignature, time_ms, step.epoch),
                    )
                db.execute("UPDATE witness SET term = ?", (step.term,))
            self._raise_mark()
        return cosignature

    def renew(self, root_hash: bytes, time_ms: int, cosign: Callable[[int], bytes]) -> None:
        with self._db.read():
            with self._db.write() as db:
                state = self._check_mark(db)
                if state.root_hash != root_hash or state.head is not None or time_ms <= state.time_ms:
                    return
                db.execute(
                    "UPDATE epoch SET cosignature = ?, time_ms = ? WHERE epoch = ?",
                    (cosign(time_ms), time_ms, state.epoch),
                )
            self._raise_mark()

    def fetched(self) -> Fetched | None:
        with self._db.read() as db:
            return self._fetched(db)

    def _fetched(self, db: Connection) -> Fetched | None:
        row = db.execute(
            "SELECT min(epoch), max(epoch), (SELECT root_hash FROM pulled ORDER BY epoch DESC LIMIT 1),"
            " (SELECT old_root FROM pulled ORDER BY epoch LIMIT 1) FROM pulled"
        ).fetchone()
        if row[0] is None or self._root_of(db, row[0] - 1) != row[3]:
            return None
        return Fetched(*row[:3])

    def drop_fetched(self) -> None:
        with self._db.write() as db:
            db.execute("DELETE FROM pulled")

    def keep_fetched(self, epoch: int, old_root: bytes, root_hash: bytes) -> None:
        with self._db.write() as db:
            waiting = self._fetched(db)
            if waiting is None:
                db.execute("DELETE FROM pulled")
            before = (waiting.last, waiting.root_hash) if waiting else (epoch - 1, self._root_of(db, epoch - 1))
            if (epoch - 1, old_root) != before:
                raise StoreRefused("WITNESS_GAP", f"epoch {epoch} does not follow what is here")
            db.execute("INSERT INTO pulled(epoch, old_root, root_hash) VALUES (?, ?, ?)", (epoch, old_root, root_hash))

    def sign_pulled(self, head: bytes, cosign: CosignLate) -> bool:
        with self._db.read():
            with self._db.write() as db:
                state = self._check_mark(db)
                if self._fetched(db) is None:
                    db.execute("DELETE FROM pulled")
                    return False
                rows = db.execute(
                    "SELECT epoch, old_root, root_hash FROM pulled WHERE epoch <= ? ORDER BY epoch",
                    (state.epoch + SIGNED_TOGETHER,),
                ).fetchall()
                if rows[-1][0] < state.epoch:
                    raise StoreRefused("WITNESS_BEHIND", "what a quorum signed ends below the newest epoch here")
                for epoch, old_root, root_hash in rows:
                    if epoch > state.epoch:
                        time_ms, cosignature = cosign(epoch, root_hash, state.time_ms)
                        _insert(db, Signed(epoch, old_root, root_hash, cosignature, time_ms))
                    elif self._root_of(db, epoch) != root_hash:
                        row = (epoch, old_root, root_hash, head)
                        db.execute("INSERT INTO lost(epoch, old_root, root_hash, head) VALUES (?, ?, ?, ?)", row)
                db.execute("DELETE FROM pulled WHERE epoch <= ?", (rows[-1][0],))
                more = db.execute("SELECT EXISTS (SELECT 1 FROM pulled)").fetchone()[0]
            self._raise_mark()
        return bool(more)

    def sign_document(self, namespace: str, head: Head, previous: bytes, cosign: Callable[[], bytes]) -> bytes:
        with self._db.read():
            with self._db.write() as db:
                self._check_mark(db)
                signed = dict(
                    db.execute(
                        "SELECT number, digest FROM document WHERE namespace = ? AND number >= ?",
                        (namespace, head.epoch - 1),
                    )
                )
                if signed.get(head.epoch, head.root_hash) != head.root_hash:
                    message = f"another file was signed here for number {head.epoch}: finish that one, expired or not"
                    raise StoreRefused("WITNESS_DOCUMENT_FORK", message)
                if signed.get(head.epoch - 1, previous) != previous:
                    raise StoreRefused(
                        "WITNESS_DOCUMENT_FORK", f"it continues another file than was signed for {head.epoch - 1}"
                    )
                if head.epoch not in signed and max(signed, default=0) > head.epoch:
                    raise StoreRefused("WITNESS_DOCUMENT_FORK", f"a number above {head.epoch} was signed here")
                cosignature = cosign()
                db.execute(
                    "INSERT INTO document VALUES (?, ?, ?, ?)"
                    " ON CONFLICT (namespace, number) DO UPDATE SET cosignature = excluded.cosignature",
                    (namespace, *head, cosignature),
                )
            self._raise_mark()
        return cosignature

    def has_signed(self, namespace: str, number: int) -> bool:
        with self._db.read() as db:
            row = db.execute(
                "SELECT 1 FROM document WHERE namespace = ? AND number = ?", (namespace, number)
            ).fetchone()
        return row is not None

    def saw(self, epoch: int, root_hash: bytes, time_ms: int) -> None:
        with self._db.read() as db:
            state = self._state(db)
            row = db.execute("SELECT root_hash FROM epoch WHERE epoch = ?", (epoch,)).fetchone()
            if row is not None and row[0] == root_hash and time_ms <= state.time_ms:
                return
            with self._db.write():
                seen = Mark(state.term, max(epoch, state.epoch + 1), max(time_ms, state.time_ms))
                _write_mark(self._mark, seen)
            self._check_mark(db)

    def check_restored(self) -> None:
        with self._db.read() as db:
            self._check_mark(db)

    def _check_mark(self, db: Connection) -> State:
        """The state, from which it may sign."""
        state = self._state(db)
        try:
            mark = _read_mark(self._mark)
        except (FileNotFoundError, TypeError, ValueError):
            mark = None
        if mark is None or any(now < then for now, then in zip(_reached(db, state), mark, strict=True)):
            raise StoreRefused(
                "WITNESS_RESTORED",
                "this state is older than what the witness has signed, or its watermark is missing: it needs a new key",
            )
        return state

    def _raise_mark(self) -> None:
        with self._db.write() as db:  # of several processes the last to write has seen the newest
            _write_mark(self._mark, _reached(db, self._state(db)))

    def close(self) -> None:
        self._db.close()


def _insert(db: Connection, row: Signed) -> None:
    db.execute(
        "INSERT INTO epoch(epoch, old_root, root_hash, cosignature, time_ms, proposal) VALUES (?, ?, ?, ?, ?, ?)", row
    )


def _signed_nothing(db: Connection) -> bool:
    row = db.execute("SELECT count(*), max(cosignature), (SELECT count(*) FROM document) FROM epoch").fetchone()
    return bool(row == (1, None, 0))


class Mark(NamedTuple):
    """How far a witness's state has come; all of it only grows."""

    term: int
    epoch: int
    time_ms: int
    documents: int = 0  # how many it signed; a file of an earlier version has no such number


def _reached(db: Connection, state: State) -> Mark:
    [documents] = db.execute("SELECT count(*) FROM document").fetchone()
    return Mark(state.term, state.epoch, state.time_ms, documents)


def _read_mark(path: Path) -> Mark:
    """Raises FileNotFoundError, TypeError, ValueError."""
    return Mark(*map(int, json.loads(path.read_bytes())))


def _write_mark(path: Path, mark: Mark) -> None:
    """Durable, and never below what is there."""
    with suppress(FileNotFoundError, TypeError, ValueError):
        mark = Mark(*map(max, mark, _read_mark(path)))
    replace(path, json.dumps(mark).encode())


def init_witness_state(path: Path, root: TrustRoot) -> None:
    """The genesis: a new witness that starts where the trust root does. Done before, alike, it changes nothing.

    Never for a witness whose state was lost: that one gets a new key. Raises StoreRefused WITNESS_STATE_EXISTS if the
    file holds another genesis; StoreUnavailable, StoreDamaged.
    """
    database = Database(path, SCHEMA)
    with closing(database), database.write() as db:
        there = db.execute("SELECT namespace, epoch, root_hash FROM witness, epoch ORDER BY epoch LIMIT 1").fetchone()
        if there is None:
            db.execute("INSERT INTO witness VALUES (1, ?, 0)", (root.namespace,))
            start = (root.start_epoch, b"", root.start_root)
            db.execute("INSERT INTO epoch(epoch, old_root, root_hash, time_ms) VALUES (?, ?, ?, 0)", start)
        elif there != (root.namespace, root.start_epoch, root.start_root):
            raise StoreRefused("WITNESS_STATE_EXISTS", "this file is the state of another witness")
