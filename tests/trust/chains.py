"""Versions of a trust root with fixed keys, made as an operator and its witnesses make them."""

from dataclasses import replace
from typing import Any

from ipls.crypto.keys import SeedSigner
from ipls.proto.trust.v1.trust_pb2 import SignedTrustRoot
from ipls.trust.chain import TrustRootVersion, cosign_version
from ipls.trust.root import TrustRoot, encode_trust_root
from tests.trust.roots import NOW


def first(root: TrustRoot) -> TrustRootVersion:
    """The pinned one."""
    return TrustRootVersion.parse(encode_trust_root(root))


def after(old: TrustRootVersion, **changes: Any) -> TrustRootVersion:
    """The next version of `old`, with changes."""
    proper = {"number": old.root.number + 1, "previous": old.head.root_hash}
    return TrustRootVersion.parse(encode_trust_root(replace(old.root, **{**proper, **changes})))


def signed(version: TrustRootVersion, *seeds: bytes, time: int = NOW) -> SignedTrustRoot:
    cosignatures = [cosign_version(SeedSigner(seed), version, time) for seed in seeds]
    return SignedTrustRoot(file=version.file, cosignatures=cosignatures)
