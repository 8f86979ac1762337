"""The vault's side of a session, as a generator of effects (the vault spec, Session and Policy).

SIGMA over P-256 inside the token; bodies are sealed under an ML-KEM-768 secret besides. The account's identity comes
from a history proof, most recent 1, at the head that m2 names, and again at each later one.

Tested by tests/vault/session/test_session.py and tests/vault/session/test_attacks.py.
"""

from collections.abc import Generator
from contextlib import suppress
from itertools import count
from secrets import token_bytes
from typing import Any, NamedTuple, TypeVar

from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PublicKey

from ipls.crypto.errors import SignatureRefused
from ipls.crypto.keys import check_public_key, verify
from ipls.proto.vault.v1 import vault_pb2 as pb
from ipls.proto.witness.v1.head_pb2 import SignedHead
from ipls.trust.heads import Head
from ipls.trust.identity import Identity, check_label, verify_identity, verify_no_identity
from ipls.trust.limits import MAX_INT
from ipls.trust.root import TrustRoot
from ipls.vault.errors import SessionRefused, refusing
from ipls.vault.session import effects, transcript
from ipls.vault.session.token import Channel, Token
from ipls.vault.state.journal import account_key

R = TypeVar("R")
Steps = Generator[effects.Effect, Any, R]


class _Exchange(NamedTuple):
    """The key exchange, done."""

    m1: bytes
    m2: bytes
    sig2: bytes
    label: str
    head: SignedHead
    channel: Channel
    kem_secret: bytes

    @property
    def h2(self) -> bytes:
        return transcript.key_exchange_hash(self.m1, self.m2, self.sig2)


def vault_session(token: Token, root: TrustRoot, *, max_requests: int = transcript.MAX_REQUESTS) -> Steps[None]:
    """One client's session, from its first frame on; it ends by SessionRefused or by being closed.

    Closing it, also while it waits, destroys its keys in the token. It runs on the token's thread.
    """
    exchange = yield from _exchange(token, root)
    channel, label = exchange.channel, exchange.label
    try:
        yield _send(hello=pb.SignedHello(m2=exchange.m2, sig2=exchange.sig2))
        proof = (yield from _receive("proof")).proof
        key = _check_proof(exchange, proof)
        h3 = transcript.session_hash(exchange.h2, proof.m3, proof.tag3)
        bodies = transcript.Bodies.derive(exchange.kem_secret, exchange.h2, h3)
        head = exchange.head
        identity = yield from _prove(root, head, label, key)
        yield effects.Commit(label, identity, effects.Handshake())
        tag = channel.mac_v2c(transcript.confirm_digest(h3, identity.version, identity.epoch))
        confirmation = pb.Confirmation(identity_version=identity.version, epoch=identity.epoch, tag=tag)
        yield _send(confirmation=confirmation)
        for seq in count():
            data, epoch = yield effects.ReceiveRequest()
            sealed = _frame("request", data).request
            if seq == max_requests:
                raise SessionRefused("VAULT_TOO_MANY_REQUESTS", f"a session has at most {max_requests} requests")
            if sealed.seq != seq:
                raise SessionRefused("VAULT_OUT_OF_ORDER", "a request's number is not the next one")
            transcript.check_tag(channel.mac_c2v(transcript.request_digest(h3, seq, sealed.body)), sealed.tag)
            request = bodies.open(bodies.c2v, seq, sealed.body, pb.VaultRequest)
            if epoch != head.epoch:
                head = yield effects.JudgeBy()
                identity = yield from _prove(root, head, label, key)
            answer = yield from _perform(token, root, channel, label, identity, request)
            body = bodies.seal(bodies.v2c, seq, answer)
            tag = channel.mac_v2c(transcript.answer_digest(h3, seq, sealed.body, body))
            yield _send(answer=pb.Sealed(seq=seq, body=body, tag=tag))
    finally:
        channel.close()


def _send(**frame: Any) -> effects.Send:
    return effects.Send(pb.SessionResponse(**frame).SerializeToString())


def _receive(kind: str) -> Steps[pb.SessionRequest]:
    return _frame(kind, (yield effects.Receive()))


