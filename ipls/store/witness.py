"""What a witness may never forget: the highest epoch it signed, with root, blob and signature, and the highest term.

Guarantees (the directory spec, What a witness does):
- One row an epoch, each the successor of the one before; a root, once in, never changes, whichever key signed it.
- A signature leaves only after it, its root, its blob, its term and the proposal that asked for it have been committed
  together, and after the *watermark*, a file beside the key, has been raised to it.
- Terms and times never fall. What is refused changes nothing.
- Of a numbered document, a version of the trust root or a fleet bundle, it signs one file a number, by whichever key,
  and none that does not continue the one that it signed for the number below.
- The first row is the genesis, written by `init_witness_state` alone: a lost database is never taken for a new one.
- A database that is behind its watermark was restored from a backup: it signs nothing any more.
- Where a quorum signed another root for an epoch than this witness did, the quorum's stands beside its own, which stays
  on record; the chain goes on from the quorum's, and that epoch is not signed again.
Every epoch's signature is kept; of the blobs only the newest: older ones are in the audit log. Methods block; each may
be called from any thread and, over one file, from any process.
"""

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from ipls.store.errors import StoreError
from ipls.store.files import replace
from ipls.store.log import object_name
from ipls.store.sqlite import connect, transaction
from ipls.trust.heads import Head
from ipls.trust.limits import MAX_INT
from ipls.trust.root import TrustRoot

_SCHEMA = """
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
"""

SIGNED_TOGETHER = 256
"""Epochs from the log that are signed in one transaction."""


class ProposedEpoch(NamedTuple):
    """What a proposal asks to be signed: `new_root` as the root of `epoch`. Roots have 32 bytes.

    `proposal` is the encoded SignedProposal, kept with the epoch it is first signed for.
    """

    term: int
    epoch: int
    old_root: bytes
    new_root: bytes
    proposal: bytes = b""


class State(NamedTuple):
    """The newest epoch. `cosignature` is an encoded Cosignature, None before the start has been signed; `blob`,
    `proposal` and `old_root` are empty at the start; `time_ms` is the time in the newest signature.

    Where it signed another root than the quorum, `cosignature` is None and `head` is an encoded SignedHead, at or above
    this epoch, by which the quorum's root is known.
    """

    term: int
    epoch: int
    old_root: bytes
    root_hash: bytes
    blob: bytes
    cosignature: bytes | None
    time_ms: int
    proposal: bytes = b""
    head: bytes | None = None

    def is_next(self, step: ProposedEpoch) -> bool:
        """Whether `step` is the successor, whose proof is yet to be verified; False if it is the newest epoch again.

        Raises StoreError, for a step that may never be signed whatever its proof: WITNESS_TERM, WITNESS_FORK,
        WITNESS_BEHIND, WITNESS_GAP, WITNESS_SIGNED_OTHER.
        """
        if step.term < self.term:
            raise StoreError("WITNESS_TERM", f"term {step.term} is below {self.term}, which has signed proposals")
        if (step.epoch, step.new_root) == (self.epoch, self.root_hash):
            if self.head is not None:
                raise StoreError("WITNESS_SIGNED_OTHER", f"this witness signed another root for epoch {step.epoch}")
            return False
        if step.epoch == self.epoch:
            raise StoreError("WITNESS_FORK", f"epoch {step.epoch} has another root here")
        if step.epoch < self.epoch:
            raise StoreError("WITNESS_BEHIND", f"epoch {step.epoch} is below {self.epoch}, the newest here")
        again = step.new_root == step.old_root  # of an epoch that is not here yet
        if step.epoch > self.epoch + 1 or again or step.term > MAX_INT:
            raise StoreError("WITNESS_GAP", f"epoch {step.epoch} does not follow {self.epoch}, the newest here")
        if step.old_root != self.root_hash:
            raise StoreError("WITNESS_FORK", f"epoch {step.epoch} does not start from the root of {self.epoch} here")
        return True


class Signed(NamedTuple):
    """An epoch: `old_root` is empty at the start, `cosignature` None before that is signed, `proposal` empty there and
    where the epoch was taken from the log."""

    epoch: int
    old_root: bytes
    root_hash: bytes
    cosignature: bytes | None
    time_ms: int
    proposal: bytes = b""

    @property
    def name(self) -> str:
        """Of the audit log's object for this step."""
        return object_name(self.epoch, self.old_root, self.root_hash)


class Pulled(NamedTuple):
    """The steps from the log that are verified and not signed yet: the epochs first..last, and the root of the last."""

    first: int
    last: int
    root_hash: bytes


CosignLate = Callable[[int, bytes, int], tuple[int, bytes]]
"""Of (epoch, root hash, time of the newest signature in ms, 0 without one): the time in a signature that must not count
as fresh, not below that one, and the encoded Cosignature."""


