"""The client's side of a vault session: frames in, frames out, everything checked before it is believed.

Tested by tests/vault/session/test_session.py and tests/vault/session/test_attacks.py.
"""

from secrets import token_bytes
from typing import NamedTuple

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap, aes_key_wrap

from ipls.crypto.keys import public_key, sign
from ipls.proto.vault.v1 import vault_pb2 as pb
from ipls.proto.witness.v1.head_pb2 import SignedHead
from ipls.trust.bundle import hsm_for
from ipls.trust.heads import Head, verify_head
from ipls.trust.identity import check_label
from ipls.trust.root import TrustRoot
from ipls.vault.errors import OperationRefused, SessionRefused, refusing
from ipls.vault.session import profiles, transcript

Answer = (
    pb.StoreAnswer
    | pb.FinishRotationAnswer
    | pb.DeleteAnswer
    | pb.ListAnswer
    | pb.HistoryAnswer
    | pb.SetChangeDelayAnswer
    | pb.AddApproverAnswer
    | pb.RemoveApproverAnswer
    | pb.ApproveAnswer
    | pb.CheckpointAnswer
)


class RetrievedKey(NamedTuple):
    """A contact key (32 bytes) and its generation."""

    generation: int
    contact_key: bytes


class _Keys(NamedTuple):
    """The session keys, 32 bytes each, in the order of `transcript.SESSION_KEYS`."""

    c2v_mac: bytes
    v2c_mac: bytes
    c2v_wrap: bytes
    v2c_wrap: bytes


