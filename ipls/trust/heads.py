"""Directory heads, (epoch, root hash), and the witnesses' signatures on them.

The signed bytes are those of the directory spec, The witness's signature. A `SignedHead` may carry signatures that do
not count (a stale one, one by a key of a later trust root): what matters is that k distinct pinned witnesses' do.
"""

from collections.abc import Iterable
from typing import NamedTuple

from google.protobuf.message import DecodeError

from ipls.crypto.errors import VerificationError
from ipls.crypto.keys import Signer, verify
from ipls.proto.witness.v1.head_pb2 import Cosignature, SignatureMessage, SignedHead
from ipls.trust.errors import HeadRefused
from ipls.trust.limits import MAX_AHEAD_MS, MAX_COSIGNATURES, MAX_INT
from ipls.trust.root import TrustRoot, Witness
from ipls.units import date

CIPHERSUITE = 1


class Head(NamedTuple):
    """An epoch and its root hash (32 bytes); the root does not commit to the epoch, so they never travel apart."""

    epoch: int
    root_hash: bytes


def signature_message(namespace: str, epoch: int, digest: bytes, timestamp_ms: int) -> bytes:
    """The exact bytes that a witness signs."""
    message = SignatureMessage(ciphersuite=CIPHERSUITE, namespace=namespace, timestamp=timestamp_ms, digest=digest)
    message.epoch.inner = epoch
    return message.SerializeToString(deterministic=True)


def cosign(signer: Signer, namespace: str, epoch: int, root_hash: bytes, timestamp_ms: int) -> Cosignature:
    """A witness's signature on (epoch, root_hash). It checks nothing: that is the witness's business."""
    message = signature_message(namespace, epoch, root_hash, timestamp_ms)
    return Cosignature(message=message, public_key=signer.public_key, signature=signer.sign(message))


def timestamp(cosignature: Cosignature) -> int:
    """The time in a cosignature's message, ms, whether or not its signature holds. Raises HeadRefused HEAD_ENCODING."""
    return _message(cosignature).timestamp


def claimed(cosignature: Cosignature) -> SignedHead:
    """The head that a cosignature's message names, with that signature alone; nothing is checked.

    Raises HeadRefused HEAD_ENCODING.
    """
    message = _message(cosignature)
    return SignedHead(epoch=message.epoch.inner, root_hash=message.digest, cosignatures=[cosignature])


def _message(cosignature: Cosignature) -> SignatureMessage:
    try:
        return SignatureMessage.FromString(cosignature.message)
    except DecodeError as e:
        raise HeadRefused("HEAD_ENCODING", "a signed message can't be read") from e


def verify_head(
    root: TrustRoot,
    signed: SignedHead,
    *,
    now_ms: int,
    check_age: bool = True,
    at_least: Head | None = None,
) -> Head:
    """The head that k distinct pinned witnesses signed: exactly this namespace, epoch and root hash.

    A counted signature is by a key good at the signature's time, at most two minutes ahead of `now_ms` and (unless
    `check_age` is off, for a head of the past) at most `root.max_head_age_ms` behind it. `at_least` is the highest head
    seen: raises HeadRefused HEAD_BELOW_HIGHEST under it, and HEAD_FORK for another root of its epoch. Both come after
    the signatures have been found to hold, so that a fork is evidence. Otherwise HeadRefused with the reason why the
    first signature that doesn't count does not, or HEAD_NO_QUORUM; TrustRootRefused TRUST_ROOT_EXPIRED.
    """
    root.check_expiry(now_ms)
    head = Head(signed.epoch, signed.root_hash)
    if len(head.root_hash) != 32 or head.epoch > MAX_INT:
        raise HeadRefused("HEAD_ENCODING", "a head has an epoch and a root hash of 32 bytes")
    signers(root, signed, now_ms=now_ms, check_age=check_age)
    if head.epoch < root.start_epoch:
        raise HeadRefused("HEAD_BELOW_START", "the head is older than the trust root's start")
    if head.epoch == root.start_epoch and head.root_hash != root.start_root:
        raise HeadRefused("HEAD_FORK", "the head's root is not the trust root's start")
    if at_least is not None and head.epoch < at_least.epoch:
        raise HeadRefused("HEAD_BELOW_HIGHEST", f"head {head.epoch} is below {at_least.epoch}, seen before")
    if at_least is not None and head.epoch == at_least.epoch and head != at_least:
        raise HeadRefused("HEAD_FORK", f"the witnesses signed two roots for epoch {head.epoch}")
    return head