def _frame(kind: str, data: bytes) -> pb.SessionRequest:
    transcript.check_frame_size(len(data))
    frame = transcript.decode(pb.SessionRequest, data)
    if frame.WhichOneof("frame") != kind:
        raise SessionRefused("VAULT_OUT_OF_ORDER", "not the frame that comes next")
    return frame


def _exchange(token: Token, root: TrustRoot) -> Steps[_Exchange]:
    """Takes m1 and makes m2, sig2 and the session keys."""
    m1 = (yield from _receive("m1")).m1
    hello = transcript.decode(pb.ClientHello, m1)
    if hello.version != transcript.VERSION:
        raise SessionRefused("VAULT_VERSION_UNSUPPORTED", "this vault speaks version 1")
    if hello.hsm_key_id != token.hsm_key_id:
        raise SessionRefused("VAULT_HSM_KEY_MISMATCH", "the client expects another HSM")
    with refusing():
        check_label(hello.label)
    transcript.check_length("nonce", hello.nonce, transcript.NONCE_BYTES)
    transcript.check_point(hello.ephemeral)
    try:
        kem_secret, kem_ciphertext = MLKEM768PublicKey.from_public_bytes(hello.kem_key).encapsulate()
    except ValueError:
        raise SessionRefused("VAULT_KEM_KEY_INVALID", "not an ML-KEM-768 encapsulation key") from None
    yield effects.Admit(hello.label, hello.bundle_number)
    head = yield effects.JudgeBy(hello.head if hello.HasField("head") else None)
    ephemeral = token.ephemeral()
    try:
        m2 = pb.VaultHello(
            hsm_key_id=token.hsm_key_id,
            ephemeral=ephemeral.point,
            nonce=token_bytes(transcript.NONCE_BYTES),
            kem_ciphertext=kem_ciphertext,
            head=head,
            policy_digest=root.policy_digest,
            profile=token.profile,
        ).SerializeToString()
        sig2 = token.sign(transcript.server_digest(m1, m2))
        channel = ephemeral.agree(hello.ephemeral, transcript.key_exchange_hash(m1, m2, sig2))
    finally:
        ephemeral.close()
    return _Exchange(m1, m2, sig2, hello.label, head, channel, kem_secret)


def _check_proof(exchange: _Exchange, proof: pb.ClientProof) -> bytes:
    """The identity key that the client holds; whose it is, the directory says."""
    digest = transcript.client_confirm_digest(exchange.h2, proof.m3)
    transcript.check_tag(exchange.channel.mac_c2v(digest), proof.tag3)
    auth = transcript.decode(pb.ClientAuth, proof.m3)
    statement = transcript.client_statement(exchange.m1, exchange.m2, exchange.sig2, exchange.label, auth.identity_key)
    with refusing():
        verify(auth.identity_key, statement, auth.signature)
    return auth.identity_key


def _prove(root: TrustRoot, head: SignedHead, label: str, key: bytes) -> Steps[Identity]:
    proofs = yield effects.NeedHistory(label, head.epoch)
    judged, identity = Head(head.epoch, head.root_hash), None
    with refusing():
        if proofs.absence:
            verify_no_identity(root, judged, label, proofs.absence)
        else:
            identity = verify_identity(root, judged, label, proofs.proof)
    if identity is None or identity.public_key != key:  # one answer: a key of anybody's making finds out no number
        raise SessionRefused("VAULT_IDENTITY_MISMATCH", "the directory does not name this key for this account")
    return identity


