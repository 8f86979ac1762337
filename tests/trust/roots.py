"""A small trusted world with fixed keys, for any test that needs a trust root."""

from typing import Any

from ipls.crypto.keys import SeedSigner, public_key
from ipls.proto.witness.v1.head_pb2 import Cosignature, SignedHead
from ipls.trust import heads
from ipls.trust.heads import Head
from ipls.trust.root import TrustRoot, Witness, WitnessKey

NOW = 1_700_000_000_000
HOUR = 3_600_000
YEAR = 365 * 24 * HOUR
NAMESPACE = "test.ipls"


def seed(number: int) -> bytes:
    return bytes([number]) * 32


VRF, OPERATOR, PROPOSER, THIEF = seed(1), seed(2), seed(3), seed(66)
WITNESSES = seed(11), seed(12), seed(13)


def cosign(seed: bytes, namespace: str, epoch: int, root_hash: bytes, time: int) -> Cosignature:
    return heads.cosign(SeedSigner(seed), namespace, epoch, root_hash, time)


def witness(name: str, *seeds: bytes, start: int = NOW - YEAR, end: int = NOW + YEAR) -> Witness:
    keys = tuple(WitnessKey(public_key(s), start, end) for s in seeds)
    return Witness(name, f"https://{name}.example", keys)


def make_root(**changes: Any) -> TrustRoot:
    """One witness of one, unless told otherwise."""
    fields: dict[str, Any] = {
        "number": 1,
        "previous": b"",
        "expires_ms": NOW + YEAR,
        "namespace": NAMESPACE,
        "vrf_public_key": public_key(VRF),
        "witnesses": (witness("w1", WITNESSES[0]),),
        "k": 1,
        "operator_key": public_key(OPERATOR),
        "proposal_key": public_key(PROPOSER),
        "log_url": "http://log.example:8080",
        "max_head_age_ms": HOUR,
        "start_epoch": 0,
        "start_root": bytes(32),
        "development": True,
    }
    return TrustRoot(**{**fields, **changes})


def three_of(k: int = 2, **changes: Any) -> TrustRoot:
    witnesses = tuple(witness(f"w{i}", s) for i, s in enumerate(WITNESSES))
    return make_root(**{"witnesses": witnesses, "k": k, **changes})


def signed(head: Head, *seeds: bytes, namespace: str = NAMESPACE, time: int = NOW) -> SignedHead:
    return SignedHead(
        epoch=head.epoch,
        root_hash=head.root_hash,
        cosignatures=[cosign(s, namespace, *head, time) for s in seeds],
    )
