"""What the vault's core keeps: accounts, the heads that it accepted, evidence of forks."""

import fcntl
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from ipls.proto.witness.v1.head_pb2 import SignedHead
from ipls.session.account import Account
from ipls.store.sqlite import connect, transaction

_SCHEMA = """
CREATE TABLE IF NOT EXISTS accounts (label_hash BLOB PRIMARY KEY, leaf BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS heads (
    epoch INTEGER PRIMARY KEY, root_hash BLOB NOT NULL, signed BLOB NOT NULL, timestamp_ms INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS evidence (
    epoch INTEGER NOT NULL, root_hash BLOB NOT NULL, signed BLOB NOT NULL, PRIMARY KEY (epoch, root_hash)
);
"""

_T = TypeVar("_T")


class VaultStore:
    """The contract, of which the core is the only user and the only writer:

    - Each method is one transaction: all of it or nothing. What a method has returned from survives a power loss.
    - An account is read and replaced in the same transaction, so two operations on it never interleave.
    - Of an epoch only the first accepted root is ever in `heads`; the highest epoch and timestamp never fall.
    - Evidence is only added to.
    - One process has it open; a second waits until the first has closed it or died.
    - Calls come from one thread at a time. Verifying what is stored is the caller's business.
    """

    def __init__(self, path: Path) -> None:
        self._lock = path.with_name(path.name + ".lock").open("w")
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self._connection = connect(path)
        self._connection.executescript(_SCHEMA)

    def close(self) -> None:
        self._connection.close()
        self._lock.close()

    def change(self, label: str, operation: Callable[[Account | None], tuple[Account, _T]]) -> _T:
        """Replaces an account by what `operation` makes of it and returns its result, once the account is durable.

        Whatever `operation` raises comes out, the account then stays as it was.
        """
        label_hash = hashlib.sha256(label.encode()).digest()
        with transaction(self._connection) as c:
            row = c.execute("SELECT leaf FROM accounts WHERE label_hash = ?", (label_hash,)).fetchone()
            account, result = operation(Account.decode(row[0]) if row else None)
            c.execute("INSERT OR REPLACE INTO accounts VALUES (?, ?)", (label_hash, account.encode()))
        return result

    def newest_head(self) -> tuple[SignedHead, int] | None:
        """The accepted head of the highest epoch, and the time (ms) that a quorum of its signatures reaches."""
        row = self._connection.execute("SELECT signed, timestamp_ms FROM heads ORDER BY epoch DESC LIMIT 1").fetchone()
        return (SignedHead.FromString(row[0]), row[1]) if row else None

    def highest_timestamp(self) -> int:
        """Of all heads accepted, ms; 0 before the first."""
        return int(self._connection.execute("SELECT coalesce(max(timestamp_ms), 0) FROM heads").fetchone()[0])

    def root_at(self, epoch: int) -> bytes | None:
        """The root hash accepted for an epoch, None if none was."""
        row = self._connection.execute("SELECT root_hash FROM heads WHERE epoch = ?", (epoch,)).fetchone()
        return row[0] if row else None

    def accept_head(self, signed: SignedHead, timestamp_ms: int) -> None:
        """Adds a head, or replaces an accepted one of the same epoch and root by one that is signed anew."""
        with transaction(self._connection) as c:
            c.execute(
                "INSERT INTO heads VALUES (?, ?, ?, ?) ON CONFLICT (epoch) DO UPDATE"
                " SET signed = excluded.signed, timestamp_ms = max(timestamp_ms, excluded.timestamp_ms)"
                " WHERE root_hash = excluded.root_hash",
                (signed.epoch, signed.root_hash, signed.SerializeToString(), timestamp_ms),
            )

    def keep_evidence(self, signed: SignedHead) -> None:
        """Keeps a head whose signatures hold and whose epoch has another root in `heads`."""
        with transaction(self._connection) as c:
            c.execute(
                "INSERT OR IGNORE INTO evidence VALUES (?, ?, ?)",
                (signed.epoch, signed.root_hash, signed.SerializeToString()),
            )

    def evidence(self) -> list[tuple[SignedHead, SignedHead]]:
        """Each fork seen: the head accepted and the other one, both with their signatures."""
        rows = self._connection.execute(
            "SELECT heads.signed, evidence.signed FROM evidence JOIN heads USING (epoch) ORDER BY epoch"
        )
        return [(SignedHead.FromString(ours), SignedHead.FromString(theirs)) for ours, theirs in rows]
