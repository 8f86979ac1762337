"""Every change that an adversary can make to one field of a message, made for tests that expect a refusal of each."""

from collections.abc import Iterator
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

Change = tuple[str, Any]


def changes(message: Message, name: str = "") -> Iterator[tuple[str, Message]]:
    """(what was changed, a changed copy) for every field of `message` and of the messages in it, set or not."""
    for field in message.DESCRIPTOR.fields:
        where = f"{name}.{field.name}".lstrip(".")
        for what, value in _values(field, getattr(message, field.name), where):
            copy = type(message)()
            copy.CopyFrom(message)
            copy.ClearField(field.name)
            if value is not None:
                _assign(copy, field, value)
            yield what, copy


def bit_flips(data: bytes) -> Iterator[bytes]:
    """`data` with its first bit flipped, its last, and one in the middle."""
    for byte, bit in ((0, 0x80), (len(data) // 2, 0x10), (len(data) - 1, 0x01)):
        yield data[:byte] + bytes([data[byte] ^ bit]) + data[byte + 1 :]


def _values(field: FieldDescriptor, value: Any, where: str) -> Iterator[Change]:
    if field.is_repeated:
        if value:
            yield f"{where} emptied", None
        for i, item in enumerate(value):
            for what, changed in changes(item, f"{where}[{i}]"):
                yield what, [*value[:i], changed, *value[i + 1 :]]
    elif field.message_type:
        if value.ByteSize():
            yield f"{where} dropped", None
        for what, changed in changes(value, where):
            yield what, changed
    elif isinstance(value, bytes):
        yield f"{where} longer", value + b"\0"
        if value:
            yield f"{where} emptied", None
            yield f"{where} shorter", value[:-1]
            yield from ((f"{where} flipped", flipped) for flipped in bit_flips(value))
    elif isinstance(value, str):
        yield f"{where} emptied", None
        yield f"{where} changed", value[:-1] + ("1" if value[-1:] != "1" else "2")
    else:
        yield f"{where} changed", value + 1
        yield f"{where} zero", 0 if value else 2


def _assign(message: Message, field: FieldDescriptor, value: Any) -> None:
    if field.is_repeated:
        getattr(message, field.name).extend(value)
    elif field.message_type:
        getattr(message, field.name).CopyFrom(value)
    else:
        setattr(message, field.name, value)
