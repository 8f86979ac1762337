"""The first fleet bundle of a deployment on one machine."""

from ipls.hsm.token.pkcs11 import TokenKeys
from ipls.proto.vault.v1 import vault_pb2
from ipls.trust import bundle as bundles
from ipls.trust.root import TrustRoot
from ipls.units import DAY_MS

BUNDLE_LIFETIME_MS = 30 * DAY_MS


def first_bundle(
    root: TrustRoot, hsm: TokenKeys, operator_seed: bytes, *, now_ms: int, lifetime_ms: int
) -> vault_pb2.SignedBundle:
    """Bundle 1, naming one HSM that owns every account, by the operator alone."""
    entry = vault_pb2.Hsm(
        public_key=hsm.public_point,
        profile=hsm.profile,
        policy_digest=root.policy_digest,
        shards=[0],
        not_before_ms=now_ms,
        not_after_ms=root.expires_ms,
        transport_key=hsm.transport_point,
    )
    bundle = vault_pb2.Bundle(
        number=1,
        expires_ms=now_ms + lifetime_ms,
        namespace=root.namespace,
        development=root.development,
        hsms=[entry],
    )
    return bundles.sign_bundle(operator_seed, bundle)
