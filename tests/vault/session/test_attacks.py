"""What an adversary between client and vault, and a thief with its own key, try; all of it refused."""

import secrets
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from google.protobuf.message import Message
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ipls.hsm.core.heads import HeadKeeper
from ipls.hsm.state.store import StateStore
from ipls.proto.vault.v1 import vault_pb2 as pb
from ipls.proto.witness.v1.head_pb2 import SignedHead
from ipls.vault.errors import SessionRefused, refusing
from ipls.vault.session import client as client_module
from ipls.vault.session import transcript
from ipls.vault.session.client import ClientSession
from tests.hsm.rig import Owner, Rig, now_ms
from tests.hsm.state_stores import perform
from tests.vault.changes import bit_flips, changes
from tests.vault.refusals import FalseVault, operation_refused, refused
from tests.vault.rig import Core, Stream, handshake

KEY = bytes(range(32))
STORE_ID = bytes(16)
HOUR = 3_600_000


def inside(kind: type[Message], wrap: Callable[[bytes], Any]) -> Callable[[bytes], Iterator[tuple[str, Any]]]:
    """Changes of a message that travels as opaque bytes, and of those bytes."""

    def frames(data: bytes) -> Iterator[tuple[str, Any]]:
        for what, changed in changes(kind.FromString(data)):
            yield what, wrap(changed.SerializeToString())
        for flipped in bit_flips(data):
            yield "bytes flipped", wrap(flipped)
        yield "unknown field", wrap(data + b"\xfa\x01\x01x")

    return frames


class TestTranscript:
    """Each change is made by an adversary to the one frame; the two sides do the rest honestly."""

    def attempt(self, core: Core, client: ClientSession, **adversary: Callable[[Any], Any]) -> None:
        handshake(client, core.stream(), **adversary)

    def honest(self, core: Core, rig: Rig, owner: Owner) -> dict[str, Any]:
        """The frames of one honest handshake, by their names."""
        frames: dict[str, Any] = {}

        def record(name: str) -> Callable[[Any], Any]:
            return lambda frame: frames.setdefault(name, frame)

        client = rig.client(owner, known_head=core.head)
        self.attempt(core, client, **{name: record(name) for name in ("m1", "m2", "m3", "confirmation")})
        return frames

    def each(
        self, core: Core, rig: Rig, owner: Owner, frame: str, made: Callable[[Any], Iterator[tuple[str, Any]]]
    ) -> int:
        """Tries every change that `made` makes of the frame, each in a handshake of its own; the number of them."""
        template = list(made(self.honest(core, rig, owner)[frame]))
        for i, (what, _) in enumerate(template):
            client = rig.client(owner, known_head=core.head)

            def change(honest: Any, i: int = i) -> Any:
                return list(made(honest))[i][1]

            try:
                self.attempt(core, client, **{frame: change})
            except SessionRefused:
                continue
            pytest.fail(f"accepted: {frame} with {what}")
        return len(template)

    def test_m1(self, core: Core, rig: Rig, owner: Owner) -> None:
        made = inside(pb.ClientHello, lambda m1: pb.SessionRequest(m1=m1))
        assert self.each(core, rig, owner, "m1", lambda frame: made(frame.m1)) > 40

    def test_m2(self, core: Core, rig: Rig, owner: Owner) -> None:
        def made(frame: pb.SessionResponse) -> Iterator[tuple[str, Any]]:
            def wrap(m2: bytes) -> pb.SessionResponse:
                return pb.SessionResponse(hello=pb.SignedHello(m2=m2, sig2=frame.hello.sig2))

            return inside(pb.VaultHello, wrap)(frame.hello.m2)

        assert self.each(core, rig, owner, "m2", made) > 40

    def test_m3(self, core: Core, rig: Rig, owner: Owner) -> None:
        def made(frame: pb.SessionRequest) -> Iterator[tuple[str, Any]]:
            def wrap(m3: bytes) -> pb.SessionRequest:
                return pb.SessionRequest(proof=pb.ClientProof(m3=m3, tag3=frame.proof.tag3))

            return inside(pb.ClientAuth, wrap)(frame.proof.m3)

        assert self.each(core, rig, owner, "m3", made) > 10

    @pytest.mark.parametrize("frame", ["m1", "m2", "m3", "confirmation"])
    def test_outer_frames(self, core: Core, rig: Rig, owner: Owner, frame: str) -> None:
        """Sig2, tag3 and the confirmation's fields among them."""
        assert self.each(core, rig, owner, frame, changes) > 5


