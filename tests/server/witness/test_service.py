import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest

from ipls._grpc import grpc
from ipls.admin.certificates import Authority
from ipls.akd import EMPTY_ROOT, Publication
from ipls.config import ConfigError, TlsFiles, WitnessConfig
from ipls.crypto.encoding import tagged_hash
from ipls.crypto.keys import SeedSigner, Signer, sign
from ipls.proto.witness.v1.head_pb2 import SignedHead
from ipls.proto.witness.v1.witness_pb2 import (
    GetStateRequest,
    ProposeRequest,
    ProposeResponse,
    SignedProposal,
    WitnessState,
)
from ipls.proto.witness.v1.witness_pb2_grpc import WitnessServiceStub, add_WitnessServiceServicer_to_server
from ipls.rpc.errors import RemoteError, remote_error
from ipls.runtime.service import Service
from ipls.server.witness import app
from ipls.store.errors import StoreError
from ipls.store.log import object_name
from ipls.store.witness import WitnessStore, init_witness_state
from ipls.trust.heads import Head, quorum_timestamp, timestamp, verify_head
from ipls.trust.limits import MAX_BLOB
from ipls.trust.proposals import judge_proposal
from tests.attack.log import public_world
from tests.logs import begun_again, heard
from tests.server.chains import Chain, proposal, renewal
from tests.server.loopback import loopback
from tests.server.witnesses import LogOnly, make_service, open_store, reader
from tests.trust.roots import HOUR, NAMESPACE, NOW, PROPOSER, THIEF, WITNESSES, make_root, seed, witness

ROOT = make_root(start_root=EMPTY_ROOT)


@dataclass
class World:
    """A witness on a loopback port, its clock, a honest directory, and the log that the witness reads."""

    stub: WitnessServiceStub
    store: WitnessStore
    log: LogOnly
    objects: dict[str, bytes]
    chain: Chain = field(default_factory=Chain)
    now: int = NOW

    def step(self, *labels: bytes) -> Publication:
        """The next epoch of the honest directory, in the log."""
        return self.publish(self.chain.step(*labels))

    def publish(self, made: Publication) -> Publication:
        self.objects[name_of(made)] = made.blob
        return made

    async def propose(self, signed: SignedProposal) -> ProposeResponse:
        try:
            return await self.stub.Propose(ProposeRequest(proposal=signed), timeout=60)
        except grpc.aio.AioRpcError as e:
            raise remote_error(e) from e

    async def signs(self, signed: SignedProposal) -> int:
        """The signature's time, once it has been verified as a client would."""
        answer = await self.propose(signed)
        assert answer.WhichOneof("result") == "cosignature", answer.refusal.reason
        head = Head(signed.proposal.epoch, signed.proposal.new_root)
        signed_head = SignedHead(epoch=head.epoch, root_hash=head.root_hash, cosignatures=[answer.cosignature])
        assert verify_head(ROOT, signed_head, now_ms=self.now, check_age=False) == head
        return timestamp(answer.cosignature)

    async def refuses(self, signed: SignedProposal) -> str:
        """The reason; a refusal leaves the witness as it was."""
        before = self.store.state()
        answer = await self.propose(signed)
        assert answer.WhichOneof("result") == "refusal"
        assert self.store.state() == before
        return answer.refusal.reason

    async def state(self, epoch: int | None = None) -> WitnessState:
        try:
            return (await self.stub.GetState(GetStateRequest(namespace=NAMESPACE, epoch=epoch), timeout=60)).state
        except grpc.aio.AioRpcError as e:
            raise remote_error(e) from e


def name_of(made: Publication) -> str:
    return object_name(made.epoch, made.old_root, made.new_root)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    init_witness_state(tmp_path / "w.db", ROOT)
    store = open_store(tmp_path / "w.db", NAMESPACE)
    objects = dict[str, bytes]()
    log = LogOnly(ROOT, objects.get)
    evidence, public = tmp_path / "evidence", reader(ROOT, log)
    service = make_service(ROOT, "w1", WITNESSES[0], store, lambda: world.now, evidence, public=public)
    async with loopback(tmp_path, partial(add_WitnessServiceServicer_to_server, service)) as channel:
        world = World(WitnessServiceStub(channel), store, log, objects)
        yield world
    store.close()


