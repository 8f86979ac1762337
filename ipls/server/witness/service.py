"""The witness: verifies that each epoch only appended, makes that durable, then signs it (the directory spec, What a
witness does)."""

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Callable
from typing import Any, NoReturn

import structlog

from ipls.akd import AkdError, verify_append_only
from ipls.auditlog.errors import AuditError
from ipls.clock import system_now_ms
from ipls.crypto.errors import VerificationError
from ipls.errors import IplsError
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
from ipls.rpc.channel import CHUNK, chunks
from ipls.rpc.errors import ServiceError
from ipls.server.witness.evidence import EvidenceRecorder
from ipls.server.witness.follower import LogFollower
from ipls.server.witness.keys import KeyExpired, WitnessKeys
from ipls.store.errors import StoreError, StoreRefused
from ipls.store.evidence import EvidenceFolder
from ipls.store.witness import ProposedEpoch, Signed, State, WitnessStore
from ipls.trust.heads import Head
from ipls.trust.limits import MAX_BLOB, MAX_INT
from ipls.trust.proposals import verify_proposal
from ipls.trust.root import TrustRoot

log = structlog.get_logger()


IDLE_S = 900.0
"""How long a stream may stay without a proposal: the directory signs a quiet head anew more often."""
BLOB_S = 120.0
"""How long a proposal's blob may be on its way."""
MAX_STREAMS = 64
PAUSE_S = 0.2
"""Between two looks at the log, whoever asks for them."""


class _Refused(IplsError):
    """A proposal that is not signed; its stream goes on."""


