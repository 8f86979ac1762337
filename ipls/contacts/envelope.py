"""What a record holds, and its one encoding (protos/ipls/contacts/v2/envelope.proto)."""

from dataclasses import dataclass, replace
from enum import IntEnum
from typing import NamedTuple, Self

from google.protobuf.message import DecodeError

from ipls.contacts.cards.reading import is_group
from ipls.contacts.errors import CardError
from ipls.proto.contacts.v2 import envelope_pb2

MAX_CONFLICTS = 1000
"""Of one envelope."""


class Kind(IntEnum):
    """What an envelope is of."""

    CONTACT = envelope_pb2.KIND_CONTACT
    GROUP = envelope_pb2.KIND_GROUP
    DEVICE = envelope_pb2.KIND_DEVICE
    SETTINGS = envelope_pb2.KIND_SETTINGS
    PART = envelope_pb2.KIND_PART


class Placement(IntEnum):
    """Whether a contact is also in the person's own address book."""

    IPLS_ONLY = envelope_pb2.PLACEMENT_IPLS_ONLY
    ADDRESS_BOOK = envelope_pb2.PLACEMENT_ADDRESS_BOOK


class Conflict(NamedTuple):
    """A unit's unfolded lines that gave way, the Ed25519 key of the device that wrote it, and when."""

    unit: bytes
    device: bytes
    ms: int


class Verified(NamedTuple):
    """A key of the account `label` that a person compared, and where the directory had it."""

    label: str
    public_key: bytes
    version: int
    epoch: int


class Parts(NamedTuple):
    """Into how many parts a large envelope was cut, and the SHA-256 of the whole."""

    number: int
    digest: bytes


@dataclass(frozen=True, slots=True)
class Envelope:
    """One record's contents. A `kind` or `placement` of a later client is kept as the number that it is; `unknown` are
    its fields, encoded.
    """

    card: bytes = b""
    kind: int = Kind.CONTACT
    placement: int = Placement.ADDRESS_BOOK
    created_ms: int = 0
    changed_ms: int = 0
    conflicts: tuple[Conflict, ...] = ()
    verified: tuple[Verified, ...] = ()
    parts: Parts | None = None
    unknown: bytes = b""

    def encode(self) -> bytes:
        """Equal envelopes have equal bytes."""
        message = envelope_pb2.Envelope(
            card=self.card,
            kind=envelope_pb2.Kind.ValueType(self.kind),
            placement=envelope_pb2.Placement.ValueType(self.placement),
            created_ms=self.created_ms,
            changed_ms=self.changed_ms,
            conflicts=[envelope_pb2.Conflict(**each._asdict()) for each in sorted(self.conflicts)],
            verified=[envelope_pb2.Verified(**each._asdict()) for each in sorted(self.verified)],
            parts=envelope_pb2.Parts(count=self.parts.number, digest=self.parts.digest) if self.parts else None,
        )
        return message.SerializeToString(deterministic=True) + self.unknown

    def with_card(self, card: bytes) -> Self:
        """Of this card, and of the kind that it is."""
        return replace(self, card=card, kind=Kind.GROUP if is_group(card) else Kind.CONTACT)

    def with_verified(self, verified: Verified) -> Self:
        """With this key of its number, in the place of what stands."""
        kept = {each.label: each for each in self.verified} | {verified.label: verified}
        return replace(self, verified=tuple(sorted(kept.values())))

    def without_verified(self, label: str) -> Self:
        """Without the key of this number."""
        return replace(self, verified=tuple(each for each in self.verified if each.label != label))

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Raises CardError ENVELOPE_INVALID: these bytes are no envelope, not in the one encoding, or have too many
        conflicts."""
        try:
            message = envelope_pb2.Envelope.FromString(data)
        except DecodeError:
            raise _invalid() from None
        if len(message.conflicts) > MAX_CONFLICTS:
            raise _invalid()
        envelope = cls(
            card=message.card,
            kind=message.kind,
            placement=message.placement,
            created_ms=message.created_ms,
            changed_ms=message.changed_ms,
            conflicts=tuple(Conflict(each.unit, each.device, each.ms) for each in message.conflicts),
            verified=tuple(Verified(v.label, v.public_key, v.version, v.epoch) for v in message.verified),
            parts=Parts(message.parts.count, message.parts.digest) if message.HasField("parts") else None,
        )
        known = envelope.encode()
        labels = {each.label for each in envelope.verified}
        if not data.startswith(known) or len(labels) != len(envelope.verified):
            raise _invalid()
        return replace(envelope, unknown=_unknown(data[len(known) :])) if len(known) < len(data) else envelope


def kind_in(data: bytes) -> int:
    """The kind of an encoded envelope."""
    return envelope_pb2.Envelope.FromString(data).kind


def verified_in(data: bytes) -> list[Verified]:
    """The keys that an encoded envelope has."""
    message = envelope_pb2.Envelope.FromString(data)
    return [Verified(each.label, each.public_key, each.version, each.epoch) for each in message.verified]


def _unknown(rest: bytes) -> bytes:
    """What follows the fields that this client knows, which has to be others. Raises CardError ENVELOPE_INVALID."""
    message = envelope_pb2.Envelope.FromString(rest)
    encoded = message.SerializeToString(deterministic=True)
    message.DiscardUnknownFields()
    if encoded != rest or message.ByteSize():
        raise _invalid()
    return rest


def _invalid() -> CardError:
    return CardError("ENVELOPE_INVALID", "a record holds no contact in the encoding of one")
