"""The directory's side of its witnesses: their state, and signatures of a quorum on a proposal."""

import asyncio
import hashlib
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

import structlog

from ipls._grpc import grpc
from ipls.config import ConfigError
from ipls.crypto.errors import VerificationError
from ipls.crypto.keys import verify
from ipls.proto.witness.v1.head_pb2 import Cosignature, SignedHead
from ipls.proto.witness.v1.witness_pb2 import (
    GetStateRequest,
    Proposal,
    ProposeRequest,
    SignedProposal,
    WitnessState,
)
from ipls.proto.witness.v1.witness_pb2_grpc import WitnessServiceStub
from ipls.rpc.errors import remote_error
from ipls.runtime.tasks import TaskScope
from ipls.server.directory.errors import NoQuorum, OtherRoot, PublisherStopped
from ipls.trust.errors import HeadRefused
from ipls.trust.heads import claimed, signature_message, timestamp, verify_head
from ipls.trust.proposals import sign_proposal
from ipls.trust.root import TrustRoot, Witness

if TYPE_CHECKING:
    from ipls.proto.witness.v1.witness_pb2_grpc import WitnessServiceAsyncStub

log = structlog.get_logger()

T = TypeVar("T")

RENEWALS = 4
"""A quiet head is signed anew so often in the maximum head age (the directory spec, What a witness does)."""
STATE_TIMEOUT_S = 10.0
STATE_GRACE_S = 1.0
"""How long the others are waited for once k witnesses have told their state."""
OLD_GRACE_S = 5.0
"""How long the others are waited for once k witnesses have signed, where one of them put an old time."""
PROPOSAL_TIMEOUT_S = 90.0
"""A witness reads the largest object in the log, and verifies it, within this; the next proposal that waits for it is
then still young enough for its clock."""


