"""What the account's devices know of a linked one: its record in the list, of kind device. Pure.

Tested by tests/client/test_linked_devices.py.
"""

from typing import NamedTuple, Self

from google.protobuf.message import DecodeError

from ipls.contacts.linking import MAX_NAME, MAX_PLATFORM
from ipls.contacts.names import is_shown_as_it_is
from ipls.proto.contacts.v2 import envelope_pb2


class DeviceRecord(NamedTuple):
    """A device's Ed25519 key, KEM key, name, and platform. Any listed device may have written it."""

    key: bytes
    kem_key: bytes
    name: str
    platform: str

    def encode(self) -> bytes:
        """What the envelope has for a card."""
        return envelope_pb2.Device(**self._asdict()).SerializeToString(deterministic=True)

    @classmethod
    def decode(cls, data: bytes) -> Self | None:
        """The inverse; None for what is no such record. A name or platform that can't be shown as it is, is empty."""
        try:
            read = envelope_pb2.Device.FromString(data)
        except DecodeError:
            return None
        return cls(read.key, read.kem_key, _shown(read.name, MAX_NAME), _shown(read.platform, MAX_PLATFORM))


def _shown(text: str, limit: int) -> str:
    return text if is_shown_as_it_is(text, limit) else ""
