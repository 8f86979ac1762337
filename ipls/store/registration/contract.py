"""What every backend of the registration service's store gives; tests/store/registration/test_contract.py holds each
of them to it."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

from ipls.store.errors import StoreRefused
from ipls.units import HOUR_MS

CODE_LIFE_MS = 10 * 60_000
AHEAD_MS = 2 * 60_000
"""A code sent later than so from now was sent by a clock that has been put right since: it holds nobody up."""
ATTEMPTS = 5
KEPT_MS = 24 * HOUR_MS
"""How long after its code's expiry a registration that was let through can still be repeated."""
PEERS = 4
"""A number may have so many times the codes of one peer in an hour, all together."""
REPEATING_PEERS = 2
"""So many times of them are for whoever asks again; the rest is for peers who have had none, a code each."""


class CodeHash(NamedTuple):
    """A salted hash of a code; the code itself is not kept."""

    salt: bytes
    digest: bytes


class RegistrationStore(ABC):
    """Registrations under way: the code's hash, what attempts are left, and the record that was let through.

    - *Atomic and durable*: a method that changes something is one transaction, and has it durable when it returns. One
      that raises StoreRefused has changed nothing; after StoreUnavailable all of it is there or nothing.
    - *No guess for nothing*: an attempt is counted before its code is looked at, so that neither a crash nor many calls
      at once, in whatever processes, give a guess more than ATTEMPTS, or a code more than an hour may have.
    - *Nobody's codes are another's*: a peer (`ipls.rpc.peer`) has `codes_per_hour` to a number, whatever others ask
      for, as long as these are fewer than REPEATING_PEERS, and one until many more have asked; and only its own request
      can be tried, or used up.
    - *Only a code that was sent is good*: one that was not costs its number nothing, and can't be guessed.
    - *One record a request*: of racing callers who approve other records for one request, one succeeds.
    - *Nothing kept longer than needed*: numbers and codes go with a later `begin`, as it says.

    Calls may come from any thread, and over one database from any process. Every method may raise StoreUnavailable and
    StoreDamaged. Times are ms since 1970, by the callers' clocks.
    """

    @abstractmethod
    def close(self) -> None:
        """Give the database back; no call may follow."""

    @abstractmethod
    def check_rate(self, label: str, peer: str, now_ms: int, *, codes_per_hour: int) -> None:
        """Raises StoreRefused CODE_RATE, as `begin` would; before a code is hashed for nothing."""

    @abstractmethod
    def begin(self, request_id: bytes, label: str, peer: str, now_ms: int, *, codes_per_hour: int) -> None:
        """Count a code that is about to be sent, as `peer` asked. `sent` or `not_sent` follows.

        What nobody finished goes an hour after its code expired, what was let through after KEPT_MS, and that a code
        was sent after an hour. Raises StoreRefused REQUEST_ID_REUSED (for another label, or done already), CODE_RATE
        (says when to try again).
        """

    @abstractmethod
    def sent(self, request_id: bytes, label: str, code: CodeHash, now_ms: int) -> None:
        """The code was sent and is good from now on, in the place of the request's last one. Raises StoreRefused
        REQUEST_ID_REUSED as `begin`."""

    @abstractmethod
    def not_sent(self, label: str, peer: str, begun_ms: int) -> None:
        """What `begin` counted then was not sent."""

    @abstractmethod
    def attempt(self, request_id: bytes, label: str, now_ms: int) -> CodeHash:
        """Use up one attempt and return what the code must hash to.

        Raises StoreRefused CODE_NOT_REQUESTED, CODE_EXPIRED, CODE_ATTEMPTS (none left).
        """

    @abstractmethod
    def approve(self, request_id: bytes, record: bytes) -> None:
        """The code was right: bind the request to this record. Raises StoreRefused REQUEST_ID_REUSED if to another.

        From now on no earlier request of the number can be repeated: one that the directory has not had yet would undo
        this one.
        """

    @abstractmethod
    def approved(self, request_id: bytes, label: str) -> bytes | None:
        """The record that the request was approved for, if it was."""


# The rules, for all backends, of the rows that they found.


def judge_begin(known: tuple[str, bytes | None] | None, label: str) -> None:
    """`known`: label and record of the request. Raises StoreRefused REQUEST_ID_REUSED."""
    if known and known != (label, None):
        raise StoreRefused("REQUEST_ID_REUSED", "this request id has been used")


def judge_rate(sent: Sequence[tuple[str, int]], peer: str, now_ms: int, codes_per_hour: int) -> None:
    """`sent`: who asked for the number's codes of the last hour, and when, newest first. Raises StoreRefused
    CODE_RATE."""
    sent = [(other, at_ms) for other, at_ms in sent if at_ms <= now_ms + AHEAD_MS]
    own = [at_ms for other, at_ms in sent if other == peer]
    every = [at_ms for _, at_ms in sent]
    for times, limit in ((own, codes_per_hour), (every, (REPEATING_PEERS if own else PEERS) * codes_per_hour)):
        if len(times) >= limit:
            wait_s = (times[limit - 1] + HOUR_MS - now_ms) / 1000
            raise StoreRefused("CODE_RATE", f"{limit} codes to this number in an hour", retry_after_s=wait_s)


def judge_attempt(row: tuple[int, int, bytes, bytes] | None, now_ms: int) -> CodeHash:
    """`row`: the code's expiry in ms, the attempts left, its salt and digest. Raises as `attempt`."""
    if row is None:
        raise StoreRefused("CODE_NOT_REQUESTED", "no code was asked for in this request")
    expires_ms, attempts_left, salt, digest = row
    if now_ms >= expires_ms:
        raise StoreRefused("CODE_EXPIRED", "the code has expired: ask for another")
    if attempts_left == 0:
        raise StoreRefused("CODE_ATTEMPTS", "too many wrong codes: ask for another")
    return CodeHash(salt, digest)


def judge_approval(row: tuple[bytes | None, str] | None, record: bytes) -> str:
    """`row`: the record that the request is bound to, and its label, which is returned. Raises as `approve`."""
    if row is None or row[0] != record:
        raise StoreRefused("REQUEST_ID_REUSED", "this request registered another key before")
    return row[1]