@pytest.mark.parametrize("side", ["request", "answer"])
def test_changed_requests_and_answers(core: Core, rig: Rig, owner: Owner, side: str) -> None:
    tried = 0
    while True:
        client, stream = rig.client(owner), core.stream()
        handshake(client, stream)
        request = client.store_request(0, STORE_ID, KEY)
        if side == "request":
            made = list(changes(request))
            attempt = lambda: stream.exchange(made[tried][1])  # noqa: E731, B023  # called in this very turn
        else:
            made = list(changes(stream.exchange(request)))
            attempt = lambda: client.on_answer(made[tried][1])  # noqa: E731, B023  # likewise
        assert refused(attempt).startswith("VAULT_"), made[tried][0]
        tried += 1
        if tried == len(made):
            break
    assert tried > 10


def test_a_replayed_session_is_refused(core: Core, rig: Rig, owner: Owner) -> None:
    client, stream = rig.client(owner), core.stream()
    m1 = client.hello(now_ms())
    m3 = client.on_hello(stream.exchange(m1), now_ms())
    client.on_confirmation(stream.exchange(m3))
    request = client.retrieve_request()
    stream.exchange(request)
    again = core.stream()
    again.exchange(m1)
    assert refused(lambda: again.exchange(m3)) == "VAULT_TAG_INVALID"
    other, fresh = rig.client(owner), core.stream()
    handshake(other, fresh)
    assert refused(lambda: fresh.exchange(request)) == "VAULT_TAG_INVALID"


def test_replayed_and_reordered_requests_are_refused(session: ClientSession, stream: Stream) -> None:
    first = session.list_request()
    session.on_answer(stream.exchange(first))
    assert refused(lambda: stream.exchange(first)) == "VAULT_OUT_OF_ORDER"


def test_a_skipped_request_is_refused(session: ClientSession, stream: Stream) -> None:
    skipping = session.list_request()
    skipping.request.seq += 1
    assert refused(lambda: stream.exchange(skipping)) == "VAULT_OUT_OF_ORDER"


def test_an_earlier_answer_is_refused(session: ClientSession, stream: Stream) -> None:
    first = stream.exchange(session.list_request())
    session.on_answer(first)
    stream.exchange(session.list_request())
    assert refused(lambda: session.on_answer(first)) == "VAULT_OUT_OF_ORDER"


def test_an_earlier_answer_renumbered_is_refused(session: ClientSession, stream: Stream) -> None:
    first = stream.exchange(session.list_request())
    session.on_answer(first)
    stream.exchange(session.list_request())
    first.answer.seq += 1
    assert refused(lambda: session.on_answer(first)) == "VAULT_TAG_INVALID"


def test_a_request_reflected_to_the_client_is_refused(session: ClientSession) -> None:
    request = session.list_request().request
    assert refused(lambda: session.on_answer(pb.SessionResponse(answer=request))) == "VAULT_TAG_INVALID"


def test_an_answer_reflected_to_the_vault_is_refused(session: ClientSession, stream: Stream) -> None:
    answer = stream.exchange(session.list_request()).answer
    answer.seq += 1
    assert refused(lambda: stream.exchange(pb.SessionRequest(request=answer))) == "VAULT_TAG_INVALID"


def test_the_confirmation_reflected_as_tag3_is_refused(core: Core, rig: Rig, owner: Owner) -> None:
    client, stream = rig.client(owner), core.stream()
    m3 = client.on_hello(stream.exchange(client.hello(now_ms())), now_ms())
    other, honest = rig.client(owner), core.stream()
    tag = honest.exchange(other.on_hello(honest.exchange(other.hello(now_ms())), now_ms())).confirmation.tag
    m3.proof.tag3 = tag
    assert refused(lambda: stream.exchange(m3)) == "VAULT_TAG_INVALID"


def test_no_frame_but_the_next_is_taken(core: Core, session: ClientSession, stream: Stream) -> None:
    frames = [pb.SessionRequest(proof=pb.ClientProof()), pb.SessionRequest(request=pb.Sealed()), pb.SessionRequest()]
    for frame in frames:
        assert refused(lambda f=frame: core.stream().exchange(f)) == "VAULT_OUT_OF_ORDER"
    assert refused(lambda: stream.exchange(pb.SessionRequest(m1=b""))) == "VAULT_OUT_OF_ORDER"


