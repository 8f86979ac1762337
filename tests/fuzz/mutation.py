"""Inputs made out of valid ones, as an adversary would bend them: a parser must take them or refuse them, whatever."""

from collections.abc import Sequence
from random import Random

_HUGE_VARINT = b"\xff" * 9 + b"\x01"
_INTEGERS = [2**bits + step for bits in (0, 7, 8, 15, 16, 31, 32, 53, 63) for step in (-1, 0, 1)]
_PIECES = [
    b"\0",
    b"\xff" * 8,
    b"\xef\xbb\xbf",
    b"\xff\xfe",
    b"\xed\xa0\x80",  # a lone surrogate in UTF-8
    b'"\\ud800"',
    b"\r\n",
    b"=\r\n ",
    _HUGE_VARINT,
    b"\x0b" * 3000,  # groups within groups
    b"[" * 3000,
    b'{"a":' * 1500,
    b"a.a=1\n" * 300,
    b"<a>" * 1500,
    b"<!DOCTYPE a [<!ENTITY b 'cc'>]>",
    b"&#x41;" * 300,
    b"9" * 5000,
    b"1e999",
    b"Infinity",
    b"-0",
    b"../" * 5,
    b"%00%2e%2e%2f",
]


def mutate(random: Random, seeds: Sequence[bytes], longest: int) -> bytes:
    """One of `seeds`, changed in one to four places; at most `longest` bytes. Nothing of the seed may be left."""
    data = random.choice(seeds)
    for _ in range(random.randint(1, 4)):
        data = random.choice(_CHANGES)(random, data, seeds)[:longest]
    return data


def _cut(random: Random, data: bytes) -> tuple[int, int]:
    """Two places, in order; as often as not close to each other."""
    start = random.randint(0, len(data))
    return start, min(len(data), start + random.choice((1, 2, 4, 8, 33, random.randint(0, len(data)))))


def _flip_bit(random: Random, data: bytes, _: Sequence[bytes]) -> bytes:
    if not data:
        return b"\x01"
    at = random.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << random.randrange(8)]) + data[at + 1 :]


def _put_bytes(random: Random, data: bytes, _: Sequence[bytes]) -> bytes:
    start, stop = _cut(random, data)
    return data[:start] + random.randbytes(random.randint(0, 9)) + data[stop:]


def _put_piece(random: Random, data: bytes, _: Sequence[bytes]) -> bytes:
    start, stop = _cut(random, data)
    return data[:start] + random.choice(_PIECES) + data[random.choice((start, stop)) :]


def _put_value(random: Random, data: bytes, _: Sequence[bytes]) -> bytes:
    """A piece where a text format has a value."""
    places = [at + 1 for at, byte in enumerate(data) if byte in b"=:>,["]
    at = random.choice(places or [0])
    return data[:at] + random.choice(_PIECES) + data[at + random.choice((0, 1, 8)) :]


def _truncate(random: Random, data: bytes, _: Sequence[bytes]) -> bytes:
    return data[: random.randint(0, len(data))]


def _remove(random: Random, data: bytes, _: Sequence[bytes]) -> bytes:
    start, stop = _cut(random, data)
    return data[:start] + data[stop:]


def _repeat(random: Random, data: bytes, _: Sequence[bytes]) -> bytes:
    start, stop = _cut(random, data)
    return data[:stop] + data[start:stop] * random.choice((1, 2, 100)) + data[stop:]


def _splice(random: Random, data: bytes, seeds: Sequence[bytes]) -> bytes:
    other = random.choice(seeds)
    return data[: random.randint(0, len(data))] + other[random.randint(0, len(other)) :]


def _inflate_length(random: Random, data: bytes, _: Sequence[bytes]) -> bytes:
    """A byte becomes a varint that says far more, as a length, a number or a tag."""
    at = random.randrange(len(data) + 1)
    return data[:at] + random.choice((_HUGE_VARINT, b"\xff\xff\xff\xff\x07", b"\xff\x7f")) + data[at + 1 :]


def _put_integer(random: Random, data: bytes, _: Sequence[bytes]) -> bytes:
    start, number = random.randint(0, len(data)), random.choice(_INTEGERS)
    text = random.choice((b"%d" % number, number.to_bytes(9, "big"), number.to_bytes(9, "little")))
    return data[:start] + text + data[start + random.choice((0, len(text))) :]


def _nest(random: Random, data: bytes, _: Sequence[bytes]) -> bytes:
    """The whole input, many times over a field of itself."""
    tag = bytes([random.randint(1, 15) << 3 | 2])
    for _ in range(random.choice((1, 3, 200))):
        size, length = len(data), b""
        while size > 127:
            length, size = length + bytes([size & 127 | 128]), size >> 7
        data = tag + length + bytes([size]) + data
    return data


_CHANGES = (
    _flip_bit,
    _flip_bit,
    _put_bytes,
    _put_piece,
    _put_value,
    _truncate,
    _remove,
    _repeat,
    _splice,
    _inflate_length,
    _put_integer,
    _nest,
)
