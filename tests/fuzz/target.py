"""What a fuzz target is, and what several have in common."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from google.protobuf.message import Message

from ipls.trust.heads import Head
from tests.trust.roots import three_of


class Target(NamedTuple):
    """`weight` is how many times as long as a proof an input takes; `longest` input in bytes."""

    run: Callable[[bytes], object]
    refusals: tuple[type[Exception], ...]
    seeds: tuple[bytes, ...]
    weight: int = 1
    longest: int = 16 * 1024


TARGETS: dict[str, Callable[[], Target]] = {}
ROOT, HEAD = three_of(), Head(7, b"\x07" * 32)
LABEL, SEED, ID = "+15555550100", b"\x21" * 32, b"\x01" * 16
_FOLDERS: list[tempfile.TemporaryDirectory[str]] = []


def target(label: str) -> Callable[[Callable[[], Target]], Callable[[], Target]]:
    def add(make: Callable[[], Target]) -> Callable[[], Target]:
        TARGETS[label] = make
        return make

    return add


def folder() -> Path:
    """A new one, until `clean_up` or the process ends."""
    _FOLDERS.append(tempfile.TemporaryDirectory(prefix="ipls-fuzz-"))
    return Path(_FOLDERS[-1].name)


def clean_up() -> None:
    """Remove the folders: a worker of pytest-xdist ends without what Python does at its end."""
    for each in _FOLDERS:
        each.cleanup()


def serialized(*messages: Message) -> tuple[bytes, ...]:
    return tuple(message.SerializeToString() for message in messages)
