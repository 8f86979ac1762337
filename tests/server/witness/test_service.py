import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from ipls._grpc import grpc
from ipls.admin.certificates import Authority
from ipls.akd import EMPTY_ROOT
from ipls.config import ConfigError, TlsFiles, WitnessConfig
from ipls.crypto.keys import SeedSigner, Signer
from ipls.proto.witness.v1.head_pb2 import SignedHead
from ipls.proto.witness.v1.witness_pb2 import (
    GetStateRequest,
    ProposeRequest,
    ProposeResponse,
    SignedProposal,
    WitnessState,
)
from ipls.proto.witness.v1.witness_pb2_grpc import WitnessServiceStub, add_WitnessServiceServicer_to_server
from ipls.rpc.channel import chunks
from ipls.rpc.errors import RemoteError, remote_error
from ipls.runtime.service import Service
from ipls.server.witness import app
from ipls.store.errors import StoreError
from ipls.store.witness import WitnessStore, init_witness_state
from ipls.trust.heads import Head, quorum_timestamp, timestamp, verify_head
from ipls.trust.limits import MAX_BLOB
from ipls.trust.root import TrustRoot
from tests.attack.log import public_world
from tests.logs import begun_again, heard
from tests.server.chains import Chain, proposal, renewal
from tests.server.loopback import loopback
from tests.server.witnesses import make_service, open_store
from tests.trust.roots import HOUR, NAMESPACE, NOW, THIEF, WITNESSES, make_root, seed, witness

ROOT = make_root(start_root=EMPTY_ROOT)


def messages(signed: SignedProposal, blob: bytes) -> list[ProposeRequest]:
    return [ProposeRequest(proposal=signed), *(ProposeRequest(blob_chunk=c) for c in chunks(blob))]


@dataclass
class World:
    """A witness on a loopback port, its clock, and a honest directory."""

    stub: WitnessServiceStub
    store: WitnessStore
    chain: Chain
    now: int = NOW
    root: TrustRoot = ROOT

    async def send(self, requests: Iterable[ProposeRequest]) -> list[ProposeResponse]:
        try:
            return [answer async for answer in self.stub.Propose(iter(requests), timeout=60)]
        except grpc.aio.AioRpcError as e:
            raise remote_error(e) from e

    async def propose(self, signed: SignedProposal, blob: bytes = b"") -> ProposeResponse:
        (answer,) = await self.send(messages(signed, blob))
        return answer

    async def signs(self, signed: SignedProposal, blob: bytes = b"") -> int:
        """The signature's time, once it has been verified as a client would."""
        answer = await self.propose(signed, blob)
        assert answer.WhichOneof("result") == "cosignature", answer.refusal.reason
        head = Head(signed.proposal.epoch, signed.proposal.new_root)
        signed_head = SignedHead(epoch=head.epoch, root_hash=head.root_hash, cosignatures=[answer.cosignature])
        assert verify_head(self.root, signed_head, now_ms=self.now, check_age=False) == head
        return timestamp(answer.cosignature)

    async def refuses(self, signed: SignedProposal, blob: bytes = b"") -> str:
        """The reason; a refusal leaves the witness as it was."""
        before = self.store.state()
        answer = await self.propose(signed, blob)
        assert answer.WhichOneof("result") == "refusal"
        assert self.store.state() == before
        return answer.refusal.reason

    async def state(self, with_blob: bool = False) -> tuple[WitnessState, bytes]:
        request = GetStateRequest(namespace=NAMESPACE, with_blob=with_blob)
        answers = [answer async for answer in self.stub.GetState(request, timeout=60)]
        return answers[0].state, b"".join(answer.blob_chunk for answer in answers[1:])


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    init_witness_state(tmp_path / "w.db", ROOT)
    store = open_store(tmp_path / "w.db", NAMESPACE)
    service = make_service(ROOT, "w1", WITNESSES[0], store, lambda: world.now, tmp_path / "evidence")
    async with loopback(tmp_path, partial(add_WitnessServiceServicer_to_server, service)) as channel:
        world = World(WitnessServiceStub(channel), store, Chain())
        yield world
    store.close()


async def test_it_signs_the_start_then_every_successor(world: World) -> None:
    assert await world.signs(renewal(0, EMPTY_ROOT)) == NOW
    for _ in range(3):
        made = world.chain.step()
        await world.signs(proposal(made), made.blob)
    state, blob = await world.state(with_blob=True)
    assert (state.epoch, state.root_hash, state.old_root) == (3, made.new_root, made.old_root)
    assert (blob, state.blob_size, state.term) == (made.blob, len(made.blob), 1)
    head = SignedHead(epoch=3, root_hash=made.new_root, cosignatures=[state.cosignature])
    assert quorum_timestamp(ROOT, head, now_ms=NOW) == NOW


