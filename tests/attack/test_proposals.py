"""Proposals by whoever can reach a witness, and the log that it reads them in: what a flood, a replay, a slow log or a
lying one cost it, which is never its next signature."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from ipls.akd import Publication
from ipls.http.client import HttpClient
from ipls.proto.witness.v1.head_pb2 import SignedHead
from ipls.proto.witness.v1.witness_pb2 import ProposeRequest, ProposeResponse, SignedProposal
from ipls.proto.witness.v1.witness_pb2_grpc import WitnessServiceStub
from ipls.rpc.channel import open_channel
from ipls.server.witness.service import WitnessService
from ipls.store.witness import init_witness_state
from tests.attack.log import World as PublicWorld
from tests.attack.log import public_world
from tests.server.chains import proposal
from tests.server.directories import ALICE, World, record
from tests.server.witnesses import make_service, open_store, reader
from tests.trust.roots import NAMESPACE, NOW, THIEF, WITNESSES

FLOOD = 40


async def test_a_flood_without_a_valid_signature_stops_no_epoch(tmp_path: Path) -> None:
    """From the beginning to the end of each epoch there are dozens of them under way."""
    world = World(tmp_path)
    made = PublicWorld().chain.step(b"flood")
    strangers = [proposal(made, seed=THIEF, term=2**62), SignedProposal(), proposal(made)]
    ended = asyncio.Event()
    answered = 0

    async def flood(stub: WitnessServiceStub, number: int) -> None:
        nonlocal answered
        while not ended.is_set():
            asked = ProposeRequest(proposal=strangers[number % len(strangers)])
            answer = await stub.Propose(asked, timeout=60)
            assert answer.refusal.reason == "PROPOSAL_UNSIGNED"
            answered += 1

    async with (
        world.witness(),
        world.directory() as client,
        open_channel(f"127.0.0.1:{world.witness_ports[0]}", world.ca) as channel,
    ):
        await client.first_head()
        floods = [asyncio.create_task(flood(WitnessServiceStub(channel), n)) for n in range(FLOOD)]
        for number in (1, 2):
            assert await client.publish(number, ALICE, record(number)) == number
        ended.set()
        await asyncio.gather(*floods)
    assert answered >= FLOOD


class Victim:
    """A witness that reads a public world."""

    def __init__(self, world: PublicWorld, folder: Path) -> None:
        self.world = world
        self._folder = folder
        init_witness_state(folder / "w.db", world.root)
        self.store = open_store(folder / "w.db", NAMESPACE)
        self.service = self.served()

    def served(self, patience_s: float = 30) -> WitnessService:
        public, evidence = reader(self.world.root, HttpClient(patience_s)), self._folder / "evidence"
        return make_service(self.world.root, "w0", WITNESSES[0], self.store, lambda: NOW, evidence, public=public)

    async def propose(self, asked: SignedProposal) -> ProposeResponse:
        return await self.service.Propose(ProposeRequest(proposal=asked), None)

    def path(self, made: Publication) -> str:
        return "/log/" + self.world.name_of(made.epoch)


@pytest.fixture
def world() -> Iterator[PublicWorld]:
    with public_world(0) as world:
        yield world


@pytest.fixture
async def victim(world: PublicWorld, tmp_path: Path) -> AsyncIterator[Victim]:
    victim = Victim(world, tmp_path)
    yield victim
    await victim.service.stop()
    victim.store.close()


def logged(world: PublicWorld) -> Publication:
    made = world.chain.step()
    world.put(made.epoch, made.old_root, made.new_root, made.blob)
    return made


async def test_a_replay_with_another_size_or_time_reads_nothing(victim: Victim) -> None:
    made = logged(victim.world)
    for size, time in ((32 << 20, NOW), (0, NOW), (len(made.blob), NOW + 1)):
        replayed = proposal(made)
        replayed.proposal.blob_size, replayed.proposal.time_ms = size, time
        assert (await victim.propose(replayed)).refusal.reason == "PROPOSAL_UNSIGNED"
    assert victim.world.asked == []
    assert (await victim.propose(proposal(made))).HasField("cosignature")


async def test_a_proposal_with_fields_that_it_has_not_is_the_one_that_was_signed(victim: Victim) -> None:
    """Whoever has met it could make it as many others, each of which takes a place and is kept."""
    made = logged(victim.world)
    asked = [ProposeRequest(proposal=proposal(made)) for _ in range(3)]
    for n, each in enumerate(asked):
        each.proposal.MergeFromString(b"\xa2\x06\x01" + bytes([n]))  # a field 100
        each.proposal.proposal.MergeFromString(b"\xa2\x06\x01" + bytes([n]))
    answers = [await victim.service.Propose(each, None) for each in asked]
    assert {answer.cosignature.SerializeToString() for answer in answers} == {
        answers[0].cosignature.SerializeToString()
    }
    kept = victim.store.signed(made.epoch)
    assert kept is not None
    assert kept.proposal == proposal(made).SerializeToString(deterministic=True)


async def test_a_proposal_of_the_past_or_with_other_heads_takes_no_place(victim: Victim) -> None:
    """Anyone has those of the past, and the head beside a proposal is signed by nobody."""
    made = victim.world.chain.step()
    old, new = proposal(made, time_ms=NOW - 10**6), proposal(made)
    asked = [ProposeRequest(proposal=each, head=SignedHead(epoch=n)) for n in range(100) for each in (old, new)]
    answers = await asyncio.gather(*(victim.service.Propose(each, None) for each in asked))
    assert {answer.refusal.reason for answer in answers} == {"CLOCK_APART", "LOG_OBJECT_MISSING"}


async def test_a_log_that_hangs_holds_one_reader_for_a_while_and_nothing_else(victim: Victim) -> None:
    made = logged(victim.world)
    reading, most, honest = 0, 0, threading.Event()
    lock = threading.Lock()

    def hang() -> tuple[int, bytes]:
        nonlocal reading, most
        with lock:
            reading += 1
            most = max(most, reading)
        honest.wait(20)
        with lock:
            reading -= 1
        return 404, b""

    victim.world.answers[victim.path(made)] = hang
    patient, victim.service = victim.service, victim.served(0.3)
    answers = await asyncio.gather(*(victim.propose(proposal(made)) for _ in range(50)))
    assert {answer.refusal.reason for answer in answers} == {"LOG_OBJECT_MISSING"}
    assert most == 1
    assert victim.world.asked == [victim.path(made)]
    honest.set()
    victim.world.answers.clear()
    victim.service = patient
    assert (await victim.propose(proposal(made))).HasField("cosignature")


LIES = {
    "another's bytes": (200, b"x"),
    "more than was signed": (200, bytes(4 << 20)),
    "nothing": (404, b""),
    "an error": (500, b""),
    "a page in its place": (302, b""),
}


@pytest.mark.parametrize("lie", LIES)
async def test_a_lying_log_costs_the_epoch_no_more_than_the_time_it_lies(victim: Victim, lie: str) -> None:
    made = logged(victim.world)
    before = victim.store.state()
    victim.world.answers[victim.path(made)] = LIES[lie]
    expected = "PROPOSAL_BLOB_MISMATCH" if LIES[lie][0] == 200 else "LOG_OBJECT_MISSING"
    assert (await victim.propose(proposal(made))).refusal.reason == expected
    assert victim.store.state() == before
    victim.world.answers.clear()
    assert (await victim.propose(proposal(made))).HasField("cosignature")


async def test_a_caller_that_goes_ends_no_answer_and_starts_no_second(victim: Victim) -> None:
    made = logged(victim.world)
    begun, go_on, loop = asyncio.Event(), threading.Event(), asyncio.get_running_loop()

    def held() -> tuple[int, bytes]:
        loop.call_soon_threadsafe(begun.set)
        go_on.wait(0.2)
        return 200, made.blob

    victim.world.answers[victim.path(made)] = held
    gone = asyncio.create_task(victim.propose(proposal(made)))
    await begun.wait()
    gone.cancel()
    go_on.set()
    assert (await victim.propose(proposal(made))).HasField("cosignature")
    assert victim.world.asked == [victim.path(made)]


async def test_a_witness_whose_log_is_away_does_not_keep_the_others_from_an_epoch(tmp_path: Path) -> None:
    """One of three reads a log that has nothing; it signs again once it reads the log that the others read."""
    world = World(tmp_path, witnesses=3, k=2)
    async with world.witness(0), world.witness(1), world.witness(2), world.directory() as client:
        assert await client.publish(1, ALICE, record(1)) == 1
        whole, asked = world.log.get, 0

        def misses_every_third(name: str) -> bytes | None:
            nonlocal asked
            asked += 1
            return None if asked % 3 == 1 else whole(name)

        world.log.get = misses_every_third  # type: ignore[method-assign]  # of this one alone
        for number in (2, 3):
            assert await client.publish(number, ALICE, record(number)) == number
        assert asked >= 6


async def test_the_address_asked_is_the_trust_roots_whatever_the_proposal_says(victim: Victim) -> None:
    """No field of a proposal is part of a path but numbers and hashes."""
    made = logged(victim.world)
    assert (await victim.propose(proposal(made, namespace="../../w1"))).refusal.reason == "WITNESS_OTHER_NAMESPACE"
    assert (await victim.propose(proposal(made))).HasField("cosignature")
    assert victim.world.asked == [victim.path(made)]
