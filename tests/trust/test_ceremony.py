"""The report of a fleet's ceremony, its cards, and who signed it."""

import hashlib
from contextlib import nullcontext
from typing import Any

import pytest

from ipls.crypto.errors import VerificationError
from ipls.crypto.keys import public_key, sign
from ipls.proto.vault.v1.fleet_pb2 import Officer, OfficerSignature, Parcel, Report, SignedCard
from ipls.trust.ceremony import (
    MAX_REPORT,
    Officers,
    check_descriptor,
    check_officers,
    check_transcript,
    encode,
    open_wrapped_keys,
    parse_transcript,
    sign_transcript,
)
from ipls.trust.errors import CeremonyRefused
from tests.trust.bundles import point
from tests.trust.ceremonies import GROUP, OFFICERS, report, signed_card
from tests.trust.roots import NAMESPACE, THIEF

COMPRESSED = bytes((2 + point(101)[-1] % 2,)) + point(101)[1:33]
DATA = encode(report())
SIGNED = [sign_transcript(secret, DATA) for secret in OFFICERS]


def checked(data: bytes, *signatures: OfficerSignature, officers: Officers = GROUP, **changes: Any) -> str:
    """ "" or the reason of the refusal."""
    try:
        check_transcript(data, signatures, officers, **{"namespace": NAMESPACE, "development": False, **changes})
    except VerificationError as refused:
        return refused.reason
    return ""


def test_any_two_of_three_officers_are_enough() -> None:
    one, two, three = SIGNED
    for signatures in ([one, two], [three, one], [one, two, three], [two, two, three]):
        assert checked(DATA, *signatures) == ""


def test_fewer_one_twice_and_strangers_are_not() -> None:
    one, two, _ = SIGNED
    assert checked(DATA) == checked(DATA, one) == checked(DATA, one, one) == "REPORT_NO_QUORUM"
    stranger = OfficerSignature(public_key=public_key(THIEF), signature=one.signature)
    assert checked(DATA, one, two, stranger) == "OFFICER_UNKNOWN"
    assert (
        checked(DATA, one, OfficerSignature(public_key=two.public_key, signature=one.signature)) == "SIGNATURE_INVALID"
    )
    with pytest.raises(CeremonyRefused) as refused:
        sign_transcript(THIEF, DATA)
    assert refused.value.reason == "OFFICER_UNKNOWN"


def test_a_signature_on_a_report_is_one_on_nothing_else() -> None:
    secret, other = OFFICERS[:2]
    bare = OfficerSignature(public_key=public_key(secret), signature=sign(secret, DATA))
    assert checked(DATA, bare, sign_transcript(other, DATA)) == "SIGNATURE_INVALID"


def test_no_bit_of_a_signed_report_can_be_flipped() -> None:
    for at in range(len(DATA)):
        for bit in range(8):
            flipped = bytearray(DATA)
            flipped[at] ^= 1 << bit
            assert checked(bytes(flipped), *SIGNED[:2]) != ""