async def test_it_signs_the_start_then_every_successor(world: World) -> None:
    assert await world.signs(renewal(0, EMPTY_ROOT)) == NOW
    for _ in range(3):
        made = world.step()
        await world.signs(proposal(made))
    state = await world.state()
    assert (state.epoch, state.root_hash, state.old_root) == (3, made.new_root, made.old_root)
    assert state.term == 1
    head = SignedHead(epoch=3, root_hash=made.new_root, cosignatures=[state.cosignature])
    assert quorum_timestamp(ROOT, head, now_ms=NOW) == NOW


async def test_an_earlier_epoch_is_told_with_its_signature_and_what_was_proposed(world: World) -> None:
    made = [world.step() for _ in range(3)]
    for each in made:
        await world.signs(proposal(each))
    for each in made:
        state = await world.state(each.epoch)
        assert (state.epoch, state.old_root, state.root_hash) == (each.epoch, each.old_root, each.new_root)
        assert state.proposal == proposal(each)
        signed = SignedHead(epoch=each.epoch, root_hash=each.new_root, cosignatures=[state.cosignature])
        assert verify_head(ROOT, signed, now_ms=NOW) == Head(each.epoch, each.new_root)
    with pytest.raises(RemoteError) as caught:
        await world.state(4)
    assert caught.value.reason == "EPOCH_UNKNOWN"


async def test_a_proposal_unsigned_or_by_another_key_is_refused_without_a_look_at_the_log(world: World) -> None:
    made = world.step()
    unsigned = proposal(made)
    unsigned.ClearField("signature")
    by_witness = proposal(made, seed=WITNESSES[0])
    for bad in (unsigned, by_witness, proposal(made, seed=THIEF), SignedProposal()):
        assert await world.refuses(bad) == "PROPOSAL_UNSIGNED"
    for field_name, value in (("term", 2), ("time_ms", NOW + 1), ("blob_size", 32 << 20), ("epoch", 2)):
        edited = proposal(made)
        setattr(edited.proposal, field_name, value)
        assert await world.refuses(edited) == "PROPOSAL_UNSIGNED"
    assert world.log.asked == []


async def test_a_proposal_of_before_time_and_size_were_signed_is_refused(world: World) -> None:
    old = proposal(world.step(), time_ms=0, blob_size=0)
    p = old.proposal
    said = (p.namespace, p.term, p.epoch, p.old_root, p.new_root, p.blob_sha256)
    old.signature = sign(PROPOSER, tagged_hash("ipls/witness/v1 proposal", *said))
    assert judge_proposal(ROOT.proposal_key, old) == p
    assert await world.refuses(old) == "PROPOSAL_UNSIGNED"


@pytest.mark.parametrize("namespace", ["other", f"{NAMESPACE}/fleet", f"{NAMESPACE}/trust", ""])
async def test_a_proposal_under_another_namespace_is_refused(world: World, namespace: str) -> None:
    assert await world.refuses(proposal(world.step(), namespace=namespace)) == "WITNESS_OTHER_NAMESPACE"


async def test_a_fork_is_refused(world: World) -> None:
    made = world.step()
    thief = world.chain.fork()
    copy_of_before = Chain()
    await world.signs(proposal(made))
    forged = world.publish(copy_of_before.step(b"victim"))
    assert await world.refuses(proposal(forged)) == "WITNESS_FORK"
    onward = world.publish(copy_of_before.step(b"more"))
    assert await world.refuses(proposal(onward)) == "WITNESS_FORK"
    await world.signs(proposal(world.publish(thief.step())))


async def test_a_fork_is_refused_in_any_term_and_without_a_blob(world: World) -> None:
    made, forged = world.step(), world.publish(Chain().step(b"victim"))
    await world.signs(proposal(made))
    assert await world.refuses(proposal(forged, term=99)) == "WITNESS_FORK"
    assert await world.refuses(renewal(1, forged.new_root)) == "WITNESS_FORK"


