"""The witness: verifies that each epoch only appended, makes that durable, then signs it (the directory spec, What a
witness does)."""

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import structlog
from grpc import StatusCode

from ipls.akd import AkdError, verify_append_only
from ipls.clock import system_now_ms
from ipls.config import ConfigError, WitnessConfig, read_secret
from ipls.proto.witness.v1.head_pb2 import Cosignature
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
from ipls.proto.witness.v1.witness_pb2_grpc import WitnessServiceServicer, add_WitnessServiceServicer_to_server
from ipls.rpc.channel import CHUNK, chunks
from ipls.rpc.errors import ServiceError
from ipls.rpc.server import GrpcServer, Listener, run_until_signal
from ipls.server.auditor import auditor_app, readable_at
from ipls.server.http import serving
from ipls.store.errors import StoreError
from ipls.store.witness import Step, WitnessStore
from ipls.trust.errors import TrustError
from ipls.trust.heads import cosign
from ipls.trust.keys import public_key
from ipls.trust.limits import MAX_BLOB, MAX_INT
from ipls.trust.proposals import verify_proposal
from ipls.trust.root import TrustRoot

log = structlog.get_logger()


class _Refused(Exception):
    """A proposal that is not signed; its stream goes on."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class WitnessService(WitnessServiceServicer):
    """One witness of the trust root's namespace, with one of its keys.

    Only proposals by the pinned proposal key cost it more than a signature check: anyone can build a valid successor
    from the public blobs, and would leave it stuck there. They are judged one at a time.
    """

    def __init__(
        self, root: TrustRoot, name: str, seed: bytes, store: WitnessStore, now_ms: Callable[[], int] | None = None
    ) -> None:
        """Raises ConfigError WITNESS_KEY_UNPINNED if the trust root doesn't give the key to the witness `name`."""
        key = public_key(seed)
        pinned = [k for w in root.witnesses if w.name == name for k in w.keys if k.public_key == key]
        if not pinned:
            raise ConfigError(f"the trust root gives this key to no witness {name}", "WITNESS_KEY_UNPINNED")
        self._key = pinned[0]
        self._root = root
        self._seed = seed
        self._store = store
        self._now_ms = now_ms or system_now_ms
        self._judging = asyncio.Lock()

    async def Propose(self, requests: AsyncIterator[ProposeRequest], context: Any) -> AsyncIterator[ProposeResponse]:
        """Each proposal is answered in order, by a cosignature or by a refusal that changes nothing."""
        async for request in requests:
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
                yield _refusal(signed.proposal.epoch, e)
                continue
            blob = b"".join([chunk async for chunk in _blob(requests, signed.blob_size)])
            try:
                cosignature = await self._judge(signed.proposal, step, blob)
            except _Refused as e:
                yield _refusal(step.epoch, e)
            else:
                log.info("signed", epoch=step.epoch)
                yield ProposeResponse(cosignature=Cosignature.FromString(cosignature))

    async def _admit(self, signed: SignedProposal) -> Step:
        """The step, if its blob is worth reading."""
        try:
            proposal = verify_proposal(self._root.proposal_key, signed)
        except TrustError as e:
            raise _Refused("PROPOSAL_UNSIGNED", f"not signed by the pinned proposal key: {e.message}") from e
        if proposal.namespace != self._root.namespace:
            raise _Refused("WITNESS_OTHER_NAMESPACE", "this witness does not serve that namespace")
        if max(proposal.term, proposal.epoch) > MAX_INT:
            raise _Refused("PROPOSAL_INVALID", "term or epoch is out of range")
        step = Step(proposal.term, proposal.epoch, proposal.old_root, proposal.new_root)
        await self._is_next(step)
        return step

    async def _is_next(self, step: Step) -> bool:
        try:
            return (await asyncio.to_thread(self._store.state)).is_next(step)
        except StoreError as e:
            raise _Refused(e.reason, str(e)) from e

    async def _judge(self, proposal: Proposal, step: Step, blob: bytes) -> bytes:
        """The encoded Cosignature, durable."""
        async with self._judging:
            if await asyncio.to_thread(lambda: hashlib.sha256(blob).digest()) != proposal.blob_sha256:
                raise _Refused("PROPOSAL_BLOB_MISMATCH", "the blob is not the one that was signed")
            try:
                if await self._is_next(step):
                    await asyncio.to_thread(verify_append_only, step.old_root, step.new_root, step.epoch, blob)
                return await asyncio.to_thread(
                    self._store.sign, step, blob, self._now_ms(), lambda at_ms: self._cosign(step, at_ms)
                )
            except AkdError as e:
                raise _Refused("WITNESS_PROOF_REFUSED", f"the epoch does not only append: {e.reason}") from e
            except StoreError as e:
                raise _Refused(e.reason, str(e)) from e

    def sign_start(self) -> None:
        """See that the start is signed: auditors check the first epoch with the signature of the one before it.

        Without a key that is good now it stays as it is.
        """
        with contextlib.suppress(_Refused):
            self._store.sign_start(
                self._now_ms(), lambda epoch, root_hash, at_ms: self._cosign(Step(0, epoch, b"", root_hash), at_ms)
            )

    def _cosign(self, step: Step, time_ms: int) -> bytes:
        if not self._key.covers(time_ms):
            raise _Refused("WITNESS_KEY_EXPIRED", "the witness's key is not good at this time")
        cosignature = cosign(self._seed, self._root.namespace, step.epoch, step.new_root, time_ms)
        return cosignature.SerializeToString(deterministic=True)

    async def GetState(self, request: GetStateRequest, context: Any) -> AsyncIterator[GetStateResponse]:
        """The newest epoch that it signed, or its start, and that epoch's blob when asked for."""
        if request.namespace != self._root.namespace:
            raise ServiceError(
                StatusCode.NOT_FOUND, "WITNESS_OTHER_NAMESPACE", "this witness does not serve that namespace"
            )
        state = await asyncio.to_thread(self._store.state)
        message = WitnessState(
            term=state.term,
            epoch=state.epoch,
            root_hash=state.root_hash,
            old_root=state.old_root,
            blob_size=len(state.blob),
        )
        if state.cosignature is not None:
            message.cosignature.ParseFromString(state.cosignature)
        yield GetStateResponse(state=message)
        if request.with_blob:
            for chunk in chunks(state.blob):
                yield GetStateResponse(blob_chunk=chunk)


