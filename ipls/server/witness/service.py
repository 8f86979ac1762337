"""The witness: reads each epoch in the public log, verifies that it only appended, makes that durable, then signs it
(the directory spec, What a witness does)."""

import asyncio
import contextlib
import hashlib
from collections.abc import Callable
from typing import Any, NoReturn

import structlog

from ipls.akd import AkdError, verify_append_only
from ipls.auditlog.errors import AuditError
from ipls.auditlog.names import object_name
from ipls.clock import system_now_ms
from ipls.crypto.errors import VerificationError
from ipls.errors import IplsError
from ipls.http.client import HttpTooLarge, HttpUnavailable
from ipls.http.public_log import PublicReader
from ipls.proto.witness.v1.head_pb2 import Cosignature, SignedHead
from ipls.proto.witness.v1.witness_pb2 import (
    GetStateRequest,
    GetStateResponse,
    Proposal,
    ProposeRequest,
    ProposeResponse,
    Refusal,
    SignedProposal,
    WitnessState,
)
from ipls.proto.witness.v1.witness_pb2_grpc import WitnessServiceServicer
from ipls.rpc.errors import ServiceError
from ipls.rpc.peer import peer_of
from ipls.runtime.executors import FairExecutor
from ipls.runtime.tasks import TaskScope
from ipls.server.witness.evidence import EvidenceRecorder
from ipls.server.witness.follower import LogFollower
from ipls.server.witness.keys import KeyExpired, WitnessKeys
from ipls.store.errors import StoreError, StoreRefused
from ipls.store.evidence import EvidenceFolder
from ipls.store.witness import ProposedEpoch, Signed, State, WitnessStore
from ipls.trust.heads import Head
from ipls.trust.limits import MAX_APART_MS, MAX_BLOB, MAX_INT
from ipls.trust.proposals import verify_proposal
from ipls.trust.root import TrustRoot

log = structlog.get_logger()


MAX_SHOWN = 128
"""Looks at the state, for whoever asks, that wait for their thread."""
MAX_ANSWERS = 64
"""Proposals that are being answered: a directory has one on its way, or a few after a failover."""
PAUSE_S = 0.2
"""Between two looks at the log, whoever asks for them."""


class _Refused(IplsError):
    """A proposal that is not signed."""


