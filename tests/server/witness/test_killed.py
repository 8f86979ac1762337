"""A witness killed at any step goes on by itself, forgets nothing that it answered and never signs a second root."""

import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ipls._grpc import grpc
from ipls.admin.certificates import Authority
from ipls.akd import EMPTY_ROOT, Publication
from ipls.proto.witness.v1.head_pb2 import SignedHead
from ipls.proto.witness.v1.witness_pb2 import GetStateRequest, ProposeRequest, ProposeResponse, WitnessState
from ipls.proto.witness.v1.witness_pb2_grpc import WitnessServiceStub
from ipls.rpc.channel import open_channel
from ipls.store.witness import init_witness_state
from ipls.trust.heads import Head, verify_head
from ipls.trust.root import encode_trust_root
from tests.attack.log import World, name, public_world
from tests.environment import DIES_WITH_US
from tests.server.chains import Chain, proposal
from tests.trust.roots import NAMESPACE, WITNESSES, make_root, witness

EPOCHS = 10
KILLS = 4
STEPS = 25  # starting takes 6, an epoch 12: with all kills at the last of them there are epochs left
ROOT = make_root(start_root=EMPTY_ROOT, expires_ms=2**62, witnesses=(witness("w1", WITNESSES[0], end=2**62),))


@pytest.fixture
def log() -> Iterator[World]:
    """It has all that is proposed."""
    with public_world(0) as world:
        yield world


class Lives:
    """A process after the other, each killed at the step that its turn names, the last at none."""

    def __init__(self, folder: Path, fatal_steps: list[int]) -> None:
        self.folder, self.fatal_steps, self.lived = folder, [*fatal_steps, 0], 0
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> str:
        """The address of the next life that lasts until it serves."""
        while True:
            if self.process:
                assert self.process.wait(60) == -9
            step = self.fatal_steps[self.lived]
            self.lived += 1
            command = [*DIES_WITH_US, sys.executable, "-m", "tests.server.witness.mortal", str(self.folder), str(step)]
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            assert self.process.stdout
            line = self.process.stdout.readline()
            if line:
                return f"127.0.0.1:{json.loads(line)['ports'][0]}"

    def end(self) -> None:
        if self.process:
            self.process.kill()
            self.process.wait(60)


@pytest.fixture
def folder(tmp_path: Path, log: World) -> Path:
    Authority(tmp_path, NAMESPACE).issue_server("server")
    (tmp_path / "trust.toml").write_bytes(encode_trust_root(replace(ROOT, log_url=log.root.log_url)))
    (tmp_path / "witness.key").touch(0o600)
    (tmp_path / "witness.key").write_text(WITNESSES[0].hex() + "\n")
    init_witness_state(tmp_path / "w.db", ROOT)
    return tmp_path


async def propose(stub: WitnessServiceStub, made: Publication) -> ProposeResponse:
    asked = proposal(made, time_ms=time.time_ns() // 1_000_000)
    return await stub.Propose(ProposeRequest(proposal=asked), timeout=60)


async def state_of(stub: WitnessServiceStub) -> WitnessState:
    return (await stub.GetState(GetStateRequest(namespace=NAMESPACE), timeout=60)).state


@pytest.mark.parametrize("turn", range(3))
async def test_a_killed_witness_goes_on(folder: Path, log: World, turn: int) -> None:
    chain, steps = Chain(), []
    for _ in range(EPOCHS):
        fork = chain.fork().step(b"thief")
        steps.append((chain.step(), fork))
        for made in steps[-1]:
            log.objects[name(made.epoch, made.old_root, made.new_root)] = made.blob
    lives = Lives(folder, random.Random(turn).sample(range(1, STEPS), KILLS))
    try:
        await sign_all(lives, steps)
        assert lives.lived == KILLS + 1
    finally:
        lives.end()


async def sign_all(lives: Lives, steps: list[tuple[Publication, Publication]]) -> None:
    """The directory proposes each epoch until it is signed; after each death a thief proposes another root for it."""
    answered = Head(0, EMPTY_ROOT)
    while answered.epoch < EPOCHS:
        async with open_channel(lives.start(), lives.folder / "ca.pem") as channel:
            stub = WitnessServiceStub(channel)
            try:
                state = await state_of(stub)
                assert state.epoch in (answered.epoch, answered.epoch + 1)
                if state.epoch == answered.epoch:
                    assert state.root_hash == answered.root_hash
                else:
                    refusal = (await propose(stub, steps[state.epoch - 1][1])).refusal
                    assert refusal.reason == "WITNESS_FORK"
                for made, fork in steps[answered.epoch :]:
                    cosignature = (await propose(stub, made)).cosignature
                    signed = SignedHead(epoch=made.epoch, root_hash=made.new_root, cosignatures=[cosignature])
                    answered = verify_head(ROOT, signed, now_ms=time.time_ns() // 1_000_000)
                    assert (await propose(stub, fork)).refusal.reason == "WITNESS_FORK"
            except grpc.aio.AioRpcError as e:
                assert e.code() is grpc.StatusCode.UNAVAILABLE  # noqa: PT017  # it died