class WitnessClient:
    """One pinned witness. What it answers counts only if one of its own pinned keys signed it."""

    def __init__(
        self,
        root: TrustRoot,
        witness: Witness,
        channel: grpc.aio.Channel,
        now_ms: Callable[[], int],
        met: Callable[[SignedHead], None],
        forked: Callable[[SignedProposal, SignedProposal], None],
        scope: TaskScope,
    ) -> None:
        self.name = witness.name
        self._now_ms = now_ms
        self._met = met
        self._forked = forked
        self._scope = scope
        self._root = root
        self._alone = replace(root, witnesses=(witness,), k=1)
        self._turn = asyncio.Lock()
        self._waiting: asyncio.Task[Cosignature] | None = None
        self._stub: WitnessServiceAsyncStub = WitnessServiceStub(channel)

    async def state(self, epoch: int | None = None) -> WitnessState:
        """What it signed last, or for `epoch`. Raises NoQuorum if it can't be asked, or shows no signature of its own
        on that.

        One that signed another root last than the quorum has, as its newest, the quorum's `head` instead.
        """
        request = GetStateRequest(namespace=self._alone.namespace, epoch=epoch)
        try:
            state = (await self._stub.GetState(request, timeout=STATE_TIMEOUT_S)).state
            self._check_signed(state)
        except grpc.aio.AioRpcError as e:
            raise self._failed(e) from e
        except VerificationError as e:
            raise self._refused(e) from e
        await asyncio.to_thread(self._met, _head(state))
        if epoch not in (None, state.epoch):
            raise NoQuorum("WITNESS_UNREACHABLE", f"witness {self.name} gave no state of epoch {epoch}")
        return state

    def _check_signed(self, state: WitnessState) -> None:
        """The start needs no signature; any other epoch has one, whenever it was made. Raises VerificationError."""
        if state.epoch <= self._alone.start_epoch:
            return
        if state.HasField("head"):
            head = verify_head(self._root, state.head, now_ms=self._now_ms(), check_age=False)
            if head != (state.epoch, state.root_hash):
                raise HeadRefused("HEAD_OTHER_ROOT", "its state is not what the quorum signed")
            return
        given = state.cosignature
        if given.public_key not in [key.public_key for key in self._alone.witnesses[0].keys]:
            raise HeadRefused("HEAD_KEY_UNPINNED", "its state is not signed by a key that the trust root gives it")
        if given.message != signature_message(self._alone.namespace, state.epoch, state.root_hash, timestamp(given)):
            raise HeadRefused("HEAD_OTHER_ROOT", "its state is not what it signed")
        verify(given.public_key, given.message, given.signature)

    def propose(self, request: ProposeRequest) -> asyncio.Task[Cosignature]:
        """`cosign`, after what this witness is still at; of proposals that wait for that the newest alone is kept."""
        if self._waiting:
            self._waiting.cancel()
        self._waiting = self._scope.start(f"propose to {self.name}", self._in_turn(request))
        return self._waiting

    async def _in_turn(self, request: ProposeRequest) -> Cosignature:
        async with self._turn:
            self._waiting = None
            return await self.cosign(request)

    async def cosign(self, request: ProposeRequest) -> Cosignature:
        """Its verified signature on the proposal's new root. Raises NoQuorum with the reason of its refusal.

        One that has gone further does not sign the epoch again: its signature of then is taken, whatever its age. That
        it has signed another root is its bare word until it shows the signature: OtherRoot.
        """
        try:
            return await self._ask(request)
        except NoQuorum as e:
            if e.reason not in ("WITNESS_BEHIND", "WITNESS_FORK"):
                raise
            refusal = e
        proposal = request.proposal.proposal
        try:
            state = await self.state(proposal.epoch)
        except NoQuorum:
            raise refusal from None
        if state.root_hash == proposal.new_root:
            return await self._verified(proposal, state.cosignature, check_age=False)
        if state.epoch <= self._root.start_epoch:  # which nobody need have signed
            raise refusal
        await asyncio.to_thread(self._forked, request.proposal, state.proposal)
        raise OtherRoot("WITNESS_FORK", f"witness {self.name}: epoch {state.epoch} has another root here")

    async def _verified(self, proposal: Proposal, cosignature: Cosignature, *, check_age: bool) -> Cosignature:
        head = SignedHead(epoch=proposal.epoch, root_hash=proposal.new_root, cosignatures=[cosignature])
        try:
            verify_head(self._alone, head, now_ms=self._now_ms(), check_age=check_age)
        except VerificationError as e:
            with suppress(HeadRefused):
                await asyncio.to_thread(self._met, claimed(cosignature))
            raise self._refused(e) from e
        return cosignature

    async def _ask(self, request: ProposeRequest) -> Cosignature:
        try:
            response = await self._stub.Propose(request, timeout=PROPOSAL_TIMEOUT_S)
        except grpc.aio.AioRpcError as e:
            raise self._failed(e) from e
        if response.WhichOneof("result") == "refusal":
            raise NoQuorum(response.refusal.reason, f"witness {self.name}: {response.refusal.message}")
        return await self._verified(request.proposal.proposal, response.cosignature, check_age=True)

    def _refused(self, error: VerificationError) -> NoQuorum:
        return NoQuorum(error.reason, f"witness {self.name}: {error.message}")

    def _failed(self, error: grpc.aio.AioRpcError) -> NoQuorum:
        remote = remote_error(error)
        reason = "WITNESS_UNREACHABLE" if remote.reason == "UNREACHABLE" else remote.reason
        return NoQuorum(reason, f"witness {self.name}: {remote.message}")


def _head(state: WitnessState) -> SignedHead:
    signed = [state.cosignature] if state.HasField("cosignature") else []
    return SignedHead(epoch=state.epoch, root_hash=state.root_hash, cosignatures=signed)


