"""The directory's side of its witnesses: their state, and signatures of a quorum on a proposal."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import grpc
import structlog

from ipls.proto.witness.v1.head_pb2 import Cosignature, SignedHead
from ipls.proto.witness.v1.witness_pb2 import (
    GetStateRequest,
    Proposal,
    ProposeRequest,
    SignedProposal,
    WitnessState,
)
from ipls.proto.witness.v1.witness_pb2_grpc import WitnessServiceStub
from ipls.rpc.channel import chunks
from ipls.rpc.errors import remote_error
from ipls.server.directory.errors import NoQuorum
from ipls.trust.errors import HeadRefused, TrustError
from ipls.trust.heads import Head, signature_message, timestamp, verify_head
from ipls.trust.keys import verify
from ipls.trust.proposals import sign_proposal
from ipls.trust.root import TrustRoot, Witness

if TYPE_CHECKING:
    from ipls.proto.witness.v1.witness_pb2_grpc import WitnessServiceAsyncStub

log = structlog.get_logger()

STATE_TIMEOUT_S = 10.0
PROPOSAL_TIMEOUT_S = 120.0
"""A witness verifies the largest blob within this."""


class WitnessClient:
    """One pinned witness. What it answers counts only if one of its own pinned keys signed it."""

    def __init__(self, root: TrustRoot, witness: Witness, channel: grpc.aio.Channel, now_ms: Callable[[], int]) -> None:
        self.name = witness.name
        self._now_ms = now_ms
        self._alone = replace(root, witnesses=(witness,), k=1)
        self._stub: WitnessServiceAsyncStub = WitnessServiceStub(channel)

    async def state(self) -> WitnessState:
        """What it signed last. Raises NoQuorum if it can't be asked, or shows no signature of its own on that."""
        request = GetStateRequest(namespace=self._alone.namespace)
        try:
            async for response in self._stub.GetState(request, timeout=STATE_TIMEOUT_S):
                self._check_signed(response.state)
                return response.state
        except grpc.aio.AioRpcError as e:
            raise self._failed(e) from e
        except TrustError as e:
            raise NoQuorum(e.reason, f"witness {self.name}: {e.message}") from e
        raise NoQuorum("WITNESS_UNREACHABLE", f"witness {self.name} gave no state")

    def _check_signed(self, state: WitnessState) -> None:
        """The start needs no signature; any other epoch has one, whenever it was made. Raises TrustError."""
        if state.epoch <= self._alone.start_epoch:
            return
        given = state.cosignature
        if given.public_key not in [key.public_key for key in self._alone.witnesses[0].keys]:
            raise HeadRefused("HEAD_KEY_UNPINNED", "its state is not signed by a key that the trust root gives it")
        if given.message != signature_message(self._alone.namespace, state.epoch, state.root_hash, timestamp(given)):
            raise HeadRefused("HEAD_OTHER_ROOT", "its state is not what it signed")
        verify(given.public_key, given.message, given.signature)

    async def cosign(self, signed: SignedProposal, blob: bytes) -> Cosignature:
        """Its verified signature on the proposal's new root. Raises NoQuorum with the reason of its refusal."""

        async def requests() -> AsyncIterator[ProposeRequest]:
            yield ProposeRequest(proposal=signed)
            for chunk in chunks(blob):
                yield ProposeRequest(blob_chunk=chunk)

        call = self._stub.Propose(requests(), timeout=PROPOSAL_TIMEOUT_S)
        try:
            async for response in call:
                if response.WhichOneof("result") == "refusal":
                    raise NoQuorum(response.refusal.reason, f"witness {self.name}: {response.refusal.message}")
                proposal = signed.proposal
                head = SignedHead(
                    epoch=proposal.epoch, root_hash=proposal.new_root, cosignatures=[response.cosignature]
                )
                verify_head(self._alone, head, now_ms=self._now_ms())
                return response.cosignature
        except grpc.aio.AioRpcError as e:
            raise self._failed(e) from e
        except TrustError as e:
            raise NoQuorum(e.reason, f"witness {self.name}: {e.message}") from e
        finally:
            call.cancel()
        raise NoQuorum("WITNESS_UNREACHABLE", f"witness {self.name} gave no answer")

    def _failed(self, error: grpc.aio.AioRpcError) -> NoQuorum:
        remote = remote_error(error)
        reason = "WITNESS_UNREACHABLE" if remote.reason == "UNREACHABLE" else remote.reason
        return NoQuorum(reason, f"witness {self.name}: {remote.message}")


class Witnesses:
    """All pinned witnesses that this directory can reach, by the names of the trust root."""

    def __init__(
        self,
        root: TrustRoot,
        channels: Mapping[str, grpc.aio.Channel],
        proposal_seed: bytes,
        now_ms: Callable[[], int],
    ) -> None:
        self._root = root
        self._clients = [WitnessClient(root, w, channels[w.name], now_ms) for w in root.witnesses if w.name in channels]
        self._seed = proposal_seed
        self._now_ms = now_ms
        self._running: set[asyncio.Task[Any]] = set()

    async def states(self) -> list[WitnessState]:
        """The states of at least k witnesses, of all that answer. Raises NoQuorum."""
        answers = await asyncio.gather(*(client.state() for client in self._clients), return_exceptions=True)
        states = [a for a in answers if isinstance(a, WitnessState)]
        if len(states) < self._root.k:
            raise _why([a for a in answers if isinstance(a, BaseException)])
        return states

    async def sign(self, term: int, epoch: int, old_root: bytes, new_root: bytes, blob: bytes) -> SignedHead:
        """The head with k verified signatures, as soon as there are k; slower witnesses finish meanwhile.

        Raises NoQuorum when too many refused or can't be reached.
        """
        proposal = Proposal(
            namespace=self._root.namespace,
            term=term,
            epoch=epoch,
            old_root=old_root,
            new_root=new_root,
            blob_sha256=hashlib.sha256(blob).digest(),
        )
        signed = SignedProposal(proposal=proposal, signature=sign_proposal(self._seed, proposal), blob_size=len(blob))
        head = SignedHead(epoch=epoch, root_hash=new_root)
        refusals = list[BaseException]()
        tasks = [self._start(client.cosign(signed, blob)) for client in self._clients]
        for done in asyncio.as_completed(tasks):
            try:
                head.cosignatures.append(await done)
            except NoQuorum as e:
                log.warning("witness did not sign", epoch=epoch, reason=e.reason, why=str(e))
                refusals.append(e)
            if len(head.cosignatures) == self._root.k:
                verified = verify_head(self._root, head, now_ms=self._now_ms())
                assert verified == Head(epoch, new_root)
                return head
        raise _why(refusals)

    def _start(self, call: Coroutine[Any, Any, Cosignature]) -> asyncio.Task[Cosignature]:
        task = asyncio.create_task(call)
        self._running.add(task)
        task.add_done_callback(self._finished)
        return task

    def _finished(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()  # marks a late refusal as seen: the epoch did without it

    async def close(self) -> None:
        """Stop what still runs."""
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)


def _why(failures: list[BaseException]) -> BaseException:
    """The failure to report: a bug first; a refusal says more than a witness that is down."""

    def rank(failure: BaseException) -> int:
        return (1 + (failure.reason == "WITNESS_UNREACHABLE")) if isinstance(failure, NoQuorum) else 0

    nobody = NoQuorum("WITNESS_UNREACHABLE", "too few of the pinned witnesses have an address")
    return min(failures, key=rank, default=nobody)
