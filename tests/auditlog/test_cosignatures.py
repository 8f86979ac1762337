"""Which of a witness's answers count as its signature, and how many of them make a root signed."""

import json
from typing import Any

import pytest

from ipls.auditlog.cosignatures import (
    MAX_ANSWER,
    VerifiedCosignature,
    count_cosignatures,
    parse_cosignature,
    parse_epoch,
    quorum_head,
    signed_heads,
)
from ipls.auditlog.errors import AuditError, CosignatureInvalid
from ipls.trust.heads import Head
from ipls.trust.limits import MAX_AHEAD_MS
from ipls.trust.root import Witness
from tests.attack.log import answer
from tests.trust.roots import NOW, THIEF, WITNESSES, YEAR, cosign, seed, signed, three_of, witness

A, B, C = WITNESSES
ROOT = three_of(2)
HEAD, OTHER = Head(7, b"\x07" * 32), Head(7, b"\x08" * 32)
HONEST = answer(A, *HEAD)


def parsed(fields: dict[str, Any], by: Witness = ROOT.witnesses[0]) -> VerifiedCosignature | None:
    try:
        return parse_cosignature(ROOT, by, 7, json.dumps(fields).encode(), NOW)
    except CosignatureInvalid:
        return None


@pytest.mark.parametrize("optional", ["version", "ciphersuite", "serialized_message"])
def test_an_answer_is_the_signature_that_travels_with_a_head(optional: str) -> None:
    expected = VerifiedCosignature(HEAD.root_hash, NOW, cosign(A, ROOT.namespace, *HEAD, NOW))
    assert parsed(HONEST) == parsed({k: v for k, v in HONEST.items() if k != optional}) == expected


@pytest.mark.parametrize(
    "fields",
    [
        answer(THIEF, *HEAD) | {"key_id": HONEST["key_id"]},
        answer(B, *HEAD),
        answer(A, *HEAD, time=NOW + MAX_AHEAD_MS + 1),
        answer(A, *HEAD, time=NOW - YEAR - 1),
        answer(A, 8, HEAD.root_hash),
        answer(A, *HEAD, namespace="other"),
        answer(A, 7, HEAD.root_hash[:31]),
        *(
            HONEST | change
            for change in (
                {"epoch": 8},
                {"namespace": "other"},
                {"version": 2, "ciphersuite": 2},
                {"key_id": HONEST["key_id"] ^ 1},
                {"timestamp": NOW - 1},
                {"timestamp": float(NOW)},
                {"digest": OTHER.root_hash.hex()},
                {"digest": None},
                {"signature": HONEST["signature"] + "00"},
                {"signature": "x"},
                {"serialized_message": answer(A, *OTHER)["serialized_message"]},
            )
        ),
    ],
)
def test_any_other_answer_counts_for_nothing(fields: dict[str, Any]) -> None:
    assert parsed(fields) is None


def test_a_signature_is_by_the_key_that_was_good_at_its_time() -> None:
    old, new = witness("w0", A, end=NOW).keys + witness("w0", seed(30), start=NOW).keys
    both = Witness("w0", "https://w0.example", (old, new))
    assert parsed(answer(A, *HEAD, time=NOW - 1), both)
    assert parsed(answer(seed(30), *HEAD), both)
    assert parsed(answer(A, *HEAD), both) is None
    assert parsed(answer(seed(30), *HEAD, time=NOW - 1), both) is None


@pytest.mark.parametrize("epoch", [True, -1, 2**63, 7.0, "7", None])
def test_an_epoch_is_a_number(epoch: Any) -> None:
    assert [parse_epoch(json.dumps({"epoch": good}).encode()) for good in (0, 2**63 - 1)] == [0, 2**63 - 1]
    with pytest.raises(CosignatureInvalid):
        parse_epoch(json.dumps({"epoch": epoch}).encode())


@pytest.mark.parametrize("data", [b"", b"[]", b"7", b'{"epoch":7}' + b" " * MAX_ANSWER])
def test_an_answer_is_an_object_of_bounded_size(data: bytes) -> None:
    with pytest.raises(CosignatureInvalid):
        parse_epoch(data)


SIGNED, FORK, NONE, SILENT, BAD = "signed", "fork", "none", "silent", "bad"


def answers(*what: str) -> dict[str, bytes | None]:
    """Of w0, w1 and w2, for epoch 7."""
    made: dict[str, bytes | None] = {}
    for i, (by, said) in enumerate(zip(WITNESSES, what, strict=True)):
        if said in (SIGNED, FORK):
            made[f"w{i}"] = json.dumps(answer(by, *(HEAD if said == SIGNED else OTHER))).encode()
        elif said != SILENT:
            made[f"w{i}"] = None if said == NONE else b"{}"
    return made


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        ((SIGNED, SIGNED, SIGNED), {"w0", "w1", "w2"}),
        *(((said, SIGNED, SIGNED), {"w1", "w2"}) for said in (NONE, SILENT, BAD)),
        ((SIGNED, SIGNED, FORK), "AUDIT_FORK"),
        ((FORK, NONE, SILENT), "AUDIT_FORK"),
        ((NONE, NONE, SIGNED), "AUDIT_UNSIGNED"),
        ((BAD, BAD, SIGNED), "AUDIT_UNSIGNED"),
        ((SILENT, NONE, NONE), "AUDIT_UNSIGNED"),
        ((SILENT, NONE, SIGNED), "AUDIT_WITNESS_SILENT"),
        ((SILENT, SILENT, BAD), "AUDIT_WITNESS_SILENT"),
    ],
)
def test_k_witnesses_sign_a_head_or_it_is_a_fault_or_unknown(what: tuple[str, ...], expected: set[str] | str) -> None:
    try:
        assert count_cosignatures(ROOT, HEAD, answers(*what), NOW) == dict.fromkeys(expected, NOW)
    except AuditError as error:
        assert (error.reason, error.epoch) == (expected, 7)  # noqa: PT017  # both ends are right here


def test_the_heads_that_witnesses_signed() -> None:
    everything = answers(SIGNED, FORK, SIGNED)
    quorum = signed(HEAD, A, C)
    assert signed_heads(ROOT, 7, everything, NOW) == [quorum, signed(OTHER, B)]
    assert quorum_head(ROOT, 7, everything, NOW) == quorum
    assert signed_heads(ROOT, 7, answers(NONE, BAD, SIGNED), NOW) == [signed(HEAD, C)]
    for what in ((SIGNED, FORK, SILENT), (NONE, BAD, SIGNED), (SILENT,) * 3):
        assert quorum_head(ROOT, 7, answers(*what), NOW) is None
