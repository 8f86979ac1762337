"""How a witness catches up by itself: from the public log, up to a head that a quorum of the others signed.

Nothing that the log says is signed before all of it, from the witness's newest epoch to that head, has been verified:
each leaf commits to its epoch, so only one chain of proofs leads there. What others make of the public blobs, valid or
not, leads to no quorum's root. The steps verified so far are durable; a witness that is stopped goes on with the rest.
Blocking: for a thread.

Tested by tests/attack/test_catching_up.py and tests/attack/test_following.py.
"""

from collections.abc import Callable

import structlog
from google.protobuf.message import Message

from ipls.auditlog.chain import check_proof
from ipls.auditlog.cosignatures import parse_cosignature, quorum_head, signed_heads
from ipls.auditlog.errors import AuditFault, AuditUnavailable, CosignatureInvalid
from ipls.auditlog.listing import LogObject
from ipls.crypto.errors import VerificationError
from ipls.http.client import HttpUnavailable
from ipls.http.public_log import PublicReader
from ipls.proto.witness.v1.head_pb2 import SignedHead
from ipls.server.witness.evidence import EvidenceRecorder
from ipls.server.witness.keys import WitnessKeys
from ipls.store.witness import WitnessStore
from ipls.trust.heads import Head, check_cosignature, quorum_timestamp, signers
from ipls.trust.limits import MAX_BLOB, MAX_COSIGNATURES, MAX_INT
from ipls.trust.root import TrustRoot, Witness

log = structlog.get_logger()

MAX_LOST = 1000
"""Epochs, from the newest down, in which another root than the quorum's may have been signed."""


