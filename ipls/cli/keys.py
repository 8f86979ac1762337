"""The operator's ceremonies: for now the first fleet bundle and its renewal."""

import hashlib
from pathlib import Path

from ipls.cli.files import replace
from ipls.config import Config, ConfigError, load_trust_root, read_secret
from ipls.hsm.token import TokenKeys
from ipls.proto.vault.v1 import vault_pb2
from ipls.trust import bundle as bundles
from ipls.trust import keys
from ipls.trust.encoding import T
from ipls.trust.root import TrustRoot

DAY_MS = 86_400_000
BUNDLE_LIFETIME_MS = 30 * DAY_MS
PROFILE = "softhsm-aes-cbc"


def first_bundle(
    root: TrustRoot, hsm: TokenKeys, operator_seed: bytes, *, now_ms: int, lifetime_ms: int
) -> vault_pb2.SignedBundle:
    """Bundle 1, naming one HSM that owns every account."""
    entry = vault_pb2.Hsm(
        public_key=hsm.public_point,
        profile=PROFILE,
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


def renew_bundle(config: Config, operator_key: Path, *, now_ms: int) -> vault_pb2.Bundle:
    """Replace the bundle file by its successor: the same HSMs, the next number, 30 days from now.

    The old one must be the operator's own, expired or not. Raises ConfigError, TrustError.
    """
    root = load_trust_root(config.trust_root)
    seed = read_secret(operator_key)
    if keys.public_key(seed) != root.operator_key:
        raise ConfigError(f"{operator_key} is not the operator key that the trust root pins", "OPERATOR_KEY_WRONG")
    old = vault_pb2.SignedBundle.FromString(config.vault.bundle.read_bytes())
    keys.verify(root.operator_key, T("ipls/fleet/v1 bundle", old.bundle), old.operator_signature)
    bundle = vault_pb2.Bundle.FromString(old.bundle)
    bundle.number += 1
    bundle.previous = hashlib.sha256(old.bundle).digest()
    bundle.expires_ms = now_ms + BUNDLE_LIFETIME_MS
    for hsm in bundle.hsms:
        hsm.policy_digest = root.policy_digest
    replace(config.vault.bundle, bundles.sign_bundle(seed, bundle).SerializeToString())
    return bundle