def signers(root: TrustRoot, signed: SignedHead, *, now_ms: int, check_age: bool = True) -> dict[str, int]:
    """The names of the witnesses whose signatures count on a head, each with the time (ms) of its newest one.

    Raises HeadRefused, as `verify_head`, if they are fewer than k.
    """
    oldest = now_ms - root.max_head_age_ms if check_age else 0
    return count(root, root.namespace, Head(signed.epoch, signed.root_hash), signed.cosignatures, oldest, now_ms)


def quorum_timestamp(root: TrustRoot, signed: SignedHead, *, now_ms: int, check_age: bool = True) -> int:
    """The time (ms) that k of the counted signatures have reached: how long the head lasts, what may set a clock.

    Fewer witnesses than k can't set it. Raises HeadRefused.
    """
    return sorted(signers(root, signed, now_ms=now_ms, check_age=check_age).values())[-root.k]


def count(
    root: TrustRoot,
    namespace: str,
    head: Head,
    cosignatures: Iterable[Cosignature],
    oldest_ms: int,
    now_ms: int,
) -> dict[str, int]:
    """Witness name -> newest counted time, for a quorum on `head` in `namespace`. Raises HeadRefused below k."""
    cosignatures = list(cosignatures)
    if len(cosignatures) > MAX_COSIGNATURES:
        raise HeadRefused("HEAD_ENCODING", f"more than {MAX_COSIGNATURES} signatures")
    counted: dict[str, int] = {}
    refusals: list[VerificationError] = []
    for cosignature in cosignatures:
        try:
            name, time = check_cosignature(root, namespace, head, cosignature, oldest_ms, now_ms)
            counted[name] = max(time, counted.get(name, 0))
        except VerificationError as e:
            refusals.append(e)
    if len(counted) >= root.k:
        return counted
    why = refusals[0] if refusals else HeadRefused("HEAD_NO_QUORUM", "too few signatures")
    raise HeadRefused(why.reason, f"{len(counted)} of {root.k} witnesses count: {why.message}")


def check_cosignature(
    root: TrustRoot, namespace: str, head: Head, cosignature: Cosignature, oldest_ms: int, now_ms: int
) -> tuple[str, int]:
    """(name, time in ms) of the pinned witness whose key, good at that time, signed this head.

    Raises VerificationError.
    """
    witness = _owner(root, cosignature.public_key)
    time = timestamp(cosignature)
    if cosignature.message != signature_message(namespace, *head, time):
        raise HeadRefused(*_difference(cosignature.message, namespace, head))
    if not any(k.public_key == cosignature.public_key and k.covers(time) for k in witness.keys):
        raise HeadRefused("HEAD_KEY_EXPIRED", "the key was not good at the signature's time")
    verify(cosignature.public_key, cosignature.message, cosignature.signature)
    if time < oldest_ms:
        raise HeadRefused("HEAD_TOO_OLD", "the signature is older than the maximum head age")
    if time > now_ms + MAX_AHEAD_MS:
        message = f"the signature's time is over two minutes ahead of the clock, which says {date(now_ms)}"
        raise HeadRefused("HEAD_FROM_FUTURE", f"{message}: if that is wrong, set it")
    return witness.name, time


def _owner(root: TrustRoot, key: bytes) -> Witness:
    for witness in root.witnesses:
        if any(k.public_key == key for k in witness.keys):
            return witness
    raise HeadRefused("HEAD_KEY_UNPINNED", "the signature is by a key that the trust root does not name")


def _difference(message: bytes, namespace: str, head: Head) -> tuple[str, str]:
    """Why `message` is not the one expected: (reason, text)."""
    try:
        fields = SignatureMessage.FromString(message)
        if fields.namespace != namespace:
            return "HEAD_OTHER_NAMESPACE", "the signature is over another namespace"
    except ValueError:  # upb checks a proto2 string's UTF-8 only when it is read
        return "HEAD_ENCODING", "a signed message can't be read"
    if (fields.epoch.inner, fields.digest) != head:
        return "HEAD_OTHER_ROOT", "the signature is over another epoch or root hash"
    return "HEAD_ENCODING", "the signed message is not in its one encoding"