class WitnessStore:
    """One witness of one namespace. `mark` is its watermark's file: on another disk than the database, if there is one.

    Whatever signs raises StoreError WITNESS_RESTORED if the database is behind the watermark.
    """

    def __init__(self, path: Path, namespace: str, mark: Path) -> None:
        """Open what `init_witness_state` made. Raises StoreError WITNESS_NO_GENESIS, WITNESS_OTHER_NAMESPACE."""
        if not path.exists():
            raise StoreError("WITNESS_NO_GENESIS", "this witness has no state; if it had, it needs a new key")
        self._mark = mark
        self._connection = connect(path)
        self._connection.executescript(_SCHEMA)
        self._lock = threading.Lock()
        self._blob = (-1, b"")  # an epoch and its blob, of up to 32 MiB: all readers share one copy
        row = self._connection.execute("SELECT namespace FROM witness").fetchone()
        if row is None:
            raise StoreError("WITNESS_NO_GENESIS", "this witness has no state; if it had, it needs a new key")
        if row[0] != namespace:
            raise StoreError("WITNESS_OTHER_NAMESPACE", "this state is of another namespace")
        if not mark.exists() and self._signed_nothing():
            self._raise_mark()

    def state(self) -> State:
        """The newest epoch."""
        with self._lock:
            return self._state()

    def _state(self) -> State:
        term, epoch, old_root, root_hash, blob, *rest = self._connection.execute(
            "SELECT term, epoch, old_root, root_hash, iif(epoch = ? AND head IS NULL, NULL, blob), cosignature,"
            " time_ms, proposal, head FROM witness, chain ORDER BY epoch DESC LIMIT 1",
            self._blob[:1],
        ).fetchone()
        if epoch != self._blob[0] or rest[-1] is not None:
            self._blob = (epoch, blob or b"")
        return State(term, epoch, old_root, root_hash, self._blob[1], *rest)

    def root_of(self, epoch: int) -> bytes | None:
        """The root hash of an epoch, as this witness goes on from it; None above its newest and below its start."""
        with self._lock:
            return self._root_of(epoch)

    def _root_of(self, epoch: int) -> bytes | None:
        row = self._connection.execute("SELECT root_hash FROM chain WHERE epoch = ?", (min(epoch, MAX_INT),)).fetchone()
        return row[0] if row else None

    def signed(self, epoch: int) -> Signed | None:
        """What it signed for any epoch since the start, whatever the quorum did, with the newest signature on it."""
        with self._lock:
            row = self._connection.execute(
                "SELECT epoch, old_root, root_hash, cosignature, time_ms, proposal FROM epoch WHERE epoch = ?",
                (min(epoch, MAX_INT),),
            ).fetchone()
        return Signed(*row) if row else None

    def shown(self, epoch: int) -> Signed | None:
        """The epoch as this witness goes on from it; without a cosignature where it signed another root."""
        with self._lock:
            row = self._connection.execute(
                "SELECT epoch, old_root, root_hash, cosignature, time_ms, proposal FROM chain WHERE epoch = ?",
                (min(epoch, MAX_INT),),
            ).fetchone()
        return Signed(*row) if row else None

    def sign_start(self, cosign: CosignLate) -> None:
        """See that the start has a signature, durable: it has no proposal."""
        with self._lock:
            with transaction(self._connection) as connection:
                state = self._check_mark()
                epoch, root_hash, cosignature = connection.execute(
                    "SELECT epoch, root_hash, cosignature FROM epoch ORDER BY epoch LIMIT 1"
                ).fetchone()
                if cosignature is not None:
                    return
                time_ms, cosignature = cosign(epoch, root_hash, state.time_ms)
                connection.execute(
                    "UPDATE epoch SET cosignature = ?, time_ms = ? WHERE epoch = ?", (cosignature, time_ms, epoch)
                )
            self._raise_mark()

    def sign(self, step: ProposedEpoch, blob: bytes, now_ms: int, cosign: Callable[[int], bytes]) -> bytes:
        """The encoded Cosignature on a verified step, or on the newest epoch anew, durable.

        `cosign(time_ms)` makes it, at the later of `now_ms` and the newest signature's time; if it raises, nothing has
        changed. Of racing callers one wins. Raises StoreError as `State.is_next`, judged again inside the transaction.
        """
        with self._lock:
            with transaction(self._connection) as connection:
                state = self._check_mark()
                time_ms = max(now_ms, state.time_ms)
                is_next = state.is_next(step)
                cosignature = cosign(time_ms)
                if is_next:
                    row = Signed(step.epoch, step.old_root, step.new_root, cosignature, time_ms, step.proposal)
                    self._insert(row, blob)
                else:
                    connection.execute(
                        "UPDATE epoch SET cosignature = ?, time_ms = ? WHERE epoch = ?",
                        (cosignature, time_ms, step.epoch),
                    )
                connection.execute("UPDATE witness SET term = ?", (step.term,))
            self._raise_mark()
        return cosignature

    def _insert(self, row: Signed, blob: bytes) -> None:
        for table in ("epoch", "lost"):
            self._connection.execute(f"UPDATE {table} SET blob = NULL WHERE epoch = ?", (row.epoch - 1,))  # noqa: S608
        self._connection.execute(
            "INSERT INTO epoch VALUES (?, ?, ?, ?, ?, ?, ?)",
            (row.epoch, row.old_root, row.root_hash, blob, row.cosignature, row.time_ms, row.proposal),
        )

    def renew(self, root_hash: bytes, time_ms: int, cosign: Callable[[int], bytes]) -> None:
        """Sign the newest epoch, if it has this root, anew at `time_ms`; nothing happens unless that is a later time.

        For a witness that follows others' signatures without proposals.
        """
        with self._lock:
            with transaction(self._connection) as connection:
                state = self._check_mark()
                if state.root_hash != root_hash or state.head is not None or time_ms <= state.time_ms:
                    return
                connection.execute(
                    "UPDATE epoch SET cosignature = ?, time_ms = ? WHERE epoch = ?",
                    (cosign(time_ms), time_ms, state.epoch),
                )
            self._raise_mark()

    def pulled(self) -> Pulled | None:
        """The verified steps that wait for `sign_pulled`, None without any, or if they don't follow what is signed."""
        with self._lock:
            return self._pulled()

    def _pulled(self) -> Pulled | None:
        row = self._connection.execute(
            "SELECT min(epoch), max(epoch), (SELECT root_hash FROM pulled ORDER BY epoch DESC LIMIT 1),"
            " (SELECT old_root FROM pulled ORDER BY epoch LIMIT 1) FROM pulled"
        ).fetchone()
        if row[0] is None or self._root_of(row[0] - 1) != row[3]:
            return None
        return Pulled(*row[:3])

    def drop_pulled(self) -> None:
        """Forget the steps that wait."""
        with self._lock, transaction(self._connection) as connection:
            connection.execute("DELETE FROM pulled")

    def pull(self, epoch: int, old_root: bytes, root_hash: bytes, blob: bytes) -> None:
        """Keep one more verified step, durable; `blob` is empty unless it is the last one.

        Raises StoreError WITNESS_GAP if it follows neither the last one that waits nor, without any, an epoch here.
        """
        with self._lock, transaction(self._connection) as connection:
            waiting = self._pulled()
            if waiting is None:
                connection.execute("DELETE FROM pulled")
            before = (waiting.last, waiting.root_hash) if waiting else (epoch - 1, self._root_of(epoch - 1))
            if (epoch - 1, old_root) != before:
                raise StoreError("WITNESS_GAP", f"epoch {epoch} does not follow what is here")
            connection.execute("UPDATE pulled SET blob = NULL")
            connection.execute("INSERT INTO pulled VALUES (?, ?, ?, ?)", (epoch, old_root, root_hash, blob))

    def sign_pulled(self, head: bytes, cosign: CosignLate) -> bool:
        """Sign the steps that wait, which lead to the quorum's `head` (an encoded SignedHead), some at a time: whether
        there are more.

        An epoch that it has signed with another root gets the quorum's root beside its own, and no signature.
        """
        with self._lock:
            with transaction(self._connection) as connection:
                state = self._check_mark()
                if self._pulled() is None:
                    connection.execute("DELETE FROM pulled")
                    return False
                rows = connection.execute(
                    "SELECT epoch, old_root, root_hash, blob FROM pulled WHERE epoch <= ? ORDER BY epoch",
                    (state.epoch + SIGNED_TOGETHER,),
                ).fetchall()
                if rows[-1][0] < state.epoch:
                    raise StoreError("WITNESS_BEHIND", "what a quorum signed ends below the newest epoch here")
                for epoch, old_root, root_hash, blob in rows:
                    if epoch > state.epoch:
                        time_ms, cosignature = cosign(epoch, root_hash, state.time_ms)
                        self._insert(Signed(epoch, old_root, root_hash, cosignature, time_ms), blob)
                    elif self._root_of(epoch) != root_hash:
                        connection.execute(
                            "INSERT INTO lost VALUES (?, ?, ?, ?, ?)", (epoch, old_root, root_hash, blob, head)
                        )
                connection.execute("DELETE FROM pulled WHERE epoch <= ?", (rows[-1][0],))
                more = connection.execute("SELECT EXISTS (SELECT 1 FROM pulled)").fetchone()[0]
            self._raise_mark()
        return bool(more)

    def sign_document(self, namespace: str, head: Head, previous: bytes, cosign: Callable[[], bytes]) -> bytes:
        """The encoded Cosignature that `cosign()` makes on a document of NS/trust or NS/fleet, durable.

        A document is (number, SHA-256); `previous` is the SHA-256 that it gives for the number below. A second
        signature on it, by another key for one, is as good. What it says is the caller's to check. Raises StoreError
        WITNESS_DOCUMENT_FORK where another digest was signed here for its number or the number below, or any for a
        number above.
        """
        with self._lock, transaction(self._connection) as connection:
            self._check_mark()
            signed = dict(
                connection.execute(
                    "SELECT number, digest FROM document WHERE namespace = ? AND number >= ?",
                    (namespace, head.epoch - 1),
                )
            )
            if signed.get(head.epoch, head.root_hash) != head.root_hash:
                raise StoreError("WITNESS_DOCUMENT_FORK", f"another file was signed here for number {head.epoch}")
            if signed.get(head.epoch - 1, previous) != previous:
                raise StoreError(
                    "WITNESS_DOCUMENT_FORK", f"it continues another file than was signed for {head.epoch - 1}"
                )
            if head.epoch not in signed and max(signed, default=0) > head.epoch:
                raise StoreError("WITNESS_DOCUMENT_FORK", f"a number above {head.epoch} was signed here")
            cosignature = cosign()
            connection.execute(
                "INSERT INTO document VALUES (?, ?, ?, ?)"
                " ON CONFLICT (namespace, number) DO UPDATE SET cosignature = excluded.cosignature",
                (namespace, *head, cosignature),
            )
        return cosignature

    def has_signed(self, namespace: str, number: int) -> bool:
        """Whether a document of this number was ever signed here."""
        with self._lock:
            row = self._connection.execute(
                "SELECT 1 FROM document WHERE namespace = ? AND number = ?", (namespace, number)
            ).fetchone()
        return row is not None

    def saw(self, epoch: int, root_hash: bytes, time_ms: int) -> None:
        """A valid signature of this witness's own was seen: one that is not on record here was made by a later state.

        Then this one is a restored copy: the watermark is raised, and nothing is signed any more. Raises StoreError
        WITNESS_RESTORED.
        """
        with self._lock:
            state = self._state()
            row = self._connection.execute("SELECT root_hash FROM epoch WHERE epoch = ?", (epoch,)).fetchone()
            if row is not None and row[0] == root_hash and time_ms <= state.time_ms:
                return
            with transaction(self._connection):
                _write_mark(self._mark, (state.term, max(epoch, state.epoch + 1), max(time_ms, state.time_ms)))
            self._check_mark()

    def check_restored(self) -> None:
        """Raises StoreError WITNESS_RESTORED if nothing may be signed from this state."""
        with self._lock:
            self._check_mark()

    def _check_mark(self) -> State:
        """The state, from which it may sign."""
        state = self._state()
        try:
            mark = json.loads(self._mark.read_bytes())
            behind = any(now < then for now, then in zip((state.term, state.epoch, state.time_ms), mark, strict=True))
        except (FileNotFoundError, ValueError):
            behind = True
        if behind:
            raise StoreError(
                "WITNESS_RESTORED",
                "this state is older than what the witness has signed, or its watermark is missing: it needs a new key",
            )
        return state

    def _signed_nothing(self) -> bool:
        row = self._connection.execute("SELECT count(*), max(cosignature) FROM epoch").fetchone()
        return bool(row == (1, None))

    def _raise_mark(self) -> None:
        with transaction(self._connection):  # of several processes the last to write has seen the newest
            state = self._state()
            _write_mark(self._mark, (state.term, state.epoch, state.time_ms))

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()


def _write_mark(path: Path, mark: tuple[int, int, int]) -> None:
    """(term, epoch, time in ms), durable."""
    replace(path, json.dumps(mark).encode())


def init_witness_state(path: Path, root: TrustRoot) -> None:
    """The genesis: a new witness that starts where the trust root does. Done before, alike, it changes nothing.

    Never for a witness whose state was lost: that one gets a new key. Raises StoreError WITNESS_STATE_EXISTS if the
    file holds another genesis.
    """
    connection = connect(path)
    connection.executescript(_SCHEMA)
    with transaction(connection):
        there = connection.execute(
            "SELECT namespace, epoch, root_hash FROM witness, epoch ORDER BY epoch LIMIT 1"
        ).fetchone()
        if there is None:
            connection.execute("INSERT INTO witness VALUES (1, ?, 0)", (root.namespace,))
            start = (root.start_epoch, b"", root.start_root)
            connection.execute("INSERT INTO epoch(epoch, old_root, root_hash, time_ms) VALUES (?, ?, ?, 0)", start)
        elif there != (root.namespace, root.start_epoch, root.start_root):
            raise StoreError("WITNESS_STATE_EXISTS", "this file is the state of another witness")
    connection.close()
