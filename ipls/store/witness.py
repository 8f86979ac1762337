"""What a witness may never forget: the highest epoch it signed, with root, blob and signature, and the highest term.

Guarantees (the directory spec, What a witness does):
- One row an epoch, each the successor of the one before; a root, once in, never changes, whichever key signed it.
- A signature leaves `sign` only after it, its root, its blob and its term have been committed together.
- Terms and times never fall. What is refused changes nothing.
- The first row is the genesis, written by `init_witness_state` alone: a lost database is never taken for a new one.
Every epoch's signature is kept; of the blobs only the newest: older ones are in the audit log. Methods block; each may
be called from any thread and, over one file, from any process.
"""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from ipls.store.errors import StoreError
from ipls.store.log import object_name
from ipls.store.sqlite import connect, transaction
from ipls.trust.limits import MAX_INT
from ipls.trust.root import TrustRoot

_SCHEMA = """
CREATE TABLE IF NOT EXISTS epoch(
    epoch INTEGER PRIMARY KEY, old_root BLOB NOT NULL, root_hash BLOB NOT NULL,
    blob BLOB, cosignature BLOB, time_ms INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS witness(
    one INTEGER PRIMARY KEY CHECK (one = 1), namespace TEXT NOT NULL, term INTEGER NOT NULL);
CREATE TRIGGER IF NOT EXISTS root_is_final BEFORE UPDATE OF epoch, old_root, root_hash ON epoch
    BEGIN SELECT RAISE(ABORT, 'a signed root is never changed'); END;
CREATE TRIGGER IF NOT EXISTS epoch_stays BEFORE DELETE ON epoch
    BEGIN SELECT RAISE(ABORT, 'a signed epoch is never deleted'); END;
"""


class Step(NamedTuple):
    """What a proposal asks to be signed: `new_root` as the root of `epoch`. Roots have 32 bytes."""

    term: int
    epoch: int
    old_root: bytes
    new_root: bytes


class State(NamedTuple):
    """The newest row. `cosignature` is an encoded Cosignature, None before the start has been signed; `blob` is empty
    and `old_root` too at the start; `time_ms` is the time in the newest signature."""

    term: int
    epoch: int
    old_root: bytes
    root_hash: bytes
    blob: bytes
    cosignature: bytes | None
    time_ms: int

    def is_next(self, step: Step) -> bool:
        """Whether `step` is the successor, whose proof is yet to be verified; False if it is the newest epoch again.

        Raises StoreError, for a step that may never be signed whatever its proof: WITNESS_TERM, WITNESS_FORK,
        WITNESS_BEHIND, WITNESS_GAP.
        """
        if step.term < self.term:
            raise StoreError("WITNESS_TERM", f"term {step.term} is below {self.term}, which has signed proposals")
        if (step.epoch, step.new_root) == (self.epoch, self.root_hash):
            return False
        if step.epoch == self.epoch:
            raise StoreError("WITNESS_FORK", f"epoch {step.epoch} has another root here")
        if step.epoch < self.epoch:
            raise StoreError("WITNESS_BEHIND", f"epoch {step.epoch} is below {self.epoch}, the newest here")
        if step.epoch > self.epoch + 1 or step.term > MAX_INT:
            raise StoreError("WITNESS_GAP", f"epoch {step.epoch} is not the successor of {self.epoch}, the newest here")
        if step.old_root != self.root_hash:
            raise StoreError("WITNESS_FORK", f"epoch {step.epoch} does not start from the root of {self.epoch} here")
        return True


class Signed(NamedTuple):
    """An epoch's row: `old_root` is empty at the start, `cosignature` None before the start has been signed."""

    epoch: int
    old_root: bytes
    root_hash: bytes
    cosignature: bytes | None
    time_ms: int

    @property
    def name(self) -> str:
        """Of the audit log's object for this step."""
        return object_name(self.epoch, self.old_root, self.root_hash)


