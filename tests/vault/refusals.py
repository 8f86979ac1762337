"""Why something was refused, and a false vault that a client refuses."""

from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from ipls.proto.vault.v1 import vault_pb2 as pb
from ipls.proto.witness.v1.head_pb2 import SignedHead
from ipls.vault.errors import OperationRefused, SessionRefused
from ipls.vault.session import transcript
from ipls.vault.session.client import ClientSession
from tests.hsm.rig import Owner, Rig, now_ms
from tests.vault.rig import Core


def refused(attempt: Callable[[], object]) -> str:
    """The reason why the attempt was refused."""
    with pytest.raises(SessionRefused) as caught:
        attempt()
    assert not isinstance(caught.value, OperationRefused)
    return caught.value.reason


def operation_refused(attempt: Callable[[], object]) -> str:
    with pytest.raises(OperationRefused) as caught:
        attempt()
    return caught.value.reason


class FalseVault:
    """An HSM whose key the client's bundle names, and which lies in m2; `lies` replace its fields."""

    def __init__(self, rig: Rig, core: Core, **lies: Any) -> None:
        self._rig = rig
        self._key = ec.generate_private_key(ec.SECP256R1())
        point = transcript.encode_point(self._key.public_key())
        self.bundle = bundle_with(rig, public_key=point)
        fields = {
            "hsm_key_id": transcript.hsm_key_id(point),
            "ephemeral": point,
            "nonce": bytes(32),
            "kem_ciphertext": bytes(1088),
            "head": core.head,
            "policy_digest": rig.root.policy_digest,
            "profile": self.bundle.hsms[0].profile,
            **lies,
        }
        self.m2 = pb.VaultHello(**fields).SerializeToString()

    def answer(self, frame: pb.SessionRequest) -> pb.SessionResponse:
        r, s = decode_dss_signature(
            self._key.sign(transcript.server_digest(frame.m1, self.m2), ec.ECDSA(Prehashed(SHA256())))
        )
        return pb.SessionResponse(hello=pb.SignedHello(m2=self.m2, sig2=r.to_bytes(32, "big") + s.to_bytes(32, "big")))

    def meet(self, owner: Owner, known_head: SignedHead | None = None, own_epoch: int = 0) -> None:
        client = ClientSession(self._rig.root, self.bundle, owner.label, owner.seed, known_head, own_epoch)
        client.on_hello(self.answer(client.hello(now_ms())), now_ms())

    def refused_by(self, owner: Owner, **known: Any) -> str:
        return refused(lambda: self.meet(owner, **known))


def bundle_with(rig: Rig, **changes: Any) -> pb.Bundle:
    """The deployment's bundle, its HSM changed."""
    bundle = pb.Bundle()
    bundle.CopyFrom(rig.bundle)
    for name, value in changes.items():
        setattr(bundle.hsms[0], name, value)
    return bundle