class WitnessService(WitnessServiceServicer):
    """One witness of the trust root's namespace, with the keys that lie here.

    Only proposals by the pinned proposal key cost it more than a signature check: anyone can build a valid successor
    from the public blobs, and would leave it stuck there. What they propose it reads in the log itself, one object at a
    time. One that finds it behind, or on another root, makes it look at the log.
    """

    def __init__(
        self,
        root: TrustRoot,
        keys: WitnessKeys,
        store: WitnessStore,
        public: PublicReader,
        evidence: EvidenceFolder,
        now_ms: Callable[[], int] = system_now_ms,
        *,
        follower: bool = False,
    ) -> None:
        self._keys = keys
        self._root = root
        self._store = store
        self._public = public
        self._recorder = EvidenceRecorder(root, store, evidence)
        self.follower = LogFollower(root, keys, store, public, self._recorder, now_ms, follower=follower)
        self._now_ms = now_ms
        self._scope = TaskScope()
        self._showing = FairExecutor("states", 1, MAX_SHOWN)  # signing waits for nobody who asks
        self._answers: dict[bytes, asyncio.Task[ProposeResponse]] = {}
        self._signed: tuple[bytes, ProposeResponse] | None = None
        self._judging = asyncio.Lock()
        self._behind = asyncio.Event()
        self._hint: SignedHead | None = None

    async def Propose(self, request: ProposeRequest, context: Any) -> ProposeResponse:
        """A cosignature, or a refusal that changes nothing. SERVICE_BUSY.

        The very proposal that was signed last, or that is being answered, gets the same answer; a caller that goes ends
        nothing.
        """
        request.DiscardUnknownFields()
        asked = request.proposal.SerializeToString(deterministic=True)
        if self._signed and asked == self._signed[0]:
            return self._signed[1]
        try:
            proposal = self._read(request)
        except _Refused as e:
            return _refusal(request.proposal.proposal.epoch, e)
        if asked not in self._answers:
            if len(self._answers) >= MAX_ANSWERS:
                raise ServiceError("SERVICE_BUSY", f"{MAX_ANSWERS} proposals are being answered", retry_after_s=1)
            self._answers[asked] = self._scope.start("answer a proposal", self._answer(proposal, asked, request.head))
            self._answers[asked].add_done_callback(lambda _: self._answers.pop(asked))
        return await asyncio.shield(self._answers[asked])

    def _read(self, request: ProposeRequest) -> Proposal:
        """The proposal, if it is the directory's: all that a stranger's costs."""
        try:
            proposal = verify_proposal(self._root.proposal_key, request.proposal)
        except VerificationError as e:
            raise _Refused("PROPOSAL_UNSIGNED", f"not signed by the pinned proposal key: {e.message}") from e
        if proposal.namespace != self._root.namespace:
            raise _Refused("WITNESS_OTHER_NAMESPACE", "this witness does not serve that namespace")
        if max(proposal.term, proposal.epoch) > MAX_INT or proposal.blob_size > MAX_BLOB:
            raise _Refused("PROPOSAL_INVALID", "term, epoch or size is out of range")
        apart_ms = proposal.time_ms - self._now_ms()
        if abs(apart_ms) > MAX_APART_MS:  # as those of the past are, which anyone can have and send again
            raise _Refused("CLOCK_APART", f"the directory's clock is {apart_ms / 1000:+.0f} s from this witness's")
        return proposal

    async def _answer(self, proposal: Proposal, asked: bytes, head: SignedHead) -> ProposeResponse:
        step = ProposedEpoch(proposal.term, proposal.epoch, proposal.old_root, proposal.new_root, asked)
        try:
            await self._admit(step, head)
            cosignature = await self._judge(proposal, step)
        except _Refused as e:
            return _refusal(step.epoch, e)
        log.info("signed", epoch=step.epoch)
        self._signed = (asked, ProposeResponse(cosignature=Cosignature.FromString(cosignature)))
        return self._signed[1]

    async def _admit(self, step: ProposedEpoch, head: SignedHead) -> None:
        """See whether its object is worth reading."""
        await asyncio.to_thread(self._recorder.proposal, SignedProposal.FromString(step.proposal))
        await asyncio.to_thread(self._recorder.head, head)
        try:
            await asyncio.to_thread(self.follower.check_own, head)
            await self._is_next(step)
        except StoreRefused as e:
            if e.reason in ("WITNESS_GAP", "WITNESS_FORK"):
                self._hint = head
                self._behind.set()
            raise _Refused(e.reason, str(e)) from e

    async def _is_next(self, step: ProposedEpoch) -> bool:
        """Raises StoreRefused."""
        return (await asyncio.to_thread(self._store.state)).is_next(step)

    def poll(self) -> None:
        """Catch up once, with the head of the proposal that found this witness behind, too. Raises as CatchUp.look."""
        self.follower.poll(self._hint)

    async def catch_up(self, every_s: float) -> NoReturn:
        """Follow the log until cancelled: when a proposal finds this witness behind, and every `every_s` seconds."""
        while True:
            self._behind.clear()
            try:
                await asyncio.to_thread(self.poll)
            except (AuditError, StoreError, VerificationError) as e:
                log.warning("not caught up", reason=e.reason, why=str(e))
            except OSError as e:  # a full disk
                log.warning("not caught up", reason="DATABASE_UNAVAILABLE", why=type(e).__name__)
            await asyncio.sleep(PAUSE_S)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(every_s):
                    await self._behind.wait()

    async def _judge(self, proposal: Proposal, step: ProposedEpoch) -> bytes:
        """The encoded Cosignature, durable."""
        async with self._judging:
            head = Head(step.epoch, step.new_root)
            try:
                if await self._is_next(step):
                    await asyncio.to_thread(self._verify, proposal)
                return await asyncio.to_thread(
                    self._store.sign, step, self._now_ms(), lambda at_ms: self._keys.cosign(head, at_ms)
                )
            except (StoreRefused, KeyExpired) as e:
                raise _Refused(e.reason, e.message) from e

    def _verify(self, proposal: Proposal) -> None:
        """Read the epoch's object in the log, where anyone can, and check that it is the proposal's and its proof."""
        name = object_name(proposal.epoch, proposal.old_root, proposal.new_root)
        try:
            blob = self._public.try_object(name, proposal.blob_size)
        except HttpUnavailable as e:
            raise _Refused("LOG_OBJECT_MISSING", f"the log does not answer ({e})") from e
        except HttpTooLarge as e:
            raise _Refused("PROPOSAL_BLOB_MISMATCH", "the log's object is longer than the one that was signed") from e
        if blob is None:
            raise _Refused("LOG_OBJECT_MISSING", "the log has no object for this step")
        if hashlib.sha256(blob).digest() != proposal.blob_sha256 or len(blob) != proposal.blob_size:
            raise _Refused("PROPOSAL_BLOB_MISMATCH", "the log's object is not the one that was signed")
        try:
            verify_append_only(proposal.old_root, proposal.new_root, proposal.epoch, blob)
        except AkdError as e:
            raise _Refused("WITNESS_PROOF_REFUSED", f"the epoch does not only append: {e.reason}") from e

    def close(self) -> None:
        """End its thread; no call may follow."""
        self._showing.close()

    async def stop(self) -> None:
        """Let a look at the log end soon, and no answer be waited for."""
        self.follower.stop()
        await self._scope.close()

    def sign_start(self) -> None:
        """See that the start is signed: auditors check the first epoch with the signature of the one before it.

        A witness that may not sign any more leaves it.
        """
        with contextlib.suppress(StoreRefused):
            self._store.sign_start(
                lambda epoch, root_hash, at_ms: self._keys.cosign_late(Head(epoch, root_hash), at_ms, self._now_ms())
            )

    async def GetState(self, request: GetStateRequest, context: Any) -> GetStateResponse:
        """The newest epoch, from which it goes on; or an earlier one, as it signed it.

        WITNESS_OTHER_NAMESPACE, EPOCH_UNKNOWN.
        """
        if request.namespace != self._root.namespace:
            raise ServiceError("WITNESS_OTHER_NAMESPACE", "this witness does not serve that namespace")
        peer = peer_of(context)
        state = await self._showing.run(peer, self._store.state)
        row: State | Signed | None = state
        if request.HasField("epoch") and (request.epoch != state.epoch or state.head is not None):
            row = await self._showing.run(peer, self._store.signed, request.epoch)
        if row is None:
            raise ServiceError("EPOCH_UNKNOWN", f"epoch {request.epoch} was not signed here")
        message = WitnessState(term=state.term, epoch=row.epoch, root_hash=row.root_hash, old_root=row.old_root)
        if row.cosignature is not None:
            message.cosignature.ParseFromString(row.cosignature)
        if row.proposal:
            message.proposal.ParseFromString(row.proposal)
        if row is state and state.head is not None:
            message.head.ParseFromString(state.head)
        return GetStateResponse(state=message)


def _refusal(epoch: int, refused: _Refused) -> ProposeResponse:
    log.warning("refused", epoch=epoch, reason=refused.reason)
    return ProposeResponse(refusal=Refusal(reason=refused.reason, message=str(refused)))
