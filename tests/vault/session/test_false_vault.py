"""What a vault that is not the one of the bundle, or lies, may say; all of it refused by the client."""

import dataclasses
import secrets
from collections.abc import Iterator

import pytest

from ipls.hsm.token.pkcs11 import HsmChannel
from ipls.proto.vault.v1 import vault_pb2 as pb
from ipls.proto.witness.v1.head_pb2 import SignedHead
from ipls.trust.heads import Head
from ipls.vault.session import effects, transcript
from ipls.vault.session import vault as vault_module
from ipls.vault.session.client import ClientSession
from ipls.vault.session.profiles import HKDF_SHA256, SOFTHSM_AES_CBC
from tests.hsm.rig import Owner, Rig, now_ms
from tests.trust.roots import THIEF, WITNESSES, signed
from tests.vault.refusals import FalseVault, bundle_with, refused
from tests.vault.rig import Core, Stream, handshake

KEY = bytes(range(32))
STORE_ID = bytes(16)
HOUR = 3_600_000


class TestFalseVault:
    def test_one_that_does_not_lie_gets_the_clients_proof(self, rig: Rig, core: Core, owner: Owner) -> None:
        FalseVault(rig, core).meet(owner, core.head, core.head.epoch)

    def test_lies_in_m2(self, rig: Rig, core: Core, owner: Owner) -> None:
        for lie, reason in (
            ({"hsm_key_id": bytes(32)}, "VAULT_HSM_KEY_MISMATCH"),
            ({"policy_digest": bytes(32)}, "VAULT_POLICY_MISMATCH"),
            ({"profile": ""}, "VAULT_PROFILE_MISMATCH"),
            ({"nonce": bytes(31)}, "VAULT_FIELD_INVALID"),
            ({"kem_ciphertext": bytes(1087)}, "VAULT_FIELD_INVALID"),
        ):
            assert FalseVault(rig, core, **lie).refused_by(owner) == reason

    def test_heads(self, rig: Rig, core: Core, owner: Owner) -> None:
        now, newest = now_ms(), rig.directory.epoch
        below = rig.directory.head(epoch=newest - 1)
        fork = signed(Head(newest, b"f" * 32), *WITNESSES[:2], time=now)
        for head, known, reason in (
            (below, {"known_head": rig.directory.head()}, "HEAD_BELOW_HIGHEST"),
            (fork, {"known_head": rig.directory.head()}, "HEAD_FORK"),
            (below, {"own_epoch": newest}, "VAULT_HEAD_BELOW_OWN_KEY"),
            (rig.directory.head(time=now - rig.root.max_head_age_ms - HOUR), {}, "HEAD_TOO_OLD"),
            (rig.directory.head(time=now + HOUR), {}, "HEAD_FROM_FUTURE"),
            (signed(Head(newest, b"f" * 32), THIEF, THIEF, time=now), {}, "HEAD_KEY_UNPINNED"),
            (SignedHead(), {}, "HEAD_ENCODING"),
        ):
            assert FalseVault(rig, core, head=head).refused_by(owner, **known) == reason

    @pytest.mark.parametrize("at", [0, 32, 64])
    def test_a_signature_that_is_longer_and_means_the_same(
        self, client: ClientSession, stream: Stream, at: int
    ) -> None:
        """r and s are numbers: zeros before one change nothing of it."""
        answer = stream.exchange(client.hello(now_ms()))
        sig2 = answer.hello.sig2
        answer.hello.sig2 = sig2[:at] + bytes(1) + sig2[at:]
        assert refused(lambda: client.on_hello(answer, now_ms())) == "VAULT_FIELD_INVALID"

    def test_another_hsm_than_the_bundles(self, rig: Rig, owner: Owner, core: Core) -> None:
        false = FalseVault(rig, core, hsm_key_id=transcript.hsm_key_id(rig.bundle.hsms[0].public_key))
        client = rig.client(owner)
        answer = false.answer(client.hello(now_ms()))
        assert refused(lambda: client.on_hello(answer, now_ms())) == "VAULT_SIGNATURE_INVALID"

    def test_a_bundle_that_names_another_hsm(self, rig: Rig, owner: Owner, core: Core, stream: Stream) -> None:
        client = ClientSession(rig.root, FalseVault(rig, core).bundle, owner.label, owner.seed, None, 0)
        assert refused(lambda: stream.exchange(client.hello(now_ms()))) == "VAULT_HSM_KEY_MISMATCH"

    def test_a_bundle_with_another_policy_or_out_of_its_time(self, rig: Rig, owner: Owner) -> None:
        for change, reason in (
            ({"policy_digest": bytes(32)}, "VAULT_POLICY_MISMATCH"),
            ({"profile": "raw"}, "VAULT_PROFILE_UNKNOWN"),
            ({"not_after_ms": 1}, "BUNDLE_HSM_NOT_VALID"),
        ):
            client = ClientSession(rig.root, bundle_with(rig, **change), owner.label, owner.seed, None, 0)
            assert refused(lambda c=client: c.hello(now_ms())) == reason

    def test_a_bundle_with_the_other_profile(self, rig: Rig, owner: Owner, stream: Stream) -> None:
        """Were it signed by operator and witnesses both: the HSM itself says by which it derives."""
        (other,) = {SOFTHSM_AES_CBC, HKDF_SHA256} - {rig.bundle.hsms[0].profile}
        client = ClientSession(rig.root, bundle_with(rig, profile=other), owner.label, owner.seed, None, 0)
        hello = stream.exchange(client.hello(now_ms()))
        assert refused(lambda: client.on_hello(hello, now_ms())) == "VAULT_PROFILE_MISMATCH"

    def test_a_confirmation_of_an_older_identity(self, core: Core, rig: Rig) -> None:
        owner = Owner(label="+4930555555")
        core.head = rig.directory.publish(owner)
        handshake(rig.client(owner, own_epoch=core.head.epoch), core.stream())
        own_epoch = core.head.epoch + 1
        core.head = rig.directory.publish(Owner(label="+4930555556"))
        client = rig.client(owner, own_epoch=own_epoch)
        assert refused(lambda: handshake(client, core.stream())) == "VAULT_IDENTITY_MISMATCH"

    def test_a_confirmation_of_an_identity_beyond_its_own_head(
        self, core: Core, rig: Rig, owner: Owner, stream: Stream, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        beyond = core.head.epoch + 1
        honest = vault_module.verify_identity
        monkeypatch.setattr(vault_module, "verify_identity", lambda *proof: honest(*proof)._replace(epoch=beyond))
        assert refused(lambda: handshake(rig.client(owner), stream)) == "VAULT_IDENTITY_MISMATCH"

    @pytest.mark.parametrize(
        ("blob", "reason"),
        [(bytes(24), "VAULT_FIELD_INVALID"), (bytes(40), "VAULT_BLOB_REFUSED")],
        ids=["short", "bad"],
    )
    def test_a_blob_that_is_none(
        self, session: ClientSession, stream: Stream, monkeypatch: pytest.MonkeyPatch, blob: bytes, reason: str
    ) -> None:
        session.on_answer(stream.exchange(session.store_request(0, STORE_ID, KEY)))
        monkeypatch.setattr(HsmChannel, "retrieve", lambda *_: blob)
        answer = stream.exchange(session.retrieve_request())
        assert refused(lambda: session.on_answer(answer)) == reason

    def test_another_generation_than_asked(self, core: Core, session: ClientSession, stream: Stream) -> None:
        for generation in (0, 1):
            request = session.store_request(generation, STORE_ID, secrets.token_bytes(32))
            session.on_answer(stream.exchange(request))
        request = session.retrieve_request(1)
        honest = core.commit
        core.commit = lambda c: honest(dataclasses.replace(c, operation=effects.Retrieve(2)))
        answer = stream.exchange(request)
        assert refused(lambda: session.on_answer(answer)) == "VAULT_FIELD_INVALID"

    def test_a_key_of_no_generation(
        self, core: Core, session: ClientSession, stream: Stream, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The current one was asked for, and comes, without its number."""
        session.on_answer(stream.exchange(session.store_request(0, STORE_ID, KEY)))
        retrieve, blobs = HsmChannel.retrieve, list[bytes]()

        def noted(channel: HsmChannel, *record: bytes) -> bytes:
            blobs.append(retrieve(channel, *record))
            return blobs[0]

        monkeypatch.setattr(HsmChannel, "retrieve", noted)
        assert session.on_answer(stream.exchange(session.retrieve_request())) == (1, KEY)
        honest = core.commit
        core.commit = lambda c: dataclasses.replace(honest(c), generation=0)
        monkeypatch.setattr(HsmChannel, "retrieve", lambda *_: blobs[0])
        answer = stream.exchange(session.retrieve_request())
        assert refused(lambda: session.on_answer(answer)) == "VAULT_FIELD_INVALID"

    def test_an_answer_to_another_operation(
        self, session: ClientSession, stream: Stream, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def performed(*_: object) -> Iterator[effects.Effect]:
            return pb.VaultAnswer(delete=pb.DeleteAnswer())
            yield

        monkeypatch.setattr(vault_module, "_perform", performed)
        answer = stream.exchange(session.list_request())
        assert refused(lambda: session.on_answer(answer)) == "VAULT_OUT_OF_ORDER"

    def test_a_store_elsewhere_than_asked(self, core: Core, session: ClientSession, stream: Stream) -> None:
        core.commit = lambda _: pb.StoreAnswer(generation=7)
        answer = stream.exchange(session.store_request(0, STORE_ID, KEY))
        assert refused(lambda: session.on_answer(answer)) == "VAULT_FIELD_INVALID"


class TestHeadThatTheClientKnows:
    def test_a_newer_one_is_taken_over(self, core: Core, rig: Rig, owner: Owner, stream: Stream) -> None:
        newer = rig.directory.publish(Owner(label="+4930777777"))
        assert core.head.epoch < newer.epoch
        client = rig.client(owner, known_head=newer)
        handshake(client, stream)
        assert client.head.epoch == core.head.epoch == newer.epoch


class TestKeys:
    def test_every_session_key_depends_on_its_name_and_on_every_bit(self) -> None:
        frames = [secrets.token_bytes(64) for _ in range(3)]

        def inputs(frames: list[bytes]) -> list[bytes]:
            h2 = transcript.key_exchange_hash(*frames)
            return [transcript.session_key_input(name, h2) for name in transcript.SESSION_KEYS]

        seen = set(inputs(frames))
        tried = 4
        for i, frame in enumerate(frames):
            for bit in range(8 * len(frame)):
                flipped = bytearray(frame)
                flipped[bit // 8] ^= 1 << bit % 8
                seen.update(inputs([*frames[:i], bytes(flipped), *frames[i + 1 :]]))
                tried += 4
        # A token keeps the leading half of AES-CBC's output: the first block alone must tell them apart.
        assert len({data[:16] for data in seen}) == tried
