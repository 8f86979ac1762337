"""The directory and its witnesses: a quorum is enough, and no lie of a witness makes a head or stops one."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from ipls.akd import EMPTY_ROOT
from ipls.config import ConfigError
from ipls.crypto.keys import public_key
from ipls.proto.witness.v1.head_pb2 import Cosignature, SignedHead
from ipls.proto.witness.v1.witness_pb2 import (
    GetStateRequest,
    GetStateResponse,
    Proposal,
    ProposeRequest,
    ProposeResponse,
    WitnessState,
)
from ipls.proto.witness.v1.witness_pb2_grpc import WitnessServiceServicer
from ipls.server.directory.errors import NoQuorum
from ipls.server.witness.service import WitnessService
from ipls.trust.heads import signers, verify_head
from tests.server.directories import ALICE, NOW, World, record, seed
from tests.trust.roots import cosign


def verified(world: World, signed: SignedHead) -> tuple[int, bytes]:
    return verify_head(world.root, signed, now_ms=world.now_ms)


async def test_a_quorum_is_enough_and_less_is_not(tmp_path: Path) -> None:
    world = World(tmp_path, witnesses=3, k=2)
    async with world.witness(0), world.publisher() as (publisher, store, _):
        async with world.witness(2):
            await publisher.take_over()
            await publisher.advance()
            head = store.head()
            assert head is not None
            assert set(signers(world.root, SignedHead.FromString(head.signed), now_ms=NOW)) == {"w0", "w2"}
        store.submit(bytes(16), ALICE, record(1), NOW, daily_quota=1, queue_max=1)
        for step in (publisher.advance, publisher.take_over):
            with pytest.raises(NoQuorum) as caught:
                await step()
            assert caught.value.reason == "WITNESS_UNREACHABLE"
        assert store.head() == head
        assert [entry.name[:2] for entry in world.log.list()] == ["1/"]  # it leads by one


async def test_a_misspelt_witness_keeps_the_directory_from_starting(tmp_path: Path) -> None:
    world = World(tmp_path, witnesses=3, k=2)
    addresses = world.config().witnesses
    misspelt = {"w0": addresses["w0"], "w1": addresses["w1"], "W2": addresses["w2"]}
    with pytest.raises(ConfigError, match="no witness W2; it has w0, w1, w2") as refused:
        async with world.directory(witnesses=misspelt):
            pass
    assert refused.value.reason == "CONFIG_INVALID"


async def test_a_witness_without_an_address_is_told_of_once(tmp_path: Path) -> None:
    world = World(tmp_path, witnesses=3, k=2)
    reached = {name: address for name, address in world.config().witnesses.items() if name != "w1"}
    with capture_logs() as lines:
        async with world.witness(0), world.witness(2), world.directory(witnesses=reached) as client:
            await client.publish(1, ALICE, record(1))
    told = [line for line in lines if line["event"] == "pinned witness without an address"]
    assert [(line["log_level"], line["witness"]) for line in told] == [("warning", "w1")]


class Liar(WitnessServiceServicer):
    """A witness that takes any proposal and answers with what `lie` makes of it."""

    def __init__(self, lie: Callable[[Proposal], Cosignature], state: WitnessState | None = None) -> None:
        self._lie = lie
        self._state = state or WitnessState()
        self.asked = 0

    async def GetState(self, request: GetStateRequest, context: Any) -> GetStateResponse:
        return GetStateResponse(state=self._state)

    async def Propose(self, request: ProposeRequest, context: Any) -> ProposeResponse:
        self.asked += 1
        return ProposeResponse(cosignature=self._lie(request.proposal.proposal))


def _short(cosignature: Cosignature) -> Cosignature:
    cosignature.signature = cosignature.signature[:63]
    return cosignature


OWN, OTHER = seed(10), seed(11)
SPACE = "test.ipls"
LIES: dict[str, tuple[Callable[[Proposal], Cosignature], str]] = {
    "an unpinned key": (lambda p: cosign(seed(66), SPACE, p.epoch, p.new_root, NOW), "HEAD_KEY_UNPINNED"),
    "another witness's key": (lambda p: cosign(OTHER, SPACE, p.epoch, p.new_root, NOW), "HEAD_KEY_UNPINNED"),
    "another namespace": (lambda p: cosign(OWN, "other", p.epoch, p.new_root, NOW), "HEAD_OTHER_NAMESPACE"),
    "another epoch": (lambda p: cosign(OWN, SPACE, p.epoch + 1, p.new_root, NOW), "HEAD_OTHER_ROOT"),
    "another root": (lambda p: cosign(OWN, SPACE, p.epoch, bytes(32), NOW), "HEAD_OTHER_ROOT"),
    "an old time": (lambda p: cosign(OWN, SPACE, p.epoch, p.new_root, NOW - 3_600_001), "HEAD_TOO_OLD"),
    "a cut signature": (lambda p: _short(cosign(OWN, SPACE, p.epoch, p.new_root, NOW)), "SIGNATURE_LENGTH"),
    "nothing": (lambda p: Cosignature(), "HEAD_KEY_UNPINNED"),
}


@pytest.mark.parametrize("lie", LIES)
async def test_a_signature_that_does_not_count_makes_no_head(tmp_path: Path, lie: str) -> None:
    world = World(tmp_path, witnesses=2, k=2)
    answer, reason = LIES[lie]
    async with world.witness(0, Liar(answer)), world.witness(1), world.publisher() as (publisher, store, _):
        await publisher.take_over()
        with pytest.raises(NoQuorum) as caught:
            await publisher.advance()
        assert caught.value.reason == reason
        assert store.head() is None


@pytest.mark.parametrize(
    "state",
    [
        WitnessState(term=2**64 - 1),
        WitnessState(epoch=7, root_hash=bytes(32)),
        WitnessState(epoch=2**64 - 1, root_hash=bytes(32), cosignature=cosign(OTHER, SPACE, 2**64 - 1, bytes(32), NOW)),
        WitnessState(epoch=7, root_hash=bytes(32), cosignature=cosign(OWN, SPACE, 1, bytes(32), NOW)),
        WitnessState(epoch=7, root_hash=bytes(32), cosignature=cosign(OWN, "other", 7, bytes(32), NOW)),
        WitnessState(epoch=7, root_hash=bytes(32), cosignature=_short(cosign(OWN, SPACE, 7, bytes(32), NOW))),
        WitnessState(epoch=7, cosignature=Cosignature(public_key=public_key(OWN), message=b"\xff")),
    ],
)
async def test_a_witness_that_lies_about_its_state_stops_nothing(tmp_path: Path, state: WitnessState) -> None:
    world = World(tmp_path, witnesses=3, k=2)
    liar = Liar(lambda p: Cosignature(), state)
    for request in (1, 2):  # the second time with the terms that the first one took
        async with world.witness(0, liar), world.witness(1), world.witness(2), world.directory() as client:
            assert await client.publish(request, ALICE, record(request)) == request


async def test_a_new_term_is_above_what_every_witness_has_seen(tmp_path: Path) -> None:
    world = World(tmp_path, witnesses=2, k=2)
    low, high = (Liar(lambda p: Cosignature(), WitnessState(root_hash=EMPTY_ROOT, term=term)) for term in (4, 9))
    async with world.witness(0, low), world.witness(1, high), world.publisher() as (publisher, _, _):
        assert await publisher.ask() == 9


async def test_a_witness_whose_clock_is_behind_is_not_asked_without_end(tmp_path: Path) -> None:
    world = World(tmp_path)
    late = Liar(lambda p: cosign(OWN, SPACE, p.epoch, p.new_root, NOW - world.root.max_head_age_ms // 2))
    async with world.witness(0, late), world.publisher() as (publisher, _, _):
        await publisher.take_over()
        for _ in range(3):
            await publisher.advance()
        assert late.asked == 1
        world.now_ms += world.root.max_head_age_ms // 4
        await publisher.advance()
        assert late.asked == 2


@pytest.mark.parametrize("age_ms", [0, 1_800_000])
async def test_nobody_waits_for_a_slow_witness_which_is_asked_for_the_newest_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, age_ms: int
) -> None:
    """Though one of the others put an old time; and a signature on the rest would come too late."""
    monkeypatch.setattr("ipls.server.directory.witnesses.OLD_GRACE_S", 0.01 if age_ms else 3600)
    world = World(tmp_path, witnesses=3, k=2)
    asked, go_on, came = list[int](), asyncio.Event(), asyncio.Event()

    class Slow(Liar):
        async def Propose(self, request: ProposeRequest, context: Any) -> ProposeResponse:
            asked.append(request.proposal.proposal.epoch)
            await go_on.wait()
            if asked[-1] == 4:
                came.set()
            return await super().Propose(request, context)

    old = Liar(lambda p: cosign(OWN, SPACE, p.epoch, p.new_root, NOW - age_ms))
    slow = Slow(lambda p: cosign(seed(12), SPACE, p.epoch, p.new_root, NOW))
    young = Liar(lambda p: cosign(OTHER, SPACE, p.epoch, p.new_root, NOW))
    async with (
        world.witness(0, old),
        world.witness(1, young),
        world.witness(2, slow),
        world.publisher() as (_, _, witnesses),
    ):
        for epoch in range(1, 5):
            await witnesses.sign(1, epoch, bytes(32), bytes([epoch]) * 32, b"")
        go_on.set()
        await came.wait()
    assert asked == [1, 4]


@pytest.mark.parametrize("ahead_ms", [-3_600_000, 3_600_000])
async def test_a_witness_whose_clock_is_off_costs_its_own_vote_and_moves_no_time(tmp_path: Path, ahead_ms: int) -> None:
    world = World(tmp_path, witnesses=3, k=2)
    async with world.witness(0), world.witness(1), world.publisher() as (publisher, store, _):
        async with world.witness(2, ahead_ms=ahead_ms):
            await publisher.take_over()
            await publisher.advance()
            store.submit(bytes(16), ALICE, record(1), NOW, daily_quota=1, queue_max=1)
            await publisher.advance()
        head = store.head()
        assert head is not None
        assert head.epoch == 1
        signed = SignedHead.FromString(head.signed)
        assert signers(world.root, signed, now_ms=NOW) == {"w0": NOW, "w1": NOW}
        assert len(signed.cosignatures) == 2


@pytest.mark.parametrize("left_ms", [1, -1])
async def test_a_witness_that_signs_with_an_old_time_makes_no_old_head(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left_ms: int
) -> None:
    """Its answer, which counts for 1 ms more or not at all, is there before the others judge."""
    world = World(tmp_path, witnesses=3, k=2)
    answered = asyncio.Event()

    def lie(proposal: Proposal) -> Cosignature:
        answered.set()
        return cosign(OWN, SPACE, proposal.epoch, proposal.new_root, NOW + left_ms - world.root.max_head_age_ms)

    async def judge_later(*arguments: Any) -> bytes:
        await answered.wait()
        return await judge(*arguments)

    judge = WitnessService._judge
    monkeypatch.setattr(WitnessService, "_judge", judge_later)
    async with world.witness(0, Liar(lie)), world.witness(1), world.witness(2), world.directory() as client:
        assert await client.publish(1, ALICE, record(1)) == 1
        head = (await client.first_head()).head
        world.now_ms += world.root.max_head_age_ms // 2
        assert verified(world, head)[0] == 1
