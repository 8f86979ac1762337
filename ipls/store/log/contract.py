"""What every backend of the log gives; tests/store/log/test_contract.py holds each of them to it."""

import re
from abc import ABC, abstractmethod
from typing import NamedTuple

from ipls.auditlog.names import split_name
from ipls.store.errors import StoreRefused

_BUNDLE = re.compile(r"fleet/[1-9][0-9]{0,18}")


class ObjectInfo(NamedTuple):
    """An object as it is listed: name, size in bytes, time of writing (ms since 1970, in whole seconds, by the store's
    clock); `tag`, printable ASCII without quotes, would be another for other bytes."""

    name: str
    size: int
    modified_ms: int
    tag: str


def bundle_name(number: int) -> str:
    """The name of the fleet bundle of this number (from 1): no listing has it."""
    return f"fleet/{number}"


def is_bundle(name: str) -> bool:
    """Whether it is a bundle's name."""
    return _BUNDLE.fullmatch(name) is not None


def parse_name(name: str) -> tuple[str, str, str]:
    """Epoch, old root and new root as they stand in a name. Raises StoreRefused LOG_NAME_INVALID."""
    parts = split_name(name)
    if parts is None:
        raise StoreRefused("LOG_NAME_INVALID", "a step's name is E/<old root hash, hex>/<new root hash, hex>")
    return parts


class LogStore(ABC):
    """Objects that, once there, stay as they are: steps, and the fleet's bundles, which are not listed, since auditors
    in the field take every name that is for a step's.

    Every method may be called from any thread and, over one store, from any process. A name that is none raises
    StoreRefused LOG_NAME_INVALID. A reader sees a whole object or none, and what was put before it asked. Where the
    store does not answer, or can't do it now, a method raises OSError in bounded time and may be tried again; a store
    that can't be a log at all raises another StoreRefused than those named here, and trying again won't help.
    """

    @abstractmethod
    def put(self, name: str, blob: bytes) -> None:
        """Write an object. On return it is durable: it survives a crash and a loss of power.

        Of racing writers of one epoch that all write by this method exactly one name wins; of a bundle, one blob. The
        very object being there already is success, for every one of them. Raises StoreRefused LOG_OBJECT_EXISTS if it
        is there with other bytes (the caller may verify that they prove the same step) and LOG_EPOCH_TAKEN if the epoch
        has an object of another name, or was promised to one; nothing has changed then.

        After an OSError the object may or may not be there, and from now on the epoch may be promised to `name`: put
        may be tried again with this name, and may be refused with any other for ever. The caller therefore writes only
        a step that is final: the one row an epoch.
        """

    @abstractmethod
    def get(self, name: str) -> bytes | None:
        """An object's bytes; None if it isn't there."""

    @abstractmethod
    def read(self, name: str, offset: int, length: int) -> bytes | None:
        """The `length` (from 1) bytes from `offset` on, fewer at the object's end; None if it isn't there."""

    @abstractmethod
    def stat(self, name: str) -> ObjectInfo | None:
        """What a listing says of an object; None if it isn't there."""

    @abstractmethod
    def list(self, *, start_after: str = "", prefix: str = "", limit: int = 1000) -> "list[ObjectInfo]":
        """The first `limit` steps whose names begin with `prefix` and are greater than `start_after`, in the order of
        their names' bytes (so 1, 10, 11, 2). Neither string need be a name; both are printable ASCII."""