def _perform(
    token: Token, root: TrustRoot, channel: Channel, label: str, identity: Identity, request: pb.VaultRequest
) -> Steps[pb.VaultAnswer]:
    """The answer to one request; a refused operation has one too."""
    try:
        match request.WhichOneof("operation"):
            case "store":
                return (yield from _store(token, channel, label, identity, request.store))
            case "retrieve":
                return (yield from _retrieve(channel, label, identity, request.retrieve))
            case "finish_rotation":
                finish = effects.FinishRotation(request.finish_rotation.generation)
                return pb.VaultAnswer(finish_rotation=(yield effects.Commit(label, identity, finish)))
            case "delete":
                return pb.VaultAnswer(delete=(yield effects.Commit(label, identity, effects.Delete())))
            case "list":
                return pb.VaultAnswer(list=(yield effects.Commit(label, identity, effects.List())))
            case "history":
                history = effects.History(getattr(request.history, "from"))
                return pb.VaultAnswer(history=(yield effects.Commit(label, identity, history)))
            case "set_change_delay":
                delay = effects.SetChangeDelay(request.set_change_delay.delay_ms)
                return pb.VaultAnswer(set_change_delay=(yield effects.Commit(label, identity, delay)))
            case "add_approver":
                with refusing():
                    add = effects.AddApprover(check_public_key(request.add_approver.approver))
                return pb.VaultAnswer(add_approver=(yield effects.Commit(label, identity, add)))
            case "remove_approver":
                remove = effects.RemoveApprover(request.remove_approver.approver)
                return pb.VaultAnswer(remove_approver=(yield effects.Commit(label, identity, remove)))
            case "approve":
                approve = _check_approval(root, label, identity, request.approve)
                return pb.VaultAnswer(approve=(yield effects.Commit(label, identity, approve)))
            case "checkpoint":
                checkpoint = _checkpoint(request.checkpoint)
                return pb.VaultAnswer(checkpoint=(yield effects.Commit(label, identity, checkpoint)))
            case _:
                raise SessionRefused("VAULT_OPERATION_UNKNOWN", "the request names no operation known here")
    except SessionRefused as e:
        return pb.VaultAnswer(error=pb.VaultError(reason=e.reason, message=e.message))


def _store(
    token: Token, channel: Channel, label: str, identity: Identity, request: pb.StoreRequest
) -> Steps[pb.VaultAnswer]:
    transcript.check_length("store id", request.store_id, transcript.STORE_ID_BYTES)
    transcript.check_length("blob", request.blob, transcript.BLOB_BYTES)
    if request.expected_generation >= MAX_INT:
        raise SessionRefused("VAULT_GENERATION_CONFLICT", "no account has that many generations")
    try:
        return (yield from _store_under(token.storage_key_id, channel, label, identity, request))
    except SessionRefused as refused:
        if refused.reason != "VAULT_GENERATION_CONFLICT":
            raise
        # It may repeat a store that lies under another root: from before a rotation, or wrapped anew by it.
        for storage_key_id in token.storage_key_ids():
            if storage_key_id != token.storage_key_id:
                with suppress(SessionRefused):
                    return (yield from _store_under(storage_key_id, channel, label, identity, request))
        raise


def _store_under(
    storage_key_id: bytes, channel: Channel, label: str, identity: Identity, request: pb.StoreRequest
) -> Steps[pb.VaultAnswer]:
    generation = request.expected_generation + 1
    record = transcript.record_digest(storage_key_id, account_key(label), generation, request.store_id)
    wrapped = channel.store(request.blob, storage_key_id, record)
    operation = effects.Store(request.expected_generation, request.store_id, storage_key_id, wrapped)
    return pb.VaultAnswer(store=(yield effects.Commit(label, identity, operation)))


def _retrieve(channel: Channel, label: str, identity: Identity, request: pb.RetrieveRequest) -> Steps[pb.VaultAnswer]:
    # The blob is made after the use of the key is on record.
    stored = yield effects.Commit(label, identity, effects.Retrieve(request.generation))
    record = transcript.record_digest(stored.storage_key_id, account_key(label), stored.generation, stored.store_id)
    blob = channel.retrieve(stored.wrapped, stored.storage_key_id, record)
    return pb.VaultAnswer(retrieve=pb.RetrieveAnswer(generation=stored.generation, blob=blob))


def _checkpoint(request: pb.CheckpointRequest) -> effects.Checkpoint:
    transcript.check_length("line", request.line, transcript.CHAIN_BYTES)
    transcript.check_length("chain", request.chain, transcript.CHAIN_BYTES)
    return effects.Checkpoint(request.line, request.n, request.chain)


def _check_approval(root: TrustRoot, label: str, identity: Identity, request: pb.ApproveRequest) -> effects.Approve:
    """The approver's key, which signed for this very identity; whether the owner named it, the account says."""
    statement = transcript.approval_statement(
        root.namespace, label, identity.version, identity.public_key, request.approver
    )
    try:
        verify(request.approver, statement, request.signature)
    except SignatureRefused:
        raise SessionRefused("VAULT_APPROVAL_INVALID", "no such device signed for this identity") from None
    return effects.Approve(request.approver)