async def test_a_gap_is_refused(world: World) -> None:
    world.step()
    made = world.step()
    assert await world.refuses(proposal(made)) == "WITNESS_GAP"
    assert await world.refuses(proposal(made, old_root=EMPTY_ROOT)) == "WITNESS_GAP"


async def test_an_epoch_that_is_not_here_yet_is_not_signed_again(world: World) -> None:
    made = world.step()
    assert await world.refuses(renewal(1, made.new_root)) == "WITNESS_GAP"


async def test_a_wrong_start_is_refused(world: World) -> None:
    made = world.step()
    assert await world.refuses(renewal(0, made.new_root)) == "WITNESS_FORK"
    assert await world.refuses(proposal(made, old_root=bytes(32))) == "WITNESS_FORK"


async def test_an_epoch_it_has_left_behind_is_not_signed_again(world: World) -> None:
    first, second = world.step(), world.step()
    for made in (first, second):
        await world.signs(proposal(made))
    assert await world.refuses(proposal(first)) == "WITNESS_BEHIND"
    assert await world.refuses(renewal(0, EMPTY_ROOT)) == "WITNESS_BEHIND"


async def test_a_lower_term_is_refused_and_a_refused_proposal_raises_none(world: World) -> None:
    first, second = world.step(), world.step()
    await world.signs(proposal(first, term=5))
    assert await world.refuses(proposal(second, term=4)) == "WITNESS_TERM"
    assert await world.refuses(renewal(1, first.new_root, term=4)) == "WITNESS_TERM"
    assert await world.refuses(proposal(second, term=50, old_root=bytes(32))) == "WITNESS_FORK"
    assert await world.refuses(proposal(second, term=50, seed=THIEF)) == "PROPOSAL_UNSIGNED"
    await world.signs(proposal(second, term=6))
    assert (await world.state()).term == 6


@pytest.mark.parametrize(
    ("field_name", "value"), [("term", 2**64 - 1), ("epoch", 2**64 - 1), ("blob_size", MAX_BLOB + 1)]
)
async def test_numbers_out_of_range_are_refused(world: World, field_name: str, value: int) -> None:
    assert await world.refuses(proposal(world.step(), **{field_name: value})) == "PROPOSAL_INVALID"


async def test_a_proposal_stuffed_with_more_than_it_can_have_is_refused(world: World) -> None:
    stuffed = proposal(world.step())
    stuffed.MergeFromString(b"\xa2\x06\x80\x80\x02" + bytes(32 << 10))  # a field 100, which it has not
    with pytest.raises(RemoteError) as caught:
        await world.propose(stuffed)
    assert caught.value.reason == "MESSAGE_TOO_LARGE"


async def test_a_step_that_does_not_only_append_is_refused(world: World) -> None:
    """A directory with every key, whose epoch drops what was there: a tree of its own under the right old root."""
    first = world.step()
    await world.signs(proposal(first))
    elsewhere = Chain()
    elsewhere.step(b"other")
    rewritten = elsewhere.step(b"victim")
    world.publish(rewritten._replace(old_root=first.new_root))
    assert await world.refuses(proposal(rewritten, old_root=first.new_root)) == "WITNESS_PROOF_REFUSED"
    second = world.step()
    world.publish(second._replace(new_root=bytes(32)))
    assert await world.refuses(proposal(second, new_root=bytes(32))) == "WITNESS_PROOF_REFUSED"
    world.objects[name_of(second)] = b""
    nothing = hashlib.sha256(b"").digest()
    assert await world.refuses(proposal(second, blob_sha256=nothing, blob_size=0)) == "WITNESS_PROOF_REFUSED"
    world.publish(second)
    await world.signs(proposal(second))


async def test_an_object_that_is_not_the_one_proposed_is_refused(world: World) -> None:
    made = world.step()
    for other in (bytes([made.blob[0] ^ 1]) + made.blob[1:], made.blob[:-1], made.blob + b"\0", b""):
        world.objects[name_of(made)] = other
        assert await world.refuses(proposal(made)) == "PROPOSAL_BLOB_MISMATCH"
    world.publish(made)
    await world.signs(proposal(made))