def test_a_frame_over_the_limit_is_refused_by_both(core: Core, client: ClientSession) -> None:
    huge = pb.SessionRequest(m1=bytes(transcript.MAX_FRAME))
    assert refused(lambda: core.stream().exchange(huge)) == "VAULT_FRAME_TOO_LARGE"
    client.hello(now_ms())
    answer = pb.SessionResponse(hello=pb.SignedHello(m2=bytes(transcript.MAX_FRAME)))
    assert refused(lambda: client.on_hello(answer, now_ms())) == "VAULT_FRAME_TOO_LARGE"


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("version", 2, "VAULT_VERSION_UNSUPPORTED"),
        ("hsm_key_id", bytes(32), "VAULT_HSM_KEY_MISMATCH"),
        ("label", "4930111111", "LABEL_INVALID"),
        ("nonce", bytes(31), "VAULT_FIELD_INVALID"),
        ("kem_key", bytes(1183), "VAULT_KEM_KEY_INVALID"),
    ],
)
def test_a_first_message_that_does_not_fit_is_refused(
    core: Core, client: ClientSession, field: str, value: object, reason: str
) -> None:
    hello = pb.ClientHello.FromString(client.hello(now_ms()).m1)
    setattr(hello, field, value)
    assert refused(lambda: core.stream().exchange(pb.SessionRequest(m1=hello.SerializeToString()))) == reason


def test_bytes_that_are_no_message_are_refused(core: Core) -> None:
    for data in (b"\xff", pb.SessionRequest(m1=b"\xff").SerializeToString()):
        assert refused(lambda d=data: core.stream().exchange(d)) == "VAULT_FRAME_MALFORMED"


def test_requests_are_limited(core: Core, client: ClientSession) -> None:
    stream = core.stream(max_requests=2)
    handshake(client, stream)
    for _ in range(2):
        client.on_answer(stream.exchange(client.list_request()))
    assert refused(lambda: stream.exchange(client.list_request())) == "VAULT_TOO_MANY_REQUESTS"


