"""The vault's core as a process, with the test in the place of its untrusted front."""

import asyncio
import json
import secrets
from typing import Any

import pytest

from ipls.admin.bundles import first_bundle
from ipls.akd import verify_lookup
from ipls.hsm import pipe
from ipls.proto.akd.v1.akd_pb2 import HistoryProof, LookupProof, UpdateProof
from ipls.proto.vault.v1.core_pb2 import CoreRequest
from ipls.proto.vault.v1.vault_pb2 import Bundle, Generation, Hsm, SessionRequest, VaultHello
from ipls.trust.bundle import bundle_head, shard_of
from ipls.trust.evidence import encode, judge_evidence
from ipls.trust.heads import Head
from ipls.units import DAY_MS
from ipls.vault.errors import SessionRefused
from ipls.vault.session.profiles import HKDF_SHA256, SOFTHSM_AES_CBC
from tests.hsm.rig import (
    CoreProcess,
    Directory,
    Owner,
    Rig,
    now_ms,
    running_core,
)
from tests.trust.bundles import countersigned, point
from tests.trust.roots import OPERATOR, THIEF, WITNESSES, signed

pytestmark = pytest.mark.asyncio(loop_scope="module")

KEY = bytes(range(32))


def store_id() -> bytes:
    return secrets.token_bytes(16)


def reason(refusal: pytest.ExceptionInfo[SessionRefused]) -> str:
    return refusal.value.reason


async def test_store_list_retrieve_rotate_delete(core: CoreProcess) -> None:
    rig = core.rig
    owner = Owner()
    head = rig.directory.publish(owner)
    exchange = core.stream()
    client = await rig.open(owner, exchange, known_head=head, own_epoch=head.epoch)

    assert client.on_answer(await exchange(client.store_request(0, store_id(), KEY))).generation == 1
    assert client.on_answer(await exchange(client.retrieve_request())) == (1, KEY)
    second = secrets.token_bytes(32)
    assert client.on_answer(await exchange(client.store_request(1, store_id(), second))).generation == 2
    assert client.on_answer(await exchange(client.retrieve_request(1))) == (1, KEY)
    assert client.on_answer(await exchange(client.retrieve_request())) == (2, second)
    listed = client.on_answer(await exchange(client.list_request()))
    assert [g.state for g in listed.generations] == [Generation.STATE_PREVIOUS, Generation.STATE_CURRENT]
    client.on_answer(await exchange(client.finish_rotation_request(2)))
    with pytest.raises(SessionRefused) as refusal:
        client.on_answer(await exchange(client.retrieve_request(1)))
    assert reason(refusal) == "VAULT_GENERATION_UNKNOWN"
    client.on_answer(await exchange(client.delete_request()))
    listed = client.on_answer(await exchange(client.list_request()))
    assert (list(listed.generations), listed.last_generation) == ([], 2)


async def test_a_new_phone_gets_the_key_and_the_old_one_nothing(core: CoreProcess) -> None:
    rig = core.rig
    old = Owner()
    new = Owner(old.label)
    head = rig.directory.publish(old)
    exchange = core.stream()
    client = await rig.open(old, exchange, known_head=head)
    client.on_answer(await exchange(client.store_request(0, store_id(), KEY)))
    core.close()

    head = rig.directory.publish(new)
    exchange = core.stream()
    client = await rig.open(new, exchange, known_head=head, own_epoch=head.epoch)
    assert client.on_answer(await exchange(client.retrieve_request())) == (1, KEY)
    core.close()

    with pytest.raises(SessionRefused) as refusal:
        await rig.open(old, core.stream(), known_head=head)
    assert reason(refusal) == "VAULT_IDENTITY_MISMATCH"


# Heads


async def judged_by(core: CoreProcess, rig: Rig, known: Any) -> VaultHello:
    response = await core.stream()(rig.client(Owner(), known_head=known).hello(now_ms()))
    core.close()
    return VaultHello.FromString(response.hello.m2)


async def test_a_head_below_the_highest_is_never_judged_by(rig: Rig) -> None:
    low, high = rig.directory.publish(Owner()), rig.directory.publish(Owner())
    async with running_core(rig) as core:
        assert (await judged_by(core, rig, high)).head.epoch == 2
        core.send(session=0, head=low)
        assert (await judged_by(core, rig, low)).head.epoch == 2
    rig.directory.epochs.pop()  # all that the front has to offer from now on
    async with running_core(rig) as core:
        assert (await judged_by(core, rig, None)).head.epoch == 2