async def test_an_earlier_epoch_is_told_with_its_signature_and_what_was_proposed(world: World) -> None:
    made = [world.chain.step() for _ in range(3)]
    for each in made:
        await world.signs(proposal(each), each.blob)
    for each in made:
        request = GetStateRequest(namespace=NAMESPACE, epoch=each.epoch, with_blob=True)
        first, *blob = [answer async for answer in world.stub.GetState(request, timeout=60)]
        state = first.state
        assert (state.epoch, state.old_root, state.root_hash) == (each.epoch, each.old_root, each.new_root)
        assert state.proposal == proposal(each)
        signed = SignedHead(epoch=each.epoch, root_hash=each.new_root, cosignatures=[state.cosignature])
        assert verify_head(ROOT, signed, now_ms=NOW) == Head(each.epoch, each.new_root)
        assert bool(blob) == (each is made[-1])
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await anext(aiter(world.stub.GetState(GetStateRequest(namespace=NAMESPACE, epoch=4), timeout=60)))
    assert remote_error(caught.value).reason == "EPOCH_UNKNOWN"


async def test_one_stream_carries_many_proposals_and_goes_on_after_a_refusal(world: World) -> None:
    first, second = world.chain.step(), world.chain.step()
    forged = proposal(first, seed=THIEF)
    answers = await world.send(
        [
            *messages(forged, first.blob),
            *messages(proposal(first), first.blob),
            *messages(proposal(second), second.blob),
        ]
    )
    assert [a.WhichOneof("result") for a in answers] == ["refusal", "cosignature", "cosignature"]


async def test_a_proposal_unsigned_or_by_another_key_is_refused(world: World) -> None:
    made = world.chain.step()
    unsigned = proposal(made)
    unsigned.ClearField("signature")
    edited = proposal(made)
    edited.proposal.term = 2
    by_witness = proposal(made, seed=WITNESSES[0])
    for bad in (unsigned, edited, by_witness, proposal(made, seed=THIEF), SignedProposal(blob_size=len(made.blob))):
        assert await world.refuses(bad, made.blob) == "PROPOSAL_UNSIGNED"


@pytest.mark.parametrize("namespace", ["other", f"{NAMESPACE}/fleet", f"{NAMESPACE}/trust", ""])
async def test_a_proposal_under_another_namespace_is_refused(world: World, namespace: str) -> None:
    made = world.chain.step()
    assert await world.refuses(proposal(made, namespace=namespace), made.blob) == "WITNESS_OTHER_NAMESPACE"


async def test_a_fork_is_refused(world: World) -> None:
    made = world.chain.step()
    thief = world.chain.fork()
    copy_of_before = Chain()
    await world.signs(proposal(made), made.blob)
    forged = copy_of_before.step(b"victim")
    assert await world.refuses(proposal(forged), forged.blob) == "WITNESS_FORK"
    onward = copy_of_before.step(b"more")
    assert await world.refuses(proposal(onward), onward.blob) == "WITNESS_FORK"
    honest = thief.step()
    await world.signs(proposal(honest), honest.blob)


async def test_a_fork_is_refused_in_any_term_and_without_a_blob(world: World) -> None:
    made, forged = world.chain.step(), Chain().step(b"victim")
    await world.signs(proposal(made), made.blob)
    assert await world.refuses(proposal(forged, term=99), forged.blob) == "WITNESS_FORK"
    assert await world.refuses(renewal(1, forged.new_root)) == "WITNESS_FORK"


async def test_a_gap_is_refused(world: World) -> None:
    world.chain.step()
    made = world.chain.step()
    assert await world.refuses(proposal(made), made.blob) == "WITNESS_GAP"
    assert await world.refuses(proposal(made, old_root=EMPTY_ROOT), made.blob) == "WITNESS_GAP"


async def test_an_epoch_that_is_not_here_yet_is_not_signed_again(world: World) -> None:
    made = world.chain.step()
    assert await world.refuses(renewal(1, made.new_root)) == "WITNESS_GAP"


async def test_a_wrong_start_is_refused(world: World) -> None:
    made = world.chain.step()
    assert await world.refuses(renewal(0, made.new_root)) == "WITNESS_FORK"
    assert await world.refuses(proposal(made, old_root=bytes(32)), made.blob) == "WITNESS_FORK"


