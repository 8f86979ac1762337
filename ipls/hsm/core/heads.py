"""The directory heads that the vault judges by (the vault spec, Policy), and with them its clock."""

import hashlib
import struct
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from ipls.clock import system_now_ms
from ipls.crypto.errors import VerificationError
from ipls.hsm.state.store import StateStore
from ipls.proto.trust.v1.evidence_pb2 import Evidence
from ipls.proto.witness.v1.head_pb2 import SignedHead
from ipls.store.evidence import MAX_FILES
from ipls.trust.errors import HeadRefused
from ipls.trust.evidence import contradiction, encode, from_heads, says_more
from ipls.trust.heads import quorum_timestamp, verify_head
from ipls.trust.root import TrustRoot
from ipls.vault.account import Times
from ipls.vault.errors import SessionRefused
from ipls.vault.state.journal import Highest, other_key

MAX_SIGNED_HEAD = 16 * 1024
"""Bytes: room for 64 signatures. The head goes out in every m2, which must stay a frame whatever a client hands in."""
MAX_JUDGED = 256
"""Heads of which is remembered what came of them: whoever hands in the same bytes again has no signature verified."""
JUDGED_FOR_MS = 60_000
"""For so long: with time a head may be judged otherwise."""

_TIMESTAMP = struct.Struct(">Q")


class _Accepted(NamedTuple):
    """An accepted head, and the time (ms) that a quorum of its signatures reaches."""

    signed: SignedHead
    timestamp_ms: int

    def encode(self) -> bytes:
        return _TIMESTAMP.pack(self.timestamp_ms) + self.signed.SerializeToString()

    @classmethod
    def decode(cls, record: bytes) -> "_Accepted":
        return cls(SignedHead.FromString(record[_TIMESTAMP.size :]), *_TIMESTAMP.unpack_from(record))


