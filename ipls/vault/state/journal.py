"""The vault's log and its anchor (the vault spec, State). Pure.

An entry says what one write made of one record; entries are a chain. The log alone gives every record again. The
anchor, in the token, says how far the log goes and what it comes down to. Both bear an HMAC by the token's log key.
"""

import hashlib
import struct
from typing import NamedTuple

from google.protobuf.message import DecodeError

from ipls.crypto.encoding import tagged_hash
from ipls.proto.vault.v1.vault_pb2 import HistoryEntry
from ipls.vault.errors import SessionRefused
from ipls.vault.state.trie import EMPTY_ROOT

_STATE = struct.Struct(">QQ32s32sQ32sQ")
_ENTRY = struct.Struct(">Q32s32s32s32sQ32sQ")
_LENGTH = struct.Struct(">I")
NO_RECORD = bytes(32)
"""In the place of a record's digest where there is none."""


class Highest(NamedTuple):
    """The highest directory head that was accepted, and the highest timestamp, ms."""

    epoch: int = 0
    root_hash: bytes = bytes(32)
    timestamp_ms: int = 0

    @property
    def any(self) -> bool:
        """Whether there is a head: whatever root witnesses sign, its time is after 1970."""
        return self.timestamp_ms != 0


class State(NamedTuple):
    """All that the vault holds, summed up: what an anchor says."""

    shard: int
    sequence: int  # of the newest log entry, 0 before the first
    chain_head: bytes  # that entry's hash
    records_root: bytes
    highest: Highest = Highest()

    def encode(self) -> bytes:
        """The anchor's first 128 bytes; its HMAC, over `anchor_digest` of them, follows."""
        return _STATE.pack(*self[:-1], *self.highest)

    @classmethod
    def decode(cls, data: bytes) -> "State":
        """The inverse, of bytes whose HMAC was seen to hold."""
        *fields, epoch, root_hash, timestamp_ms = _STATE.unpack(data)
        return cls._make((*fields, Highest(epoch, root_hash, timestamp_ms)))

    def followed_by(self, entry: "JournalEntry") -> "State":
        """After one more entry. Raises SessionRefused VAULT_LOG_BROKEN if it does not continue the log."""
        if (entry.sequence, entry.previous) != (self.sequence + 1, self.chain_head):
            raise SessionRefused("VAULT_LOG_BROKEN", f"the log is not continued after entry {self.sequence}")
        return State(self.shard, entry.sequence, entry.hash, entry.records_root, entry.highest)


STATE_BYTES = _STATE.size


class JournalEntry(NamedTuple):
    """One write."""

    sequence: int
    previous: bytes  # the hash of the entry before
    key: bytes  # of the record
    before: bytes  # the record's digest in the trie, NO_RECORD where there was none
    records_root: bytes  # after it
    highest: Highest  # after it
    record: bytes  # after it
    use: bytes  # the encoded HistoryEntry that the write adds to the account's history, or b""

    def encode(self) -> bytes:
        """The canonical encoding: the integers u64, then u32 length || record, u32 length || use."""
        header = _ENTRY.pack(*self[:5], *self.highest)
        return b"".join((header, _LENGTH.pack(len(self.record)), self.record, _LENGTH.pack(len(self.use)), self.use))

    @classmethod
    def decode(cls, data: bytes) -> "JournalEntry":
        """The inverse. Raises SessionRefused VAULT_LOG_BROKEN."""
        try:
            *fields, epoch, root_hash, timestamp_ms = _ENTRY.unpack_from(data)
            record, rest = _take(data[_ENTRY.size :])
            use, rest = _take(rest)
        except struct.error as e:
            raise SessionRefused("VAULT_LOG_BROKEN", "a log entry can't be read") from e
        if rest:
            raise SessionRefused("VAULT_LOG_BROKEN", "a log entry can't be read")
        return cls._make((*fields, Highest(epoch, root_hash, timestamp_ms), record, use))

    @property
    def hash(self) -> bytes:
        """How the next entry, or the anchor, names it."""
        return entry_hash(self.encode())

    @property
    def history(self) -> HistoryEntry | None:
        """What it adds to the account's history. Raises SessionRefused VAULT_LOG_BROKEN."""
        try:
            return HistoryEntry.FromString(self.use) if self.use else None
        except DecodeError as e:
            raise SessionRefused("VAULT_LOG_BROKEN", "a log entry can't be read") from e


def _take(data: bytes) -> tuple[bytes, bytes]:
    (length,) = _LENGTH.unpack_from(data)
    end = _LENGTH.size + length
    if len(data) < end:
        raise struct.error
    return data[_LENGTH.size : end], data[end:]


def entry_hash(encoded: bytes) -> bytes:
    """`JournalEntry.hash` of an encoded one."""
    return tagged_hash("ipls/vault/v1 entry", encoded)


def entry_digest(shard: int, encoded: bytes) -> bytes:
    """What an entry's HMAC is over."""
    return tagged_hash("ipls/vault/v1 log", shard, encoded)


def anchor_digest(state: bytes) -> bytes:
    """What an anchor's HMAC is over."""
    return tagged_hash("ipls/vault/v1 anchor", state)


def handoff_digest(handoff: bytes) -> bytes:
    """What a hand-off's HMAC is over."""
    return tagged_hash("ipls/vault/v1 hand-off", handoff)


def first_state(shard: int, nonce: bytes) -> State:
    """The state before the first entry. A random nonce of 32 bytes sets its log apart from any other."""
    return State(shard, 0, tagged_hash("ipls/vault/v1 genesis", shard, nonce), EMPTY_ROOT)


def account_key(label: str) -> bytes:
    """Under which an account's record stands: SHA-256 of its label."""
    return hashlib.sha256(label.encode()).digest()


def other_key(kind: str, *name: int) -> bytes:
    """Under which the vault's other records stand: the head of an epoch, the newest bundle, a piece of evidence."""
    return tagged_hash("ipls/vault/v1 record key", kind, *name)
