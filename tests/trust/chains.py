"""Versions of a trust root with fixed keys, made as an operator and its witnesses make them."""

from dataclasses import replace
from typing import Any

from ipls.crypto.keys import SeedSigner
from ipls.proto.trust.v1.trust_pb2 import SignedTrustRoot
from ipls.trust.chain import Version, cosign_version
from ipls.trust.root import TrustRoot, encode
from tests.trust.roots import NOW


def first(root: TrustRoot) -> Version:
    """The pinned one."""
    return Version.parse(encode(root))


def after(old: Version, **changes: Any) -> Version:
    """The next version of `old`, with changes."""
    proper = {"number": old.root.number + 1, "previous": old.head.root_hash}
    return Version.parse(encode(replace(old.root, **{**proper, **changes})))


def signed(version: Version, *seeds: bytes, time: int = NOW) -> SignedTrustRoot:
    cosignatures = [cosign_version(SeedSigner(seed), version, time) for seed in seeds]
    return SignedTrustRoot(file=version.file, cosignatures=cosignatures)