class HeadKeeper:
    """Accepts heads durably, never one below the highest, never two roots for one epoch. For works of the state
    store."""

    def __init__(
        self,
        root: TrustRoot,
        state_store: StateStore,
        host_clock: Callable[[], int] = system_now_ms,
        tell: Callable[[Evidence], None] = lambda evidence: None,
    ) -> None:
        """`tell` is called with evidence once it is kept, in the state store's thread."""
        self._root = root
        self._state_store = state_store
        self._host_clock = host_clock
        self._tell = tell
        self._newest: _Accepted | None = None
        self._verified = b""  # the record of the head whose signatures were found to hold under this root
        self._judged: dict[bytes, VerificationError | None] = {}  # by a head's hash; None: it was taken, or left
        self._judged_from_ms = 0

    def now_ms(self) -> int:
        """The later of the host's clock and the highest timestamp ever accepted: a host can't turn it back."""
        return max(self._host_clock(), self._state_store.highest.timestamp_ms)

    def times(self) -> Times:
        """By which accounts are judged."""
        return Times(self.now_ms(), self._state_store.highest.timestamp_ms)

    def offer(self, signed: SignedHead) -> None:
        """Accepts `signed` if it is newer than the newest accepted; one that is not is checked and left.

        Raises VerificationError as `verify_head`; HeadRefused HEAD_FORK if its epoch was accepted with another root.
        Of a witness that signed both, quorum or not, the evidence is kept first. The same bytes have the same outcome
        for a while, without a look at their signatures.
        """
        if signed.ByteSize() > MAX_SIGNED_HEAD:
            raise HeadRefused("HEAD_ENCODING", f"a signed head over {MAX_SIGNED_HEAD} bytes")
        now_ms = self.now_ms()
        if abs(now_ms - self._judged_from_ms) >= JUDGED_FOR_MS:
            self._judged, self._judged_from_ms = {}, now_ms
        name = hashlib.sha256(signed.SerializeToString(deterministic=True)).digest()
        if name in self._judged:
            if (known := self._judged[name]) is not None:
                raise known.with_traceback(None)
            return
        try:
            self._judge(signed, now_ms)
        except VerificationError as refused:
            self._state_store.on_commit(partial(self._remember, name, refused))
            raise
        self._state_store.on_commit(partial(self._remember, name, None))

    def _remember(self, name: bytes, outcome: VerificationError | None) -> None:
        self._judged[name] = outcome
        if len(self._judged) > MAX_JUDGED:
            del self._judged[next(iter(self._judged))]

    def _judge(self, signed: SignedHead, now_ms: int) -> None:
        accepted = self._accepted(signed.epoch)
        if accepted is not None:
            self._keep(from_heads(self._root, accepted.signed, signed))
        # Without its age: a head of the past is no use but proves a fork as well as any.
        head = verify_head(self._root, signed, now_ms=now_ms, check_age=False)
        highest = self._state_store.highest
        seen = accepted.signed.root_hash if accepted else highest.root_hash if highest.epoch == head.epoch else None
        if highest.any and seen not in (None, head.root_hash):
            raise HeadRefused("HEAD_FORK", f"the witnesses signed two roots for epoch {head.epoch}")
        if highest.any and head.epoch < highest.epoch:
            return
        try:
            timestamp_ms = quorum_timestamp(self._root, signed, now_ms=now_ms)
        except HeadRefused:
            if accepted is not None:
                return  # the same head as ours with signatures too old to be worth keeping
            raise
        if accepted is None or timestamp_ms > accepted.timestamp_ms:
            newest = _Accepted(signed, timestamp_ms)
            self._state_store.put(
                other_key("head", head.epoch),
                newest.encode(),
                highest=Highest(*head, max(timestamp_ms, highest.timestamp_ms)),
            )
            self._go_by(newest)

    def _accepted(self, epoch: int) -> _Accepted | None:
        """What is kept of this epoch's head. One whose record was edited is written anew: of the highest the anchor
        has the root, and the others are not judged by."""
        try:
            record = self._state_store.get(other_key("head", epoch))
        except SessionRefused:
            return None
        return _Accepted.decode(record) if record else None

    def _keep(self, met: list[Evidence]) -> None:
        """What says more than what is kept, so that nobody's hides another's."""
        for evidence in met:
            kept = self._evidence()
            others = [contradiction(other) for other in kept.values() if other]
            if len(kept) < MAX_FILES and says_more(contradiction(evidence), others):
                self._state_store.put(other_key("evidence", len(kept)), encode(evidence))
            self._state_store.on_commit(partial(self._tell, evidence))

    def evidence(self) -> list[Evidence]:
        """All that is kept, without what was edited."""
        return [evidence for evidence in self._evidence().values() if evidence is not None]

    def _evidence(self) -> dict[int, Evidence | None]:
        """By number, from 0 on; None for what was edited."""
        kept: dict[int, Evidence | None] = {}
        for number in range(MAX_FILES):  # a database may say of any number that there is one
            try:
                record = self._state_store.get(other_key("evidence", number))
            except SessionRefused:
                kept[number] = None
                continue
            if record is None:
                break
            kept[number] = Evidence.FromString(record)
        return kept

    def judge_by(self, client_head: SignedHead | None = None) -> SignedHead:
        """The head to judge by now: the higher of the vault's own and the client's, of accepted age.

        Raises SessionRefused VAULT_NO_HEAD before the first head, VerificationError for a head that does not hold.
        """
        if client_head is not None:
            self.offer(client_head)
        highest = self._state_store.highest
        if not highest.any:
            raise SessionRefused("VAULT_NO_HEAD", "the vault has seen no head of the directory yet")
        record = self._state_store.get(other_key("head", highest.epoch))
        assert record
        newest = _Accepted.decode(record)
        now_ms = self.now_ms()
        if record != self._verified:
            verify_head(self._root, newest.signed, now_ms=now_ms)
            self._verified = record
        self._check_age(newest, now_ms)
        self._go_by(newest)
        return newest.signed

    def _go_by(self, newest: _Accepted) -> None:
        def go_by() -> None:
            self._newest = newest

        self._state_store.on_commit(go_by)

    def standing(self) -> int:
        """The epoch of the newest head that is durable, once one was judged by; from any thread.

        Raises HeadRefused HEAD_TOO_OLD, TrustRootRefused where it may not be judged by any more.
        """
        assert self._newest
        self._check_age(self._newest, self.now_ms())
        return self._newest.signed.epoch

    def _check_age(self, newest: _Accepted, now_ms: int) -> None:
        if newest.timestamp_ms < now_ms - self._root.max_head_age_ms:
            raise HeadRefused("HEAD_TOO_OLD", "the newest head is older than the maximum head age")
        self._root.check_expiry(now_ms)
