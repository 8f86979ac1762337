"""A witness that tells the directory what it has not signed, or nothing: it counts for nothing, and why is said.

Nor do its words end the directory, or keep it from an epoch that others sign.
"""

from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from ipls._grpc import grpc
from ipls.crypto.keys import public_key
from ipls.proto.witness.v1.head_pb2 import Cosignature, SignedHead
from ipls.proto.witness.v1.witness_pb2 import GetStateResponse, ProposeResponse, Refusal, WitnessState
from ipls.proto.witness.v1.witness_pb2_grpc import WitnessServiceServicer
from ipls.rpc.errors import ServiceError
from ipls.server.directory.errors import NoQuorum, PublisherStopped
from tests.logs import heard
from tests.server.directories import ALICE, NOW, World, record, seed
from tests.trust.roots import cosign

OWN, OTHER, SPACE = seed(10), seed(11), "test.ipls"
ROOT, ANOTHER = bytes(32), b"x" * 32


class Says(WitnessServiceServicer):
    """Answers with these messages, or with this error."""

    def __init__(self, state: GetStateResponse | None = None, *, refusing: str = "", refusal: str = "") -> None:
        self.state = state or GetStateResponse()
        self.refusing = refusing
        self.answer = ProposeResponse(refusal=Refusal(reason=refusal)) if refusal else ProposeResponse()

    async def GetState(self, request: Any, context: Any) -> GetStateResponse:
        self.refuse()
        return self.state

    async def Propose(self, request: Any, context: Any) -> ProposeResponse:
        self.refuse()
        return self.answer

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


async def test_a_quorums_head_that_a_witness_shows_counts_whatever_its_age(tmp_path: Path) -> None:
    """Or a directory that was away would wait for a witness that has signed another root last, and it for that."""
    world = World(tmp_path)
    world.now_ms += 10 * world.root.max_head_age_ms
    async with world.witness(0, Says(state(head=by_quorum(ROOT, OWN)))), world.publisher() as (publisher, _, _):
        assert await publisher.ask() == 0


async def test_what_a_witness_that_went_further_signed_then_counts_whatever_its_age(tmp_path: Path) -> None:
    """It does not sign the epoch again, and a directory that lost it still needs the head."""
    world = World(tmp_path)
    then = Says(state(cosignature=cosign(OWN, SPACE, 7, ROOT, NOW)), refusal="WITNESS_BEHIND")
    world.now_ms += 10 * world.root.max_head_age_ms
    async with world.witness(0, then), world.publisher() as (_, _, witnesses):
        head = await witnesses.sign(1, 7, bytes(32), ROOT, b"", newest=False)
        assert [signature.message for signature in head.cosignatures] == [then.state.state.cosignature.message]


async def test_a_witness_that_says_nothing_signs_nothing(tmp_path: Path) -> None:
    world = World(tmp_path)
    async with world.witness(0, Says()), world.publisher() as (_, _, witnesses):
        with pytest.raises(NoQuorum) as proposed:
            await witnesses.sign(1, 1, ROOT, ANOTHER, b"blob")
        assert proposed.value.reason == "HEAD_KEY_UNPINNED"
    async with world.witness(0, Says(refusing="WITNESS_STOPPED")), world.publisher() as (publisher, _, witnesses):
        with pytest.raises(NoQuorum) as asked:
            await publisher.ask()
        with pytest.raises(NoQuorum) as proposed:
            await witnesses.sign(1, 1, ROOT, ANOTHER, b"blob")
        assert (asked.value.reason, proposed.value.reason) == ("WITNESS_STOPPED", "WITNESS_STOPPED")


def shown(root_hash: bytes, *, epoch: int = 1, by: bytes = OWN) -> GetStateResponse:
    signed = cosign(by, SPACE, epoch, root_hash, NOW)
    return GetStateResponse(state=WitnessState(epoch=epoch, root_hash=root_hash, cosignature=signed))


BARE = {
    "a fork": Says(refusal="WITNESS_FORK"),
    "a fork, by another's signature": Says(shown(ANOTHER, by=OTHER), refusal="WITNESS_FORK"),
    "that it has gone further": Says(refusal="WITNESS_BEHIND"),
    "a higher term": Says(GetStateResponse(state=WitnessState(term=2**64 - 1)), refusal="WITNESS_TERM"),
    "that its log has nothing": Says(refusal="LOG_OBJECT_MISSING"),
    "the directory's own reasons": Says(refusal="ROOT_UNREACHABLE"),
    "what ends the lease": Says(refusal="LEASE_LOST"),
}


@pytest.mark.parametrize("lie", BARE)
async def test_bare_words_of_witnesses_cost_their_votes_and_end_nothing(tmp_path: Path, lie: str) -> None:
    """Two of three, without whom there is no epoch: it comes as soon as one of them is honest again."""
    world, liar = World(tmp_path, witnesses=3, k=2), BARE[lie]
    async with world.witness(0), AsyncExitStack() as liars:
        async with world.witness(1), world.directory() as client:
            await client.first_head()
        for number in (1, 2):
            await liars.enter_async_context(world.witness(number, liar))
        with heard(event="no epoch") as failed:
            async with world.directory() as client:
                ticket = await client.submit(1, ALICE, record(1))
                await failed.wait()
                assert (await client.first_head()).head.epoch == 0  # it serves
                await liars.aclose()
                async with world.witness(1):
                    assert await client.published(ticket) == 1
    assert [entry.name[:2] for entry in world.log.list()] == ["1/"]


async def test_bare_words_about_the_start_which_nobody_signs_end_nothing(tmp_path: Path) -> None:
    world = World(tmp_path, witnesses=3, k=2)
    liar = Says(GetStateResponse(state=WitnessState(epoch=0, root_hash=ANOTHER)), refusal="WITNESS_FORK")
    async with world.witness(0), world.witness(1, liar), world.witness(2, liar), world.publisher() as (publisher, _, _):
        await publisher.take_over()
        with pytest.raises(NoQuorum) as refused:
            await publisher.advance()
        assert refused.value.reason == "WITNESS_FORK"


@pytest.mark.parametrize(("epoch", "reason"), [(1, "ROOT_UNREACHABLE"), (2, "WITNESS_FORK")])
async def test_signatures_on_other_roots_of_the_epoch_alone_stop_what_can_not_go_on(
    tmp_path: Path, epoch: int, reason: str
) -> None:
    """Two of three have signed other roots, by whatever means: no root is left that two can sign. What they show of
    another epoch says nothing of this one."""
    world = World(tmp_path, witnesses=3, k=2)
    liars = (Says(shown(bytes([n]) * 32, epoch=epoch, by=seed(10 + n)), refusal="WITNESS_FORK") for n in (1, 2))
    async with world.witness(0), world.publisher() as (publisher, store, _):
        async with world.witness(1), world.witness(2):
            await publisher.take_over()
            await publisher.advance()
        store.submit(bytes(16), ALICE, record(1), NOW, daily_quota=9, queue_max=9)
        async with world.witness(1, next(liars)), world.witness(2, next(liars)):
            with pytest.raises((PublisherStopped, NoQuorum)) as stopped:
                await publisher.advance()
        assert stopped.value.reason == reason