class WitnessService(WitnessServiceServicer):
    """One witness of the trust root's namespace, with the keys that lie here.

    Only proposals by the pinned proposal key cost it more than a signature check: anyone can build a valid successor
    from the public blobs, and would leave it stuck there. They are judged one at a time. One that finds it behind, or
    on another root, makes it look at the log.
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
        self._recorder = EvidenceRecorder(root, store, evidence)
        self.follower = LogFollower(root, keys, store, public, self._recorder, now_ms, follower=follower)
        self._now_ms = now_ms
        self._judging = asyncio.Lock()
        self._streams = 0
        self._behind = asyncio.Event()
        self._hint: SignedHead | None = None

    async def Propose(self, requests: AsyncIterator[ProposeRequest], context: Any) -> AsyncIterator[ProposeResponse]:
        """Each proposal is answered in order, by a cosignature or by a refusal that changes nothing."""
        if self._streams >= MAX_STREAMS:
            raise ServiceError("PROPOSAL_STREAMS", f"{MAX_STREAMS} streams are open")
        self._streams += 1
        try:
            while (request := await _next(requests, IDLE_S)) is not None:
                yield await self._answer(request, requests)
        finally:
            self._streams -= 1

    async def _answer(self, request: ProposeRequest, requests: AsyncIterator[ProposeRequest]) -> ProposeResponse:
        if request.WhichOneof("part") != "proposal":
            raise _broken("a blob comes after its proposal")
        signed = request.proposal
        if signed.blob_size > MAX_BLOB:
            raise _broken(f"a blob has at most {MAX_BLOB} bytes")
        try:
            step = await self._admit(signed)
        except _Refused as e:
            async for _ in _blob(requests, signed.blob_size):
                pass  # unread: it was sent before we could refuse
            return _refusal(signed.proposal.epoch, e)
        blob = b"".join([chunk async for chunk in _blob(requests, signed.blob_size)])
        try:
            cosignature = await self._judge(signed.proposal, step, blob)
        except _Refused as e:
            return _refusal(step.epoch, e)
        log.info("signed", epoch=step.epoch)
        return ProposeResponse(cosignature=Cosignature.FromString(cosignature))

    async def _admit(self, signed: SignedProposal) -> ProposedEpoch:
        """The step, if its blob is worth reading."""
        try:
            proposal = verify_proposal(self._root.proposal_key, signed)
        except VerificationError as e:
            raise _Refused("PROPOSAL_UNSIGNED", f"not signed by the pinned proposal key: {e.message}") from e
        if proposal.namespace != self._root.namespace:
            raise _Refused("WITNESS_OTHER_NAMESPACE", "this witness does not serve that namespace")
        if max(proposal.term, proposal.epoch) > MAX_INT:
            raise _Refused("PROPOSAL_INVALID", "term or epoch is out of range")
        step = ProposedEpoch(proposal.term, proposal.epoch, proposal.old_root, proposal.new_root, _without_head(signed))
        await asyncio.to_thread(self._recorder.proposal, signed)
        await asyncio.to_thread(self._recorder.head, signed.head)
        try:
            await asyncio.to_thread(self.follower.check_own, signed.head)
            await self._is_next(step)
        except StoreRefused as e:
            if e.reason in ("WITNESS_GAP", "WITNESS_FORK"):
                self._hint = signed.head
                self._behind.set()
            raise _Refused(e.reason, str(e)) from e
        return step

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

    async def _judge(self, proposal: Proposal, step: ProposedEpoch, blob: bytes) -> bytes:
        """The encoded Cosignature, durable."""
        async with self._judging:
            if await asyncio.to_thread(lambda: hashlib.sha256(blob).digest()) != proposal.blob_sha256:
                raise _Refused("PROPOSAL_BLOB_MISMATCH", "the blob is not the one that was signed")
            head = Head(step.epoch, step.new_root)
            try:
                if await self._is_next(step):
                    await asyncio.to_thread(verify_append_only, step.old_root, step.new_root, step.epoch, blob)
                return await asyncio.to_thread(
                    self._store.sign, step, blob, self._now_ms(), lambda at_ms: self._keys.cosign(head, at_ms)
                )
            except AkdError as e:
                raise _Refused("WITNESS_PROOF_REFUSED", f"the epoch does not only append: {e.reason}") from e
            except (StoreRefused, KeyExpired) as e:
                raise _Refused(e.reason, e.message) from e

    async def stop(self) -> None:
        """Let a look at the log end soon."""
        self.follower.stop()

    def sign_start(self) -> None:
        """See that the start is signed: auditors check the first epoch with the signature of the one before it.

        A witness that may not sign any more leaves it.
        """
        with contextlib.suppress(StoreRefused):
            self._store.sign_start(
                lambda epoch, root_hash, at_ms: self._keys.cosign_late(Head(epoch, root_hash), at_ms, self._now_ms())
            )

    async def GetState(self, request: GetStateRequest, context: Any) -> AsyncIterator[GetStateResponse]:
        """The newest epoch, from which it goes on, and its blob when asked for; or an earlier one, as it signed it.

        WITNESS_OTHER_NAMESPACE, EPOCH_UNKNOWN.
        """
        if request.namespace != self._root.namespace:
            raise ServiceError("WITNESS_OTHER_NAMESPACE", "this witness does not serve that namespace")
        state = await asyncio.to_thread(self._store.state)
        row: State | Signed | None = state
        if request.HasField("epoch") and (request.epoch != state.epoch or state.head is not None):
            row = await asyncio.to_thread(self._store.signed, request.epoch)
        if row is None:
            raise ServiceError("EPOCH_UNKNOWN", f"epoch {request.epoch} was not signed here")
        blob = state.blob if row is state else b""
        message = WitnessState(
            term=state.term, epoch=row.epoch, root_hash=row.root_hash, old_root=row.old_root, blob_size=len(blob)
        )
        if row.cosignature is not None:
            message.cosignature.ParseFromString(row.cosignature)
        if row.proposal:
            message.proposal.ParseFromString(row.proposal)
        if row is state and state.head is not None:
            message.head.ParseFromString(state.head)
        yield GetStateResponse(state=message)
        if request.with_blob:
            for chunk in chunks(blob):
                yield GetStateResponse(blob_chunk=chunk)


async def _next(requests: AsyncIterator[ProposeRequest], within_s: float) -> ProposeRequest | None:
    """None at the stream's end. Raises ServiceError PROPOSAL_STREAM_SLOW."""
    try:
        async with asyncio.timeout(within_s):
            return await anext(requests, None)
    except TimeoutError:
        raise ServiceError("PROPOSAL_STREAM_SLOW", "the stream brought nothing for too long") from None


async def _blob(requests: AsyncIterator[ProposeRequest], size: int) -> AsyncIterator[bytes]:
    """Exactly `size` bytes. Raises ServiceError PROPOSAL_STREAM_BROKEN, PROPOSAL_STREAM_SLOW, which end the stream."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + BLOB_S
    while size:
        request = await _next(requests, deadline - loop.time())
        if request is None or request.WhichOneof("part") != "blob_chunk":
            raise _broken("the blob is truncated")
        if not 0 < len(request.blob_chunk) <= min(size, CHUNK):
            raise _broken("a chunk is empty or too long")
        size -= len(request.blob_chunk)
        yield request.blob_chunk


def _without_head(signed: SignedProposal) -> bytes:
    """What is kept of a proposal."""
    bare = SignedProposal(proposal=signed.proposal, signature=signed.signature, blob_size=signed.blob_size)
    return bare.SerializeToString()


def _broken(message: str) -> ServiceError:
    return ServiceError("PROPOSAL_STREAM_BROKEN", message)


def _refusal(epoch: int, refused: _Refused) -> ProposeResponse:
    log.warning("refused", epoch=epoch, reason=refused.reason)
    return ProposeResponse(refusal=Refusal(reason=refused.reason, message=str(refused)))
