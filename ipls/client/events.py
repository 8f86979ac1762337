"""What a device tells of while it works, so that a person can be shown each thing as it is checked."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from ipls.proto.vault.v1.vault_pb2 import SessionRequest


@dataclass(frozen=True)
class HeadChecked:
    """A directory head holds: k pinned witnesses signed it, recently; it is not below any seen before."""

    epoch: int
    root_hash: bytes
    signers: Mapping[str, int]
    """Witness name -> time of its newest counted signature, ms."""


@dataclass(frozen=True)
class HistoryChecked:
    """The own account's history proof holds at that head."""

    kind: Literal["complete", "most recent 1"]
    epoch: int
    root_hash: bytes
    versions: int
    """The newest version's number."""


@dataclass(frozen=True)
class IdentityChange:
    """One version of the own identity; `origin` as in `profile.KnownVersion`."""

    version: int
    epoch: int
    public_key: bytes
    origin: str


@dataclass(frozen=True)
class VaultAccepted:
    """A vault session stands: the HSM is the bundle's, the vault judged this device's key by this head."""

    bundle_number: int
    hsm_key_id: bytes
    epoch: int
    root_hash: bytes
    identity_version: int
    identity_epoch: int


@dataclass(frozen=True)
class FrameSent:
    """A frame went out to the vault: these bytes are what the network and the vault's front see of it."""

    frame: SessionRequest


@dataclass(frozen=True)
class Step:
    """A step of a journey is done, and durable: a journey cut off here goes on from here."""

    name: Literal[
        "registration sent",
        "registered",
        "key made",
        "key stored",
        "key read back",
        "records stored",
        "manifest made",
        "manifest swapped",
        "rotation finished",
        "old records dropped",
        "key retrieved",
        "records restored",
    ]
    generation: int = 0
    count: int = 0
    """Of records, where they are what the step is about."""


@dataclass(frozen=True)
class Progress:
    """`done` of `total` of what takes long."""

    what: Literal["storing", "restoring"]
    done: int
    total: int


Event = HeadChecked | HistoryChecked | IdentityChange | VaultAccepted | FrameSent | Step | Progress
Report = Callable[[Event], None]


def silent(event: Event) -> None:
    """A Report that tells nobody."""