async def test_it_signs_nothing_that_nobody_can_read_in_the_log(world: World) -> None:
    made = world.chain.step()
    assert await world.refuses(proposal(made)) == "LOG_OBJECT_MISSING"
    world.publish(made)
    await world.signs(proposal(made))
    assert world.log.asked == [name_of(made)] * 2


@pytest.mark.parametrize("apart_ms", [-120_001, 120_001])
async def test_it_signs_nothing_for_a_directory_whose_clock_is_apart(world: World, apart_ms: int) -> None:
    made = world.step()
    for asked in (proposal(made, time_ms=NOW + apart_ms), renewal(0, EMPTY_ROOT, time_ms=NOW + apart_ms)):
        assert await world.refuses(asked) == "CLOCK_APART"
    assert world.log.asked == []
    near = apart_ms - (1 if apart_ms > 0 else -1)
    assert await world.signs(proposal(made, time_ms=NOW + near)) == NOW


async def test_the_same_proposal_however_often_is_read_in_the_log_and_signed_once(world: World) -> None:
    made = world.step()
    answers = await asyncio.gather(*(world.propose(proposal(made)) for _ in range(30)))
    world.now += HOUR  # a replay of what was signed last, at any time, gets that signature
    answers.append(await world.propose(proposal(made)))
    assert {answer.cosignature.SerializeToString() for answer in answers} == {
        answers[0].cosignature.SerializeToString()
    }
    assert world.log.asked == [name_of(made)]
    await world.signs(proposal(made, term=2, time_ms=world.now))  # anew: the object is not read again
    assert world.log.asked == [name_of(made)]


