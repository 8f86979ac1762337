"""Whoever opens handshakes without end, at the core: who goes on at once gets through, who only sits makes table."""

import os
import signal
from contextlib import closing

import pytest

from ipls.hsm.core.sessions import ACCOUNT_SESSIONS
from ipls.hsm.core.workers import HELLOS
from ipls.hsm.token.ephemeral_pool import EphemeralPool
from ipls.hsm.token.pkcs11 import HsmToken
from ipls.proto.vault.v1.vault_pb2 import SessionRequest, SessionResponse
from ipls.vault.session import transcript
from tests.hsm.rig import CoreProcess, Exchange, Owner, Rig, now_ms, running, running_core

KEY = bytes(range(32))
PLACES = 4
KNOCKS = 100


class Crowd:
    """Strangers at a core's door, and an owner who comes last."""

    def __init__(self, core: CoreProcess) -> None:
        self.core = core
        self.owner = Owner()
        core.rig.directory.publish(self.owner)
        [self.worker] = running(core.process.pid, "ipls.hsm.worker")
        self.turned_away: set[int] = set()

    def knock(self, count: int = KNOCKS) -> range:
        """So many first frames at once; their sessions."""
        first = self.core.last + 1
        frame = self.core.rig.client(Owner(), known_head=self.core.rig.directory.head()).hello(now_ms())
        for _ in range(count):
            self.core.last += 1
            self.core.send(session=self.core.last, frame=frame)
        return range(first, self.core.last + 1)

    def stream(self) -> Exchange:
        """The owner's; what is said to others meanwhile is noted."""
        self.core.last = session = self.core.last + 1

        async def exchange(frame: SessionRequest) -> SessionResponse:
            self.core.send(session=session, frame=frame)
            while True:
                response = await self.core.receive()
                if response.session != session:
                    self.note(response.session, response.refused.reason)
                elif response.HasField("needs_history"):
                    needs = response.needs_history
                    proof = self.core.rig.directory.prove(needs.label, needs.epoch)
                    self.core.send(session=session, history={"epoch": needs.epoch, "proof": proof})
                else:
                    assert not response.HasField("refused"), response
                    return response.frame

        return exchange

    def note(self, session: int, reason: str) -> None:
        if reason:
            assert reason == "VAULT_BUSY"
            assert session not in self.turned_away
            self.turned_away.add(session)

    async def turn_away(self, count: int) -> None:
        """Until so many are."""
        while len(self.turned_away) < count:
            response = await self.core.receive()
            self.note(response.session, response.refused.reason)

    async def serve_owner(self) -> None:
        exchange = self.stream()
        client = await self.core.rig.open(self.owner, exchange, known_head=self.core.rig.directory.head())
        client.on_answer(await exchange(client.store_request(0, bytes(16), KEY)))
        assert client.on_answer(await exchange(client.retrieve_request())) == (1, KEY)


async def test_of_more_than_a_worker_can_answer_the_oldest_are_turned_away(rig: Rig) -> None:
    """It stands still meanwhile. Those turned away cost it nothing, and the owner, who comes last, is served."""
    rig.configure(max_half_open=PLACES, worker_sessions=KNOCKS)
    async with running_core(rig) as core:
        crowd = Crowd(core)
        os.kill(crowd.worker, signal.SIGSTOP)
        knocks = crowd.knock()
        await crowd.turn_away(KNOCKS - HELLOS - PLACES)
        assert set(knocks[-PLACES:]).isdisjoint(crowd.turned_away)
        os.kill(crowd.worker, signal.SIGCONT)
        await crowd.serve_owner()
        assert running(core.process.pid, "ipls.hsm.worker") == [
            crowd.worker
        ]  # it was given a few sessions, not a hundred


async def test_streams_that_end_at_once_are_no_way_around(rig: Rig) -> None:
    """Each frees its place in the core, but its turn only when the worker is through with it: else all of them would
    lie in the worker's pipe, before the owner."""
    rig.configure(max_half_open=PLACES, worker_sessions=KNOCKS)
    async with running_core(rig) as core:
        crowd = Crowd(core)
        os.kill(crowd.worker, signal.SIGSTOP)
        for _ in range(KNOCKS):
            crowd.knock(1)
            core.close()
        os.kill(crowd.worker, signal.SIGCONT)
        await crowd.serve_owner()
        assert running(core.process.pid, "ipls.hsm.worker") == [crowd.worker]
        assert crowd.turned_away == set()


