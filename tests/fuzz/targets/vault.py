"""The vault's session, both sides."""

from functools import cache
from typing import Any, NamedTuple

from ipls.crypto.keys import public_key
from ipls.hsm.token.pkcs11 import HsmToken
from ipls.proto.vault.v1 import vault_pb2
from ipls.vault.errors import SessionRefused
from ipls.vault.session import transcript
from tests.fuzz.target import ID, Target, folder, serialized, target
from tests.hsm.rig import Owner, Rig, now_ms
from tests.hsm.tokens import PIN
from tests.vault import rig as session
from tests.vault.rig import Core, Stream


class _Vault(NamedTuple):
    rig: Rig
    owner: Owner
    core: Core

    def handshake(self) -> tuple[Any, Stream]:
        """A session's two ends; the client's is looked into, for a malicious one has no other keys."""
        client: Any = self.rig.client(self.owner)
        stream = self.core.stream(max_requests=10**9)
        session.handshake(client, stream)
        return client, stream


@cache
def _vault() -> _Vault:
    rig, owner = Rig(folder()), Owner()
    rig.directory.publish(owner)
    token = HsmToken.open(rig.token, PIN)
    return _Vault(rig, owner, Core(token, rig.root, rig.directory))


@target("vault: first frame")
def _() -> Target:
    vault = _vault()
    frame = vault.rig.client(vault.owner).hello(now_ms())

    def run(data: bytes) -> None:
        stream = vault.core.stream()
        try:
            stream.exchange(data)
        finally:
            stream.close()

    return Target(run, (SessionRefused,), serialized(frame), weight=8, longest=80_000)


@target("vault: m1")
def _() -> Target:
    vault = _vault()
    m1 = vault.rig.client(vault.owner, known_head=vault.core.head).hello(now_ms()).m1

    def run(data: bytes) -> None:
        stream = vault.core.stream()
        try:
            stream.exchange(vault_pb2.SessionRequest(m1=data))
        finally:
            stream.close()

    return Target(run, (SessionRefused,), (m1,), weight=8)


@target("vault: m3")
def _() -> Target:
    """The seed stands for the session's own m3; whatever else has a tag that holds."""
    vault = _vault()
    seed = vault_pb2.ClientAuth(identity_key=public_key(vault.owner.seed), signature=bytes(64)).SerializeToString()

    def run(data: bytes) -> None:
        client: Any = vault.rig.client(vault.owner)
        stream = vault.core.stream()
        try:
            hello = stream.exchange(client.hello(now_ms()))
            request = client.on_hello(hello, now_ms())
            if data != seed:
                h2 = transcript.key_exchange_hash(client._m1, hello.hello.m2, hello.hello.sig2)
                tag = transcript.hmac_sha256(client._keys.c2v_mac, transcript.client_confirm_digest(h2, data))
                request = vault_pb2.SessionRequest(proof=vault_pb2.ClientProof(m3=data, tag3=tag))
            stream.exchange(request)
        finally:
            stream.close()

    return Target(run, (SessionRefused,), (seed,), weight=12)


@target("vault: request")
def _() -> Target:
    """Sealed by the account itself, whatever it asks."""
    vault, kept = _vault(), list[tuple[Any, Stream]]()
    store = vault_pb2.StoreRequest(expected_generation=0, store_id=bytes(16), blob=bytes(40))
    requests = [
        vault_pb2.VaultRequest(store=store),
        vault_pb2.VaultRequest(retrieve=vault_pb2.RetrieveRequest(generation=1)),
        vault_pb2.VaultRequest(finish_rotation=vault_pb2.FinishRotationRequest(generation=1)),
        vault_pb2.VaultRequest(list={}),
    ]

    def run(data: bytes) -> None:
        client, stream = kept.pop() if kept else vault.handshake()
        body = client._bodies.c2v.encrypt(bytes(4) + client._seq.to_bytes(8, "big"), data, client._h3)
        tag = transcript.hmac_sha256(client._keys.c2v_mac, transcript.request_digest(client._h3, client._seq, body))
        try:
            stream.exchange(vault_pb2.SessionRequest(request=vault_pb2.Sealed(seq=client._seq, body=body, tag=tag)))
        except BaseException:
            stream.close()
            raise
        client._seq += 1
        kept.append((client, stream))

    return Target(run, (SessionRefused,), serialized(*requests), weight=12)


@target("device: m2")
def _() -> Target:
    """Signed by the HSM that the bundle names, whatever it says."""
    vault = _vault()
    hello = vault.core.stream().exchange(vault.rig.client(vault.owner).hello(now_ms())).hello.m2

    def run(data: bytes) -> None:
        client: Any = vault.rig.client(vault.owner)
        client.hello(now_ms())
        signature = vault.core.token.sign(transcript.server_digest(client._m1, data))
        client.on_hello(vault_pb2.SessionResponse(hello=vault_pb2.SignedHello(m2=data, sig2=signature)), now_ms())

    return Target(run, (SessionRefused,), (hello,), weight=4)


@target("device: answer")
def _() -> Target:
    """Sealed by the vault, whatever it says."""
    vault, kept = _vault(), list[Any]()
    listed = vault_pb2.ListAnswer(last_generation=1, generations=[vault_pb2.Generation(generation=1, store_id=ID)])
    answers = [
        vault_pb2.VaultAnswer(list=listed),
        vault_pb2.VaultAnswer(error=vault_pb2.VaultError(reason="VAULT_GENERATION_UNKNOWN", message="no")),
        vault_pb2.VaultAnswer(retrieve=vault_pb2.RetrieveAnswer(generation=1, blob=bytes(40))),
    ]

    def run(data: bytes) -> None:
        client = kept.pop() if kept else vault.handshake()[0]
        asks_for_key = data[:1] == answers[2].SerializeToString()[:1]
        request = client.retrieve_request() if asks_for_key else client.list_request()
        seq = client._seq
        body = client._bodies.v2c.encrypt(bytes(4) + seq.to_bytes(8, "big"), data, client._h3)
        digest = transcript.answer_digest(client._h3, seq, request.request.body, body)
        sealed = vault_pb2.Sealed(seq=seq, body=body, tag=transcript.hmac_sha256(client._keys.v2c_mac, digest))
        client.on_answer(vault_pb2.SessionResponse(answer=sealed))
        kept.append(client)

    return Target(run, (SessionRefused,), serialized(*answers[:1]), weight=12)
