"""What witnesses answer over the auditor's interface, and whether k of them signed a root.

A signature counts by a key that the trust root pins for that witness, good at the signature's time; what a witness
says of its own keys is never asked.
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, NamedTuple

from ipls.auditlog.errors import AuditFault, AuditUnavailable, CosignatureInvalid
from ipls.crypto.errors import VerificationError
from ipls.crypto.keys import verify
from ipls.proto.witness.v1.head_pb2 import Cosignature, SignedHead
from ipls.trust.heads import CIPHERSUITE, Head, signature_message
from ipls.trust.limits import MAX_AHEAD_MS, MAX_INT
from ipls.trust.root import TrustRoot, Witness
from ipls.units import date

MAX_ANSWER = 64 * 1024
"""Bytes of a witness's answer."""


class VerifiedCosignature(NamedTuple):
    """A signature that holds: the root hash, its time in ms, and the signature as it travels with a head."""

    root_hash: bytes
    time_ms: int
    cosignature: Cosignature


def parse_epoch(answer: bytes) -> int:
    """The epoch that `last-verified-epoch` claims: a bare claim. Raises CosignatureInvalid."""
    return _integer(_table(answer), "epoch")


def parse_cosignature(root: TrustRoot, witness: Witness, epoch: int, answer: bytes, now_ms: int) -> VerifiedCosignature:
    """What the witness signed for the epoch, from its `audits/E`. Raises CosignatureInvalid."""
    fields = _table(answer)
    if fields.get("namespace") != root.namespace or _integer(fields, "epoch") != epoch:
        raise CosignatureInvalid("the answer is about another namespace or epoch")
    if CIPHERSUITE not in (fields.get("ciphersuite"), fields.get("version")):
        raise CosignatureInvalid("the signature is of another kind")
    time_ms, key_id = _integer(fields, "timestamp"), _integer(fields, "key_id")
    digest, signature = _hex(fields, "digest", 32), _hex(fields, "signature", 64)
    keys = [key for key in witness.keys if key.public_key[-1] == key_id and key.covers(time_ms)]
    if not keys:
        raise CosignatureInvalid("the trust root pins no such key for it, good at the signature's time")
    if time_ms > now_ms + MAX_AHEAD_MS:
        raise CosignatureInvalid(
            f"the signature's time is over two minutes ahead of this clock, which says {date(now_ms)}"
        )
    message = signature_message(root.namespace, epoch, digest, time_ms)
    if fields.get("serialized_message") not in (None, message.hex()):
        raise CosignatureInvalid("the signed message is not the answer's")
    key = keys[0].public_key
    try:
        verify(key, message, signature)
    except VerificationError as e:
        raise CosignatureInvalid(e.message) from e
    return VerifiedCosignature(digest, time_ms, Cosignature(message=message, public_key=key, signature=signature))


def signed_heads(root: TrustRoot, epoch: int, answers: Mapping[str, bytes | None], now_ms: int) -> list[SignedHead]:
    """Each head of an epoch that a witness signed, with all signatures on it; `answers` as in `count_cosignatures`."""
    by_root: dict[bytes, list[Cosignature]] = {}
    for witness in root.witnesses:
        answer = answers.get(witness.name)
        if answer is not None:
            with suppress(CosignatureInvalid):
                verified = parse_cosignature(root, witness, epoch, answer, now_ms)
                by_root.setdefault(verified.root_hash, []).append(verified.cosignature)
    return [
        SignedHead(epoch=epoch, root_hash=root_hash, cosignatures=cosignatures)
        for root_hash, cosignatures in by_root.items()
    ]


def quorum_head(root: TrustRoot, epoch: int, answers: Mapping[str, bytes | None], now_ms: int) -> SignedHead | None:
    """The head of an epoch that k witnesses signed, by `answers` as `count_cosignatures` has them.

    There is one at most: k are a majority, and a witness has one answer.
    """
    heads = signed_heads(root, epoch, answers, now_ms)
    return next((head for head in heads if len(head.cosignatures) >= root.k), None)


def count_cosignatures(root: TrustRoot, head: Head, answers: Mapping[str, bytes | None], now_ms: int) -> dict[str, int]:
    """The names of the witnesses that signed exactly this head, k at least, each with its signature's time (ms).

    `answers` has each witness's `audits/E` by its name, None for one that has none, nothing for one that did not
    answer. Raises AuditFault: AUDIT_FORK if a pinned key signed another root, AUDIT_UNSIGNED below k;
    AuditUnavailable AUDIT_WITNESS_SILENT where those that did not answer could make up k.
    """
    counted: dict[str, int] = {}
    why = "no signature"
    for witness in root.witnesses:
        answer = answers.get(witness.name)
        if answer is None:
            continue
        try:
            verified = parse_cosignature(root, witness, head.epoch, answer, now_ms)
        except CosignatureInvalid as e:
            why = f"{witness.name}: {e}"
            continue
        if verified.root_hash != head.root_hash:
            raise AuditFault(
                "AUDIT_FORK", f"{witness.name} signed another root, {verified.root_hash.hex()}", head.epoch
            )
        counted[witness.name] = verified.time_ms
    if len(counted) >= root.k:
        return counted
    silent = [witness.name for witness in root.witnesses if witness.name not in answers]
    if len(counted) + len(silent) >= root.k:
        raise AuditUnavailable("AUDIT_WITNESS_SILENT", f"no answer from {', '.join(silent)}", head.epoch)
    raise AuditFault("AUDIT_UNSIGNED", f"{len(counted)} of {root.k} witnesses signed it ({why})", head.epoch)


def _table(answer: bytes) -> dict[str, Any]:
    if len(answer) > MAX_ANSWER:
        raise CosignatureInvalid("the answer is too long")
    try:
        fields = json.loads(answer)
    except (ValueError, RecursionError) as e:
        raise CosignatureInvalid("the answer is not JSON") from e
    if not isinstance(fields, dict):
        raise CosignatureInvalid("the answer is not an object")
    return fields


def _integer(fields: dict[str, Any], name: str) -> int:
    value = fields.get(name)
    if type(value) is not int or not 0 <= value <= MAX_INT:  # exact: a bool is an int to isinstance
        raise CosignatureInvalid(f"{name} is not an integer in its range")
    return value


def _hex(fields: dict[str, Any], name: str, length: int) -> bytes:
    value = fields.get(name)
    try:
        data = bytes.fromhex(value) if isinstance(value, str) else b""
    except ValueError:
        data = b""
    if len(data) != length:
        raise CosignatureInvalid(f"{name} is not {length} bytes in hex")
    return data
