"""The session's hashes as the vault spec writes them down, and the layer that holds where P-256 has fallen."""

import hashlib
import hmac
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ipls.proto.vault.v1 import vault_pb2 as pb
from ipls.vault.errors import OperationRefused, SessionRefused
from ipls.vault.session import transcript
from ipls.vault.session import vault as vault_module
from ipls.vault.session.client import ClientSession
from ipls.vault.state.journal import account_key
from tests.hsm.rig import Owner, Rig
from tests.vault.changes import bit_flips
from tests.vault.rig import Core, Stream, handshake

M1, M2, SIG2, M3, TAG3 = (name.encode() * 9 for name in ("m1", "m2", "sig2", "m3", "tag3"))
LABEL, KEY, ROOT_ID, STORE_ID = "+491700000001", b"k" * 32, b"r" * 16, b"s" * 16
STORE = (0, bytes(16), bytes(range(32)))


def u64(number: int) -> bytes:
    return number.to_bytes(8, "big")


def spelled_out(name: str, *fields: bytes) -> bytes:
    """T with this page's domain."""
    return hashlib.sha256(b"".join(u64(len(f)) + f for f in (b"ipls/vault/v1 " + name.encode(), *fields))).digest()


H2 = spelled_out("keys", M1, M2, SIG2)
H3 = spelled_out("session", H2, M3, TAG3)


@pytest.mark.parametrize(
    ("ours", "expected"),
    [
        (transcript.hsm_key_id(KEY), hashlib.sha256(KEY).digest()),
        (transcript.server_digest(M1, M2), spelled_out("server", M1, M2)),
        (transcript.key_exchange_hash(M1, M2, SIG2), H2),
        (transcript.session_key_input("c2v mac", H2), spelled_out("c2v mac", H2)),
        (
            transcript.client_statement(M1, M2, SIG2, LABEL, KEY),
            b"ipls/vault/v1 client\0" + spelled_out("client", M1, M2, SIG2, LABEL.encode(), KEY),
        ),
        (transcript.client_confirm_digest(H2, M3), spelled_out("client confirm", H2, M3)),
        (transcript.session_hash(H2, M3, TAG3), H3),
        (transcript.confirm_digest(H3, 2, 3), spelled_out("confirm", H3, u64(2), u64(3))),
        (transcript.request_digest(H3, 7, b"body"), spelled_out("request", H3, u64(7), b"body")),
        (transcript.answer_digest(H3, 7, b"body", b"answer"), spelled_out("answer", H3, u64(7), b"body", b"answer")),
        (
            transcript.approval_statement("ns", LABEL, 3, KEY, ROOT_ID),
            b"ipls/vault/v1 approve\0" + spelled_out("approve", b"ns", LABEL.encode(), u64(3), KEY, ROOT_ID),
        ),
        (
            transcript.record_digest(ROOT_ID, account_key(LABEL), 5, STORE_ID),
            spelled_out("record", ROOT_ID, hashlib.sha256(LABEL.encode()).digest(), u64(5), STORE_ID),
        ),
    ],
)
def test_every_hash_is_the_specs(ours: bytes, expected: bytes) -> None:
    assert ours == expected


def test_there_are_four_session_keys() -> None:
    assert transcript.SESSION_KEYS == ("c2v mac", "v2c mac", "c2v wrap", "v2c wrap")


@pytest.mark.parametrize("way", ["c2v", "v2c"])
def test_bodies_are_sealed_as_the_spec_says(way: str) -> None:
    secret, request = b"kem secret".ljust(32), pb.VaultRequest(list=pb.ListRequest())
    extracted = hmac.digest(H2, secret, "sha256")
    key = hmac.digest(extracted, f"ipls/vault/v1 {way} body\x01".encode(), "sha256")
    bodies = transcript.Bodies.derive(secret, H2, H3)
    sealed = bodies.seal(getattr(bodies, way), 7, request)
    assert AESGCM(key).decrypt(bytes(4) + u64(7), sealed, H3) == request.SerializeToString()


class TestHybrid:
    """An adversary that has broken P-256, and so makes any tag: the bodies, under ML-KEM, hold by themselves."""

    @pytest.fixture(autouse=True)
    def broken(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(transcript, "check_tag", lambda *_: None)

    def test_changed_bodies(self, core: Core, rig: Rig, owner: Owner) -> None:
        for number in range(3):
            client, stream = rig.client(owner), core.stream()
            handshake(client, stream)
            request = client.store_request(*STORE)
            honest = request.request.body
            request.request.body = list(bit_flips(honest))[number]
            self.refused(lambda s=stream, r=request: s.exchange(r))
        assert core.operations.count(core.operations[0]) == len(core.operations)  # handshakes: nothing was stored
        for number in range(3):
            client, stream = rig.client(owner), core.stream()
            handshake(client, stream)
            answer = stream.exchange(client.list_request())
            answer.answer.body = list(bit_flips(answer.answer.body))[number]
            self.refused(lambda c=client, a=answer: c.on_answer(a))

    def test_bodies_of_another_number_session_or_direction(self, core: Core, rig: Rig, owner: Owner) -> None:
        def opened() -> tuple[ClientSession, Stream]:
            client, stream = rig.client(owner), core.stream()
            handshake(client, stream)
            return client, stream

        other, elsewhere = opened()
        foreign = other.list_request().request.body
        other.on_answer(elsewhere.exchange(pb.SessionRequest(request=pb.Sealed(seq=0, body=foreign))))
        client, stream = opened()
        first = client.list_request().request.body
        answer = stream.exchange(pb.SessionRequest(request=pb.Sealed(seq=0, body=first))).answer
        self.refused(lambda: stream.exchange(pb.SessionRequest(request=pb.Sealed(seq=1, body=first))))
        for body, seq in ((foreign, 0), (answer.body, 0)):
            _, fresh = opened()
            self.refused(lambda f=fresh, b=body, s=seq: f.exchange(pb.SessionRequest(request=pb.Sealed(seq=s, body=b))))
        self.refused(lambda: client.on_answer(pb.SessionResponse(answer=pb.Sealed(seq=0, body=first))))

    @staticmethod
    def refused(attempt: Any) -> None:
        with pytest.raises(SessionRefused) as refusal:
            attempt()
        assert refusal.value.reason == "VAULT_BODY_REFUSED"


def test_an_answer_to_another_operation_is_refused(
    session: ClientSession, stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The vault itself lies, tag and seal are right."""

    def lie(*_: object) -> Any:
        return pb.VaultAnswer(list=pb.ListAnswer(last_generation=9))
        yield  # a generator, as the honest one

    monkeypatch.setattr(vault_module, "_perform", lie)
    answer = stream.exchange(session.store_request(*STORE))
    with pytest.raises(SessionRefused) as refusal:
        session.on_answer(answer)
    assert refusal.value.reason == "VAULT_OUT_OF_ORDER"


def test_a_request_without_an_operation_is_refused(session: ClientSession, stream: Stream) -> None:
    answer = stream.exchange(session._request(pb.VaultRequest()))
    with pytest.raises(OperationRefused) as refusal:
        session.on_answer(answer)
    assert refusal.value.reason == "VAULT_OPERATION_UNKNOWN"