async def test_a_fork_is_refused_and_kept_as_evidence(rig: Rig) -> None:
    rig.directory.publish(Owner())
    other = Directory()
    forked = other.publish(Owner())
    async with running_core(rig) as core:
        assert (await judged_by(core, rig, rig.directory.head())).head.epoch == 1
        with pytest.raises(SessionRefused) as refusal:
            await judged_by(core, rig, forked)
        assert reason(refusal) == "HEAD_FORK"
        core.send(session=0, head=forked)
        assert (await judged_by(core, rig, None)).head.root_hash == rig.directory.epochs[1][0]
        kept = core.evidence[0]
    finding = judge_evidence(rig.root, encode(kept))
    assert (finding.kind, finding.witnesses, finding.epoch) == ("two_heads", ("w0", "w1"), 1)
    async with running_core(rig) as core:  # a front that lost it is told again
        assert core.evidence == [kept]


async def test_a_head_that_the_witnesses_do_not_vouch_for_is_refused(core: CoreProcess) -> None:
    rig = core.rig
    rig.directory.publish(Owner())
    head = Head(rig.directory.epoch, rig.directory.epochs[-1][0])
    age = rig.root.max_head_age_ms
    for refused, expected in (
        (rig.directory.head(time=now_ms() - 2 * age), "HEAD_TOO_OLD"),
        (rig.directory.head(time=now_ms() + 10 * 60_000), "HEAD_FROM_FUTURE"),
        (signed(head, WITNESSES[0], time=now_ms()), "HEAD_NO_QUORUM"),
        (signed(head, WITNESSES[0], WITNESSES[0], time=now_ms()), "HEAD_NO_QUORUM"),
        (signed(head, bytes(32), OPERATOR, time=now_ms()), "HEAD_KEY_UNPINNED"),
        (signed(head, *WITNESSES, namespace="other", time=now_ms()), "HEAD_OTHER_NAMESPACE"),
    ):
        with pytest.raises(SessionRefused) as refusal:
            await judged_by(core, rig, refused)
        assert reason(refusal) == expected


async def test_the_identity_is_proved_again_when_the_head_moves(core: CoreProcess) -> None:
    rig = core.rig
    owner = Owner()
    thief = Owner(owner.label)
    head = rig.directory.publish(owner)
    asked: list[int] = []

    def prove(label: str, epoch: int) -> bytes:
        asked.append(epoch)
        return rig.directory.prove(label, epoch)

    exchange = core.stream(prove)
    client = await rig.open(owner, exchange, known_head=head)
    client.on_answer(await exchange(client.list_request()))
    assert asked == [head.epoch]
    core.send(session=0, head=rig.directory.publish(Owner()))
    client.on_answer(await exchange(client.list_request()))
    assert asked == [head.epoch, head.epoch + 1]
    core.send(session=0, head=rig.directory.publish(thief))
    with pytest.raises(SessionRefused) as refusal:
        await exchange(client.list_request())
    assert (reason(refusal), asked) == ("VAULT_IDENTITY_MISMATCH", [head.epoch + i for i in range(3)])


# Identities


async def test_an_operators_key_that_was_never_published_is_refused(core: CoreProcess) -> None:
    rig = core.rig
    owner = Owner()
    head = rig.directory.publish(owner)
    with pytest.raises(SessionRefused) as refusal:
        await rig.open(Owner(owner.label), core.stream(), known_head=head)
    assert reason(refusal) == "VAULT_IDENTITY_MISMATCH"


async def test_a_version_planted_between_the_markers_is_refused(core: CoreProcess) -> None:
    """A lookup proof of (fresh, 8) holds although the owner is at version 1; the vault wants a history."""
    rig, owner = core.rig, Owner()
    rig.directory.publish(owner)
    while rig.directory.epoch < 8:
        rig.directory.publish(Owner())
    thief = Owner(owner.label)
    head, lookup = rig.directory.plant(thief, 8)
    root = rig.root
    assert verify_lookup(head.root_hash, head.epoch, root.vrf_public_key, owner.label.encode(), lookup).version == 8
    held = LookupProof.FromString(lookup)
    update = UpdateProof(
        epoch=held.epoch,
        value=held.value,
        version=held.version,
        existence_vrf_proof=held.existence_vrf_proof,
        existence_proof=held.existence_proof,
        commitment_nonce=held.commitment_nonce,
    )
    as_history = HistoryProof(
        update_proofs=[update],
        past_marker_vrf_proofs=[held.marker_vrf_proof],
        existence_of_past_marker_proofs=[held.marker_proof],
    )
    for proof in (lookup, as_history.SerializeToString()):
        with pytest.raises(SessionRefused) as refusal:
            await rig.open(thief, core.stream(lambda label, epoch, proof=proof: proof), known_head=head)
        assert reason(refusal) == "IDENTITY_UNPROVEN"
    await rig.open(owner, core.stream(), known_head=head)