async def test_who_was_answered_and_only_sits_makes_room_and_who_is_proven_stays(rig: Rig) -> None:
    rig.configure(max_half_open=PLACES)
    async with running_core(rig) as core:
        crowd = Crowd(core)
        exchange = crowd.stream()
        client = await rig.open(crowd.owner, exchange, known_head=rig.directory.head())
        for count in range(1, 5 * PLACES):
            crowd.knock(1)
            await crowd.turn_away(count - PLACES)
        assert len(crowd.turned_away) >= 4 * PLACES - 1
        client.on_answer(await exchange(client.store_request(0, bytes(16), KEY)))
        assert client.on_answer(await exchange(client.retrieve_request())) == (1, KEY)


async def test_a_handshake_has_its_time_and_a_proven_session_longer_whatever_it_does(rig: Rig) -> None:
    rig.configure(handshake_s=3.0, session_s=7.0)
    async with running_core(rig) as core:
        crowd, head = Crowd(core), rig.directory.head()
        exchange = crowd.stream()
        busy = await rig.open(crowd.owner, exchange, known_head=head)
        await rig.open(crowd.owner, crowd.stream(), known_head=head)
        for _ in range(3):
            busy.on_answer(await exchange(busy.list_request()))
        crowd.knock(1)
        expired: list[int] = []
        while len(expired) < 3:
            response = await core.receive()
            if response.HasField("refused"):
                assert response.refused.reason == "VAULT_SESSION_EXPIRED"
                expired.append(response.session)
        assert expired == [3, 1, 2]


@pytest.mark.parametrize(
    ("places", "owned"), [(3, 2), (256, ACCOUNT_SESSIONS)], ids=["of all that there are", "of the account's"]
)
async def test_a_proven_session_that_never_goes_on_makes_room_of_the_account_that_has_most(
    rig: Rig, places: int, owned: int
) -> None:
    rig.configure(max_sessions=places)
    async with running_core(rig) as core:
        crowd, other = Crowd(core), Owner()
        head = rig.directory.publish(other)
        await rig.open(crowd.owner, crowd.stream(), known_head=head)
        core.close()  # it waits no more, and has no place to give
        exchange = crowd.stream()
        oldest = await rig.open(other, exchange, known_head=head)
        for _ in range(owned + 1):
            await rig.open(crowd.owner, crowd.stream(), known_head=head)
        await crowd.turn_away(1)
        assert crowd.turned_away == {3}
        oldest.on_answer(await exchange(oldest.list_request()))


async def test_the_next_worker_is_ready_before_one_is_used_up(rig: Rig) -> None:
    """Among so many handshakes that workers come and go, nobody is told to wait for one."""
    rig.configure(worker_sessions=8)
    async with running_core(rig) as core:
        crowd, workers = Crowd(core), set[int]()
        for _ in range(30):
            exchange = crowd.stream()
            client = await rig.open(crowd.owner, exchange, known_head=rig.directory.head())
            client.on_answer(await exchange(client.list_request()))
            workers.update(running(core.process.pid, "ipls.hsm.worker"))
            core.close()
        assert len(workers) >= 3


def test_key_pairs_made_ahead_are_each_used_once_and_go_with_the_token(rig: Rig) -> None:
    with closing(EphemeralPool(HsmToken.open(rig.folder / "token", "1234567890"), 3)) as token:
        assert [token.prepare() for _ in range(5)] == [True, True, True, False, False]
        made = [token.ephemeral() for _ in range(5)]  # two of them fresh
        assert len({ephemeral.point for ephemeral in made}) == 5
        assert token.prepare()
        for ephemeral in made:
            ephemeral.agree(token.public_point, bytes(32)).close()
        transcript.check_point(token.ephemeral().point)
