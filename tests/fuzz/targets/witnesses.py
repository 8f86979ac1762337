"""A witness, asked by a directory that holds the proposal key, and a directory that is answered by a witness."""

import asyncio
import hashlib
import io
from typing import Any

from google.protobuf.message import DecodeError

from ipls.akd import EMPTY_ROOT
from ipls.proto.witness.v1.head_pb2 import SignedHead
from ipls.proto.witness.v1.witness_pb2 import (
    GetStateResponse,
    Proposal,
    ProposeRequest,
    ProposeResponse,
    Refusal,
    SignedProposal,
    WitnessState,
)
from ipls.rpc.channel import chunks
from ipls.rpc.errors import ServiceError
from ipls.runtime.tasks import TaskScope
from ipls.server.directory.errors import NoQuorum
from ipls.server.directory.witnesses import WitnessClient
from ipls.server.witness.service import WitnessService
from ipls.store.witness import init_witness_state
from ipls.trust.evidence import from_heads
from ipls.trust.proposals import sign_proposal
from tests.fuzz.answers import answering, frames
from tests.fuzz.target import HEAD, ROOT, Target, folder, serialized, target
from tests.server.chains import Chain, proposal
from tests.server.witnesses import make_service, open_store
from tests.trust.roots import NAMESPACE, NOW, PROPOSER, WITNESSES, cosign, make_root, signed


@target("proposals to a witness")
def _() -> Target:
    made = Chain().step()
    service, seed = _witness(), proposal(made)

    def run(data: bytes) -> None:
        bent = Proposal.FromString(data)
        signed_bent = SignedProposal(proposal=bent, signature=sign_proposal(PROPOSER, bent), blob_size=len(made.blob))
        _propose(service, signed_bent, made.blob)

    return Target(run, (ServiceError, DecodeError), serialized(seed.proposal), weight=8)


@target("blobs to a witness")
def _() -> Target:
    made = Chain().step()
    service = _witness()

    def run(data: bytes) -> None:
        asked = proposal(made, blob_sha256=hashlib.sha256(data).digest())
        _propose(service, SignedProposal(proposal=asked.proposal, signature=asked.signature, blob_size=len(data)), data)

    return Target(run, (ServiceError,), (made.blob,), weight=8)


def _witness() -> WitnessService:
    root, path = make_root(start_root=EMPTY_ROOT), folder() / "witness.db"
    init_witness_state(path, root)
    return make_service(
        root, "w1", WITNESSES[0], open_store(path, NAMESPACE), lambda: NOW, path.with_suffix(".evidence")
    )


def _propose(service: WitnessService, asked: SignedProposal, blob: bytes) -> None:
    async def requests() -> Any:
        yield ProposeRequest(proposal=asked)
        for chunk in chunks(blob):
            yield ProposeRequest(blob_chunk=chunk)

    async def go() -> None:
        answers = [answer async for answer in service.Propose(requests(), None)]
        assert len(answers) == 1

    asyncio.run(go())


def _client(answers: bytes) -> WitnessClient:
    """Of a directory with a head of its own, answered with these messages, in turn."""
    stream = io.BytesIO(answers)

    class Channel:
        def unary_stream(self, *_: Any, **__: Any) -> Any:
            return answering(GetStateResponse, stream)

        def stream_stream(self, *_: Any, **__: Any) -> Any:
            return answering(ProposeResponse, stream)

    channel: Any = Channel()
    known = signed(HEAD, *WITNESSES)
    return WitnessClient(ROOT, ROOT.witnesses[0], channel, lambda: NOW, lambda head: _met(known, head), TaskScope())


def _met(known: SignedHead, shown: SignedHead) -> None:
    assert from_heads(ROOT, known, shown) == []  # an honest witness, whose answers are bent on the way


_COSIGNATURE = cosign(WITNESSES[0], NAMESPACE, *HEAD, NOW)


@target("witness's state")
def _() -> Target:
    state = WitnessState(epoch=HEAD.epoch, root_hash=HEAD.root_hash, old_root=bytes(32), cosignature=_COSIGNATURE)
    other = WitnessState(epoch=HEAD.epoch, root_hash=HEAD.root_hash, head=signed(HEAD, *WITNESSES))

    def run(data: bytes) -> None:
        taken = asyncio.run(_client(data).state())
        assert (taken.epoch, taken.root_hash) == HEAD or taken.epoch == 0  # the start needs no signature

    return Target(run, (NoQuorum,), tuple(frames(GetStateResponse(state=each)) for each in (state, other)))


@target("witness's blob")
def _() -> Target:
    state = GetStateResponse(state=WitnessState(epoch=HEAD.epoch, root_hash=HEAD.root_hash))

    def run(data: bytes) -> None:
        assert len(asyncio.run(_client(data).blob(*HEAD))) <= len(data)

    return Target(run, (NoQuorum,), (frames(state, GetStateResponse(blob_chunk=b"blob")),))


@target("witness's answer to a proposal")
def _() -> Target:
    """It may say that it has gone further, and then show its state."""
    asked = SignedProposal(proposal=Proposal(namespace=NAMESPACE, epoch=HEAD.epoch, new_root=HEAD.root_hash))
    behind = ProposeResponse(refusal=Refusal(reason="WITNESS_BEHIND", message="gone further"))

    def run(data: bytes) -> None:
        taken = asyncio.run(_client(data).cosign(asked, b"blob"))
        assert taken.signature == _COSIGNATURE.signature

    state = GetStateResponse(state=WitnessState(epoch=HEAD.epoch, root_hash=HEAD.root_hash, cosignature=_COSIGNATURE))
    seeds = frames(ProposeResponse(cosignature=_COSIGNATURE)), frames(behind, state)
    return Target(run, (NoQuorum,), seeds)