async def test_without_a_proof_there_is_no_session(core: CoreProcess) -> None:
    rig = core.rig
    owner = Owner()
    head = rig.directory.publish(owner)
    for proof in (b"", b"\xff", rig.directory.prove(owner.label, head.epoch)[:-1]):
        with pytest.raises(SessionRefused) as refusal:
            await rig.open(owner, core.stream(lambda label, epoch, proof=proof: proof), known_head=head)
        assert reason(refusal) == "IDENTITY_UNPROVEN"


async def test_an_account_of_another_hsm_is_refused(rig: Rig) -> None:
    owner, others = Owner(), point(7)
    head = rig.directory.publish(owner)
    rig.write_bundle(public_point=others)
    rig.bundle.hsms[0].public_key = rig.tokens.public_point  # a client that the front deceives
    async with running_core(rig) as core:
        with pytest.raises(SessionRefused) as refusal:
            await rig.open(owner, core.stream(), known_head=head)
    assert reason(refusal) == "VAULT_WRONG_SHARD"


async def test_a_bundle_that_names_another_profile_is_refused(core: CoreProcess) -> None:
    """Its operator, with the witnesses' signatures, would have keys derived by the weaker one, or by none."""
    rig, owner = core.rig, Owner()
    head = rig.directory.publish(owner)
    honest = rig.tokens.profile
    for profile in {SOFTHSM_AES_CBC, HKDF_SHA256} - {honest}:
        rig.write_bundle(profile=profile)
        with pytest.raises(SessionRefused) as refusal:
            await core.stream()(rig.client(owner, known_head=head).hello(now_ms()))  # at once: not the client's refusal
        assert reason(refusal) == "VAULT_PROFILE_MISMATCH"
    rig.write_bundle()
    await rig.open(owner, core.stream(), known_head=head)


async def test_an_hsm_serves_its_own_shards_alone(rig: Rig) -> None:
    """Of two shards it has the first: accounts of the second are refused, and the label decides."""
    rig.write_bundle()
    bundle = rig.bundle
    bundle.number, bundle.previous = bundle.number + 1, bundle_head(rig.signed_bundle).root_hash
    bundle.hsms.append(Hsm.FromString(bundle.hsms[0].SerializeToString()))
    bundle.hsms[1].shards[:], bundle.hsms[1].public_key, bundle.hsms[1].transport_key = [1], point(7), point(8)
    rig.sign_bundle(bundle)
    owners = [Owner() for _ in range(20)]
    assert {shard_of(owner.label, 2) for owner in owners} == {0, 1}
    for owner in owners:
        head = rig.directory.publish(owner)
    rig.bundle.hsms[1].public_key = rig.tokens.public_point
    async with running_core(rig) as core:
        for owner in owners:
            if shard_of(owner.label, 2) == 0:
                await rig.open(owner, core.stream(), known_head=head)
            else:
                with pytest.raises(SessionRefused) as refusal:
                    await rig.open(owner, core.stream(), known_head=head)
                assert reason(refusal) == "VAULT_WRONG_SHARD"
            core.close()


async def test_a_session_under_way_ends_when_its_account_goes_to_another_hsm(rig: Rig) -> None:
    """At its next proof, before the front is asked for one."""
    owner = Owner()
    head = rig.directory.publish(owner)
    async with running_core(rig) as core:
        exchange = core.stream()
        client = await rig.open(owner, exchange, known_head=head)
        client.on_answer(await exchange(client.list_request()))
        rig.write_bundle(public_point=point(7))
        core.send(session=0, head=rig.directory.publish(Owner()))
        with pytest.raises(SessionRefused) as refusal:
            await exchange(client.list_request())
    assert reason(refusal) == "VAULT_WRONG_SHARD"


async def test_the_number_of_shards_never_changes(rig: Rig) -> None:
    """Another number would put accounts into shards where nothing is known of them."""
    owner = Owner()
    head = rig.directory.publish(owner)
    async with running_core(rig) as core:
        await rig.open(owner, core.stream(), known_head=head)
        bundle = Bundle.FromString(rig.bundle.SerializeToString())
        bundle.number, bundle.previous = bundle.number + 1, bundle_head(rig.signed_bundle).root_hash
        bundle.hsms[0].shards[:] = [0, 1]
        rig.sign_bundle(bundle)
        with pytest.raises(SessionRefused) as refusal:
            await rig.open(owner, core.stream(), known_head=head)
        assert reason(refusal) == "VAULT_SHARDS_CHANGED"