class Witnesses:
    """All pinned witnesses that this directory can reach, by the names of the trust root.

    Handed over, in a thread: to `met` what a witness shows that it has signed, to `forked` our proposal and the one by
    which it signed another root.
    """

    def __init__(
        self,
        root: TrustRoot,
        channels: Mapping[str, grpc.aio.Channel],
        proposal_seed: bytes,
        now_ms: Callable[[], int],
        met: Callable[[SignedHead], None] = lambda head: None,
        forked: Callable[[SignedProposal, SignedProposal], None] = lambda ours, theirs: None,
    ) -> None:
        """Raises ConfigError for a channel to a witness that is not pinned."""
        pinned = {witness.name: witness for witness in root.witnesses}
        if unknown := channels.keys() - pinned.keys():
            raise ConfigError(
                f"[directory.witnesses]: the trust root has no witness {', '.join(sorted(unknown))};"
                f" it has {', '.join(pinned)}"
            )
        for name in [name for name in pinned if name not in channels]:
            log.warning("pinned witness without an address", witness=name)
        self._root = root
        self._scope = TaskScope()
        self._clients = {
            name: WitnessClient(root, pinned[name], channel, now_ms, met, forked, self._scope)
            for name, channel in channels.items()
        }
        self._seed = proposal_seed
        self._now_ms = now_ms

    async def states(self) -> dict[str, WitnessState]:
        """The states of at least k witnesses, of all that answer soon, by their names. Raises NoQuorum."""
        return await self._gather({name: client.state() for name, client in self._clients.items()})

    async def _gather(self, calls: Mapping[str, Coroutine[None, None, T]]) -> dict[str, T]:
        """The answers of at least k witnesses. The others get a moment more: a stopped one must not hold us up."""
        async with TaskScope() as scope:
            tasks = {scope.start(f"ask {name}", call): name for name, call in calls.items()}
            pending: Collection[asyncio.Task[T]] = tasks
            while pending and sum(_answered(task) for task in tasks) < self._root.k:
                _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            if pending:
                await asyncio.wait(pending, timeout=STATE_GRACE_S)
        answers = {name: task.result() for task, name in tasks.items() if _answered(task)}
        if len(answers) < self._root.k:
            raise _why([e for task in tasks if task.done() and (e := task.exception())])
        return answers

    async def sign(
        self,
        term: int,
        epoch: int,
        old_root: bytes,
        new_root: bytes,
        blob: bytes,
        known: SignedHead | None = None,
        *,
        newest: bool = True,
    ) -> SignedHead:
        """The head with k verified signatures, as soon as k are young; slower witnesses finish meanwhile.

        `blob` is the log's object, empty where the start or the newest epoch is to be signed, again.

        An old one counts, but a moment later: the witness may have gone further, then another head follows this one, or
        its clock may be behind; or it wants a head that is too old for its readers, whoever else signs. Of a head that
        is not the `newest`, since witnesses have signed the next one, nobody minds the age.
        `known` is the newest head before: by it a witness that is behind knows how far to follow the log.
        Raises NoQuorum when too many refused or can't be reached; PublisherStopped ROOT_UNREACHABLE when so many have
        shown their signatures on other roots that none is left that k can sign.
        """
        proposal = Proposal(
            namespace=self._root.namespace,
            term=term,
            time_ms=self._now_ms(),
            epoch=epoch,
            old_root=old_root,
            new_root=new_root,
            blob_sha256=hashlib.sha256(blob).digest(),
            blob_size=len(blob),
        )
        signed = SignedProposal(proposal=proposal, signature=sign_proposal(self._seed, proposal))
        request = ProposeRequest(proposal=signed, head=known)
        signatures, refusals = list[Cosignature](), list[NoQuorum]()
        asked = [client.propose(request) for client in self._clients.values()]
        with suppress(TimeoutError):
            async with asyncio.timeout(None) as patience:
                for done in asyncio.as_completed(asked):
                    try:
                        signatures.append(await done)
                    except NoQuorum as e:
                        log.warning("witness did not sign", epoch=epoch, reason=e.reason, why=str(e))
                        refusals.append(e)
                    if sum(self._is_young(each) or not newest for each in signatures) == self._root.k:
                        break
                    if len(signatures) == self._root.k and patience.when() is None:
                        patience.reschedule(asyncio.get_running_loop().time() + OLD_GRACE_S)
                    if sum(isinstance(r, OtherRoot) for r in refusals) > len(self._root.witnesses) - self._root.k:
                        raise PublisherStopped(
                            "ROOT_UNREACHABLE",
                            f"no root of epoch {epoch} can get k signatures any more:"
                            " a new version of the trust root must replace a witness",
                        )
        if len(signatures) >= self._root.k:  # each was verified by its client
            youngest = sorted(signatures, key=timestamp, reverse=True)[: self._root.k]
            return SignedHead(epoch=epoch, root_hash=new_root, cosignatures=youngest)
        raise _why(refusals)

    def _is_young(self, cosignature: Cosignature) -> bool:
        """Whether it needs no renewal yet."""
        return timestamp(cosignature) > self._now_ms() - self._root.max_head_age_ms // RENEWALS

    async def close(self) -> None:
        """Stop what still runs."""
        await self._scope.close()


def _answered(task: asyncio.Task[T]) -> bool:
    return task.done() and not task.cancelled() and task.exception() is None


def _why(failures: Sequence[BaseException]) -> BaseException:
    """The failure to report: a bug first; a refusal says more than a witness that is down."""

    def rank(failure: BaseException) -> int:
        return (1 + (failure.reason == "WITNESS_UNREACHABLE")) if isinstance(failure, NoQuorum) else 0

    nobody = NoQuorum("WITNESS_UNREACHABLE", "too few of the pinned witnesses have an address")
    return min(failures, key=rank, default=nobody)
