"""A witness that lies: evidence of it, by the deployment's own key."""

from pathlib import Path

from nacl.signing import SigningKey

from ipls.proto.trust.v1.evidence_pb2 import Evidence
from ipls.proto.witness.v1.head_pb2 import Cosignature, SignatureMessage


def two_signatures(folder: Path, namespace: str, time_ms: int) -> bytes:
    """The witness's signatures on two roots of epoch 7."""
    key = SigningKey(bytes.fromhex((folder / "keys/witness.key").read_text()))
    signatures = []
    for digest in (bytes(32), b"\1" * 32):
        message = SignatureMessage(ciphersuite=1, namespace=namespace, timestamp=time_ms, digest=digest)
        message.epoch.inner = 7
        data = message.SerializeToString(deterministic=True)
        signatures.append(
            Cosignature(message=data, public_key=bytes(key.verify_key), signature=key.sign(data).signature)
        )
    one, other = sorted(signatures, key=lambda signature: signature.SerializeToString(deterministic=True))
    evidence = Evidence()
    evidence.two_signatures.one.CopyFrom(one)
    evidence.two_signatures.other.CopyFrom(other)
    return evidence.SerializeToString(deterministic=True)
