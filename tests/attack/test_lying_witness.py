"""A witness that tells the directory what it has not signed, or nothing: it counts for nothing, and why is said."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from ipls._grpc import grpc
from ipls.crypto.keys import public_key
from ipls.proto.witness.v1.head_pb2 import Cosignature, SignedHead
from ipls.proto.witness.v1.witness_pb2 import GetStateResponse, ProposeResponse, WitnessState
from ipls.proto.witness.v1.witness_pb2_grpc import WitnessServiceServicer
from ipls.rpc.errors import ServiceError
from ipls.server.directory.errors import NoQuorum
from tests.server.directories import NOW, World, seed
from tests.trust.roots import cosign

OWN, OTHER, SPACE = seed(10), seed(11), "test.ipls"
ROOT, ANOTHER = bytes(32), b"x" * 32


class Says(WitnessServiceServicer):
    """Answers with these messages, or with this error."""

    def __init__(self, *states: GetStateResponse, refusing: str = "") -> None:
        self.states = states
        self.refusing = refusing

    async def GetState(self, request: Any, context: Any) -> AsyncIterator[GetStateResponse]:
        self.refuse()
        for state in self.states:
            yield state

    async def Propose(self, requests: Any, context: Any) -> AsyncIterator[ProposeResponse]:
        self.refuse()
        for answer in list[ProposeResponse]():
            yield answer

    def refuse(self) -> None:
        if self.refusing:
            raise ServiceError(self.refusing, "no", code=grpc.StatusCode.NOT_FOUND)


def state(root_hash: bytes = ROOT, **fields: Any) -> GetStateResponse:
    return GetStateResponse(state=WitnessState(epoch=7, root_hash=root_hash, **fields))


def edited(**fields: bytes) -> Cosignature:
    made = cosign(OWN, SPACE, 7, ROOT, NOW)
    return Cosignature(
        **{"public_key": made.public_key, "message": made.message, "signature": made.signature, **fields}
    )


def by_quorum(root_hash: bytes, *seeds: bytes) -> SignedHead:
    return SignedHead(epoch=7, root_hash=root_hash, cosignatures=[cosign(s, SPACE, 7, root_hash, NOW) for s in seeds])


STATES = {
    "unsigned": (state(), "HEAD_KEY_UNPINNED"),
    "signed by another": (state(cosignature=cosign(OTHER, SPACE, 7, ROOT, NOW)), "HEAD_KEY_UNPINNED"),
    "signed for another epoch": (state(cosignature=cosign(OWN, SPACE, 8, ROOT, NOW)), "HEAD_OTHER_ROOT"),
    "signed for another namespace": (state(cosignature=cosign(OWN, "other", 7, ROOT, NOW)), "HEAD_OTHER_ROOT"),
    "another root than signed": (state(ANOTHER, cosignature=cosign(OWN, SPACE, 7, ROOT, NOW)), "HEAD_OTHER_ROOT"),
    "a signature cut": (state(cosignature=edited(signature=bytes(63))), "SIGNATURE_LENGTH"),
    "a signature edited": (state(cosignature=edited(signature=bytes(64))), "SIGNATURE_INVALID"),
    "a message that is none": (state(cosignature=edited(message=b"\xff")), "HEAD_ENCODING"),
    "a quorum's head of another root": (state(ANOTHER, head=by_quorum(ROOT, OWN)), "HEAD_OTHER_ROOT"),
    "a quorum's head by strangers": (state(head=by_quorum(ROOT, OTHER)), "HEAD_KEY_UNPINNED"),
}


@pytest.mark.parametrize("lie", STATES)
async def test_a_state_that_its_witness_has_not_signed_is_none(tmp_path: Path, lie: str) -> None:
    world, (shown, reason) = World(tmp_path), STATES[lie]
    assert world.root.witnesses[0].keys[0].public_key == public_key(OWN)
    async with world.witness(0, Says(shown)), world.publisher() as (publisher, _, _):
        with pytest.raises(NoQuorum) as caught:
            await publisher.ask()
        assert caught.value.reason == reason


async def test_a_witness_that_says_nothing_signs_nothing(tmp_path: Path) -> None:
    world = World(tmp_path)
    async with world.publisher() as (publisher, _, witnesses):
        for says, reason in ((Says(), "WITNESS_UNREACHABLE"), (Says(refusing="WITNESS_STOPPED"), "WITNESS_STOPPED")):
            async with world.witness(0, says):
                with pytest.raises(NoQuorum) as asked:
                    await publisher.ask()
                with pytest.raises(NoQuorum) as proposed:
                    await witnesses.sign(1, 1, ROOT, ANOTHER, b"blob")
            assert (asked.value.reason, proposed.value.reason) == (reason, reason)


async def test_the_proof_of_another_step_or_without_end_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ipls.server.directory.witnesses.MAX_BLOB", 5)
    world, chunk = World(tmp_path), GetStateResponse(blob_chunk=b"blob")
    async with world.publisher() as (_, _, witnesses):
        for says, taken in (
            (Says(state(), chunk), [b"blob"]),
            (Says(state(ANOTHER), chunk), []),
            (Says(state(), chunk, chunk), []),
            (Says(refusing="WITNESS_STOPPED"), []),
        ):
            async with world.witness(0, says):
                assert await witnesses.blobs(7, ROOT, ["w0"]) == taken