def test_another_encoding_is_none() -> None:
    unknown_field = DATA + b"\xf8\x07\x01"
    again = DATA + encode(Report(m=2))
    for data in (b"", DATA[:-1], unknown_field, again, b"\xff"):
        assert checked(data, *SIGNED) in ("REPORT_INVALID", "FLEET_CARDS_DIFFER", "OFFICERS_INVALID")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"maker": point(3)}, "REPORT_INVALID"),
        ({"root_id": bytes(15)}, "REPORT_INVALID"),
        ({"root_check": bytes(31)}, "REPORT_INVALID"),
        ({"previous": bytes(31)}, "REPORT_INVALID"),
        ({"time_ms": 2**63}, "REPORT_INVALID"),
        ({"namespace": "other.ipls"}, "FLEET_CARDS_DIFFER"),
        ({"members": []}, "FLEET_CARDS_DIFFER"),
        ({"m": 1}, "OFFICERS_INVALID"),
        ({"m": 4}, "OFFICERS_INVALID"),
        ({"namespace": "x" * MAX_REPORT}, "REPORT_INVALID"),
        *(
            ({"officers": [GROUP.officers[0], second]}, "OFFICERS_INVALID")
            for second in (
                Officer(name=GROUP.officers[0].name, public_key=public_key(THIEF)),
                Officer(name="other", public_key=GROUP.officers[0].public_key),
                Officer(name="other", public_key=bytes(32)),
                *(Officer(name=name, public_key=public_key(THIEF)) for name in (" ", "a\nb", "x" * 65)),
            )
        ),
    ],
)
def test_reports_that_nobody_would_make(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(CeremonyRefused) as refused:
        parse_transcript(encode(report(**changes)))
    assert refused.value.reason == reason


@pytest.mark.parametrize(
    "second",
    [
        signed_card(1, name="other"),
        signed_card(2, name="hsm-1"),
        signed_card(2, transport_key=point(101)),
        signed_card(2, namespace="other.ipls"),
        signed_card(2, profile="hkdf-sha256"),
    ],
)
def test_cards_that_are_no_fleet(second: SignedCard) -> None:
    with pytest.raises(CeremonyRefused) as refused:
        parse_transcript(encode(report(signed_card(1), second)))
    assert refused.value.reason == "FLEET_CARDS_DIFFER"


@pytest.mark.parametrize(
    "changes",
    [
        {"signer": 2},
        {"transport_key": point(1)},
        {"transport_key": COMPRESSED},
        {"transport_key": b"\x04" + bytes(64)},
        {"name": "../h"},
        {"profile": ""},
        {"serial": "x" * 65},
    ],
)
def test_a_card_that_its_fleet_key_did_not_sign_or_is_none(changes: dict[str, Any]) -> None:
    with pytest.raises(CeremonyRefused) as refused:
        check_descriptor(signed_card(1, **changes))
    assert refused.value.reason == "CARD_INVALID"


def test_no_bit_of_a_card_can_be_flipped() -> None:
    card = signed_card(1)
    for at in range(len(card.card)):
        flipped = bytearray(card.card)
        flipped[at] ^= 1
        with pytest.raises(CeremonyRefused):
            check_descriptor(SignedCard(card=bytes(flipped), signature=card.signature))


def test_a_card_s_signature_has_one_form() -> None:
    card = signed_card(1)
    r, s = card.signature[:32], card.signature[32:]
    for other in (b"", r, r + b"\0" + s):
        with pytest.raises(CeremonyRefused):
            check_descriptor(SignedCard(card=card.card, signature=other))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, ""),
        ({"public_key": point(3)}, "PARCEL_OTHER_TOKEN"),
        ({"root_id": bytes(16)}, "PARCEL_INVALID"),
        ({"root": bytes(48)}, "PARCEL_INVALID"),
        ({"log_key": b""}, "PARCEL_INVALID"),
        ({"ephemeral": COMPRESSED}, "PARCEL_INVALID"),
    ],
)
def test_a_parcel_is_for_one_token_and_of_one_form(changes: dict[str, Any], reason: str) -> None:
    """Also where the report, whose maker may lie, names this very parcel."""
    made = report()
    fields = {"public_key": point(1), "ephemeral": point(5), "root_id": made.root_id}
    parcel = encode(Parcel(**{**fields, "root": bytes(40), "log_key": bytes(40), **changes}))
    made.members[0].parcel_hash = hashlib.sha256(parcel).digest()
    for target, data, expected in (
        (point(1), parcel, reason),
        (point(2), parcel, "PARCEL_OTHER_TOKEN"),
        (point(1), parcel + b"\0", "PARCEL_INVALID"),
    ):
        with nullcontext() if not expected else pytest.raises(CeremonyRefused) as refused:
            open_wrapped_keys(made, data, target)
        assert not expected or refused.value.reason == expected


def test_a_development_fleet_may_have_one_officer() -> None:
    alone = Officers(1, GROUP.officers[:1])
    check_officers(alone, development=True)
    with pytest.raises(CeremonyRefused):
        check_officers(alone, development=False)
    data = encode(report(development=True, m=1, officers=alone.officers))
    signature = sign_transcript(OFFICERS[0], data)
    assert checked(data, signature, officers=alone, development=True) == ""
    assert checked(data, signature, officers=alone) == "REPORT_DEVELOPMENT"


def test_another_namespace_and_other_officers() -> None:
    assert checked(DATA, *SIGNED, namespace="other.ipls") == "REPORT_OTHER_NAMESPACE"
    assert checked(DATA, *SIGNED, officers=GROUP._replace(m=3)) == "REPORT_OTHER_OFFICERS"
    assert checked(DATA, *SIGNED, officers=Officers(2, GROUP.officers[:2])) == "REPORT_OTHER_OFFICERS"
