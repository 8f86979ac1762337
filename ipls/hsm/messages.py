"""What the core and its workers tell each other, pickled: each pipe has them alone at its ends."""

import io
import pickle
from typing import Any, Literal, NamedTuple

from google.protobuf.descriptor_pool import Default
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from ipls.vault.session.effects import Effect


class Command(NamedTuple):
    """From the core. `value` is what is sent or, a SessionRefused's (reason, message), thrown into the session."""

    session: int
    kind: Literal["open", "send", "throw", "close"]
    value: object = None


class Opened(NamedTuple):
    """The token is open; the worker takes sessions."""

    hsm_key_id: bytes
    profile: str
    storage_key_id: bytes = b""
    """The storage root that it stores under."""


class Ended(NamedTuple):
    """The session is over and forgotten."""

    reason: str
    message: str


class Report(NamedTuple):
    """To the core: what a session asks for next, or its end. `Opened` comes once, under session 0."""

    session: int
    content: Effect | Opened | Ended


class _Pickler(pickle.Pickler):
    def reducer_override(self, value: object) -> Any:
        # A generated class gives its proto's path as its module, and there is no such module.
        if isinstance(value, Message):
            return _message, (value.DESCRIPTOR.full_name, value.SerializeToString())
        return NotImplemented


def _message(full_name: str, data: bytes) -> Message:
    return GetMessageClass(Default().FindMessageTypeByName(full_name)).FromString(data)


def encode(message: Command | Report) -> bytes:
    """The inverse of `decode`."""
    buffer = io.BytesIO()
    _Pickler(buffer).dump(message)
    return buffer.getvalue()


def decode(data: bytes) -> Any:
    """The Command or Report in `data`, which must be this core's own."""
    return pickle.loads(data)  # noqa: S301  # see above