class WitnessStore:
    """One witness of one namespace."""

    def __init__(self, path: Path, namespace: str) -> None:
        """Open what `init_witness_state` made. Raises StoreError WITNESS_NO_GENESIS, WITNESS_OTHER_NAMESPACE."""
        if not path.exists():
            raise StoreError("WITNESS_NO_GENESIS", "this witness has no state; if it had, it needs a new key")
        self._connection = connect(path)
        self._connection.executescript(_SCHEMA)
        self._lock = threading.Lock()
        self._blob = (-1, b"")  # an epoch and its blob, of up to 32 MiB: all readers share one copy
        row = self._connection.execute("SELECT namespace FROM witness").fetchone()
        if row is None:
            raise StoreError("WITNESS_NO_GENESIS", "this witness has no state; if it had, it needs a new key")
        if row[0] != namespace:
            raise StoreError("WITNESS_OTHER_NAMESPACE", "this state is of another namespace")

    def state(self) -> State:
        """The newest row."""
        with self._lock:
            return self._state()

    def _state(self) -> State:
        term, epoch, old_root, root_hash, blob, cosignature, time_ms = self._connection.execute(
            "SELECT term, epoch, old_root, root_hash, iif(epoch = ?, NULL, blob), cosignature, time_ms"
            " FROM witness, epoch ORDER BY epoch DESC LIMIT 1",
            self._blob[:1],
        ).fetchone()
        if epoch != self._blob[0]:
            self._blob = (epoch, blob or b"")
        return State(term, epoch, old_root, root_hash, self._blob[1], cosignature, time_ms)

    def signed(self, epoch: int) -> Signed | None:
        """The row of any epoch since the start, with the newest signature on it."""
        with self._lock:
            row = self._connection.execute(
                "SELECT epoch, old_root, root_hash, cosignature, time_ms FROM epoch WHERE epoch = ?",
                (min(epoch, MAX_INT),),
            ).fetchone()
        return Signed(*row) if row else None

    def sign_start(self, now_ms: int, cosign: Callable[[int, bytes, int], bytes]) -> None:
        """See that the start has a signature, made by `cosign(epoch, root_hash, time_ms)`, durable: it has no proposal.

        Under later epochs it gets the time of the newest signature, so that no check of a head's age counts it longer.
        """
        with self._lock, transaction(self._connection) as connection:
            epoch, root_hash, cosignature = connection.execute(
                "SELECT epoch, root_hash, cosignature FROM epoch ORDER BY epoch LIMIT 1"
            ).fetchone()
            if cosignature is None:
                state = self._state()
                time_ms = max(now_ms, state.time_ms) if state.epoch == epoch else state.time_ms
                connection.execute(
                    "UPDATE epoch SET cosignature = ?, time_ms = ? WHERE epoch = ?",
                    (cosign(epoch, root_hash, time_ms), time_ms, epoch),
                )

    def sign(self, step: Step, blob: bytes, now_ms: int, cosign: Callable[[int], bytes]) -> bytes:
        """The encoded Cosignature on a verified step, or on the newest epoch anew, durable.

        `cosign(time_ms)` makes it, at the later of `now_ms` and the newest signature's time; if it raises, nothing has
        changed. Of racing callers one wins. Raises StoreError as `State.is_next`, judged again inside the transaction.
        """
        with self._lock, transaction(self._connection) as connection:
            state = self._state()
            time_ms = max(now_ms, state.time_ms)
            if state.is_next(step):
                cosignature = cosign(time_ms)
                connection.execute("UPDATE epoch SET blob = NULL WHERE epoch = ?", (state.epoch,))
                connection.execute(
                    "INSERT INTO epoch VALUES (?, ?, ?, ?, ?, ?)",
                    (step.epoch, step.old_root, step.new_root, blob, cosignature, time_ms),
                )
            else:
                cosignature = cosign(time_ms)
                connection.execute(
                    "UPDATE epoch SET cosignature = ?, time_ms = ? WHERE epoch = ?", (cosignature, time_ms, step.epoch)
                )
            connection.execute("UPDATE witness SET term = ?", (step.term,))
        return cosignature

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()


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
            connection.execute("INSERT INTO epoch VALUES (?, ?, ?, NULL, NULL, 0)", start)
        elif there != (root.namespace, root.start_epoch, root.start_root):
            raise StoreError("WITNESS_STATE_EXISTS", "this file is the state of another witness")
    connection.close()