async def test_an_epoch_it_has_left_behind_is_not_signed_again(world: World) -> None:
    first, second = world.chain.step(), world.chain.step()
    for made in (first, second):
        await world.signs(proposal(made), made.blob)
    assert await world.refuses(proposal(first), first.blob) == "WITNESS_BEHIND"
    assert await world.refuses(renewal(0, EMPTY_ROOT)) == "WITNESS_BEHIND"


async def test_a_lower_term_is_refused_and_a_refused_proposal_raises_none(world: World) -> None:
    first, second = world.chain.step(), world.chain.step()
    await world.signs(proposal(first, term=5), first.blob)
    assert await world.refuses(proposal(second, term=4), second.blob) == "WITNESS_TERM"
    assert await world.refuses(renewal(1, first.new_root, term=4)) == "WITNESS_TERM"
    assert await world.refuses(proposal(second, term=50, old_root=bytes(32)), second.blob) == "WITNESS_FORK"
    assert await world.refuses(proposal(second, term=50, seed=THIEF), second.blob) == "PROPOSAL_UNSIGNED"
    await world.signs(proposal(second, term=6), second.blob)
    assert (await world.state())[0].term == 6


@pytest.mark.parametrize("field", ["term", "epoch"])
async def test_numbers_beyond_63_bits_are_refused(world: World, field: str) -> None:
    made = world.chain.step()
    assert await world.refuses(proposal(made, **{field: 2**64 - 1}), made.blob) == "PROPOSAL_INVALID"


async def test_a_step_that_does_not_only_append_is_refused(world: World) -> None:
    """A directory with every key, whose epoch drops what was there: a tree of its own under the right old root."""
    first = world.chain.step()
    await world.signs(proposal(first), first.blob)
    elsewhere = Chain()
    elsewhere.step(b"other")
    rewritten = elsewhere.step(b"victim")
    lie = proposal(rewritten, old_root=first.new_root)
    assert await world.refuses(lie, rewritten.blob) == "WITNESS_PROOF_REFUSED"
    second = world.chain.step()
    wrong_root = proposal(second, new_root=bytes(32))
    assert await world.refuses(wrong_root, second.blob) == "WITNESS_PROOF_REFUSED"
    nothing = proposal(second, blob_sha256=renewal(0, EMPTY_ROOT).proposal.blob_sha256)
    nothing.blob_size = 0
    assert await world.refuses(nothing) == "WITNESS_PROOF_REFUSED"
    await world.signs(proposal(second), second.blob)


async def test_a_blob_that_was_not_signed_is_refused(world: World) -> None:
    made = world.chain.step()
    flipped = bytes([made.blob[0] ^ 1]) + made.blob[1:]
    assert await world.refuses(proposal(made), flipped) == "PROPOSAL_BLOB_MISMATCH"


async def broken(world: World, *requests: ProposeRequest) -> str:
    """The last request is the one that ends the stream: a client still writing then may see INTERNAL instead."""
    before = world.store.state()
    with pytest.raises(RemoteError) as e:
        await world.send(requests)
    assert world.store.state() == before
    assert e.value.code is grpc.StatusCode.INVALID_ARGUMENT
    return e.value.reason


async def test_a_stream_out_of_order_is_refused(world: World) -> None:
    made = world.chain.step()
    signed, chunk = ProposeRequest(proposal=proposal(made)), ProposeRequest(blob_chunk=made.blob)
    for requests in (
        [chunk],
        [signed],
        [signed, ProposeRequest(blob_chunk=made.blob[:-1])],
        [signed, ProposeRequest(blob_chunk=made.blob + b"\0")],
        [signed, ProposeRequest(blob_chunk=b""), chunk],
        [signed, signed],
        [ProposeRequest()],
    ):
        assert await broken(world, *requests) == "PROPOSAL_STREAM_BROKEN"


async def test_an_oversized_blob_or_chunk_is_refused(world: World) -> None:
    made = world.chain.step()
    signed = proposal(made)
    signed.blob_size = MAX_BLOB + 1
    with pytest.raises(RemoteError, match=f"at most {MAX_BLOB} bytes"):
        await world.send([ProposeRequest(proposal=signed)])
    signed.blob_size = 2 << 20
    oversized = [ProposeRequest(blob_chunk=bytes((1 << 20) + more)) for more in (1, -1)]
    assert await broken(world, ProposeRequest(proposal=signed), *oversized) == "PROPOSAL_STREAM_BROKEN"


