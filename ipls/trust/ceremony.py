"""A fleet's ceremony: its tokens' cards, the parcels for them, and the report that officers sign.

docs/protocol/ceremony.md has the formats. Nothing here holds a secret, but what a parcel has wrapped.
"""

import hashlib
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypeVar

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from google.protobuf.message import DecodeError, Message

from ipls.crypto.encoding import tagged_hash
from ipls.crypto.errors import SignatureRefused
from ipls.crypto.keys import check_public_key, public_key, sign, verify
from ipls.proto.vault.v1.fleet_pb2 import Card, Officer, OfficerSignature, Parcel, Report, SignedCard
from ipls.trust.errors import CeremonyRefused
from ipls.trust.limits import MAX_INT

MAX_REPORT = 256 * 1024
MAX_MEMBERS = 64
MAX_NAME = 64
ROOT_ID_BYTES = 16
BLOB_BYTES = 40
_POINT_BYTES, _HASH_BYTES = 65, 32
_HSM_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")  # a part of file names
_DOMAIN = "ipls/fleet/v1 "

_M = TypeVar("_M", bound=Message)


class Officers(NamedTuple):
    """m of them have to sign; each has one name and one Ed25519 key."""

    m: int
    officers: tuple[Officer, ...]


def check_officers(officers: Officers, *, development: bool) -> None:
    """Raises CeremonyRefused OFFICERS_INVALID unless two or more have to agree, or one in a development fleet."""
    m, each = officers
    names, keys = {officer.name for officer in each}, {officer.public_key for officer in each}
    if len(names) != len(each) or len(keys) != len(each):
        raise _officers("the same name or key stands twice")
    if not (1 if development else 2) <= m <= len(each) <= MAX_MEMBERS:
        raise _officers("m of n officers sign, two at least; one is enough for a development fleet only")
    for officer in each:
        if len(officer.name) > MAX_NAME or not officer.name.isprintable() or not officer.name.strip():
            raise _officers(f"a name has 1 to {MAX_NAME} printable characters")
        try:
            check_public_key(officer.public_key)
        except SignatureRefused as error:
            raise _officers(error.message) from error


# Cards


def descriptor_digest(card: bytes) -> bytes:
    """What a token's fleet key signs of its encoded card."""
    return tagged_hash(_DOMAIN + "card", card)


def check_descriptor(signed: SignedCard) -> Card:
    """The card, signed by the fleet key that it names: no other can put a transport key beside it.

    Raises CeremonyRefused CARD_INVALID.
    """
    card = _decoded(Card, signed.card, "CARD_INVALID")
    fleet = _point(card.public_key, "CARD_INVALID")
    _point(card.transport_key, "CARD_INVALID")
    if card.public_key == card.transport_key or not card.profile:
        raise CeremonyRefused("CARD_INVALID", "a card has two keys and a profile")
    if not _HSM_NAME.fullmatch(card.name):
        raise CeremonyRefused("CARD_INVALID", "an HSM's name is 1 to 64 of A-Z a-z 0-9 _ -")
    if any(len(text) > MAX_NAME for text in (card.profile, card.model, card.token, card.serial)):
        raise CeremonyRefused("CARD_INVALID", f"a text has at most {MAX_NAME} characters")
    try:
        if len(signed.signature) != 64:
            raise InvalidSignature
        r, s = (int.from_bytes(half, "big") for half in (signed.signature[:32], signed.signature[32:]))
        fleet.verify(encode_dss_signature(r, s), descriptor_digest(signed.card), ec.ECDSA(Prehashed(SHA256())))
    except InvalidSignature:
        raise CeremonyRefused("CARD_INVALID", "the card's fleet key did not sign it") from None
    return card


def check_descriptors(cards: Sequence[Card], namespace: str) -> None:
    """That they are of one fleet, each another's. Raises CeremonyRefused FLEET_CARDS_DIFFER."""
    names, keys = (
        {card.name for card in cards},
        {key for card in cards for key in (card.public_key, card.transport_key)},
    )
    if not 1 <= len(cards) <= MAX_MEMBERS or len(names) != len(cards) or len(keys) != 2 * len(cards):
        raise CeremonyRefused("FLEET_CARDS_DIFFER", f"1 to {MAX_MEMBERS} cards, and no name or key twice")
    if any(card.namespace != namespace for card in cards):
        raise CeremonyRefused("FLEET_CARDS_DIFFER", "a card is of another namespace")
    if len({card.profile for card in cards}) != 1:
        raise CeremonyRefused("FLEET_CARDS_DIFFER", "tokens that share a storage root have one profile")


# Parcels


def wrapping_key_input(use: str, ephemeral: bytes, transport: bytes, storage_key_id: bytes) -> bytes:
    """What a parcel's wrapping key for `use` is derived from, under the ECDH secret, by the tokens' profile."""
    return tagged_hash(_DOMAIN + "parcel", use, ephemeral, transport, storage_key_id)


def root_check_input(storage_key_id: bytes) -> bytes:
    """What the check key of a storage root is derived from, and makes the HMAC of."""
    return tagged_hash(_DOMAIN + "root check", storage_key_id)


def log_check_input(storage_key_id: bytes) -> bytes:
    """What a log key makes its check value of."""
    return tagged_hash(_DOMAIN + "log check", storage_key_id)