async def _blob(requests: AsyncIterator[ProposeRequest], size: int) -> AsyncIterator[bytes]:
    """Exactly `size` bytes. Raises ServiceError PROPOSAL_STREAM_BROKEN, which ends the stream."""
    while size:
        request = await anext(requests, None)
        if request is None or request.WhichOneof("part") != "blob_chunk":
            raise _broken("the blob is truncated")
        if not 0 < len(request.blob_chunk) <= min(size, CHUNK):
            raise _broken("a chunk is empty or too long")
        size -= len(request.blob_chunk)
        yield request.blob_chunk


def _broken(message: str) -> ServiceError:
    return ServiceError(StatusCode.INVALID_ARGUMENT, "PROPOSAL_STREAM_BROKEN", message)


def _refusal(epoch: int, refused: _Refused) -> ProposeResponse:
    log.warning("refused", epoch=epoch, reason=refused.reason)
    return ProposeResponse(refusal=Refusal(reason=refused.reason, message=str(refused)))


async def serve(config: WitnessConfig, root: TrustRoot) -> None:
    """Serve until SIGTERM or SIGINT. Raises ConfigError, and StoreError WITNESS_NO_GENESIS without a state."""
    store = WitnessStore(config.database, root.namespace)
    server = GrpcServer(
        [Listener(config.listen, config.tls.certificate, config.tls.key)], services=["ipls.witness.v1.WitnessService"]
    )
    service = WitnessService(root, config.name, read_secret(config.key), store)
    await asyncio.to_thread(service.sign_start)
    add_WitnessServiceServicer_to_server(service, server.grpc)
    (witness,) = [w for w in root.witnesses if w.name == config.name]
    async with serving(auditor_app(root, witness, store, readable_at(root.log_url)), config.http_listen):
        await run_until_signal(server, "witness")
    store.close()
