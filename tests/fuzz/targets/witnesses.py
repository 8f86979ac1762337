"""A witness, asked by a directory that holds the proposal key, and a directory that is answered by a witness."""

import asyncio
import hashlib
import io
from collections.abc import Mapping
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
from ipls.rpc.errors import ServiceError
from ipls.runtime.tasks import TaskScope
from ipls.server.directory.errors import NoQuorum
from ipls.server.directory.witnesses import WitnessClient
from ipls.server.witness.service import WitnessService
from ipls.store.log import object_name
from ipls.store.witness import init_witness_state
from ipls.trust.evidence import from_heads, from_proposals
from ipls.trust.proposals import sign_proposal
from tests.fuzz.answers import answering_once, frames
from tests.fuzz.target import HEAD, ROOT, Target, folder, serialized, target
from tests.server.chains import Chain, proposal
from tests.server.witnesses import LogOnly, make_service, open_store, reader
from tests.trust.roots import NAMESPACE, NOW, PROPOSER, WITNESSES, cosign, make_root, signed


@target("proposals to a witness")
def _() -> Target:
    made = Chain().step()
    service, seed = _witness({object_name(*made[:3]): made.blob}), proposal(made)

    def run(data: bytes) -> None:
        bent = Proposal.FromString(data)
        _propose(service, SignedProposal(proposal=bent, signature=sign_proposal(PROPOSER, bent)))

    return Target(run, (ServiceError, DecodeError), serialized(seed.proposal), weight=8)


@target("proposals to a witness, as they come")
def _() -> Target:
    made = Chain().step()
    service = _witness({})
    seed = ProposeRequest(proposal=proposal(made), head=signed(HEAD, *WITNESSES))

    def run(data: bytes) -> None:
        asyncio.run(service.Propose(ProposeRequest.FromString(data), None))

    return Target(run, (ServiceError, DecodeError), serialized(seed), weight=8)


@target("a log's object to a witness")
def _() -> Target:
    made = Chain().step()
    objects = dict[str, bytes]()
    service = _witness(objects)

    def run(data: bytes) -> None:
        objects[object_name(*made[:3])] = data
        _propose(service, proposal(made, blob_sha256=hashlib.sha256(data).digest(), blob_size=len(data)))

    return Target(run, (ServiceError,), (made.blob,), weight=8)


def _witness(objects: Mapping[str, bytes]) -> WitnessService:
    """It reads these in the log."""
    root, path = make_root(start_root=EMPTY_ROOT), folder() / "witness.db"
    init_witness_state(path, root)
    public = reader(root, LogOnly(root, objects.get))
    store, evidence = open_store(path, NAMESPACE), path.with_suffix(".evidence")
    return make_service(root, "w1", WITNESSES[0], store, lambda: NOW, evidence, public=public)


def _propose(service: WitnessService, asked: SignedProposal) -> None:
    answer = asyncio.run(service.Propose(ProposeRequest(proposal=asked), None))
    assert answer.WhichOneof("result")


def _client(answers: bytes) -> WitnessClient:
    """Of a directory with a head of its own, answered with these messages, in turn."""
    stream = io.BytesIO(answers)

    class Channel:
        def unary_unary(self, method: str, **_: Any) -> Any:
            return answering_once(GetStateResponse if method.endswith("GetState") else ProposeResponse, stream)

    channel: Any = Channel()
    known = signed(HEAD, *WITNESSES)

    def met(head: SignedHead) -> None:
        _met(known, head)

    def forked(ours: SignedProposal, theirs: SignedProposal) -> None:
        assert from_proposals(ROOT, ours, theirs) == []

    return WitnessClient(ROOT, ROOT.witnesses[0], channel, lambda: NOW, met, forked, TaskScope())


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


@target("witness's answer to a proposal")
def _() -> Target:
    """It may say that it has gone further, and then show its state."""
    proposed = Proposal(namespace=NAMESPACE, epoch=HEAD.epoch, new_root=HEAD.root_hash)
    asked = ProposeRequest(proposal=SignedProposal(proposal=proposed))
    behind = ProposeResponse(refusal=Refusal(reason="WITNESS_BEHIND", message="gone further"))

    def run(data: bytes) -> None:
        taken = asyncio.run(_client(data).cosign(asked))
        assert taken.signature == _COSIGNATURE.signature

    state = GetStateResponse(state=WitnessState(epoch=HEAD.epoch, root_hash=HEAD.root_hash, cosignature=_COSIGNATURE))
    seeds = frames(ProposeResponse(cosignature=_COSIGNATURE)), frames(behind, state)
    return Target(run, (NoQuorum,), seeds)