def open_wrapped_keys(report: Report, parcel: bytes, target: bytes) -> Parcel:
    """The parcel that the report has for the token of this fleet key.

    Raises CeremonyRefused PARCEL_OTHER_TOKEN, and PARCEL_INVALID for one that is not the report's.
    """
    opened = _decoded(Parcel, parcel, "PARCEL_INVALID")
    expected = {check_descriptor(member.card).public_key: member.parcel_hash for member in report.members}
    if opened.public_key != target or target not in expected:
        raise CeremonyRefused("PARCEL_OTHER_TOKEN", "the parcel is for another token")
    if hashlib.sha256(parcel).digest() != expected[target] or opened.root_id != report.root_id:
        raise CeremonyRefused("PARCEL_INVALID", "the parcel is not the one that the report names")
    if (len(opened.root), len(opened.log_key)) != (BLOB_BYTES, BLOB_BYTES):
        raise CeremonyRefused("PARCEL_INVALID", f"a wrapped key has {BLOB_BYTES} bytes")
    _point(opened.ephemeral, "PARCEL_INVALID")
    return opened


# The report


def encode(message: Message) -> bytes:
    """The one encoding."""
    return message.SerializeToString(deterministic=True)


def parse_transcript(data: bytes) -> Report:
    """A sound report, whoever signed it.

    Raises CeremonyRefused REPORT_INVALID, and as `check_descriptor`, `check_descriptors`, `check_officers`.
    """
    if len(data) > MAX_REPORT:
        raise _invalid("the report is too large")
    report = _decoded(Report, data, "REPORT_INVALID")
    cards = [check_descriptor(member.card) for member in report.members]
    check_descriptors(cards, report.namespace)
    check_officers(officers_of(report), development=report.development)
    if report.maker not in {card.public_key for card in cards}:
        raise _invalid("the token that made the keys is none of the fleet's")
    hashes = [report.root_check, report.log_check, *(member.parcel_hash for member in report.members)]
    if any(len(value) != _HASH_BYTES for value in hashes) or len(report.previous) not in (0, _HASH_BYTES):
        raise _invalid("check values and hashes have 32 bytes")
    if len(report.root_id) != ROOT_ID_BYTES or not report.namespace or report.time_ms > MAX_INT:
        raise _invalid("a namespace, a time and a storage root's id of 16 bytes")
    return report


def officers_of(report: Report) -> Officers:
    """Those that the report names."""
    return Officers(report.m, tuple(report.officers))


def sign_transcript(seed: bytes, data: bytes) -> OfficerSignature:
    """An officer's signature on these very bytes. Raises CeremonyRefused OFFICER_UNKNOWN, and as `parse_transcript`."""
    key = public_key(seed)
    if key not in {officer.public_key for officer in parse_transcript(data).officers}:
        raise _unknown()
    return OfficerSignature(public_key=key, signature=sign(seed, _report_digest(data)))


def check_transcript(
    data: bytes, signatures: Iterable[OfficerSignature], officers: Officers, *, namespace: str, development: bool
) -> Report:
    """The report of this namespace, if m of these very officers signed it, each counted once.

    Raises CeremonyRefused REPORT_OTHER_NAMESPACE, REPORT_OTHER_OFFICERS, REPORT_DEVELOPMENT, OFFICER_UNKNOWN,
    REPORT_NO_QUORUM, and as `parse_transcript`; SignatureRefused.
    """
    report = parse_transcript(data)
    if report.namespace != namespace:
        raise CeremonyRefused("REPORT_OTHER_NAMESPACE", "the report is of another namespace")
    if report.development and not development:
        raise CeremonyRefused("REPORT_DEVELOPMENT", "a development fleet's report under a trust root that allows none")
    if officers_of(report) != officers:
        raise CeremonyRefused("REPORT_OTHER_OFFICERS", "the report names other officers, or another m")
    known = {officer.public_key for officer in officers.officers}
    signed = set()
    for each in signatures:
        if each.public_key not in known:
            raise _unknown()
        verify(each.public_key, _report_digest(data), each.signature)
        signed.add(each.public_key)
    if len(signed) < officers.m:
        raise CeremonyRefused("REPORT_NO_QUORUM", f"{len(signed)} officers signed the report, and {officers.m} have to")
    return report


def _report_digest(data: bytes) -> bytes:
    return tagged_hash(_DOMAIN + "report", data)


def _decoded(kind: type[_M], data: bytes, reason: str) -> _M:
    try:
        message = kind.FromString(data)
    except DecodeError as error:
        raise CeremonyRefused(reason, f"not a fleet's {kind.__name__.lower()}") from error
    message.DiscardUnknownFields()
    if encode(message) != data:
        raise CeremonyRefused(reason, f"a {kind.__name__.lower()} that is not in its one encoding")
    return message


def _point(point: bytes, reason: str) -> ec.EllipticCurvePublicKey:
    try:
        if len(point) != _POINT_BYTES:  # the library takes compressed points too
            raise ValueError
        return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point)
    except ValueError:
        raise CeremonyRefused(reason, "a key is not an uncompressed P-256 point") from None


def _officers(message: str) -> CeremonyRefused:
    return CeremonyRefused("OFFICERS_INVALID", message)


def _unknown() -> CeremonyRefused:
    return CeremonyRefused("OFFICER_UNKNOWN", "a signature by a key that is none of the officers'")


def _invalid(message: str) -> CeremonyRefused:
    return CeremonyRefused("REPORT_INVALID", message)