class ClientSession:
    """One session of one account, in this order: hello, on_hello, on_confirmation, then request and on_answer in turn.

    `bundle` is a verified one, `known_head` the highest head seen (None for none), `own_epoch` the epoch that the
    device's own key was published in. Raises SessionRefused for anything that doesn't hold, after which the session is
    of no use; OperationRefused where the vault refused one operation only.
    """

    head: SignedHead  # that the vault judges by; verified, for the device to remember. From `on_hello` on.

    def __init__(
        self,
        root: TrustRoot,
        bundle: pb.Bundle,
        label: str,
        identity_seed: bytes,
        known_head: SignedHead | None,
        own_epoch: int,
    ) -> None:
        with refusing():
            self._label = check_label(label)
        self._root = root
        self._bundle = bundle
        self._seed = identity_seed
        self._known_head = known_head
        self._own_epoch = own_epoch
        self._ephemeral = ec.generate_private_key(ec.SECP256R1())
        self._kem = MLKEM768PrivateKey.generate()
        self._expects = "start"
        self._seq = 0

    def hello(self, now_ms: int) -> pb.SessionRequest:
        """m1."""
        self._step("start")
        with refusing():
            self._hsm = hsm_for(self._bundle, self._label, now_ms=now_ms)
        if self._hsm.policy_digest != self._root.policy_digest:
            raise SessionRefused("VAULT_POLICY_MISMATCH", "the bundle's HSM follows another policy")
        profiles.check_profile(self._hsm.profile)
        self._m1 = pb.ClientHello(
            version=transcript.VERSION,
            hsm_key_id=transcript.hsm_key_id(self._hsm.public_key),
            label=self._label,
            ephemeral=transcript.encode_point(self._ephemeral.public_key()),
            nonce=token_bytes(transcript.NONCE_BYTES),
            kem_key=self._kem.public_key().public_bytes_raw(),
            head=self._known_head,
            bundle_number=self._bundle.number,
        ).SerializeToString()
        self._expects = "hello"
        return pb.SessionRequest(m1=self._m1)

    def on_hello(self, response: pb.SessionResponse, now_ms: int) -> pb.SessionRequest:
        """Checks m2 and sig2; returns m3 with its tag."""
        self._step("hello", response)
        m2, sig2 = response.hello.m2, response.hello.sig2
        self._check_server_signature(m2, sig2)
        hello = transcript.decode(pb.VaultHello, m2)
        self._check_hello(hello, now_ms)
        self.head = hello.head
        h2 = transcript.key_exchange_hash(self._m1, m2, sig2)
        secret = self._ephemeral.exchange(ec.ECDH(), transcript.check_point(hello.ephemeral))
        inputs = (transcript.session_key_input(name, h2) for name in transcript.SESSION_KEYS)
        self._keys = _Keys(*(profiles.derive(self._hsm.profile, secret, data) for data in inputs))
        try:
            kem_secret = self._kem.decapsulate(hello.kem_ciphertext)
        except ValueError:
            raise SessionRefused("VAULT_FIELD_INVALID", "not an ML-KEM-768 ciphertext") from None
        identity_key = public_key(self._seed)
        statement = transcript.client_statement(self._m1, m2, sig2, self._label, identity_key)
        m3 = pb.ClientAuth(identity_key=identity_key, signature=sign(self._seed, statement)).SerializeToString()
        tag3 = transcript.hmac_sha256(self._keys.c2v_mac, transcript.client_confirm_digest(h2, m3))
        self._h3 = transcript.session_hash(h2, m3, tag3)
        self._bodies = transcript.Bodies.derive(kem_secret, h2, self._h3)
        self._expects = "confirmation"
        return pb.SessionRequest(proof=pb.ClientProof(m3=m3, tag3=tag3))

    def on_confirmation(self, response: pb.SessionResponse) -> tuple[int, int]:
        """Version and epoch of the identity that the vault accepted: this device's, as it holds its key."""
        self._step("confirmation", response)
        version, epoch = response.confirmation.identity_version, response.confirmation.epoch
        digest = transcript.confirm_digest(self._h3, version, epoch)
        transcript.check_tag(transcript.hmac_sha256(self._keys.v2c_mac, digest), response.confirmation.tag)
        if not self._own_epoch <= epoch <= self.head.epoch:
            raise SessionRefused("VAULT_IDENTITY_MISMATCH", "the vault accepted another identity than this device's")
        self._expects = "request"
        return version, epoch

    def store_request(self, expected_generation: int, store_id: bytes, contact_key: bytes) -> pb.SessionRequest:
        """Stores the 32-byte key as generation `expected_generation` + 1; a repeat with its 16-byte id is harmless."""
        self._require("request")
        transcript.check_length("contact key", contact_key, transcript.CONTACT_KEY_BYTES)
        blob = aes_key_wrap(self._keys.c2v_wrap, contact_key)
        store = pb.StoreRequest(expected_generation=expected_generation, store_id=store_id, blob=blob)
        return self._request(pb.VaultRequest(store=store))

    def retrieve_request(self, generation: int = 0) -> pb.SessionRequest:
        """Asks for a contact key; 0 for the current one."""
        return self._request(pb.VaultRequest(retrieve=pb.RetrieveRequest(generation=generation)))

    def finish_rotation_request(self, generation: int) -> pb.SessionRequest:
        """Lets the generations below this one go."""
        return self._request(pb.VaultRequest(finish_rotation=pb.FinishRotationRequest(generation=generation)))

    def delete_request(self) -> pb.SessionRequest:
        """Lets all generations go."""
        return self._request(pb.VaultRequest(delete=pb.DeleteRequest()))

    def list_request(self) -> pb.SessionRequest:
        """Asks for the generations, without their keys."""
        return self._request(pb.VaultRequest(list=pb.ListRequest()))

    def history_request(self, first: int) -> pb.SessionRequest:
        """Asks for the account's access history from entry `first` (from 1) on."""
        return self._request(pb.VaultRequest(history=pb.HistoryRequest(**{"from": first})))

    def change_delay_request(self, delay_ms: int) -> pb.SessionRequest:
        """Sets how long a new identity waits before it may retrieve or delete."""
        return self._request(pb.VaultRequest(set_change_delay=pb.SetChangeDelayRequest(delay_ms=delay_ms)))

    def add_approver_request(self, approver: bytes) -> pb.SessionRequest:
        """Names the Ed25519 key of a device that may let a later identity in at once."""
        return self._request(pb.VaultRequest(add_approver=pb.AddApproverRequest(approver=approver)))

    def remove_approver_request(self, approver: bytes) -> pb.SessionRequest:
        """Takes that back."""
        return self._request(pb.VaultRequest(remove_approver=pb.RemoveApproverRequest(approver=approver)))

    def approve_request(self, approver: bytes, signature: bytes) -> pb.SessionRequest:
        """Hands in such a device's signature over `transcript.approval_statement` for this session's identity."""
        return self._request(pb.VaultRequest(approve=pb.ApproveRequest(approver=approver, signature=signature)))

    def checkpoint_request(self, line: bytes, n: int, chain: bytes) -> pb.SessionRequest:
        """Sets how far the line (32 bytes) of the contacts has come: `n`, and the chain's 32 bytes there."""
        return self._request(pb.VaultRequest(checkpoint=pb.CheckpointRequest(line=line, n=n, chain=chain)))

    def on_answer(self, response: pb.SessionResponse) -> RetrievedKey | Answer:
        """The answer to the last request: of its kind, and its own."""
        self._step("answer", response)
        sealed = response.answer
        if sealed.seq != self._seq:
            raise SessionRefused("VAULT_OUT_OF_ORDER", "an answer's number is not its request's")
        digest = transcript.answer_digest(self._h3, self._seq, self._request_body, sealed.body)
        transcript.check_tag(transcript.hmac_sha256(self._keys.v2c_mac, digest), sealed.tag)
        answer = self._bodies.open(self._bodies.v2c, self._seq, sealed.body, pb.VaultAnswer)
        self._seq += 1
        kind = answer.WhichOneof("result")
        if kind == "error":
            self._expects = "request"
            raise OperationRefused(answer.error.reason, answer.error.message)
        if kind is None or kind != self._asked.WhichOneof("operation"):
            raise SessionRefused("VAULT_OUT_OF_ORDER", "an answer to another operation")
        if kind == "store" and answer.store.generation != self._asked.store.expected_generation + 1:
            raise SessionRefused("VAULT_FIELD_INVALID", "the vault stored another generation")
        result: RetrievedKey | Answer = self._unwrap(answer.retrieve) if kind == "retrieve" else getattr(answer, kind)
        self._expects = "request"
        return result

    def _require(self, step: str) -> None:
        if self._expects != step:
            raise SessionRefused("VAULT_OUT_OF_ORDER", "not the step that comes next")

    def _step(self, step: str, response: pb.SessionResponse | None = None) -> None:
        """Refuses what is not the next step. A step names the one after it when it has succeeded; else none follows."""
        self._require(step)
        self._expects = "nothing"
        if response is not None:
            transcript.check_frame_size(response.ByteSize())
            if response.WhichOneof("frame") != step:
                raise SessionRefused("VAULT_OUT_OF_ORDER", "not the frame that comes next")

    def _check_server_signature(self, m2: bytes, sig2: bytes) -> None:
        transcript.check_length("server's signature", sig2, 64)
        signature = encode_dss_signature(int.from_bytes(sig2[:32], "big"), int.from_bytes(sig2[32:], "big"))
        digest = transcript.server_digest(self._m1, m2)
        try:
            transcript.check_point(self._hsm.public_key).verify(signature, digest, ec.ECDSA(Prehashed(SHA256())))
        except InvalidSignature:
            raise SessionRefused("VAULT_SIGNATURE_INVALID", "not signed by the HSM that the bundle names") from None

    def _check_hello(self, hello: pb.VaultHello, now_ms: int) -> None:
        if hello.hsm_key_id != transcript.hsm_key_id(self._hsm.public_key):
            raise SessionRefused("VAULT_HSM_KEY_MISMATCH", "the vault names another HSM than the bundle")
        if hello.policy_digest != self._root.policy_digest:
            raise SessionRefused("VAULT_POLICY_MISMATCH", "the vault follows another policy")
        if hello.profile != self._hsm.profile:
            raise SessionRefused(
                "VAULT_PROFILE_MISMATCH", "the HSM derives keys by another profile than the bundle says"
            )
        transcript.check_length("nonce", hello.nonce, transcript.NONCE_BYTES)
        known = self._known_head
        with refusing():
            verify_head(
                self._root,
                hello.head,
                now_ms=now_ms,
                at_least=None if known is None else Head(known.epoch, known.root_hash),
            )
        if hello.head.epoch < self._own_epoch:
            raise SessionRefused("VAULT_HEAD_BELOW_OWN_KEY", "the vault's head is older than this device's own key")

    def _request(self, request: pb.VaultRequest) -> pb.SessionRequest:
        self._step("request")
        self._asked = request
        self._request_body = body = self._bodies.seal(self._bodies.c2v, self._seq, request)
        digest = transcript.request_digest(self._h3, self._seq, body)
        tag = transcript.hmac_sha256(self._keys.c2v_mac, digest)
        self._expects = "answer"
        return pb.SessionRequest(request=pb.Sealed(seq=self._seq, body=body, tag=tag))

    def _unwrap(self, answer: pb.RetrieveAnswer) -> RetrievedKey:
        asked = self._asked.retrieve.generation
        if answer.generation == 0 or asked not in (0, answer.generation):
            raise SessionRefused("VAULT_FIELD_INVALID", "the vault answers with another generation")
        transcript.check_length("blob", answer.blob, transcript.BLOB_BYTES)
        try:
            return RetrievedKey(answer.generation, aes_key_unwrap(self._keys.v2c_wrap, answer.blob))
        except InvalidUnwrap:
            raise SessionRefused("VAULT_BLOB_REFUSED", "the contact key doesn't unwrap") from None