class LogFollower:
    """Of one witness; a `follower` makes its newest signature as young as the quorum's."""

    def __init__(
        self,
        root: TrustRoot,
        keys: WitnessKeys,
        store: WitnessStore,
        public: PublicReader,
        recorder: EvidenceRecorder,
        now_ms: Callable[[], int],
        *,
        follower: bool = False,
    ) -> None:
        self._root = root
        self._keys = keys
        self._store = store
        self._public = public
        self._recorder = recorder
        self._now_ms = now_ms
        self._follower = follower
        self._stopped = False

    def poll(self, hint: SignedHead | None = None) -> None:
        """Catch up with the highest head that a quorum signed, of `hint` (unchecked) and those that witnesses show.

        Raises AuditError if the log does not lead there, or does not answer; StoreRefused WITNESS_RESTORED.
        """
        self._store.check_restored()
        head = self._highest(hint)
        if head is None:
            return
        state = self._store.state()
        reached_ms = quorum_timestamp(self._root, head, now_ms=self._now_ms(), check_age=False)
        if self._follower and reached_ms < state.time_ms:
            return  # times never fall: until that head is signed anew
        if (head.epoch, head.root_hash) != (state.epoch, state.root_hash):
            self._fetch(head)
            while self._store.sign_pulled(_encode(head), self._sign_late):
                self._check_running()
            log.info("caught up", epoch=head.epoch)
        if self._follower:
            self._store.renew(
                head.root_hash, reached_ms, lambda at_ms: self._keys.cosign(Head(head.epoch, head.root_hash), at_ms)
            )

    def stop(self) -> None:
        """Let a look that runs in another thread end soon."""
        self._stopped = True
        self._public.end()

    def _check_running(self) -> None:
        if self._stopped:
            raise AuditUnavailable("AUDIT_STOPPED", "the witness is stopping")

    def _sign_late(self, epoch: int, root_hash: bytes, last_ms: int) -> tuple[int, bytes]:
        return self._keys.cosign_late(Head(epoch, root_hash), last_ms, self._now_ms())

    def check_own(self, head: SignedHead) -> None:
        """Raises StoreRefused WITNESS_RESTORED if a head has a signature of this witness's own that it does not know,
        or if that was so before."""
        self._store.check_restored()
        for cosignature in head.cosignatures[:MAX_COSIGNATURES]:
            if cosignature.public_key in [key.public_key for key in self._keys.witness.keys]:
                try:
                    _, time_ms = check_cosignature(
                        self._root, self._root.namespace, Head(head.epoch, head.root_hash), cosignature, 0, MAX_INT
                    )
                except VerificationError:
                    continue
                self._store.saw(head.epoch, head.root_hash, time_ms)

    def _highest(self, hint: SignedHead | None) -> SignedHead | None:
        """A quorum's head at or above the newest epoch here; None if there is none."""
        newest = self._store.state().epoch
        shown = {epoch for witness in self._root.witnesses if (epoch := self._newest(witness)) >= newest}
        if hint is not None and hint.epoch >= max({newest, *shown}) and self._is_quorums(hint):
            return hint
        for epoch in sorted(shown, reverse=True):
            answers = self._public.answers(epoch)
            for head in signed_heads(self._root, epoch, answers, self._now_ms()):
                self._recorder.head(head)
            self._check_own_signature(epoch, answers.get(self._keys.witness.name))
            if quorums := quorum_head(self._root, epoch, answers, self._now_ms()):
                return quorums
        return hint if hint is not None and hint.epoch >= newest and self._is_quorums(hint) else None

    def _newest(self, witness: Witness) -> int:
        try:
            head = self._public.newest(witness)
        except HttpUnavailable:
            return -1
        if head is None:
            return -1
        self._recorder.head(head)
        return head.epoch

    def _check_own_signature(self, epoch: int, answer: bytes | None) -> None:
        """What this witness's own address shows: another process with the same keys, if it is not this one."""
        if answer is None:
            return
        try:
            verified = parse_cosignature(self._root, self._keys.witness, epoch, answer, self._now_ms())
        except CosignatureInvalid:
            return
        self._store.saw(epoch, verified.root_hash, verified.time_ms)

    def _is_quorums(self, head: SignedHead) -> bool:
        try:
            signers(self._root, head, now_ms=self._now_ms(), check_age=False)
        except VerificationError:
            return False
        return len(head.root_hash) == 32 and head.epoch <= MAX_INT

    def _fetch(self, head: SignedHead) -> None:
        """Verify every step up to the head, and keep it."""
        waiting = self._store.fetched()
        if waiting is not None and waiting.last > head.epoch:
            self._store.drop_fetched()
            waiting = None
        if waiting is None:
            epoch = self._first(head)
            root_hash = self._store.root_of(epoch - 1)
            self._store.drop_fetched()
        else:
            epoch, root_hash = waiting.last + 1, waiting.root_hash
        for number in range(epoch, head.epoch + 1):
            self._check_running()
            step = self._step(number)
            if step.old_root != root_hash:
                self._store.drop_fetched()
                raise AuditFault("AUDIT_CHAIN_BROKEN", "it does not start where the one before it ended", number)
            check_proof(step, self._public.object(step, MAX_BLOB))
            self._store.keep_fetched(number, step.old_root, step.new_root)
            root_hash = step.new_root
        if root_hash != head.root_hash:
            self._store.drop_fetched()
            raise AuditFault("AUDIT_FORK", "the log ends in another root than the one that a quorum signed", head.epoch)

    def _first(self, head: SignedHead) -> int:
        """The epoch from which the log's steps lead from a root here to the head."""
        newest = self._store.state().epoch
        first = newest + 1
        if head.epoch == newest or self._step(first).old_root != self._store.root_of(newest):
            first = newest  # or lower: there, another root than the quorum's was signed
            lowest = max(self._root.start_epoch, newest - MAX_LOST)
            while first > lowest and self._step(first).old_root != self._store.root_of(first - 1):
                first -= 1
            if first == lowest:
                raise AuditFault("AUDIT_CHAIN_BROKEN", "the log does not start from any root that is here", first)
        return first

    def _step(self, epoch: int) -> LogObject:
        step = self._public.step(epoch)
        if step is None:
            raise AuditUnavailable("AUDIT_HOLE", "the log has no object for it", epoch)
        return step


def _encode(message: Message) -> bytes:
    return message.SerializeToString(deterministic=True)
