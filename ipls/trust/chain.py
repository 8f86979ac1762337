"""The trust root's versions: how one that is pinned leads to the newest (the design, Parts).

Each version is a file. A later one counts if it continues the one before and a quorum of that one's witnesses *and* a
quorum of its own signed it, as they sign heads, in the namespace NS/trust: no directory's namespace has a slash. The
signatures' ages don't matter, and a version in between may have expired: whoever relies on the newest checks that it
has not (`TrustRoot.check_expiry`).
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Self

from ipls.crypto.keys import Signer
from ipls.proto.trust.v1.trust_pb2 import SignedTrustRoot
from ipls.proto.witness.v1.head_pb2 import Cosignature
from ipls.trust.errors import HeadRefused, TrustRootRefused
from ipls.trust.heads import Head, cosign, count
from ipls.trust.root import TrustRoot, parse_trust_root

MAX_ANSWER = 8
"""Versions handed out at once: even the largest stay below gRPC's 4 MiB a message."""


@dataclass(frozen=True)
class TrustRootVersion:
    """A trust root and its file: it is the bytes that are hashed and signed."""

    file: bytes
    root: TrustRoot

    @classmethod
    def parse(cls, file: bytes) -> Self:
        """Raises TrustRootRefused TRUST_ROOT_INVALID."""
        return cls(file, parse_trust_root(file))

    @cached_property
    def head(self) -> Head:
        """What its witnesses sign: (number, SHA-256 of the file)."""
        return Head(self.root.number, hashlib.sha256(self.file).digest())

    @property
    def namespace(self) -> str:
        """What they sign it in."""
        return f"{self.root.namespace}/trust"


def successor(old: TrustRootVersion, file: bytes) -> TrustRootVersion:
    """The version in `file`, if it continues `old`, whoever signed it. Raises TrustRootRefused.

    TRUST_ROOT_INVALID; TRUST_ROOT_GAP, TRUST_ROOT_ROLLED_BACK or TRUST_ROOT_FORK where the number is above the next,
    below that of `old` or its own; TRUST_ROOT_PREVIOUS, TRUST_ROOT_OTHER_NAMESPACE, TRUST_ROOT_VRF_KEY,
    TRUST_ROOT_START.
    """
    new = TrustRootVersion.parse(file)
    before, after = old.root, new.root
    if after.number > before.number + 1:
        raise TrustRootRefused("TRUST_ROOT_GAP", f"version {after.number} does not follow version {before.number}")
    if after.number < before.number:
        raise TrustRootRefused(
            "TRUST_ROOT_ROLLED_BACK", f"version {after.number} is below {before.number}, which is known"
        )
    if after.number == before.number:
        raise TrustRootRefused("TRUST_ROOT_FORK", f"another file than the known one for version {after.number}")
    if after.previous != old.head.root_hash:
        raise TrustRootRefused(
            "TRUST_ROOT_PREVIOUS", f"version {after.number} continues another file than version {before.number}"
        )
    if after.namespace != before.namespace:
        raise TrustRootRefused("TRUST_ROOT_OTHER_NAMESPACE", "a later version is of another namespace")
    if after.vrf_public_key != before.vrf_public_key:
        raise TrustRootRefused("TRUST_ROOT_VRF_KEY", "a later version has another VRF key: that is another directory")
    lowered = after.start_epoch < before.start_epoch
    changed = after.start_epoch == before.start_epoch and after.start_root != before.start_root
    if lowered or changed:
        raise TrustRootRefused("TRUST_ROOT_START", "a later version lowers or changes the start")
    return new


def follow(old: TrustRootVersion, signed: SignedTrustRoot, now_ms: int) -> TrustRootVersion:
    """The version that follows `old`, signed as it must be; expired or not.

    Raises TrustRootRefused, as `successor`, and TRUST_ROOT_OLD_QUORUM or TRUST_ROOT_NEW_QUORUM.
    """
    new = successor(old, signed.file)
    _check_quorum(old.root, new, signed, now_ms, "TRUST_ROOT_OLD_QUORUM")
    _check_quorum(new.root, new, signed, now_ms, "TRUST_ROOT_NEW_QUORUM")
    return new


def follow_versions(pinned: TrustRootVersion, versions: Iterable[SignedTrustRoot], *, now_ms: int) -> TrustRootVersion:
    """The newest version, each followed from the one before. Raises TrustRootRefused as `follow`."""
    newest = pinned
    for signed in versions:
        newest = follow(newest, signed, now_ms)
    return newest


def cosign_version(signer: Signer, version: TrustRootVersion, time_ms: int) -> Cosignature:
    """A witness's signature on a version. It checks nothing: that is the witness's business."""
    return cosign(signer, version.namespace, *version.head, time_ms)


def _check_quorum(root: TrustRoot, new: TrustRootVersion, signed: SignedTrustRoot, now_ms: int, reason: str) -> None:
    """Raises TrustRootRefused for `reason` unless k of the witnesses of `root` signed the new version."""
    try:
        count(root, new.namespace, new.head, signed.cosignatures, 0, now_ms)
    except HeadRefused as e:
        message = f"version {new.root.number}, by the witnesses of version {root.number}: {e.message}"
        raise TrustRootRefused(reason, message) from e