class TestThief:
    def test_a_key_never_published(self, core: Core, rig: Rig, stream: Stream) -> None:
        unknown = rig.client(Owner(label="+4930999999"))
        assert refused(lambda: handshake(unknown, stream)) == "IDENTITY_UNPROVEN"

    def test_somebody_elses_account(self, core: Core, rig: Rig, owner: Owner, stream: Stream) -> None:
        thief = Owner(label="+4930666666")
        core.head = rig.directory.publish(thief)
        claims = rig.client(Owner(label=owner.label, seed=thief.seed))
        assert refused(lambda: handshake(claims, stream)) == "VAULT_IDENTITY_MISMATCH"
        core.prove = lambda _, epoch: rig.directory.prove(thief.label, epoch)
        again = core.stream()
        assert refused(lambda: handshake(rig.client(Owner(owner.label, thief.seed)), again)) == "IDENTITY_UNPROVEN"

    def test_the_old_identity_after_registering_again(self, core: Core, rig: Rig) -> None:
        before = Owner(label="+4930111111")
        core.head = rig.directory.publish(before)
        old, stream = rig.client(before), core.stream()
        handshake(old, stream)
        core.head = rig.directory.publish(Owner(label=before.label))
        assert refused(lambda: handshake(rig.client(before), core.stream())) == "VAULT_IDENTITY_MISMATCH"
        # Also inside the session that it had opened.
        assert refused(lambda: stream.exchange(old.list_request())) == "VAULT_IDENTITY_MISMATCH"

    def test_a_proof_of_an_earlier_epoch(self, core: Core, rig: Rig) -> None:
        before = Owner(label="+4930222222")
        earlier = rig.directory.publish(before).epoch
        core.head = rig.directory.publish(Owner(label=before.label))
        core.prove = lambda label, _: rig.directory.prove(label, earlier)
        assert refused(lambda: handshake(rig.client(before), core.stream())) == "IDENTITY_UNPROVEN"

    def test_a_moved_head_that_names_the_same_key_is_no_hindrance(self, core: Core, rig: Rig) -> None:
        owner = Owner(label="+4930333333")
        core.head = rig.directory.publish(owner)
        client, stream = rig.client(owner), core.stream()
        handshake(client, stream)
        core.head = rig.directory.publish(Owner(label="+4930444444"))
        client.on_answer(stream.exchange(client.list_request()))

    def test_a_head_grown_too_old_serves_no_request(
        self, core: Core, rig: Rig, owner: Owner, state_store: StateStore
    ) -> None:
        """A witness that is kept from signing anew: age is asked for at every request."""
        clock = [now_ms()]
        heads = HeadKeeper(rig.root, state_store, lambda: clock[0])

        def judge_by(client_head: SignedHead | None) -> SignedHead:
            with refusing():
                return perform(state_store, lambda: heads.judge_by(client_head))

        def standing() -> int:
            with refusing():
                return heads.standing()

        core.judge_by, core.standing = judge_by, standing
        clients = [rig.client(owner, known_head=rig.directory.head(time=clock[0])) for _ in range(2)]
        streams = [core.stream() for _ in clients]
        for client, stream in zip(clients, streams, strict=True):
            handshake(client, stream)
            client.on_answer(stream.exchange(client.list_request()))
        clock[0] += rig.root.max_head_age_ms + 1
        assert refused(lambda: streams[0].exchange(clients[0].list_request())) == "HEAD_TOO_OLD"
        assert refused(lambda: core.stream().exchange(rig.client(owner).hello(now_ms()))) == "HEAD_TOO_OLD"
        perform(state_store, lambda: heads.offer(rig.directory.head(time=clock[0])))
        clients[1].on_answer(streams[1].exchange(clients[1].list_request()))

    def test_another_label_in_the_statement(self, core: Core, rig: Rig, owner: Owner) -> None:
        """The thief relays the owner's own session to a vault under another label: m1 is signed by all that follows."""
        client, stream = rig.client(owner), core.stream()
        hello = pb.ClientHello.FromString(client.hello(now_ms()).m1)
        hello.label = "+4930666666"
        answer = stream.exchange(pb.SessionRequest(m1=hello.SerializeToString()))
        assert refused(lambda: client.on_hello(answer, now_ms())) == "VAULT_SIGNATURE_INVALID"

    @pytest.mark.parametrize("key", [b"\1" + bytes(31), bytes(32), b"\xec" + b"\xff" * 30 + b"\x7f"])
    def test_an_identity_key_of_small_order(
        self, client: ClientSession, stream: Stream, monkeypatch: pytest.MonkeyPatch, key: bytes
    ) -> None:
        """Under such a key the signature (identity, 0) holds for any message."""
        monkeypatch.setattr(client_module, "public_key", lambda _: key)
        monkeypatch.setattr(client_module, "sign", lambda *_: b"\1" + bytes(63))
        assert refused(lambda: handshake(client, stream)) == "KEY_INVALID"

    @pytest.mark.parametrize("blob", [b"", bytes(24), bytes(32), bytes(39), bytes(41), bytes(48)], ids=len)
    def test_a_blob_of_another_length(
        self, session: ClientSession, stream: Stream, monkeypatch: pytest.MonkeyPatch, blob: bytes
    ) -> None:
        monkeypatch.setattr(client_module, "aes_key_wrap", lambda *_: blob)
        request = session.store_request(0, STORE_ID, KEY)
        assert operation_refused(lambda: session.on_answer(stream.exchange(request))) == "VAULT_FIELD_INVALID"

    @pytest.mark.parametrize("store_id", [b"", bytes(15), bytes(17), bytes(32)], ids=len)
    def test_a_store_id_of_another_length(self, session: ClientSession, stream: Stream, store_id: bytes) -> None:
        request = session.store_request(0, store_id, KEY)
        assert operation_refused(lambda: session.on_answer(stream.exchange(request))) == "VAULT_FIELD_INVALID"

    def test_a_blob_that_does_not_unwrap(
        self, session: ClientSession, stream: Stream, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(client_module, "aes_key_wrap", lambda *_: bytes(40))
        request = session.store_request(0, STORE_ID, KEY)
        assert operation_refused(lambda: session.on_answer(stream.exchange(request))) == "VAULT_BLOB_REFUSED"

    @pytest.mark.parametrize("generation", [2**63 - 1, 2**64 - 1])
    def test_a_generation_past_all_counting(self, session: ClientSession, stream: Stream, generation: int) -> None:
        request = session.store_request(generation, STORE_ID, KEY)
        assert operation_refused(lambda: session.on_answer(stream.exchange(request))) == "VAULT_GENERATION_CONFLICT"


class TestSwappedRecords:
    """The database is the adversary's: a wrapped key moved anywhere else does not unwrap."""

    def test_within_an_account(self, core: Core, owner: Owner, session: ClientSession, stream: Stream) -> None:
        for generation in (0, 1):
            request = session.store_request(generation, secrets.token_bytes(16), secrets.token_bytes(32))
            session.on_answer(stream.exchange(request))
        account = core.accounts[owner.label]
        first, second = account.generations
        for lie in (
            second._replace(wrapped=first.wrapped),
            first._replace(number=2, superseded_ms=0),
            second._replace(store_id=first.store_id),
            second._replace(wrapped=bytes(40)),
            second._replace(wrapped=first.wrapped[:24]),
        ):
            core.accounts[owner.label] = account._replace(generations=(lie,))
            request = session.retrieve_request()
            assert operation_refused(lambda r=request: session.on_answer(stream.exchange(r))) == "VAULT_RECORD_REFUSED"

    def test_under_a_root_that_the_token_does_not_have(
        self, core: Core, owner: Owner, session: ClientSession, stream: Stream
    ) -> None:
        session.on_answer(stream.exchange(session.store_request(0, STORE_ID, KEY)))
        account = core.accounts[owner.label]
        moved = account.generations[0]._replace(storage_key_id=bytes(16))
        core.accounts[owner.label] = account._replace(generations=(moved,))
        request = session.retrieve_request()
        assert operation_refused(lambda: session.on_answer(stream.exchange(request))) == "VAULT_ROOT_MISSING"

    def test_between_accounts(self, core: Core, rig: Rig, owner: Owner, session: ClientSession, stream: Stream) -> None:
        session.on_answer(stream.exchange(session.store_request(0, STORE_ID, KEY)))
        thief = Owner(label="+4930666667")
        core.head = rig.directory.publish(thief)
        client, other = rig.client(thief), core.stream()
        handshake(client, other)
        core.accounts[thief.label] = core.accounts[owner.label]._replace(identity_version=1)
        request = client.retrieve_request()
        assert operation_refused(lambda: client.on_answer(other.exchange(request))) == "VAULT_RECORD_REFUSED"


class TestPoints:
    """A token would take some of these; it never sees them."""

    def other_forms(self) -> list[bytes]:
        public = ec.generate_private_key(ec.SECP256R1()).public_key()
        full = public.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        compressed = public.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
        hybrid = bytes([6 + full[-1] % 2]) + full[1:]
        off_curve = full[:-1] + bytes([full[-1] ^ 1])
        return [
            compressed,
            b"\x04\x41" + full,
            hybrid,
            off_curve,
            b"\x04" + bytes(64),
            b"\0",
            b"",
            full[1:],
            full + b"\0",
        ]

    def test_the_vault_refuses_them(self, core: Core, rig: Rig, owner: Owner, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(core.token, "ephemeral", lambda: pytest.fail("the token saw it"))
        for point in self.other_forms():
            hello = pb.ClientHello.FromString(rig.client(owner).hello(now_ms()).m1)
            hello.ephemeral = point
            frame = pb.SessionRequest(m1=hello.SerializeToString())
            assert refused(lambda f=frame: core.stream().exchange(f)) == "VAULT_POINT_INVALID"

    def test_the_client_refuses_them(self, core: Core, rig: Rig, owner: Owner) -> None:
        for point in self.other_forms():
            assert FalseVault(rig, core, ephemeral=point).refused_by(owner) == "VAULT_POINT_INVALID"


class TestGarbage:
    """Whatever bytes arrive, the session's own error is all that comes of them."""

    relaxed = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

    @relaxed
    @given(data=st.binary(max_size=300))
    def test_frames(self, core: Core, data: bytes) -> None:
        refused(lambda: core.stream().exchange(data))

    @relaxed
    @given(m1=st.binary(max_size=300))
    def test_client_hellos(self, core: Core, m1: bytes) -> None:
        refused(lambda: core.stream().exchange(pb.SessionRequest(m1=m1)))

    @relaxed
    @given(m2=st.binary(max_size=300))
    def test_signed_server_hellos(self, core: Core, rig: Rig, owner: Owner, m2: bytes) -> None:
        false = FalseVault(rig, core)
        false.m2 = m2
        false.refused_by(owner)