async def test_a_handshake_under_another_bundle_than_the_vaults_is_refused(rig: Rig) -> None:
    owner = Owner()
    head = rig.directory.publish(owner)
    rig.write_bundle()
    async with running_core(rig) as core:
        for number, expected in (
            (rig.bundle.number - 1, "VAULT_BUNDLE_OLD"),
            (rig.bundle.number + 1, "VAULT_BUNDLE_BEHIND"),
        ):
            client = rig.client(owner, known_head=head, bundle_number=number)
            with pytest.raises(SessionRefused) as refusal:
                await core.stream()(client.hello(now_ms()))
            assert reason(refusal) == expected
        await rig.open(owner, core.stream(), known_head=head)


async def test_the_vault_itself_goes_back_to_no_lower_bundle(rig: Rig) -> None:
    """Its operator puts yesterday's file back, which is signed and has not expired; over a restart too."""
    owner, path = Owner(), rig.folder / "bundle.pb"
    head = rig.directory.publish(owner)
    lower, lower_bundle = path.read_bytes(), rig.bundle
    rig.write_bundle()
    higher, higher_bundle = path.read_bytes(), rig.bundle
    async with running_core(rig) as core:
        await rig.open(owner, core.stream(), known_head=head)
    for _ in range(2):
        async with running_core(rig) as core:
            path.write_bytes(lower)
            rig.bundle = lower_bundle
            with pytest.raises(SessionRefused) as refusal:
                await rig.open(owner, core.stream(), known_head=head)
            assert reason(refusal) == "BUNDLE_BELOW_HIGHEST"
            path.write_bytes(higher)
            rig.bundle = higher_bundle
            await rig.open(owner, core.stream(), known_head=head)


async def test_without_a_bundle_that_operator_and_witnesses_signed_there_is_no_session(rig: Rig) -> None:
    owner, now = Owner(), now_ms()
    head = rig.directory.publish(owner)
    path, age = rig.folder / "bundle.pb", 1000 + DAY_MS
    honest = path.read_bytes()

    def made(operator: bytes, made_ms: int, *witnesses: bytes) -> bytes:
        signed = first_bundle(rig.root, rig.tokens, operator, now_ms=made_ms, lifetime_ms=DAY_MS)
        return countersigned(signed, *witnesses, time=now).SerializeToString()

    async with running_core(rig) as core:
        for bundle, expected in (
            (made(THIEF, now, *WITNESSES), "SIGNATURE_INVALID"),
            (made(OPERATOR, now - age, *WITNESSES), "BUNDLE_EXPIRED"),
            (made(OPERATOR, now, WITNESSES[0]), "HEAD_NO_QUORUM"),
            (made(OPERATOR, now, WITNESSES[0], THIEF), "HEAD_KEY_UNPINNED"),
            (b"", "SIGNATURE_LENGTH"),
            (b"\xff", "VAULT_STORAGE_FAILED"),
        ):
            path.write_bytes(bundle)
            with pytest.raises(SessionRefused) as refusal:
                await rig.open(owner, core.stream(), known_head=head)
            assert reason(refusal) == expected
        path.write_bytes(honest)
        await rig.open(owner, core.stream(), known_head=head)


# What a front may try


async def test_the_frames_of_an_honest_session_are_worth_nothing_on_a_new_stream(core: CoreProcess) -> None:
    rig = core.rig
    owner = Owner()
    head = rig.directory.publish(owner)
    exchange = core.stream()
    frames: list[SessionRequest] = []

    async def recorded(frame: SessionRequest) -> Any:
        frames.append(frame)
        return await exchange(frame)

    client = await rig.open(owner, recorded, known_head=head)
    client.on_answer(await recorded(client.store_request(0, store_id(), KEY)))
    client.on_answer(await recorded(client.retrieve_request()))
    core.close()

    replayed = core.stream()
    await replayed(frames[0])
    with pytest.raises(SessionRefused) as refusal:
        await replayed(frames[1])
    assert reason(refusal) == "VAULT_TAG_INVALID"
    for frame in frames[1:]:
        with pytest.raises(SessionRefused) as refusal:
            await core.stream()(frame)
        assert reason(refusal) == "VAULT_OUT_OF_ORDER"