async def test_more_proposals_than_a_directory_can_have_under_way_wait_their_turn(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ipls.server.witness.service.MAX_ANSWERS", 0)
    made = world.step()
    with pytest.raises(RemoteError) as caught:
        await world.propose(proposal(made))
    assert (caught.value.reason, caught.value.code) == ("SERVICE_BUSY", grpc.StatusCode.RESOURCE_EXHAUSTED)
    assert caught.value.retry_after_s == 1
    monkeypatch.undo()
    await world.signs(proposal(made))


async def test_of_two_concurrent_proposals_one_wins(world: World) -> None:
    steps = [world.publish(Chain().step(label)) for label in (b"a", b"b")]
    answers = await asyncio.gather(*(world.propose(proposal(made)) for made in steps))
    winners = [made for made, answer in zip(steps, answers, strict=True) if answer.HasField("cosignature")]
    assert len(winners) == 1
    assert [a.refusal.reason for a in answers if a.HasField("refusal")] == ["WITNESS_FORK"]
    assert (await world.state()).root_hash == winners[0].new_root


async def test_the_newest_head_is_signed_again_with_the_present_time(world: World) -> None:
    made = world.step()
    assert await world.signs(proposal(made)) == NOW
    world.now += HOUR
    assert await world.signs(renewal(1, made.new_root, time_ms=world.now)) == NOW + HOUR
    assert await world.signs(proposal(made, term=2, time_ms=world.now)) == NOW + HOUR


async def test_times_never_fall_when_the_clock_does(world: World) -> None:
    made = world.step()
    assert await world.signs(proposal(made)) == NOW
    world.now -= HOUR
    assert timestamp((await world.propose(renewal(1, made.new_root, time_ms=world.now))).cosignature) == NOW


async def test_it_does_not_sign_with_a_key_out_of_its_time(world: World) -> None:
    world.now += 3 * 365 * 24 * HOUR
    assert await world.refuses(proposal(world.step(), time_ms=world.now)) == "WITNESS_KEY_EXPIRED"


async def test_never_a_second_root_for_an_epoch_with_another_of_its_keys(tmp_path: Path) -> None:
    root = make_root(start_root=EMPTY_ROOT, witnesses=(witness("w1", WITNESSES[0], seed(30)),))
    init_witness_state(tmp_path / "w.db", root)
    store = open_store(tmp_path / "w.db", NAMESPACE)
    steps = Chain().step(b"a"), Chain().step(b"b")
    public = reader(root, LogOnly(root, {name_of(made): made.blob for made in steps}.get))
    outcomes = []
    for key, made in zip((WITNESSES[0], seed(30)), steps, strict=True):
        service = make_service(root, "w1", key, store, lambda: NOW, tmp_path / "evidence", public=public)
        answer = await service.Propose(ProposeRequest(proposal=proposal(made)), None)
        outcomes.append(answer.refusal.reason or answer.WhichOneof("result"))
    assert outcomes == ["cosignature", "WITNESS_FORK"]


async def test_its_state_is_that_of_one_namespace(world: World) -> None:
    state = await world.state()
    assert (state.epoch, state.root_hash) == (0, EMPTY_ROOT)
    assert not state.HasField("cosignature")
    with pytest.raises(grpc.aio.AioRpcError) as e:
        await world.stub.GetState(GetStateRequest(namespace="other"), timeout=60)
    assert remote_error(e.value).reason == "WITNESS_OTHER_NAMESPACE"


@pytest.mark.parametrize(("name", "key"), [("w1", THIEF), ("w2", WITNESSES[0])])
def test_a_key_that_the_trust_root_does_not_give_it_is_refused(tmp_path: Path, name: str, key: bytes) -> None:
    init_witness_state(tmp_path / "w.db", ROOT)
    with pytest.raises(ConfigError) as e:
        make_service(ROOT, name, key, open_store(tmp_path / "w.db", NAMESPACE), lambda: NOW, tmp_path / "evidence")
    assert e.value.reason == "WITNESS_KEY_UNPINNED"


def config(folder: Path) -> WitnessConfig:
    (folder / "witness.key").touch(0o600)
    (folder / "witness.key").write_text(WITNESSES[0].hex() + "\n")
    Authority(folder, NAMESPACE).issue_server("server")
    files = TlsFiles(certificate=folder / "server.pem", key=folder / "server.key", ca=folder / "ca.pem")
    return WitnessConfig(
        listen="127.0.0.1:0",
        http_listen="127.0.0.1:0",
        tls=files,
        name="w1",
        database=folder / "w.db",
        watermark=folder / "w.mark",
        evidence=folder / "evidence",
        key=folder / "witness.key",
    )


async def test_it_does_not_serve_without_a_genesis(tmp_path: Path) -> None:
    settings = config(tmp_path)
    for _ in range(2):  # the first attempt makes none
        with pytest.raises(StoreError) as e:
            async with Service("witness") as service:
                await app.run(settings, ROOT, service)
        assert e.value.reason == "WITNESS_NO_GENESIS"


async def test_it_does_not_serve_with_a_key_that_others_can_read(tmp_path: Path) -> None:
    init_witness_state(tmp_path / "w.db", ROOT)
    settings = config(tmp_path)
    for mode in (0o640, 0o604):
        (tmp_path / "witness.key").chmod(mode)
        with pytest.raises(ConfigError) as e:
            async with Service("witness") as service:
                await app.run(settings, ROOT, service)
        assert e.value.reason == "KEY_FILE_OPEN"


class Failing:
    """A signer whose second signature fails, as by a token that is away for a while."""

    def __init__(self, signer: Signer) -> None:
        self._signer = signer
        self._asked = 0

    @property
    def public_key(self) -> bytes:
        return self._signer.public_key

    def sign(self, message: bytes) -> bytes:
        self._asked += 1
        if self._asked == 2:
            raise ConfigError("the token does not answer", "TOKEN_UNUSABLE")
        return self._signer.sign(message)


async def test_it_follows_the_log_again_after_its_token_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with public_world(2) as world:
        world.newest[0] = 0
        world.cosigned[0].clear()
        init_witness_state(tmp_path / "w.db", world.root)
        monkeypatch.setattr(app, "witness_signers", lambda _: nullcontext([Failing(SeedSigner(WITNESSES[0]))]))
        settings = config(tmp_path).model_copy(update={"name": "w0", "catch_up_every_s": 3600})
        async with Service("witness") as service:
            with (
                begun_again("follow the log", error="ConfigError", reason="TOKEN_UNUSABLE") as again,
                heard(event="caught up", epoch=2) as caught_up,
            ):
                await app.run(settings, world.root, service)
                await again.wait()
                await caught_up.wait()