@pytest.mark.parametrize("limit", ["IDLE_S", "BLOB_S"])
async def test_a_stream_that_brings_nothing_is_ended(world: World, monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    monkeypatch.setattr(f"ipls.server.witness.service.{limit}", 0)
    call = world.stub.Propose(timeout=60)
    await call.write(ProposeRequest(proposal=proposal(made := world.chain.step())))
    if limit == "IDLE_S":
        await call.write(ProposeRequest(blob_chunk=made.blob))
        await call.read()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    assert remote_error(caught.value).reason == "PROPOSAL_STREAM_SLOW"


async def test_more_streams_than_there_may_be_are_refused_until_some_end(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ipls.server.witness.service.MAX_STREAMS", 1)
    made = world.chain.step()
    async with asyncio.timeout(60):
        first = world.stub.Propose()
        for request in messages(proposal(made), made.blob):
            await first.write(request)
        assert (await first.read()).WhichOneof("result") == "cosignature"
        second = world.stub.Propose(iter([ProposeRequest()]))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await second.read()
        assert remote_error(caught.value).reason == "PROPOSAL_STREAMS"
        await first.done_writing()
        assert await first.read() is grpc.aio.EOF
        assert await world.signs(proposal(made), made.blob)


async def test_a_blob_in_several_chunks_is_put_together(world: World) -> None:
    made = world.chain.step(*(b"label %d" % i for i in range(40)))
    pieces = [made.blob[i : i + 1000] for i in range(0, len(made.blob), 1000)]
    requests = [ProposeRequest(proposal=proposal(made)), *(ProposeRequest(blob_chunk=p) for p in pieces)]
    (answer,) = await world.send(requests)
    assert answer.WhichOneof("result") == "cosignature"
    assert len(pieces) > 2


async def test_of_two_concurrent_proposals_one_wins(world: World) -> None:
    steps = [Chain().step(b"a"), Chain().step(b"b")]
    answers = await asyncio.gather(*(world.propose(proposal(made), made.blob) for made in steps))
    winners = [made for made, answer in zip(steps, answers, strict=True) if answer.HasField("cosignature")]
    assert len(winners) == 1
    assert [a.refusal.reason for a in answers if a.HasField("refusal")] == ["WITNESS_FORK"]
    assert (await world.state())[0].root_hash == winners[0].new_root


async def test_the_newest_head_is_signed_again_with_the_present_time(world: World) -> None:
    made = world.chain.step()
    assert await world.signs(proposal(made), made.blob) == NOW
    world.now += HOUR
    assert await world.signs(renewal(1, made.new_root)) == NOW + HOUR
    assert await world.signs(proposal(made, term=2), made.blob) == NOW + HOUR
    assert (await world.state(with_blob=True))[1] == made.blob


async def test_times_never_fall_when_the_clock_does(world: World) -> None:
    made = world.chain.step()
    assert await world.signs(proposal(made), made.blob) == NOW
    world.now -= HOUR
    assert timestamp((await world.propose(renewal(1, made.new_root))).cosignature) == NOW


async def test_it_does_not_sign_with_a_key_out_of_its_time(world: World) -> None:
    world.now += 3 * 365 * 24 * HOUR
    made = world.chain.step()
    assert await world.refuses(proposal(made), made.blob) == "WITNESS_KEY_EXPIRED"


async def test_never_a_second_root_for_an_epoch_with_another_of_its_keys(tmp_path: Path) -> None:
    root = make_root(start_root=EMPTY_ROOT, witnesses=(witness("w1", WITNESSES[0], seed(30)),))
    init_witness_state(tmp_path / "w.db", root)
    store = open_store(tmp_path / "w.db", NAMESPACE)
    steps = Chain().step(b"a"), Chain().step(b"b")
    outcomes = []
    for key, made in zip((WITNESSES[0], seed(30)), steps, strict=True):
        service = make_service(root, "w1", key, store, lambda: NOW, tmp_path / "evidence")
        async with loopback(tmp_path, partial(add_WitnessServiceServicer_to_server, service)) as channel:
            answer = await World(WitnessServiceStub(channel), store, Chain()).propose(proposal(made), made.blob)
            outcomes.append(answer.refusal.reason or answer.WhichOneof("result"))
    assert outcomes == ["cosignature", "WITNESS_FORK"]


async def test_its_state_is_that_of_one_namespace(world: World) -> None:
    state, blob = await world.state(with_blob=True)
    assert (state.epoch, state.root_hash, blob) == (0, EMPTY_ROOT, b"")
    assert not state.HasField("cosignature")
    with pytest.raises(grpc.aio.AioRpcError) as e:
        await anext(aiter(world.stub.GetState(GetStateRequest(namespace="other"), timeout=60)))
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