async def test_a_frame_over_the_limit_is_refused(core: CoreProcess) -> None:
    with pytest.raises(SessionRefused) as refusal:
        await core.stream()(SessionRequest(m1=bytes(64 * 1024)))
    assert reason(refusal) == "VAULT_FRAME_TOO_LARGE"


async def test_a_frame_over_the_limit_never_comes_to_a_worker(core: CoreProcess) -> None:
    """Also one as long as the pipe bears, in a session that is proven."""
    owner = Owner()
    exchange = core.stream()
    await core.rig.open(owner, exchange, known_head=core.rig.directory.publish(owner))
    core.write(core.last, CoreRequest.FRAME_FIELD_NUMBER, bytes(pipe.MAX_MESSAGE))
    assert (await core.receive()).refused.reason == "VAULT_FRAME_TOO_LARGE"


@pytest.mark.parametrize(
    "sent",
    [
        (pipe.MAX_MESSAGE + 1).to_bytes(4, "big") + bytes(9),
        pipe.framed(1, 255, b"of a kind that there is not"),
    ],
)
async def test_what_is_no_frame_of_the_pipe_ends_the_core(rig: Rig, sent: bytes) -> None:
    async with running_core(rig, stderr=asyncio.subprocess.PIPE) as core:
        core.sink.write(sent)
        assert core.process.stderr
        *_, last = (await core.process.stderr.read()).splitlines()
        assert (json.loads(last)["process"], json.loads(last)["reason"]) == ("core", "PIPE_BROKEN")
        assert await core.process.wait() == 1


async def test_what_a_front_garbles_is_refused_where_it_is(core: CoreProcess) -> None:
    rig, owner = core.rig, Owner()
    core.write(0, CoreRequest.HEAD_FIELD_NUMBER, b"\xff")
    exchange = core.stream()
    client = await rig.open(owner, exchange, known_head=rig.directory.publish(owner))
    core.last += 1
    core.write(core.last, CoreRequest.FRAME_FIELD_NUMBER, b"\xff")
    refused = await core.receive()
    assert (refused.session, refused.refused.reason) == (core.last, "VAULT_FRAME_MALFORMED")
    core.send(session=0, head=rig.directory.publish(Owner()))  # so that the vault wants another proof
    core.send(session=core.last - 1, frame=client.list_request())
    assert (await core.receive()).HasField("needs_history")
    core.write(core.last - 1, CoreRequest.HISTORY_FIELD_NUMBER, b"\xff")
    assert (await core.receive()).refused.reason == "VAULT_FRAME_MALFORMED"
    await core.stream()(rig.client(owner).hello(now_ms()))


async def test_messages_out_of_order_end_the_session(core: CoreProcess) -> None:
    owner = Owner()
    hello = core.rig.client(owner, known_head=core.rig.directory.publish(owner)).hello(now_ms())
    await core.stream()(hello)
    core.send(session=core.last, history={"epoch": 1, "proof": b""})
    assert (await core.receive()).refused.reason == "VAULT_OUT_OF_ORDER"
    # A number is used once: nothing answers to this one any more.
    core.send(session=core.last, frame=hello)
    await core.stream()(hello)
    for _ in range(3):
        core.send(session=core.last, frame=hello)
    assert (await core.receive()).refused.reason == "VAULT_OUT_OF_ORDER"


async def test_a_stream_that_ends_at_once_leaves_nothing_behind(rig: Rig) -> None:
    rig.configure(max_sessions=1)
    owner = Owner()
    hello = rig.client(owner, known_head=rig.directory.publish(owner)).hello(now_ms())
    async with running_core(rig) as core:
        for _ in range(20):
            core.stream()
            core.send(session=core.last, frame=hello)
            core.close()
        await rig.open(owner, core.stream())
        core.close()
        await rig.open(owner, core.stream())


async def test_a_session_has_its_time(rig: Rig) -> None:
    rig.configure(handshake_s=0.2)
    async with running_core(rig) as core:
        core.send(session=1, frame=SessionRequest(m1=rig.client(Owner()).hello(now_ms()).m1))
        while not (response := await core.receive()).HasField("refused"):
            pass
        assert response.refused.reason == "VAULT_SESSION_EXPIRED"


async def test_a_session_has_64_requests(core: CoreProcess) -> None:
    rig = core.rig
    owner = Owner()
    head = rig.directory.publish(owner)
    exchange = core.stream()
    client = await rig.open(owner, exchange, known_head=head)
    for _ in range(64):
        client.on_answer(await exchange(client.list_request()))
    with pytest.raises(SessionRefused) as refusal:
        await exchange(client.list_request())
    assert reason(refusal) == "VAULT_TOO_MANY_REQUESTS"
